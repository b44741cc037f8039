"""Files of reviews: bad rows are counted exactly, wrong files are refused in one line."""

import ast
import csv
import gzip
import io
import json
import math
import pickle
import random
import tracemalloc
import warnings
from collections import Counter
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentiment_kit.data.arrays import array_blocks
from sentiment_kit.data.columns import KEYS, find_keys
from sentiment_kit.data.compression import read_bytes
from sentiment_kit.data.dedup import dedup_key
from sentiment_kit.data.files import KitError
from sentiment_kit.data.formats import read_blocks
from sentiment_kit.data.inputs import find_inputs, open_input, show_place
from sentiment_kit.data.labelled import load_labelled
from sentiment_kit.data.lines import LONG, MAX_LITERAL, BadRow, Lines, line_blocks
from sentiment_kit.data.quarantine import Quarantine
from sentiment_kit.data.reviews import Review, parse_block, read_reviews
from sentiment_kit.data.tables import TableRows

relaxed = settings(deadline=None)
MB = 1 << 20


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def pack(path, content):
    if str(path).endswith(".gz"):
        return gzip.compress(content, 6, mtime=0)
    return zstandard.ZstdCompressor().compress(content) if str(path).endswith(".zst") else content


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(pack(path, content))
    return path


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def quarantined(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


GOOD = jsonl(
    {"reviewText": "fine", "overall": 4.0, "category": "Pets"}, {"reviewText": "Très bien"}
)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_all_formats_give_the_same_reviews(suffix):
    rows = [
        ("plain", "5", "A"),
        ('with "quotes", [commas]', "", "B"),
        ("two\nlines\tand a tab, it's", "1", ""),
    ]
    for name, delimiter in (("r.csv", ","), ("r.tsv", "\t")):
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter).writerows(
            [("reviewText", "overall", "category"), *rows]
        )
        write(name + suffix, "\ufeff" + out.getvalue())
    records = [dict(reviewText=t, overall=s, category=c) for t, s, c in rows]
    write("r.jsonl" + suffix, "\ufeff" + jsonl(*records))
    write("dos.jsonl" + suffix, jsonl(*records).replace("\n", "\r\n"))
    write("lines.json" + suffix, jsonl(*records))
    write("array.json" + suffix, "\ufeff \n" + json.dumps(records, indent=1))
    write("python.json" + suffix, "\ufeff" + "\n".join(map(repr, records)))
    names = ["r.csv", "r.tsv", "r.jsonl", "dos.jsonl", "lines.json", "array.json", "python.json"]
    first, *others = [
        [r._replace(source="") for r in read_reviews(name + suffix)] for name in names
    ]
    assert [(r.text, r.stars, r.category, r.row) for r in first] == [
        (rows[0][0], 5, "A", 1),
        (rows[1][0], None, "B", 2),
        (rows[2][0], 1, None, 3),
    ]
    assert all(other == first for other in others)


def test_both_amazon_schemas_are_known():
    old = dict(
        reviewText="a",
        overall=5.0,
        asin="B1",
        reviewerID="U",
        unixReviewTime=1252800000,
        helpful=[0, 1],
    )
    new = dict(
        text="a",
        rating=5,
        asin="B1-red",
        parent_asin="B1",
        user_id="U",
        timestamp=1252800000123,
        title="t",
    )
    reviews = list(read_reviews([write("old.jsonl", jsonl(old)), write("new.jsonl", jsonl(new))]))
    assert [r.source for r in reviews] == ["new.jsonl", "old.jsonl"]
    assert {r[:4] + r[5:] for r in reviews} == {
        ("a", None, 5.0, None, 1, None, "B1", "U", 1252800000)
    }
    [variant] = read_reviews(
        "new.jsonl", text_key="title", stars_key=None, item_key="parent_asin", user_key=None
    )
    assert (variant.text, variant.stars, variant.user) == ("t", None, None)
    with pytest.raises(
        KitError, match="no column 'helpful_vote'; set stars_key to one of: text, rating"
    ):
        read_reviews("new.jsonl", stars_key="helpful_vote")
    with pytest.raises(
        KitError, match="no column 'reviewText'; set text_key to one of: review, stars"
    ):
        read_reviews(write("own.csv", "review,stars\nfine,4\n"))


