"""Tables of many writers: each is read as it was meant, or refused in one sentence."""

import csv
import io
import json
import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from sentiment_kit.data.columns import find_keys
from sentiment_kit.data.dialects import find_dialect
from sentiment_kit.data.files import KitError
from sentiment_kit.data.quarantine import Quarantine
from sentiment_kit.data.reviews import read_reviews
from sentiment_kit.data.stars import read_scale, read_stars


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def read(name, content, **options):
    "Texts by row, and bad rows by reason."
    q = Quarantine(max_bad=1)
    options = dict(text_key="text") | options
    reviews = list(read_reviews(write(name, content), quarantine=q, **options))
    return {r.row: r.text for r in reviews}, {why: n for (_, why), n in q.reasons.items()}


def read_all(path, **options):
    return list(read_reviews(path, text_key="text", **options))


# Each: file, its content, what its texts are.
DIALECTS = {
    "doubled": ("a.csv", 'text,n\n"He said ""hi"", and left",1\nb,2\n', 'He said "hi", and left'),
    "all quoted": ("a.csv", '"text","n"\n"Nice, really","1"\n"b","2"\n', "Nice, really"),
    "backslash": ("a.csv", 'text,n\n"He said \\"hi\\", ok",1\nb,2\n', 'He said "hi", ok'),
    "paths": ("a.csv", 'text,n\n"\\"C:\\\\temp\\"",1\nb,2\n', '"C:\\temp"'),
    "literal": ("a.csv", 'text,n\n"C:\\temp is \\"hi\\"",1\nb,2\n', 'C:\\temp is "hi"'),
    "no quotes": ("a.csv", 'text,n\n5" wide \\, "really",1\nb,2\n', None),
    "escaped comma": ("a.csv", 'text,n\nWide\\, \\"really\\",1\nb,2\n', 'Wide, "really"'),
    "stray, tab": ("a.tsv", 'text\tn\n"Works\t1\nb\t2\n"Wow" he said\t3\n', '"Works'),
    "escaped tab": ("a.tsv", "text\tn\na\\\tb\\\\c\t1\nb\t2\n", "a\tb\\c"),
    "quoted, tab": ("a.tsv", 'text\tn\n"a\tb, ""c"""\t1\nb\t2\n', 'a\tb, "c"'),
    "paragraphs, tab": ("a.tsv", 'text\tn\n"a\nb ""c"""\t1\nb\t2\n', 'a\nb "c"'),
    "excel, tab": ("a.tsv", 'text\tn\n"Nice, really"\t1\nb\t2\n', "Nice, really"),
    "letters, tab": ("a.tsv", 'text\tn\n"Wow"\t1\nb\t2\n', '"Wow"'),
    "semicolon": ("a.csv", "text;n\nGut, wirklich;4,5\nb;2\n", "Gut, wirklich"),
    "declared": ("a.csv", "sep=;\ntext;n\nGut, wirklich;4,5\nb;2\n", "Gut, wirklich"),
    "bar": ("a.csv", "text|n\nNice, really|4\nb|2\n", "Nice, really"),
    "tab in csv": ("a.csv", 'text\tn\nNice, "really\t4\nb\t2\n', 'Nice, "really'),
    "mark": ("a.csv", "\ufefftext,n\nNice,4\nb,2\n", "Nice"),
    "quoted mark": ("a.csv", '\ufeff"text","n"\n"Nice","4"\n"b","2"\n', "Nice"),
    "dos": ("a.csv", 'text,n\r\n"a\r\nb",4\r\nb,2\r\n', "a\r\nb"),
    "mac": ("a.csv", 'text,n\r"a\nb, c",4\rb,2\r', "a\nb, c"),
    "twice dos": ("a.csv", "text,n\r\r\nNice,4\r\r\nb,2\r\r\n", "Nice"),
    "blank lines": ("a.csv", "\n\ntext,n\n\nNice,4\n\n\nb,2\n\n", "Nice"),
    "stray return": ("a.tsv", "text\tn\na\rb\t4\nb\t2\n", "a\rb"),
    "separators": ("a.csv", "text,n\na\u2028b\x0bc\x85d,4\nb,2\n", "a\u2028b\x0bc\x85d"),
    "other case": ("a.csv", " Text ,N\nNice,4\nb,2\n", "Nice"),
    "nameless": ("a.csv", ",text,n,,\n0,Nice,4,,\n1,b,2,,\n", "Nice"),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_table_is_read_as_its_writer_meant_it(name):
    path, content, text = DIALECTS[name]
    texts, bad = read(path, content, stars_key=None)
    if text is None:  # a comma in an unquoted field, and quotes beside: nobody can tell
        assert texts == {2: "b"} and sum(bad.values()) == 1
    else:
        assert (texts[1], texts[2], bad) == (text, "b", {})


@pytest.mark.parametrize(
    "path, content, options, message",
    [
        ("a.csv", "text,n,text\na,1,b\n", {}, "a.csv has 2 columns called 'text'"),
        ("a.csv", "text,TEXT \na,b\n", dict(text_key="Text"), "has the columns .*rename all but"),
        ("a.csv", "2,Good,Great mug\n2,title,Fine\n", {}, 'seems to have no header.*header="no"'),
        ("a.csv", "Good,pos\nBad,neg\nNice,pos\n", dict(text_key="Good"), "to have no header"),
        (
            "a.csv",
            '"Keeps tea so warm."\nBad\n',
            dict(text_key="Keeps tea so warm."),
            'header="no"',
        ),
        (
            "a.csv",
            'text,n\n"Nice",5\nA 5" screen,4\nBad,1\n',
            {},
            'two ways; say quoting="doubled"',
        ),
        (
            "a.csv",
            "text,n\nC:\\\\temp,5\nBad,1\n",
            {},
            'backslashes in pairs only; say quoting="back',
        ),
        ("a.csv", '"text,n\na,1\n', {}, "has no column 'text'"),
        ("a.csv", "a,1,x\n", dict(header="text,n"), "3 fields where the header has 2"),
        ("a.csv", "text,n\na,1\n", dict(quoting="single"), "quoting='single' is unknown; take"),
    ],
)
def test_a_table_that_can_be_misread_is_refused(path, content, options, message):
    with pytest.raises(KitError, match=message) as caught:
        read(path, content, **options)
    assert "\n" not in str(caught.value)


def test_a_declared_rule_or_header_is_taken():
    unclear = 'text,n\n"Nice",5\nA 5" screen,4\n'
    assert read("a.csv", unclear, quoting="none")[0][1] == '"Nice"'
    assert read("a.csv", unclear, quoting="doubled")[0][1] == "Nice"
    headless = "2,Good,Great mug\n1,Bad,Broke\n"
    assert read("a.csv", headless, header="no", text_key="3")[0] == {1: "Great mug", 2: "Broke"}
    named = dict(header="stars,title,text")
    assert read("a.csv", headless, **named)[0] == {1: "Great mug", 2: "Broke"}
    assert read("a.csv", headless, header=["a", "b", "text"])[0] == {1: "Great mug", 2: "Broke"}
    assert read("a.csv", headless, header="yes", text_key="Great mug")[0] == {1: "Broke"}
    assert read("a.csv", "0,1\nNice,5\n", text_key="0")[0] == {1: "Nice"}, "as pandas numbers them"


def test_lines_that_a_stray_quote_glues_together_are_set_aside():
    lines = [f"{n % 5 + 1},Review number {n}\n" for n in range(100)]
    lines[20] = '3,"Great\n'
    lines[22] = '2,The screen is 5"\n'
    texts, bad = read("a.csv", "n,text\n" + "".join(lines))
    assert (
        texts[21] == '"Great' and texts[23] == 'The screen is 5"' and (len(texts), bad) == (100, {})
    )
    proper = '4,"Fine, ""really"""\n' * 5
    texts, bad = read("a.csv", "n,text\n" + proper + "".join(lines))
    assert sorted(set(range(1, 106)) - set(texts)) == [26, 27, 28]
    assert bad == {"several lines in one field, which a stray quote may have glued together": 3}
    lines[22] = '2,"Bad" it said\n'
    texts, bad = read("a.csv", "n,text\n" + proper + "".join(lines))
    assert len(texts) == 102 and sum(bad.values()) == 3
    lines[22] = "2,Bad\n"  # the quote never closes
    texts, bad = read("a.csv", "n,text\n" + proper * 18 + "".join(lines))
    assert (len(texts), sum(bad.values())) == (110, 80)


@pytest.mark.parametrize(
    "path, content, texts, bad",  # bad: of each row, its lines
    [
        ("a.csv", 'text,n\na,5\n"\nb,5\n', {1: "a"}, {2: "3 to 4", 3: "3 to 4"}),
        ("a.csv", 'text,n\n\na,5\n"\nb,5\n\nc,5\n', {1: "a"}, dict.fromkeys((2, 3, 4), "4 to 7")),
        ("a.csv", 'sep=,\ntext,n\na,5\n"\nb,5\n', {1: "a"}, {2: "4 to 5", 3: "4 to 5"}),
        ("a.csv", 'text,n\ra,5\r"\rb,5\r', {1: "a"}, {2: "3 to 4", 3: "3 to 4"}),
        ("a.csv", 'text,n\na,5\n",0\n"\x00,0\n', {1: "a"}, {2: "3 to 4", 3: "3 to 4"}),
        ("a.csv", 'text,n\n"two\nlines",5,6\nc,5\n', {2: "c"}, {1: "2 to 3"}),
        ("a.tsv", 'text\tn\tm\n"""\t0\t5\n"\t0\t5\n', {1: '"""', 2: '"'}, {}),
        ("a.tsv", 'text\tn\tm\n"\t0\t5\tmore\n3"\t0\t5\n', {2: '3"'}, {1: None}),
        ("a.tsv", 'text\tn\tm\n"\\"\t0\t5\n"\t0\t5\n', {1: '"\\"', 2: '"'}, {}),
        ("a.tsv", 'text\tn\tm\n"\t\t5\n4\t0\t5\nd"\t0\t5\n', {1: '"', 2: "4", 3: 'd"'}, {}),
    ],
)
def test_lines_that_a_stray_quote_swallows_are_named(path, content, texts, bad):
    q = Quarantine("aside", max_bad=1)
    write(path, content)
    quoting = "doubled" if path == "a.csv" else None
    found = {r.row: r.text for r in read_all(path, quarantine=q, quoting=quoting)}
    aside = [json.loads(line) for line in Path("aside").read_text().splitlines()]
    lines = {
        b["row"]: re.search(r"(?<=\(lines )\d+ to \d+|$", b["reason"])[0] or None for b in aside
    }
    assert (found, lines) == (texts, bad)
    assert not any("lines" in reason for _, reason in q.reasons)


def test_swallowed_rows_with_a_delimiter_in_quotes_are_counted():
    lines = 'text,n,m\na,0,5\n",0,5\n"b,",0,5\n"c, d",0,5\n'
    texts, bad = read("a.csv", lines, quoting="doubled")
    assert texts == {1: "a", 4: "c, d"} and sum(bad.values()) == 2


def test_a_torn_line_does_not_hide_that_lines_were_glued_together():
    lines = 'text,n,m\ngood,1,5\n",0\nd,0,5\nn,0,5\n4",0,5\n"a,0,5\nb,1,5\n'
    texts, bad = read("a.csv", lines)
    assert not any("\n" in text for text in texts.values()) and sum(bad.values()) > 0


def test_a_blank_and_a_quote_in_quotes_are_read():
    assert read("a.csv", 'text,n\n" \\"a\\"",5\nb,5\n', quoting="backslash")[0][1] == ' "a"'
    assert read("a.csv", 'text,n\n" ""a""",5\nb,5\n')[0][1] == ' "a"'


def test_a_refusal_names_the_swallowed_lines():
    with pytest.raises(
        KitError, match=r"a.csv, row 2: not csv.*\(lines 3 to 4\) \(.*2 of 3 rows are bad\); repair"
    ):
        read_all(write("a.csv", 'text,n\na,5\n"\nb,5\n'), quoting="doubled")


def test_a_text_with_lines_and_tabs_is_read_where_it_is_clear():
    text = 'One\ttwo "three"\n\tfour\nfive'
    quoted = '"' + text.replace('"', '""') + '"'
    rows = "".join(f"{n % 2}\t{n % 5 + 1}\tn {n}\n" for n in range(9))
    assert read("a.tsv", f"n\tm\ttext\n{rows}1\t5\t{quoted}\n")[0][10] == text
    assert read("b.tsv", f"text\tn\tm\n{quoted}\t1\t5\na\t0\t1\n")[0] == {1: text, 2: "a"}


def test_a_header_may_be_quoted_otherwise_than_its_rows():
    assert read("a.tsv", '"text"\t"n"\na\t1\n"b\t2\n')[0] == {1: "a", 2: '"b'}
    again = '"text"\t"n"\na\t1\n"text"\t"n"\n'
    assert read("a.tsv", again) == ({1: "a"}, {"the header again": 1})
    assert read("a.tsv", 'TEXT\tN\n"a b"\t"1"\n"c d"\t"2"\n')[0] == {1: "a b", 2: "c d"}


def test_a_declared_rule_is_not_doubted():
    assert read("a.tsv", 'text\tn\n"He ""left"""\t2\n', quoting="none")[0] == {1: '"He ""left"""'}


def test_a_row_of_another_rule_or_the_header_again_is_bad():
    assert read("a.csv", 'text,n\n"a, b",1\nc, "d"\n')[1] == {
        "a blank between the delimiter and a quote": 1
    }
    again = {"the header again": 1}
    assert read("a.csv", "text,n\na,1\ntext,n\nb,2\n") == ({1: "a", 3: "b"}, again)
    late = "".join(f"Number {n}\t1\n" for n in range(40_000)) + '"He ""left"""\t2\n'
    assert read("a.tsv", "text\tn\n" + late)[1] == {
        "quoted, although the file begins without quoting": 1
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\r\r\n"])
def test_rows_are_counted_as_a_person_counts_them(newline):
    lines = ["text,n", "a,1", "", "b,2", "torn", "", '"c\nd",3', "e,4"]
    texts, bad = read("a.csv", newline.join(lines) + newline, stars_key=None)
    assert texts == {1: "a", 2: "b", 4: "c\nd", 5: "e"} and sum(bad.values()) == 1


def test_how_a_table_is_read_is_said(capsys):
    read("said.tsv", 'text\tn\n"Works\t1\nb\t2\n')
    read("plain.csv", 'text,n\n"Works, ""really""",1\nb,2\n')
    said = capsys.readouterr().err
    assert said == (
        "said.tsv is read with a tab between fields; quotes are letters like any other, "
        '" (quoting=none)\n'
    )


# --------------------------------------------------------------------------------------------------
# Random tables by writers of their own, with texts that are known.

WORDS = (
    'great lamp broke, "never" again; it\'s 5" wide\tand | so\\so C:\\temp \\"quoted\\" ★ café '
    '"Wow" said, \\n two\nlines\r\nmore\rold "" end\\ "whole thing" \n\n 4 5,3'
).split(" ")


def random_text(rng, banned):
    text = ""
    while not text.strip() or text[0].isspace():
        plain = rng.random() < 0.3
        words = rng.choices(["good", "bad", "lamp", "is"] if plain else WORDS, k=rng.randint(1, 12))
        text = " ".join(words)
        text = rng.choice([f'"{text}"', '"' + text, text + '"']) if rng.random() < 0.1 else text
        for character in banned:
            text = text.replace(character, " ")
    return text


def doubled(field, delimiter, mode):
    quoted = mode == "all" or any(c in field for c in delimiter + '"\r\n')
    return '"' + field.replace('"', '""') + '"' if quoted else field


def backslash(field, delimiter, mode):
    field = field.replace("\\", "\\\\")
    if mode == "bare":
        return re.sub(f'(["{re.escape(delimiter)}])', r"\\\1", field)
    quoted = mode == "all" or any(c in field for c in delimiter + '"\r\n')
    return '"' + field.replace('"', '\\"') + '"' if quoted else field


def database(field, delimiter, mode):
    "A backslash is escaped before a quote only."
    if not any(c in field for c in delimiter + '"\r\n\\') and mode != "all":
        return field
    return '"' + re.sub(r"(\\+)(?=\"|$)", r"\1\1", field).replace('"', '\\"') + '"'


def letters(field, delimiter, mode):
    return field


WRITERS = (doubled, doubled, backslash, database, letters)


def random_table(rng):
    "A file's name and bytes, and the texts and stars that it holds."
    writer = rng.choice(WRITERS)
    delimiter = "\t" if writer is letters else rng.choice(",,\t;|")
    mode = rng.choice(["minimal", "all", "bare"])
    newline = rng.choice(["\n", "\n", "\r\n", "\r\r\n", "\r"])
    bare = writer is letters or (writer is backslash and mode == "bare")
    banned = ["\0", "\n", "\r"] * bare + [delimiter] * (writer is letters)
    banned += ["\r\n"] if newline == "\r" else []
    columns = rng.choice([["text", "stars"], ["stars", "text"], ["title", "text", "stars"]])
    rows = [
        {c: str(rng.randint(1, 5)) if c == "stars" else random_text(rng, banned) for c in columns}
        for _ in range(rng.choice([2, 5, 20, 60]))
    ]
    records = [columns, *(list(row.values()) for row in rows)]
    lines = [
        delimiter.join(writer(f, delimiter, mode) for f in record) + newline for record in records
    ]
    if rng.random() < 0.2:
        lines.insert(rng.randint(0, len(lines)), newline)
    content = rng.choice(["", "", "\ufeff"]) + "".join(lines)
    name = "r.tsv" if delimiter == "\t" else "r.csv"
    return name, content.encode(), [(row["text"], float(row["stars"])) for row in rows]


def test_random_tables(request):
    "Right, or refused, or counted as bad; never another text or another row's stars. See --n."
    seen = Counter()
    for n in range(request.config.getoption("--n") or 300):
        name, content, rows = random_table(random.Random(n))
        Path(name).write_bytes(content)
        q = Quarantine(max_bad=1)
        try:
            found = list(read_reviews(name, text_key="text", quarantine=q))
        except KitError:
            seen["refused"] += 1
            continue
        if not q.bad:
            assert [(r.text, r.stars) for r in found] == rows, n
            assert [r.row for r in found] == list(range(1, len(rows) + 1)), n
        else:  # what was glued together is counted by its lines
            assert {(r.text, r.stars) for r in found} <= set(rows), n
        seen["with bad rows" if q.bad else "right"] += 1
    assert seen["right"] > 0.93 * sum(seen.values()), seen


def test_pythons_own_writer_at_every_cut():
    "Fields of every shape, in pieces of every size."
    rng = random.Random(1)
    for _ in range(100):
        rows = [["".join(rng.choices('ab",\n\r é', k=5)), str(n)] for n in range(4)]
        out = io.StringIO(newline="")
        csv.writer(out).writerows([["text", "n"], *rows])
        texts, bad = read("a.csv", out.getvalue(), stars_key=None)
        good = {n + 1: text for n, (text, _) in enumerate(rows) if text.strip()}
        assert texts == good and set(bad) <= {"empty text"}


# --------------------------------------------------------------------------------------------------
# Stars.


def test_ratings_in_words_and_signs():
    said = ["4", " 4.0 ", "4,5", "4/5", "4 of 5", "4.0 out of 5 stars", "1 star", "★★★★☆", 4, "4 ★"]
    assert [read_stars(x) for x in said] == [4, 4, 4.5, 4, 4, 4, 1, 4, 4, 4]
    assert {read_stars(x) for x in ("", None, float("nan"), "NaN", "N/A", "none", "\\N")} == {None}
    assert {read_stars(x) for x in ("8/10", "80%", "PG-13", "five", [5], "1_0")} == {float("inf")}


@pytest.mark.parametrize(
    "scale, ratings, stars",
    [
        ("0-10", (0, 5, 10), (1, 3, 5)),
        ("1-10", (1, 10), (1, 5)),
        ("0-1", (0, 0.5, 1), (1, 3, 5)),
        ("0-4", (0, 2, 4), (1, 3, 5)),
        ("0-100", (0, 75), (1, 4)),
        ("-1-1", (-1, 0, 1), (1, 3, 5)),
    ],
)
def test_another_scale_is_refused_until_it_is_declared(scale, ratings, stars):
    write("a.csv", "text,rating\n" + "".join(f"Review {r},{r}\n" for r in ratings))
    with pytest.raises(KitError, match=r"a\.csv, row \d: rating is .* stars_scale, such as 0-10"):
        list(read_reviews("a.csv"))
    assert [r.stars for r in read_reviews("a.csv", stars_scale=scale)] == list(stars)
    low, high = map(float, re.fullmatch(r"(-?\d+)-(-?\d+)", scale).groups())
    assert read_scale((low, high)) == read_scale(scale)
    q = Quarantine(max_bad=1)
    write("a.csv", f"text,rating\nfine,{high}\nodd,{high + 1}\n")
    assert [r.stars for r in read_reviews("a.csv", stars_scale=scale, quarantine=q)] == [5]
    assert q.reasons == {("a.csv", f"rating is outside of {low:g}-{high:g}"): 1}


def test_no_row_is_lost_for_a_column_that_nobody_asked_for(capsys):
    write("a.csv", "text,rating\nfine,PG-13\nbad,R\n")
    assert [r.stars for r in read_reviews("a.csv", max_bad=0)] == [None, None]
    assert "rating holds no ratings ('PG-13') and is not used" in capsys.readouterr().err
    write("b.csv", "text,rating\nfine,5\nbad,unrated\n")
    assert [r.stars for r in read_reviews("b.csv", max_bad=0)] == [5, None]
    with pytest.raises(KitError, match="rating is not a rating"):
        list(read_reviews("b.csv", stars_key="rating", max_bad=0))


@pytest.mark.parametrize("name", ["overall", "rating", "stars", "star_rating", "Score", "Stars"])
def test_known_names_of_stars(name):
    write("a.csv", f"text,{name}\nfine,4\n")
    assert next(read_reviews("a.csv")).stars == 4
    other = "stars" if name == "overall" else "overall"
    if name != "Stars":
        with pytest.raises(KitError, match=f"no column '{other}'; set stars_key to one of: text"):
            read_reviews("a.csv", stars_key=other)


@pytest.mark.parametrize("argument", ["category_key", "item_key", "user_key", "time_key"])
def test_a_column_that_was_asked_for_is_there_or_an_error(argument):
    write("a.csv", "text,stars\nfine,4\n")
    with pytest.raises(KitError, match=f"no column 'asin'; set {argument} to one of"):
        read_reviews("a.csv", **{argument: "asin"})


def test_the_dialect_costs_little():
    "A table of a megabyte: its dialect is found in a fraction of the time that reading takes."
    out = io.StringIO(newline="")
    rows = [[f'Number {n}, it said "fine" and\nleft', n % 5 + 1] for n in range(20_000)]
    csv.writer(out).writerows([["text", "stars"], *rows])
    sample = out.getvalue().encode()
    start = time.perf_counter()
    find_dialect.__wrapped__(sample[: 1 << 19], ",", True)
    assert time.perf_counter() - start < 2
    assert find_keys(Path(write("a.csv", sample)), {})["stars_key"] == "stars"
