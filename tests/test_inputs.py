"""What a user may name as input: links, archives, pipes, tables in memory, and what is refused."""

import gzip
import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zstandard

from sentiment_kit.data import compression, held
from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.files import KitError, read_json, write_json
from sentiment_kit.data.held import sniff
from sentiment_kit.data.inputs import absolute, find_inputs
from sentiment_kit.data.quarantine import Quarantine
from sentiment_kit.data.reviews import read_reviews
from sentiment_kit.data.shards import make_shards
from sentiment_kit.standard_input import readable

ROWS = [{"text": f"Review number {n}", "stars": n % 5 + 1} for n in range(60)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "text,stars\n" + "".join(f"{row['text']},{row['stars']}\n" for row in ROWS)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def texts(paths, **options):
    return [r.text for r in read_reviews(paths, **options)]


ALL = [row["text"] for row in ROWS]


# --------------------------------------------------------------------------------------------------
# Names.


def test_a_link_is_called_as_the_user_called_it():
    "As in the cache of a hub: files under their hashes, and links with names."
    Path("blobs").mkdir()
    Path("snapshot").mkdir()
    Path("blobs/5f3a").write_text(LINES)
    for name in ("train.jsonl", "test.jsonl"):
        os.symlink("../blobs/5f3a", f"snapshot/{name}")
    reviews = list(read_reviews("snapshot/*.jsonl"))
    assert [r.source for r in reviews] == ["test.jsonl"] * 60 + ["train.jsonl"] * 60
    assert list(find_inputs(["snapshot/train.jsonl", "snapshot/../snapshot/train.jsonl"])) == [
        "train.jsonl"
    ]
    os.symlink("snapshot", "latest")
    assert list(find_inputs(["latest/train.jsonl", "snapshot/train.jsonl"])) == [
        "latest/train.jsonl",
        "snapshot/train.jsonl",
    ]
    os.link("blobs/5f3a", "hard.jsonl")
    assert len(find_inputs(["hard.jsonl", "snapshot/train.jsonl"])) == 2


def test_two_dots_after_a_link_to_a_folder_are_not_folded():
    Path("far/away").mkdir(parents=True)
    Path("far/a.jsonl").write_text(LINES)
    os.symlink("far/away", "near")
    Path("a.jsonl").write_text('{"text": "another"}\n')
    assert texts("near/../a.jsonl") == ALL
    assert len(find_inputs(["near/../a.jsonl", "a.jsonl"])) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_a_name_that_is_no_utf8():
    name = os.fsdecode(b"rese\xf1as.jsonl")
    Path(name).write_text(LINES)
    corpus = make_shards("*.jsonl", "corpus", counts=(1, 1, 1))
    assert corpus.manifest["sources"][0]["name"] == name
    assert open_corpus("corpus").manifest == corpus.manifest
    Path(name).write_text("{}\n" * 3)
    with pytest.raises(KitError, match="rese.as.jsonl"):
        read_reviews(name)


def test_half_a_pair_in_what_is_carried_along():
    half = "Toys \ud83d"
    rows = [dict(row, category=half, asin=half, user_id=half, part="train") for row in ROWS]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert {(r.category, r.item, r.user) for r in read_reviews("a.jsonl")} == {("Toys \ufffd",) * 3}
    corpus = make_shards("a.jsonl", "corpus", counts=(1, 1, 1))
    assert corpus.manifest["categories"] == ["Toys \ufffd"]
    write_json("a.json", {"name": half})
    assert read_json("a.json") == {"name": half}


def test_an_address_stays_one():
    assert absolute("file:///a/b.csv") == "file:///a/b.csv" and absolute("-") == "-"
    assert absolute("a.csv") == os.path.abspath("a.csv")


# --------------------------------------------------------------------------------------------------
# Archives, pipes and parquet.


def zipped(name, **members):
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return name


def test_every_table_of_a_zip_file_is_read():
    files = {
        "LICENCE": "free",
        "__MACOSX/a.csv": "x",
        "data/": "",
        "data/a.csv": TABLE,
        "data/b.jsonl.gz": gzip.compress(LINES.encode()),
    }
    zipped("r.zip", **files)
    reviews = list(read_reviews("r.zip"))
    assert [r.text for r in reviews] == ALL * 2
    assert {r.source for r in reviews} == {"a.csv", "b.jsonl.gz"}
    Path("a.csv").write_text(TABLE)
    assert list(find_inputs(["r.zip", "a.csv"])) == [
        "a.csv",
        "r.zip/data/a.csv",
        "r.zip/data/b.jsonl.gz",
    ]
    both = [make_shards(p, f"c{n}", counts=(1, 1, 1)) for n, p in enumerate(("a.csv", "r.zip"))]
    assert both[0].manifest["splits"] == both[1].manifest["splits"]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"LICENCE": "free"}, "r.zip holds no table"),
        ({"a.csv": "text\n" + " \n" * (2 << 20)}, "unpacks to more than 200 times its size"),
        (b"PK\x03\x04 cut", "r.zip is not a whole zip file"),
    ],
)
def test_a_zip_file_that_cannot_be_read(content, message, monkeypatch):
    monkeypatch.setattr(compression, "SMALL", 1 << 20)
    if isinstance(content, bytes):
        Path("r.zip").write_bytes(content)
    else:
        zipped("r.zip", **content)
    with pytest.raises(KitError, match=message):
        list(read_reviews("r.zip"))