def test_what_is_only_carried_along_never_makes_a_row_bad():
    odd = [math.nan, "soon", [1], {}, 10**30, "", None, True, -5, "1252800000.5", 1e300]
    records = [
        dict(reviewText="ok", asin=x, reviewerID=x, category=x, unixReviewTime=x) for x in odd
    ]
    reviews = list(read_reviews(write("a.jsonl", jsonl(*records)), max_bad=0))
    times = [None, None, None, None, None, None, None, 1, -5, 1252800000, None]
    names = [None, "soon", None, None, None, None, None, "True", "-5", "1252800000.5", None]
    assert [r.time for r in reviews] == times
    assert (
        [r.item for r in reviews]
        == [r.user for r in reviews]
        == [r.category for r in reviews]
        == names
    )


@pytest.mark.parametrize(
    "path, content, options, message",
    [
        (
            "a.jsonl",
            GOOD,
            dict(text_key="text"),
            r"a\.jsonl has no column 'text'; set text_key to one of: reviewText",
        ),
        ("a.jsonl", GOOD, dict(stars_key="rating"), r"no column 'rating'; set stars_key"),
        (
            "a.csv",
            "text,y\nok,1\n",
            dict(label_key="label"),
            "'label'; set label_key to one of: text, y",
        ),
        ("a.csv", "", {}, r"a\.csv is empty; leave it out"),
        ("a.csv.gz", "", {}, r"a\.csv\.gz is empty; leave it out"),
        ("a.json.zst", "", {}, r"a\.json\.zst is empty; leave it out"),
        ("a.csv", "reviewText\n", {}, "no readable row"),
        ("a.json", "[]", {}, "no readable row"),
        ("a.jsonl", "<html>\n404\n", {}, r"no readable row among its first 100 \(not JSON\)"),
        ("a.json", '{\n "reviews":\n []\n}', {}, "no readable row"),
        (
            "a.csv",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            {},
            r"a\.csv has no readable row .*the header is not UTF-8 text",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(GOOD.encode(), mtime=0),
            {},
            r"a\.jsonl\.gz has no readable .*\(broken UTF-8\)",
        ),
        ("a.csv", "reviewText\nfine\n".encode("utf-16"), {}, "the header is not UTF-8 text"),
        ("a.jsonl", GOOD.encode("utf-16"), {}, r"a\.jsonl has no readable row .*; is it UTF-8"),
        (
            "a.csv",
            "reviewText,prix_en_€\nfine,1\n".encode("cp1252"),
            {},
            "the header is not UTF-8 text",
        ),
        (
            "a.csv",
            "reviewText\nfine\ncafé\n".encode("latin-1"),
            {},
            "broken UTF-8 .*Latin-1.*iconv",
        ),
        (
            "a.xlsx",
            "x",
            {},
            r"a\.xlsx has an unknown suffix; known are \.jsonl, \.json, \.csv, \.tsv",
        ),
        ("a.gz", "x", {}, r"a\.gz has an unknown suffix"),
        ("folder/a.csv", "x", dict(paths="folder"), r"folder is a folder; name its files"),
        ("a.csv", "x", dict(paths="b*.csv"), r"no file matches 'b\*\.csv'"),
        ("a.csv", "x", dict(paths="memory://b*.csv"), r"no file matches 'memory://b\*\.csv'"),
        (
            "a.csv",
            "x",
            dict(paths="memory://b.csv"),
            r"memory://b\.csv cannot be opened \(FileNotFoundError\)",
        ),
        (
            "a.csv",
            "x",
            dict(paths="gopher://a/b.csv"),
            "gopher:// cannot be read: Protocol not known",
        ),
        ("a.csv", "x", dict(paths=[]), "name at least one file"),
    ],
)
def test_a_wrong_input_is_refused_in_one_line(path, content, options, message):
    write(path, content)
    with pytest.raises(KitError, match=message) as caught:
        list(read_reviews(**dict(paths=path) | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, kind", [("a.jsonl.gz", "gzip"), ("a.jsonl.zst", "zstd")])
def test_compressed_files_of_several_parts_and_damaged_ones(name, kind):
    rng = random.Random(0)
    lines = [jsonl({"reviewText": rng.randbytes(200).hex()}).encode() for _ in range(3000)]
    packed = [pack(name, b"".join(lines[i : i + 1000])) for i in range(0, 3000, 1000)]

    def read(content):
        Path(name).write_bytes(content)
        return list(read_bytes(Path(name)))

    assert read(b"".join(packed)) != [] and b"".join(read(b"".join(packed))) == b"".join(lines)
    assert b"".join(read(packed[0] + pack(name, b"") + packed[1] + bytes(700))) == b"".join(
        lines[:2000]
    )
    assert [r.row for r in read_reviews(name)] == list(range(1, 2001))
    whole = packed[0] + packed[1]
    for end in [
        1,
        3,
        9,
        len(packed[0]) - 1,
        len(packed[0]) + 1,
        *rng.sample(range(len(whole)), 20),
        len(whole) - 1,
    ]:
        if end != len(packed[0]):
            with pytest.raises(
                KitError, match=rf"a\.jsonl\.{name[8:]} is not a whole {kind} file \(.*\); copy or"
            ):
                read(whole[:end])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (whole + b"garbage", b"<html>not found</html>", bytes(flipped)):
        if kind == "gzip" or damaged is not flipped:
            with pytest.raises(KitError, match=f"is not a whole {kind} file"):
                read(bytes(damaged))
    Path(name).write_bytes(whole[:-5])
    reviews = read_reviews(name)  # the columns are there, so the call succeeds
    with pytest.raises(KitError, match="it ends too early"):
        for _ in reviews:
            pass


def test_bad_rows_go_to_quarantine_with_place_and_reason():
    bad = {
        2: (b"{broken\n", "neither JSON nor a Python literal"),
        3: (b"[1, 2]\n", "not an object"),
        5: (b'{"reviewText": "caf\xe9"}\n', "broken UTF-8"),
        6: (b'{"reviewText": ""}\n', "empty text"),
        7: (b'{"reviewText": " \\n "}\n', "empty text"),
        8: (b'{"reviewText": 5}\n', "no text in reviewText"),
        9: (b'{"reviewText": "a\\u0000b"}\n', "NUL byte in the text"),
        10: (b'{"reviewText": "ok", "overall": "five"}\n', "overall is not a rating"),
        11: (b'{"reviewText": "' + b"x" * 2000 + b'"}\n', "longer than max_line"),
        12: (b"[" * 900 + b"\n", "not JSON"),
        13: (b'{"reviewText": "ok", "overall": ' + b"9" * 900 + b"}\n", "overall is not a rating"),
        14: (b'{"reviewText": "ok", "y": 1.5}\n', "y is not a whole number from 0 to 127"),
        15: (b'{"reviewText": "ok", "y": "pos"}\n', "y is not a whole number from 0 to 127"),
        16: (b'{"reviewText": "ok", "part": ""}\n', "no part"),
        17: (b'"\\ud83d"\n', "not an object"),
        18: (b"{1, 2}\n", "not an object"),
        19: (b"{1: 2}\n", "not an object"),
        20: (b'{"reviewText": "ok"} {"reviewText": "two"}\n', "neither JSON nor a Python literal"),
        21: (b'{"reviewText": "ok\0"}\n', "neither JSON nor a Python literal"),
    }
    good = {
        1: b'{"reviewText": "first", "y": 1, "part": "train"}\n',
        4: b" \r\n",  # blank: a line, but not a row
        22: b'{"reviewText": "half \\ud83d a pair", "overall": NaN, "part": "test"}\n',
        23: b"{'reviewText': u\"it's \\xe9\", 'part': 'test'}\n",
        24: b'{"reviewText": "last", "overall": "4", "part": "valid"}',
    }
    lines = good | {row: line for row, (line, _) in bad.items()}
    write("a.jsonl", b"".join(lines[row] for row in sorted(lines)))
    q = Quarantine("bad.jsonl", max_bad=0.9)
    reviews = list(
        read_reviews(
            "a.jsonl",
            label_key="y",
            split_key="part",
            stars_key="overall",
            quarantine=q,
            max_line=1000,
        )
    )
    assert [(r.row, r.stars) for r in reviews] == [(1, None), (22, None), (23, None), (24, 4)]
    assert [r.text for r in reviews[1:3]] == ["half \ud83d a pair", "it's é"]
    assert quarantined("bad.jsonl") == [
        dict(file="a.jsonl", row=r, reason=why) for r, (_, why) in sorted(bad.items())
    ]
    assert (q.rows, q.bad) == (23, len(bad))


def test_share_of_bad_rows_is_judged_after_a_thousand_and_at_the_end():
    good, bad = jsonl({"reviewText": "ok"}), "{}\n"
    many = write("many.jsonl", good * 100_000 + bad * 50_000 + good * 1_000_000)
    q = Quarantine(max_bad=0.01)
    with pytest.raises(
        KitError, match=r"many\.jsonl, row \d+: no text in reviewText .* of \d+ rows are bad\)"
    ):
        list(read_reviews(many, quarantine=q))
    assert 101_010 <= q.rows < 200_000, "noticed on the way, not at the end"
    early = write("early.jsonl", good + bad * 9 + good * 990)
    q = Quarantine(max_bad=0.01)
    assert len(list(read_reviews(early, quarantine=q))) == 991 and q.bad == 9
    with pytest.raises(KitError, match="1 of 4 rows are bad"):
        list(read_reviews(write("short.jsonl", good * 3 + bad)))


def test_the_quarantine_is_sorted_whatever_the_order_of_the_files():
    names = [write(f"{name}.jsonl", GOOD + "{}\n" * 2) for name in ("b", "c", "a")]
    list(read_reviews(names, quarantine="bad.jsonl", max_bad=1))
    assert [(r["file"][0], r["row"]) for r in quarantined("bad.jsonl")] == [
        (f, r) for f in "abc" for r in (3, 4)
    ]


def test_blocks_may_be_parsed_anywhere_and_in_any_order():
    records = [
        dict(reviewText=f"number {n}", overall=n % 5 + 1) if n % 50 else {} for n in range(20_000)
    ]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(
        [("reviewText", "overall"), *([r.get("reviewText"), r.get("overall")] for r in records)]
    )
    (
        write("r.csv", out.getvalue()),
        write("r.jsonl", jsonl(*records)),
        write("r.json", json.dumps(records)),
    )
    for name in ("r.csv", "r.jsonl", "r.json"):
        [(_, source)] = find_inputs(name).items()
        blocks = [pickle.dumps(block) for block in read_blocks(source)]
        keys = find_keys(source, {})
        random.Random(1).shuffle(blocks)
        parsed = [parse_block(pickle.loads(block), name, keys) for block in blocks]
        assert len(parsed) > 2
        q = Quarantine("bad.jsonl", max_bad=1)
        assert sorted(chain.from_iterable(r for r, _ in parsed), key=lambda r: r.row) == list(
            read_reviews(name, quarantine=q)
        )
        bad = sorted(chain.from_iterable(b for _, b in parsed))
        assert [row for row, _ in bad] == list(range(1, 20_001, 50))
        assert bad == [(r["row"], r["reason"]) for r in quarantined("bad.jsonl")]


def cut(content, size):
    return (content[i : i + size] for i in range(0, len(content), size))


@relaxed
@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b""))),
    st.integers(1, 20),
    st.integers(1, 40),
)
def test_lines_are_whole_in_order_and_counted(lines, max_line, size):
    content = b"\n".join(lines)
    rows = {}
    for block in line_blocks(cut(content, size), max_line):
        held = [LONG] if isinstance(block, BadRow) else io.BytesIO(block.text)
        for row, line in enumerate(held, block.row):
            assert row not in rows and (isinstance(line, str) or len(line) <= max_line)
            rows[row] = line
    expected = dict(enumerate(io.BytesIO(content), 1))
    assert rows == {
        row: line if len(line) <= max_line else "longer than max_line"
        for row, line in expected.items()
    }


