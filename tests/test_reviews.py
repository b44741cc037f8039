"""Files of reviews: bad rows are counted exactly, wrong files are refused in one line that says what to do."""

import csv
import gzip
import io
import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentiment_kit.files import KitError
from sentiment_kit.reviews import (
    Quarantine,
    csv_rows,
    dedup_key,
    find_inputs,
    json_rows,
    load_labelled,
    read_reviews,
)

relaxed = settings(deadline=None)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, content):
    from pathlib import Path

    content = content.encode() if isinstance(content, str) else content
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(gzip.compress(content, mtime=0) if path.endswith(".gz") else content)
    return path


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


GOOD = jsonl({"reviewText": "fine", "overall": 4.0, "category": "Pets"}, {"reviewText": "Très bien"})


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_all_formats_give_the_same_reviews(suffix):
    rows = [("plain", "5", "A"), ('with "quotes", commas', "", "B"), ("two\nlines\tand a tab", "1", "")]
    for name, delimiter in (("r.csv", ","), ("r.tsv", "\t")):
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter).writerows([("reviewText", "overall", "category"), *rows])
        write(name + suffix, "\ufeff" + out.getvalue())
    write("r.jsonl" + suffix, "\ufeff" + jsonl(*(dict(reviewText=t, overall=s, category=c) for t, s, c in rows)))
    read = [[r._replace(source="") for r in read_reviews(f"r.{f}{suffix}")] for f in ("csv", "tsv", "jsonl")]
    assert read[0] == read[1] == read[2]
    assert [(r.text, r.stars, r.row) for r in read[0]] == [
        (rows[0][0], 5, 1),
        (rows[1][0], None, 2),
        (rows[2][0], 1, 3),
    ]