def test_a_flipped_byte_in_a_zip_file_is_found():
    zipped("r.zip", **{"a.csv": TABLE})
    content = bytearray(Path("r.zip").read_bytes())
    content[len(content) // 3] ^= 8
    Path("r.zip").write_bytes(content)
    with pytest.raises(KitError, match="r.zip/a.csv stopped while being read"):
        list(read_reviews("r.zip"))


PIPED = {
    "lines": LINES.encode(),
    "array": json.dumps(ROWS).encode(),
    "csv": TABLE.encode(),
    "tsv": TABLE.replace(",", "\t").encode(),
    "gzip": gzip.compress(LINES.encode()),
    "zstd": zstandard.compress(TABLE.encode()),
}


@pytest.mark.parametrize("name", PIPED)
def test_standard_input_is_read_like_a_file(name, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(PIPED[name])))
    reviews = list(read_reviews("-"))
    assert [r.text for r in reviews] == ALL and {r.source for r in reviews} == {"stdin"}
    assert texts(["-"]) == ALL, "again, from what was kept"
    assert sum(len(shard.meta) for shard in make_shards("-", "c", (1, 1, 1)).split("train")) > 0


def test_standard_input_that_is_empty_or_an_archive(monkeypatch):
    refused = {
        b"": "standard input is empty",
        b"PK\x03\x04": "standard input is a zip file; unpack it",
        b"\x1f\x8bno gzip": "standard input is not a whole compressed file",
        b"\x28\xb5\x2f\xfdno zstd": "standard input is not a whole compressed file",
    }
    for content, message in refused.items():
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        with pytest.raises(KitError, match=message):
            read_reviews("-")


@pytest.mark.parametrize("stdin", [None, SimpleNamespace(closed=True)])
def test_standard_input_that_is_not_there(monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(KitError, match="standard input is closed; name a file"):
        read_reviews("-")


@pytest.mark.parametrize("name", [*PIPED, "parquet"])
def test_a_command_and_a_reader_take_a_pipe_for_the_same(name, monkeypatch):
    "Also parquet, which the commands once took for a table with commas."
    if name == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(ROWS), "a.parquet")
    piped = PIPED.get(name) or Path("a.parquet").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(piped)))
    with readable(["-"]) as [copy]:
        assert "".join(Path(copy).suffixes) == "".join(sniff(piped))
        assert texts([copy]) == ALL
    assert not Path(copy).exists()


def test_parquet_needs_a_package(monkeypatch):
    Path("a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(KitError, match=r"a\.parquet needs a package: .*sentiment_kit\[parquet\]"):
        read_reviews("a.parquet")


def test_parquet(monkeypatch):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_pylist([row | {"vector": [1.0, 2.0], "picture": b"x"} for row in ROWS])
    parquet.write_table(table, "a.parquet")
    reviews = list(read_reviews("a.parquet"))
    assert [(r.text, r.stars, r.row) for r in reviews] == [
        (row["text"], row["stars"], n + 1) for n, row in enumerate(ROWS)
    ]
    assert texts(table) == ALL
    zipped("r.zip", **{"a.parquet": Path("a.parquet").read_bytes()})
    assert texts("r.zip") == ALL
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO(Path("a.parquet").read_bytes()))
    )
    assert texts("-") == ALL
    Path("cut.parquet").write_bytes(Path("a.parquet").read_bytes()[:-20])
    with pytest.raises(KitError, match="cut.parquet is not a whole parquet file"):
        read_reviews("cut.parquet")


# --------------------------------------------------------------------------------------------------
# Tables in memory: doubles that can do what the libraries' tables can, and the libraries.