def elements(text):
    "An array's elements and whether it ends, by the character; None if text follows the end."
    found, element, depth, quoted, escaped = [], "", 0, False, False
    for i, c in enumerate(text):
        if quoted:
            quoted, escaped = escaped or c != '"', not escaped and c == "\\"
        elif c == '"':
            quoted = True
        elif c in "[{":
            depth += 1
        elif c in "]}" and depth:
            depth -= 1
        elif c in ",]" and not depth:
            found.append(element)
            element = ""
            if c == "]":
                return None if text[i + 1 :].strip() else (found, True)
            continue
        element += c
    return found + [element] * bool(element.strip() and not depth), False


@relaxed
@given(st.text(st.sampled_from('[]{},"\\ab \n'), max_size=60), st.integers(1, 70))
@example('{"a": "x\\"]"}, {"b": [1, 2]}, {"c": 3,,}]', 5)
@example('"\\\\", "\\', 2)
def test_an_array_comes_apart_at_its_commas(text, size):
    expected = elements(text)
    if expected is None:
        with pytest.raises(
            KitError, match=r"r\.json: the array ends at element \d+, but text follows"
        ):
            list(array_blocks(cut(text.encode(), size), MB, "r.json"))
        return
    blocks = list(array_blocks(cut(text.encode(), size), MB, "r.json"))
    rows, starts = [], []
    for block in blocks:
        starts.append(block.row == len(rows) + 1)
        held = [block.reason] if isinstance(block, BadRow) else [e.decode() for e in block.elements]
        rows += held
    assert rows == expected[0] + ["the array does not end"] * (not expected[1])
    assert all(starts)


