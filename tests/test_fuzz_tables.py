"""Random tables are read as they were written, or refused with a word; see fuzz_tables.py."""

import csv
import io
import random

import fuzz_tables as fuzz
import pytest
from fuzz_tables import Row, Table


def assert_no_failures(kinds):
    assert not kinds, "\n" + fuzz.report(kinds)


def test_a_few_tables(tmp_path):
    assert_no_failures(fuzz.fuzz(300, seed="few", folder=tmp_path, shrinks=3, out=None))


@pytest.mark.slow
def test_many_tables(request):
    """The same bytes can be two tables: `"` in two rows of a tab file is a field of two lines, or
    two stray quotes. About one table in four thousand is such a pair, read as the other one."""
    n = request.config.getoption("--n") or 100_000
    kinds = fuzz.fuzz(n, seed="many")
    print(fuzz.report(kinds))
    assert sum(count for count, _ in kinds.values()) <= n / 2_000, "\n" + fuzz.report(kinds)


@pytest.mark.parametrize("quoting", ["minimal", "all"])
def test_the_writer_agrees_with_the_csv_module(quoting):
    rng = random.Random(0)
    for i in range(50):
        spices = ("quotes", "delimiters", "newlines", "unicode", "separators")
        rows = tuple(Row(fuzz.random_text(rng, j, spices), j % 2) for j in range(4))
        t = Table(rows, quoting=quoting, order=i, eol=("\n", "\r\n")[i % 2])
        content = fuzz.write(t)[0].decode()
        read = list(csv.DictReader(io.StringIO(content, newline="")))
        assert [row["text"] for row in read] == [row.text for row in rows]


def test_the_writer_knows_where_rows_stand():
    rows = (Row("a"), Row('b\n"c"'), Row("d"))
    _, (filled, every) = fuzz.write(Table(rows, blanks="each", eol="\r\n"))
    assert (filled, every) == ([1, 2, 3], [2, 4, 6])
    _, (filled, every) = fuzz.write(Table(rows, "jsonl", blanks="start"))
    assert (filled, every) == ([1, 2, 3], [2, 3, 4])


PLANTED = {  # (what a reader gives for row i, or nothing): what the judge calls it
    "text is another": lambda i, r: (r.text.replace('"', ""), r.label, 5.0, i + 1),
    "label is another": lambda i, r: (r.text, 1 - r.label, 5.0, i + 1),
    "stars are others": lambda i, r: (r.text, r.label, 4.0, i + 1),
    "row number": lambda i, r: (r.text, r.label, 5.0, i + 2),
    "row lost without a word": lambda i, r: None if i == 1 else (r.text, r.label, 5.0, i + 1),
}


@pytest.mark.parametrize("what", PLANTED)
def test_the_judge_sees_what_goes_wrong(what):
    t = Table((Row('say "a"'), Row("b", 1), Row("c")))
    right = [(r.text, r.label, 5.0, i + 1) for i, r in enumerate(t.rows)]
    records = fuzz.write(t)[1]
    assert fuzz.compare(t, right, [], records, "") is None
    got = [PLANTED[what](i, r) for i, r in enumerate(t.rows)]
    assert fuzz.compare(t, [g for g in got if g], [], records, "")[0] == what


def test_a_row_set_aside_must_be_named():
    t = Table((Row("a"), Row("b"), Row("c")), kind="tsv", quoting="none")
    got = [("a", 0, 5.0, 1)]
    records = fuzz.write(t)[1]
    assert fuzz.compare(t, got, [(2, "1 field")], records, "")[0] == "row lost without a word"
    plain = fuzz.plain_table(t)
    assert plain and fuzz.compare(t, got, [(2, "x"), (3, "y")], records, "")[0] == "row set aside"
    t = Table(t.rows, kind="tsv", quoting="none", encoding="latin-1")
    assert fuzz.compare(t, got, [(2, "x"), (3, "y")], records, "") is None
    assert fuzz.compare(t, got, [(2, "lines 2 to 3 run together")], records, "") is None


def test_a_failure_is_shrunk(tmp_path, monkeypatch):
    def broken(path, label_keys, text_key):
        rows = list(csv.DictReader(path.open(newline="", encoding="utf-8")))
        return [r[text_key].replace("é", "e") for r in rows], [r[label_keys] for r in rows]

    monkeypatch.setattr(fuzz, "load_texts", broken)
    t = Table(tuple(Row(f"row {i} café", i % 2) for i in range(6)), quoting="all", eol="\r\n")
    failure = next(f for f in fuzz.judge(t, tmp_path) if f.reader == "load_texts")
    small, _ = fuzz.shrink(t, failure, tmp_path)
    assert (small.rows, fuzz.dialect(small)) == ((Row("é"),), "csv")