class Pandas:
    "What is used of a `pandas.DataFrame`."

    def __init__(self, columns, rows):
        self.columns = columns
        self.rows = rows

    def itertuples(self, index, name):
        return iter(self.rows)


class Dataset:
    "What is used of a `datasets.Dataset`."

    column_names = ("text", "stars")

    def __iter__(self):
        return iter(ROWS)


class Series:
    "What is used of a column of one."

    def to_list(self):
        return ALL


def test_tables_in_memory(tmp_path):
    frame = Pandas(["text", "stars"], [tuple(row.values()) for row in ROWS])
    for table in (frame, Dataset(), ROWS, tuple(ROWS)):
        assert [(r.text, r.stars) for r in read_reviews(table)] == [
            tuple(row.values()) for row in ROWS
        ]
    assert texts(Series()) == ALL
    assert {r.source for r in read_reviews(frame)} == {"Pandas"}
    assert list(find_inputs([frame, Dataset(), frame])) == ["Dataset", "Pandas", "Pandas 2"]
    Path("a.jsonl").write_text(LINES)
    one, other = (make_shards(p, f"c{n}", (1, 1, 1)) for n, p in enumerate((frame, "a.jsonl")))
    assert one.manifest["splits"] == other.manifest["splits"]


def test_missing_and_odd_values_of_a_table():
    class NA:  # like pandas.NA: asked whether it is equal, it will not say
        def __eq__(self, other):
            return self

        def __bool__(self):
            raise TypeError

    rows = [("good", np.float32(4), NA()), ("half \ud83d", float("nan"), object()), (NA(), 3, None)]
    q = Quarantine(max_bad=1)
    found = list(read_reviews(Pandas(["text", "stars", 7], rows), quarantine=q))
    assert [(r.text, r.stars) for r in found] == [("good", 4), ("half \ud83d", None)]
    assert q.reasons == {("Pandas", "no text in text"): 1}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"train": ROWS}, r"dict with the keys \['train'\].*one of its splits, such as data\['tr"),
        (Pandas(["text", "text"], []), "two columns called 'text'"),
        ([], "name at least one file"),
        (Pandas(["text"], []), "Pandas is empty"),
        (5, "int names no reviews; give paths"),
        ([5], "int names no reviews"),
        (b"a.csv", "bytes names no reviews"),
    ],
)
def test_what_names_no_reviews_is_refused(given, message):
    with pytest.raises(KitError, match=message):
        read_reviews(given)


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(ROWS)
    frame.loc[3, "stars"] = pd.NA
    stars = [r.stars for r in read_reviews(frame)]
    assert texts(frame) == texts(frame["text"]) == ALL
    assert stars == [None if n == 3 else row["stars"] for n, row in enumerate(ROWS)]


def test_a_stream_gives_the_same_bytes_at_every_size():
    lines = [b"a" * n + b"\n" for n in range(40)]
    for size in (1, 3, 64, 5000):
        f = io.BufferedReader(held.LineStream(iter(lines)), 16)
        assert b"".join(iter(lambda f=f, size=size: f.read(size), b"")) == b"".join(lines)


# --------------------------------------------------------------------------------------------------
# Bombs.


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.json.zst", "a.jsonl", "a.csv"])
def test_a_file_of_blank_lines_costs_seconds(name):
    good = TABLE if "csv" in name else LINES
    content = b"\n" * (8 << 20) + good.encode() + b" \r\n" * (4 << 20)
    pack = gzip.compress if name.endswith("gz") else zstandard.compress
    Path(name).write_bytes(pack(content) if name.count(".") > 1 else content)
    start = time.perf_counter()
    assert texts(name) == ALL
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.zst"])
def test_what_unpacks_to_hundreds_of_times_its_size_is_refused(name, monkeypatch):
    monkeypatch.setattr(compression, "SMALL", 1 << 20)
    pack = gzip.compress if name.endswith("gz") else zstandard.compress
    content = (TABLE if "csv" in name else LINES).encode() + b" \n" * (2 << 20)
    Path(name).write_bytes(pack(content))
    with pytest.raises(KitError, match=f"{name} unpacks to more than 200 times .*raise max_ratio"):
        texts(name)
    assert texts(name, max_ratio=100_000) == ALL


def test_no_control_character_reaches_a_terminal():
    Path("a.csv").write_text("te\x1b[31mxt,stars\nfine,5\n")
    with pytest.raises(KitError) as caught:
        read_reviews("a.csv", text_key="\x1b[2Jtext\u202e")
    assert str(caught.value).isprintable() and "\x1b" not in str(caught.value)