def test_a_broken_element_of_an_array_is_one_bad_row():
    good = '{"reviewText": "ok, [it] is {fine}"}'
    odd = [
        '{"reviewText": }',
        "5",
        "[" * 100_000 + "]" * 100_000,
        f'{{"reviewText": "{"x" * 5000}"}}',
        '{"a": 1]}',
    ]
    write("r.json", ",\n".join(["[" + good, *chain.from_iterable((x, good) for x in odd)]) + "]")
    q = Quarantine("bad.jsonl", max_bad=0.9)
    assert [r.row for r in read_reviews("r.json", quarantine=q, max_line=4000)] == [
        1,
        3,
        5,
        7,
        9,
        11,
    ]
    assert [(r["row"], r["reason"]) for r in quarantined("bad.jsonl")] == [
        (2, "neither JSON nor a Python literal"),
        (4, "not an object"),
        (6, "longer than max_line"),
        (8, "longer than max_line"),
        (10, "neither JSON nor a Python literal"),
    ]
    whole = json.dumps([json.loads(good)] * 50)
    for end, last in ((-1, (51, 50)), (-5, (50, 49)), (-len(good) - 2, (50, 49))):
        write("torn.json", whole[:end])
        reviews = list(read_reviews("torn.json", quarantine="bad.jsonl", max_bad=0.1))
        assert (quarantined("bad.jsonl")[0]["row"], reviews[-1].row, len(reviews)) == (
            *last,
            last[1],
        )