@pytest.mark.parametrize(
    "path, content, options, message",
    [
        (
            "a.jsonl",
            GOOD,
            dict(text_key="text"),
            r"a\.jsonl has no column 'text'; set text_key to one of: reviewText, o",
        ),
        ("a.jsonl", GOOD, dict(stars_key="rating"), r"no column 'rating'; set stars_key"),
        (
            "a.csv",
            "text,y\nfine,1\n",
            dict(text_key="text", label_key="label"),
            "'label'; set label_key to one of: text",
        ),
        ("a.csv", "", {}, r"a\.csv is empty; leave it out"),
        ("a.csv.gz", "", {}, r"a\.csv\.gz is empty; leave it out"),
        ("a.csv", "reviewText\n", {}, "no readable row"),
        ("a.jsonl", "<html>\n404\n", {}, "no readable row"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", {}, r"a\.csv is a binary file"),
        ("a.csv", "reviewText\nfine\n".encode("utf-16"), {}, r"a\.csv is a binary file .* give UTF-8"),
        ("a.csv", "reviewText\nfine\ncafé\n".encode("latin-1"), {}, "broken UTF-8 .*Latin-1.*iconv"),
        ("a.parquet", "x", {}, r"a\.parquet has an unknown suffix; known are \.csv, \.tsv, \.jsonl"),
        ("folder/a.csv", "x", dict(paths="folder"), r"folder is a folder; name its files"),
        ("a.csv", "x", dict(paths="b*.csv"), r"no file matches 'b\*\.csv'"),
    ],
)
def test_a_wrong_input_is_refused_in_one_line(path, content, options, message):
    write(path, content)
    with pytest.raises(KitError, match=message) as caught:
        list(read_reviews(**dict(paths=path) | options))
    assert "\n" not in str(caught.value)


def test_damaged_gzip_is_named(tmp_path):
    write("page.jsonl.gz", GOOD)
    (tmp_path / "page.jsonl.gz").write_text("<html>not found</html>")
    with pytest.raises(KitError, match=r"page\.jsonl\.gz is not a whole gzip file"):
        read_reviews("page.jsonl.gz")
    whole = gzip.compress(jsonl(*(dict(reviewText=os.urandom(1000).hex()) for _ in range(1500))).encode(), 1)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    reviews = read_reviews("cut.jsonl.gz")
    with pytest.raises(KitError, match=r"cut\.jsonl\.gz is a damaged gzip file"):
        for _ in reviews:
            pass


def test_bad_rows_go_to_quarantine_with_place_and_reason(tmp_path):
    bad = {
        2: (b"{broken\n", "not JSON"),
        3: (b"[1, 2]\n", "not a JSON object"),
        5: (b'{"reviewText": "caf\xe9"}\n', "broken UTF-8"),
        6: (b'{"reviewText": ""}\n', "empty text"),
        7: (b'{"reviewText": " \\n "}\n', "empty text"),
        8: (b'{"reviewText": 5}\n', "no text in reviewText"),
        9: (b'{"reviewText": "a\\u0000b"}\n', "NUL byte in the text"),
        10: (b'{"reviewText": "ok", "overall": "five"}\n', "label or stars is not a number"),
        11: (b'{"reviewText": "' + b"x" * 2000 + b'"}\n', "longer than max_line"),
        12: (b"[" * 900 + b"\n", "not JSON"),
        13: (b'{"reviewText": "ok", "overall": ' + b"9" * 900 + b"}\n", "label or stars is not a number"),
    }
    good = {
        1: b'{"reviewText": "first"}\n',
        4: b"\n",  # blank: a line, but not a row
        14: b'{"reviewText": "half \\ud83d a pair", "overall": NaN}\n',
        15: b'{"reviewText": "last", "overall": "4"}',
    }
    lines = good | {row: line for row, (line, _) in bad.items()}
    write("a.jsonl", b"".join(lines[row] for row in sorted(lines)))
    q = Quarantine("bad.jsonl", max_bad=0.9)
    reviews = list(read_reviews("a.jsonl", quarantine=q, max_line=1000))
    assert [(r.row, r.stars) for r in reviews] == [(1, None), (14, None), (15, 4)]
    records = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert records == [dict(file="a.jsonl", row=row, reason=reason) for row, (_, reason) in sorted(bad.items())]
    assert (q.rows, q.bad) == (14, len(bad))


def test_share_of_bad_rows_is_judged_after_a_thousand_and_at_the_end():
    rows = [jsonl({"reviewText": "ok"})] * 1000 + ["{}\n"] * 500
    write("late.jsonl", "".join(rows))
    q = Quarantine(max_bad=0.01)
    with pytest.raises(KitError, match=r"11 of 1011 rows are bad, .* late\.jsonl: no text in reviewText"):
        list(read_reviews("late.jsonl", quarantine=q))
    write("early.jsonl", "".join(rows[:1] + rows[1000:1009] + rows[:990]))
    q = Quarantine(max_bad=0.01)
    assert len(list(read_reviews("early.jsonl", quarantine=q))) == 991 and q.bad == 9
    write("short.jsonl", "".join(rows[:3] + rows[-1:]))
    with pytest.raises(KitError, match="1 of 4 rows are bad"):
        list(read_reviews("short.jsonl"))


@relaxed
@given(st.text(st.sampled_from('ab",\n\r é'), max_size=60))
@example('x,y\n"open,1\nb,2\n')
def test_csv_rows_are_counted_as_python_counts_them(body):
    rows = list(csv_rows(io.BytesIO(b"text,n\n" + body.encode()), ",", 1 << 20))
    expected = [(i, f) for i, f in enumerate(csv.reader(io.StringIO(body, newline="")), 1) if f]
    assert [row for row, _ in rows] == [row for row, _ in expected]
    assert [r for _, r in rows if isinstance(r, dict)] == [dict(text=f[0], n=f[1]) for _, f in expected if len(f) == 2]


@relaxed
@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.integers(1, 20))
def test_json_rows_survive_anything_and_keep_count(lines, max_line):
    rows = dict(json_rows(io.BytesIO(b"\n".join(lines)), max_line))
    assert set(rows) == {i for i, line in enumerate(lines, 1) if line.strip() or len(line) >= max_line + 1} | {
        i for i, line in enumerate(lines[:-1], 1) if len(line) + 1 > max_line
    }


def test_inputs_are_named_by_what_tells_them_apart():
    for path in ("x/r.jsonl", "y/r.jsonl", "y/s.jsonl"):
        write(path, GOOD)
    assert list(find_inputs(["y/*.jsonl", "x/r.jsonl", "y/r.jsonl"])) == ["x/r.jsonl", "y/r.jsonl", "y/s.jsonl"]
    assert list(find_inputs(["y/s.jsonl", "x/r.jsonl"])) == ["r.jsonl", "s.jsonl"]


@relaxed
@given(st.text())
def test_dedup_key_is_letters_and_digits(text):
    key = dedup_key(text)
    assert key == ("".join(c for c in text.casefold() if c.isalnum()) or text).encode()
    assert dedup_key(f" {text.upper()}!") == dedup_key(text.upper()) or not any(map(str.isalnum, text))


def test_labelled_files_must_be_whole():
    train = write("train.csv", "sentence,label\ngood,1\nbad,0\n")
    holes = write("holes.csv", "sentence,label\ngood,1\nbad,\n")
    assert load_labelled(train, train, train)["test"].labels.tolist() == [1, 0]
    with pytest.raises(KitError, match=r"holes\.csv, row 2, has no label"):
        load_labelled(train, train, holes)
    with pytest.raises(KitError, match="set text_key to one of: sentence, label"):
        load_labelled(train, train, train, text_key="review")