def peak(read):
    "Most bytes that Python held at once during `read()`."
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".json"])
def test_a_line_beyond_max_line_is_never_held(suffix):
    good, long = (
        ('"ok"\n', '"' + "x" * 50 * MB + '"\n')
        if "csv" in suffix
        else (GOOD.splitlines(True)[0], None)
    )
    long = long or f'{{"reviewText": "{"x" * 50 * MB}"}}\n'
    rows = [good, long, good]
    head, between, tail = dict(csv=("reviewText\n", "", ""), json=("[", ",", "]")).get(
        suffix[1:], ("", "", "")
    )
    path = write("r" + suffix, head + between.join(rows) + tail)
    del rows, long
    found = []
    most = peak(
        lambda: found.extend(read_reviews(path, quarantine="bad.jsonl", max_bad=1, max_line=4 * MB))
    )
    assert [r.row for r in found] == [1, 3] and [r["row"] for r in quarantined("bad.jsonl")] == [2]
    assert most < 40 * MB


@pytest.fixture
def memory():
    "fsspec's files in memory, emptied afterwards."
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_addresses_are_read_like_paths(memory, tmp_path):
    for name in ("shop/a.jsonl.gz", "shop/b.jsonl.zst", "shop/c.json"):
        memory.pipe(f"/{name}", pack(name, GOOD.encode()))
    reviews = list(read_reviews("memory://shop/*"))
    assert [(r.source, r.row) for r in reviews] == [
        (f, i) for f in ("a.jsonl.gz", "b.jsonl.zst", "c.json") for i in (1, 2)
    ]
    write("c.json", GOOD)
    assert (
        list(read_reviews(f"file://{tmp_path}/c.json"))
        == list(read_reviews("c.json"))
        == reviews[4:]
    )
    assert list(find_inputs(["c.json", f"file://{tmp_path}/*.json"])) == ["c.json"]
    [source] = find_inputs("memory://shop/a.jsonl.gz").values()
    with open_input(source) as f:
        assert f.read() == pack("a.gz", GOOD.encode())
    memory.pipe("/shop/cut.jsonl.gz", pack("a.gz", GOOD.encode())[:-3])
    with pytest.raises(KitError, match=r"memory://shop/cut\.jsonl\.gz is not a whole gzip file"):
        read_reviews("memory://shop/cut.jsonl.gz")


def test_inputs_are_named_by_what_tells_them_apart(memory, monkeypatch):
    for path in ("x/r.jsonl", "y/r.jsonl", "y/s.jsonl"):
        write(path, GOOD)
        memory.pipe(f"/shop/{path}", GOOD.encode())
    assert list(find_inputs(["y/*.jsonl", "x/r.jsonl", "y/r.jsonl"])) == [
        "x/r.jsonl",
        "y/r.jsonl",
        "y/s.jsonl",
    ]
    assert list(find_inputs(["y/s.jsonl", "x/r.jsonl"])) == ["r.jsonl", "s.jsonl"]
    assert list(find_inputs("memory://shop/*/r.jsonl")) == ["x/r.jsonl", "y/r.jsonl"]
    assert list(find_inputs(["memory://shop/x/r.jsonl", "y/s.jsonl"])) == ["r.jsonl", "s.jsonl"]
    with pytest.raises(KitError, match="two inputs are both called 'r.jsonl'"):
        find_inputs(["memory://shop/x/r.jsonl", "y/r.jsonl"])


def test_an_address_is_shown_without_its_secrets():
    secret = SimpleNamespace(
        full_name="https://user:secret@host.org:8080/d/r.csv.gz?token=secret&x=/a.b"
    )
    assert show_place(secret) == "https://host.org:8080/d/r.csv.gz"


def test_http(tmp_path):
    "A loopback server: a whole file, one that is missing, one that breaks off."
    pytest.importorskip("aiohttp")
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    content = pack(
        "a.gz",
        jsonl(
            *({"reviewText": random.Random(n).randbytes(500).hex()} for n in range(2000))
        ).encode(),
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            if "missing" in self.path:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // (2 if "broken" in self.path else 1)])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://user:secret@127.0.0.1:{server.server_port}"
        assert {r.source for r in read_reviews(f"{base}/r.jsonl.gz?token=secret")} == {"r.jsonl.gz"}
        for name, problem in (
            ("missing", "cannot be opened"),
            ("broken", "stopped while being read|not a whole gzip"),
        ):
            with pytest.raises(
                KitError, match=rf"http://127\S+/{name}\.jsonl\.gz ({problem})"
            ) as caught:
                list(read_reviews(f"{base}/{name}.jsonl.gz?token=secret"))
            assert "secret" not in str(caught.value)
        server.shutdown()


HOSTILE = {
    "a call": b"{'reviewText': __import__('os').mkdir('gone')}",
    "minus": b"{'a': " + b"-" * 100_000 + b"1}",
    "sum": b"{'a': " + b"1+" * 60_000 + b"1}",
    "brackets": b"{'a': " + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits": b"{'a': " + b"9" * 100_000 + b"}",
    "hexadecimal": b"{'reviewText': 0x" + b"f" * 100_000 + b"}",
    "format": b"{'a': f'" + b"{1}" * 3_000 + b"'}",
    "elements": b"{'a': [" + b"1," * 8 * MB + b"]}",
    "escape": b"{'reviewText': '\\N{NO SUCH NAME}'}",
    "surrogate": b"{'reviewText': '\xed\xa0\xbd'}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_literals_are_built_and_never_run(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [record] = Lines(1, HOSTILE[name]).records()
    keys = dict.fromkeys(KEYS) | dict(
        text_key="reviewText", stars_key="reviewText", item_key="reviewText"
    )
    reviews, bad = parse_block(TableRows(1, [record]), "a.json", keys)
    assert not reviews and len(bad) == 1 and not Path("gone").exists()
    fine = rb"""{'reviewText': "it's \d fine", 'helpful': [0, 0], 'overall': 5.0, 'ok': True}"""
    [fine] = Lines(1, fine).records()
    assert fine == dict(reviewText=r"it's \d fine", helpful=[0, 0], overall=5.0, ok=True)


# --------------------------------------------------------------------------------------------------
# Fuzzing. Expected reviews and bad rows come from the slow reading below: whole files in memory,
# the standard library only, one row after another.

LIMIT = 1 << 20  # max_line in these tests
FUZZ_KEYS = dict(
    text_key="reviewText",
    label_key="y",
    stars_key="overall",
    item_key="asin",
    time_key="unixReviewTime",
)
TEXTS = [
    "Fine.",
    'It\'s "so" good, [really] {so}',
    "Très\nbien 👍🏽\t",
    "a\r\nb",
    " ",
    "",
    "a\0b",
    "\\",
    "\ud83d half",
    "x" * 300,
]
NUMBERS = [
    5,
    1.0,
    "4",
    "",
    None,
    True,
    math.nan,
    math.inf,
    10**30,
    10**400,
    "five",
    [1],
    {},
    -3,
    1252800000,
    1588687728923,
]
NASTY = [
    b"\0",
    b"\xff",
    b"\xed\xa0\xbd",
    b"\\ud83d",
    b"\r",
    b"\r\n",
    b"\n",
    b'"',
    b"'",
    b"\\",
    b"[",
    b"{",
    b"}",
    b",",
    b":",
]
NASTY += [
    b"[" * 3000,
    b"-" * 3000,
    b"9" * 5000,
    b"NaN",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"f'{1}'",
    b"0x" + b"f" * 9000,
]
HUGE = 50 * MB


def mutate(rng, line):
    "A line as it may be found in a damaged dump."
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        at, to = sorted(rng.randrange(len(line) + 1) for _ in range(2))
        to = min(to, at + 9)
        kind = rng.randrange(5)
        if kind == 0:
            line = line[:at]
        elif kind == 1:
            line = line[:at] + line[to:]
        elif kind == 2:
            line = line[:at] + rng.randbytes(to - at) + line[to:]
        else:
            line = line[:at] + rng.choice(NASTY) + line[to:]
    return line + rng.choice([b"\n", b"\n", b"\n", b"\r\n", b"\n\n"])


def random_record(rng):
    record = dict(
        reviewText=rng.choice(TEXTS) if rng.random() < 0.3 else f"Bought {rng.random()} of them"
    )
    for key in ("overall", "asin", "unixReviewTime", "other"):
        if rng.random() < 0.4:
            record[key] = rng.choice(NUMBERS)
    if rng.random() < 0.3:
        record["y"] = rng.choice([0, 1, "1", 127, 128, -1, 0.5, "pos", None, ""])
    return record


def random_file(rng, kind, n, huge):
    "A file of n mutated rows after one good one, with a few lines of 50 MB."
    first = dict(reviewText="first", y=1, overall=5, asin="B1", unixReviewTime=7)
    write_one = (
        repr if kind == "literal" else lambda r: json.dumps(r, ensure_ascii=rng.random() < 0.5)
    )
    head = [write_one(first).encode() + b"\n"]
    lines = [write_one(random_record(rng)).encode("utf-8", "surrogatepass") for _ in range(n)]
    lines = [mutate(rng, line) for line in lines]
    for _ in range(huge):
        lines[rng.randrange(n)] = rng.choice([b"x", b"[", b"{'a':", b"\xff", b"9"]) * HUGE + b"\n"
    return b"".join(head + lines)


def slow_lines(content):
    for row, line in enumerate(io.BytesIO(content), 1):
        record = None
        if len(line) > LIMIT:
            yield row, None
            continue
        if not line.strip():
            continue
        try:
            text = line.removesuffix(b"\n").decode("utf-8-sig")
            record = json.loads(text)
        except (ValueError, RecursionError):
            if line.lstrip(b"\xef\xbb\xbf \t\r").startswith(b"{") and len(line) < MAX_LITERAL:
                with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                    record = ast.literal_eval(line.decode("utf-8-sig").removesuffix("\n"))
        good = isinstance(record, dict) and all(isinstance(key, str) for key in record)
        yield row, record if good else None


def slow_number(x):
    "(There is one, its value): one that is no number has the value None."
    if x is None or x == "" or x != x:
        return False, None
    try:
        return not math.isnan(float(x)), float(x)
    except (ValueError, TypeError, OverflowError):
        return True, None


def slow_review(row, record):
    text = record.get("reviewText")
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        return None
    (has_label, label), (has_stars, stars) = (
        slow_number(record.get("y")),
        slow_number(record.get("overall")),
    )
    if (
        has_label
        and label not in range(128)
        or has_stars
        and (stars is None or not 1 <= stars <= 5)
    ):
        return None
    item = record.get("asin")
    if not isinstance(item, str):
        item = str(item) if isinstance(item, int | float) and -1e18 < item < 1e18 else None
    has_time, time = slow_number(record.get("unixReviewTime"))
    time = time / 1000 if has_time and time is not None and abs(time) > 1e11 else time
    time = int(time) if has_time and time is not None and abs(time) < 1e11 else None
    label, stars = int(label) if has_label else None, stars if has_stars else None
    return Review(text, label, stars, None, "r", row, None, item or None, None, time)


@pytest.mark.filterwarnings("ignore:invalid")  # the slow reading warns of odd escapes
@pytest.mark.parametrize("kind", ["json", "literal"])
def test_fuzz(kind, request):
    "Mutated lines, 7,000 of two kinds or as many as --n says: exactly the bad rows are bad."
    total, seen = (request.config.getoption("--n") or 7_000) // 2 + 1, Counter()
    while seen["rows"] < total:
        rng = random.Random(f"{kind} {seen['files']}")
        n = min(3_400, total - seen["rows"])
        content = random_file(rng, kind, n, huge=int(seen["files"] % 10 == 0))
        name = "r.json" + rng.choice(["", ".gz", ".zst"])
        Path(name).write_bytes(pack(name, content))
        expected = {row: record and slow_review(row, record) for row, record in slow_lines(content)}
        q = Quarantine("bad.jsonl", max_bad=1)
        found = [
            r._replace(source="r")
            for r in read_reviews(
                name, **FUZZ_KEYS, stars_scale="1-5", max_ratio=1e6, quarantine=q, max_line=LIMIT
            )
        ]
        assert found == [review for review in expected.values() if review]
        assert [r["row"] for r in quarantined("bad.jsonl")] == [
            row for row, review in expected.items() if not review
        ]
        assert q.rows == len(expected)
        seen.update(rows=n, files=1, good=len(found), bad=q.bad)
    assert min(seen["good"], seen["bad"]) > 0.1 * total


@relaxed
@given(st.text())
def test_dedup_key_is_letters_and_digits(text):
    key = dedup_key(text)
    assert key == ("".join(c for c in text.casefold() if c.isalnum()) or text).encode()
    assert dedup_key(f" {text.upper()}!") == dedup_key(text.upper()) or not any(
        map(str.isalnum, text)
    )


def test_labelled_files_must_be_whole():
    train = write("train.csv", "sentence,label\ngood,1\nbad,0\n")
    holes = write("holes.csv", "sentence,label\ngood,1\nbad,\n")
    assert load_labelled(train, train, train)["test"].labels.tolist() == [1, 0]
    with pytest.raises(KitError, match=r"holes\.csv, row 2: label is None; it must be a label"):
        load_labelled(train, train, holes)
    with pytest.raises(KitError, match="set text_key to one of: sentence, label"):
        load_labelled(train, train, train, text_key="review")
