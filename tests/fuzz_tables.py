"""Random tables with known content, and a judge of what the readers make of them.

The writer below knows nothing of the kit. It takes rows (text, class, stars) and a dialect and
writes bytes. The judge lets the kit read them. What comes back equals what was written, or the
file or the row is refused with a word; anything else is a failure, and so is a traceback.

    python tests/fuzz_tables.py 2000 --seed 1     # tries 2,000 tables, prints each kind of failure
"""

import argparse
import contextlib
import csv
import dataclasses
import gzip
import inspect
import io
import json
import os
import random
import re
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import zstandard

from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import load_labelled
from sentiment_kit.data.quarantine import Quarantine
from sentiment_kit.data.reviews import read_reviews
from sentiment_kit.transfer.labels import load_texts

# ---------------------------------------------------------------- what a table is


@dataclasses.dataclass(frozen=True)
class Row:
    """What one record says, before anybody spells it."""

    text: str
    label: int | None = 0  # class 0, 1, …; None: missing
    level: int | None = 4  # 0 (worst) to 4 (best) of whatever scale; None: missing


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows and a dialect; every default is the plainest choice, and shrinking goes there."""

    rows: tuple = ()
    kind: str = "csv"  # csv, tsv, jsonl, json, literal
    suffix: str = ""  # another than the kind's own
    delimiter: str = ""  # another than the kind's own
    quoting: str = "minimal"  # all, none, lazy (quotes only where delimiter or newline)
    escape: str = "double"  # backslash, raw (quotes stand inside quotes as they are)
    eol: str = "\n"
    last_eol: bool = True
    encoding: str = "utf-8"
    blanks: str = ""  # start, middle, end, each, spaces
    ragged: str = ""  # extra, empty, short, bare (the delimiter is in the text, unquoted)
    odd_row: int = 0  # which row is ragged, or where a stray line stands
    header: str = "plain"  # see HEADERS
    names: tuple = ("text", "label", "stars")
    order: int = 0  # of the columns
    other: str = ""  # a column that nobody asked for
    labels: str = "01"  # how a class is spelled, see spell_label
    missing: str = ""  # how what is missing is spelled; "absent": the key is left out
    stars: str = "1-5"  # scale; "none": not asked for; "absent": asked for and not there
    number: str = "int"  # stars as int, float, str
    packing: str = ""  # gz, zst, gz in two members, cut gz, cut zst, gz unnamed
    ascii: bool = False  # JSON escapes
    pretty: bool = False  # JSON over several lines
    stray: str = ""  # a line that is no row
    padding: int = 0  # plain rows before these
    json_text: str = ""  # the odd row's text is no string
    by_default: bool = False  # the call names no columns
    declared: bool = False  # the call says header, quoting and scale, where they are not plain


DELIMITERS = {"csv": ",", "tsv": "\t"}
SUFFIXES = {"csv": ".csv", "tsv": ".tsv", "jsonl": ".jsonl", "json": ".json", "literal": ".jsonl"}
HEADERS = "missing twice-text twice-label twice-other case spaces quoted index sep more".split()
WORDS = {
    "posneg": ("neg", "pos"),
    "Positive": ("Negative", "Positive"),
    "positive": ("negative", "positive"),
    "words": ("rotten", "fresh"),
    "three": ("bad", "fine", "good"),
}
POLAR = ("01", "float", "bool", "string", "signed", "mixed", "posneg", "positive", "Positive")
NEGATIVE = {"0", "0.0", "-1", "-1.0", "false", "neg", "negative"}
POSITIVE = {"1", "1.0", "true", "pos", "positive"}
STRAYS = {
    "csv": ("comment", "delimiters", "header again", "quote"),
    "jsonl": ("number", "string", "list", "two", "cut", "deep", "digits", "call", "object"),
    "json": ("number", "list", "object", "deep", "digits", "open", "rest"),
}
OTHER = {  # name and values: nobody asks for these
    "id": ("id", "7"),
    "rating": ("rating", "PG-13"),
    "Score": ("Score", "n/a"),
    "time": ("unixReviewTime", "yesterday"),
    "category": ("category", "Bücher"),
    "split": ("split", "holdout"),
    "empty": ("note", ""),
    "quoted": ("note", 'a "note", or two'),
    "Text": ("TEXT", "decoy"),
    "nested": ("meta", {"a": [1, None]}),
    "nan": ("price", float("nan")),
    "infinite": ("price", float("-inf")),
    "big": ("price", 10**400),
    "surrogate": ("category", "\ud83d toys"),
}
SCALES = {
    "1-5": ("1", "2", "3", "4", "5"),
    "0-4": ("0", "1", "2", "3", "4"),
    "0-1": ("0", "0.25", "0.5", "0.75", "1"),
    "1-10": ("1", "3", "5", "8", "10"),
    "percent": ("0", "25", "50", "75", "100"),
    "%": ("0%", "25%", "50%", "75%", "100%"),
    "of 5": ("1/5", "2/5", "3/5", "4/5", "5/5"),
    "of 10": ("1/10", "3/10", "5/10", "8/10", "10/10"),
    "words": ("one star", "two stars", "three stars", "four stars", "five stars"),
}
TOPS = {"0-4": "0-4", "0-1": "0-1", "1-10": "1-10", "percent": "0-100"}
CAN_DECLARE = "quoting" in inspect.signature(read_reviews).parameters
SPICE = {
    "quotes": ('"', '""', '"a"', '" ', ' "', "'", "”", '",', '"\t', '"""'),
    "delimiters": (",", ";", "\t", "|", ",,", ", "),
    "newlines": ("\n", "\r\n", "\r", "\n\n", "\n1\t", "\nx,1\n"),
    "backslashes": ("\\", "\\\\", "\\n", "\\t", '\\"', "\\u0041", "\\N", "C:\\"),
    "unicode": ("é", "ß", "ñ", "€", "Ω", "中文", "عربى", "e\u0301", "\u00a0", "\u3000", "\ufeff"),
    "separators": ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\x1f"),
    "controls": ("\x01", "\x07", "\x1b[31m", "\x7f", "\x1a", "\x9b"),
    "nul": ("\x00",),
    "surrogates": ("\ud800", "\udfff", "\udc80", "\ud83d"),
    "emoji": ("👍", "👩‍🚀", "🇩🇪", "❤️"),
    "words": ("NA", "nan", "null", "None", "true", "1", "-", "#", "=1+1", "{", "}", "[", "]"),
    "html": ("&amp;", "<br />", "&#34;", "</b>"),
    "spaces": (" ", "  ", "\t "),
}


# ---------------------------------------------------------------- the writer


def delimiter_of(t):
    """What stands between fields."""
    return t.delimiter or DELIMITERS.get(t.kind, ",")


def is_text(t):
    """Whether the table is of delimited fields rather than JSON."""
    return t.kind in DELIMITERS


def fit(t):
    """The table with texts that its dialect can say: an honest writer writes nothing else."""
    rows = []
    for row in t.rows:
        text = row.text
        if t.encoding in ("latin-1", "cp1252"):
            text = text.encode(t.encoding, "ignore").decode(t.encoding)
        elif t.encoding.startswith("utf-16"):
            text = text.encode("utf-16-le", "ignore").decode("utf-16-le")
        if is_text(t) and (t.quoting in ("none", "lazy") or t.ragged):
            text = text.replace("\r", " ").replace("\n", " ")
        if is_text(t) and (t.quoting == "none" or t.ragged or t.header == "more"):
            text = text.replace(delimiter_of(t), " ")  # else nobody can tell which field is missing
        if t.escape == "raw":
            text = text.replace("\\", "/")
        if is_text(t) and t.eol == "\r\r\n":
            text = text.replace("\r", "\n")
        rows.append(Row(text, None if row.label is None else row.label % n_classes(t), row.level))
    return dataclasses.replace(t, rows=tuple(rows))


def n_classes(t):
    """How many classes the spelling has."""
    return {"three": 3, "five": 5}.get(t.labels, 2)


def spell_label(t, i, row):
    """The label as a JSON value; text tables write it as words."""
    if row.label is None:
        return spell_missing(t)
    if t.labels in WORDS:
        return WORDS[t.labels][row.label]
    if t.labels == "mixed":
        return (row.label, float(row.label), str(row.label), bool(row.label))[i % 4]
    if t.labels == "signed":
        return 2 * row.label - 1
    as_type = {"float": float, "bool": bool, "string": str}.get(t.labels, int)
    return as_type(row.label)


def spell_missing(t):
    """What stands where nothing is known; "absent" leaves the field empty, or the key out."""
    if t.missing in ("", "absent"):
        return "" if is_text(t) or t.missing == "" else None
    if t.missing == "null" and not is_text(t):
        return None
    if t.missing == "NaN" and not is_text(t):
        return float("nan")
    return t.missing


def spell_stars(t, row):
    """The rating on the table's scale, as a JSON value."""
    if row.level is None:
        return spell_missing(t)
    word = SCALES[t.stars][row.level]
    if t.stars not in ("1-5", "0-4", "0-1", "1-10", "percent") or t.number == "str":
        return word
    return float(word) if t.number == "float" or "." in word else int(word)


def columns_of(t):
    """Names and values of the columns, in the table's order: [(name, [value of row 0, …])]."""
    text, label, stars = t.names
    columns = [(text, [row.text for row in t.rows])]
    if t.labels not in ("none", "absent"):
        columns.append((label, [spell_label(t, i, row) for i, row in enumerate(t.rows)]))
    if t.stars not in ("none", "absent"):
        columns.append((stars, [spell_stars(t, row) for row in t.rows]))
    if t.other:
        name, value = OTHER[t.other]
        columns.append((name, [value] * len(t.rows)))
    random.Random(t.order).shuffle(columns) if t.order else None
    decoys = {"twice-text": text, "twice-label": label, "twice-other": "id", "index": ""}
    if t.header in decoys and (t.header != "twice-label" or t.labels not in ("none", "absent")):
        name = decoys[t.header]
        decoy = (name, ["1" if name != text else f"decoy {i}" for i in range(len(t.rows))])
        columns.insert(0 if t.order % 2 == 0 else len(columns), decoy)
        if t.header == "twice-other":
            columns.append((name, ["2"] * len(t.rows)))
    return columns


def spell_field(t, value):
    """One field of a delimited table."""
    word = value if isinstance(value, str) else "" if value is None else str(value)[:300]
    if t.ragged == "bare":
        return word
    needs = any(c in word for c in (delimiter_of(t), "\n", "\r"))
    needs = needs or (t.escape == "backslash" and "\\" in word)
    quotes = {
        "all": True,
        "none": False,
        "lazy": needs,
        "minimal": needs or '"' in word,
    }[t.quoting]
    if not quotes:
        return word
    if t.escape == "backslash":
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + (word.replace('"', '""') if t.escape == "double" else word) + '"'


def spell_names(t, names):
    """The names as the header says them."""
    if t.header == "case":
        return [name.upper() for name in names]
    if t.header == "spaces":
        return [f" {name} " for name in names]
    if t.header == "more":
        return [*names, "more"]
    if t.header == "quoted" or t.quoting == "all":
        return ['"' + name + '"' for name in names]
    return names


def text_lines(t):
    """Lines of a delimited table: [(line, row it holds or None)]."""
    d = delimiter_of(t)
    columns = columns_of(t)
    names = [name for name, _ in columns]
    lines = [] if t.header == "missing" else [(d.join(spell_names(t, names)), None)]
    if t.header == "sep":
        lines.insert(0, (f"sep={d}", None))
    odd = t.odd_row % max(1, len(t.rows))
    for i in range(len(t.rows)):
        fields = [spell_field(t, values[i]) for _, values in columns]
        if i == odd and t.stray:
            lines.append((stray_line(t, lines[0][0] if lines else ""), None))
        if i == odd and t.ragged in ("extra", "empty"):
            fields.append("extra" if t.ragged == "extra" else "")
        if i == odd and t.ragged == "short":
            fields = fields[:-1]
        if i == odd and t.ragged == "bare":
            at = names.index(t.names[0])
            fields[at] = fields[at] + d + "and more"
        lines.append((d.join(fields), i))
    return lines


def stray_line(t, header):
    """A line that is no row."""
    d = delimiter_of(t)
    return {
        "comment": "# exported on a Monday",
        "delimiters": d * header.count(d),
        "header again": header,
        "quote": '"',
        "number": "5",
        "string": '"text"',
        "list": '["text", 1]',
        "two": '{"text": "a"}{"text": "b"}',
        "cut": '{"text": "cut of',
        "deep": "[" * 5000 + "]" * 5000,
        "digits": '{"text": ' + "9" * 5000 + "}",
        "call": "__import__('os').getcwd()",
        "object": "{}",
    }[t.stray]


def json_row(t, columns, i):
    """One object; a name that stands twice is written twice."""
    odd = t.odd_row % len(t.rows)
    pairs = []
    for name, values in columns:
        value = values[i]
        row = t.rows[i]
        is_missing = (name == t.names[1] and row.label is None) or (
            name == t.names[2] and row.level is None
        )
        if t.missing == "absent" and is_missing:
            continue
        if t.ragged == "short" and i == odd and name != t.names[0]:
            continue
        if t.json_text and i == odd and name == t.names[0]:
            value = {"number": 12.5, "list": ["a"], "null": None, "object": {}, "true": True}[
                t.json_text
            ]
        pairs.append((spell_names(t, [name])[0] if t.header != "quoted" else name, value))
    if t.kind == "literal":
        return "{" + ", ".join(f"{name!r}: {value!r}" for name, value in pairs) + "}"
    plain = json.JSONEncoder(ensure_ascii=t.ascii).encode
    dump = lambda value: (
        json.dumps(value) if re.search("[\ud800-\udfff]", str(value)) else plain(value)
    )
    joint = ",\n  " if t.pretty else ", "
    return "{" + joint.join(f"{dump(name)}: {dump(value)}" for name, value in pairs) + "}"


def json_lines(t):
    """Lines of JSON: [(line, row or None)]."""
    columns = columns_of(t)
    lines = []
    for i in range(len(t.rows)):
        if t.stray and t.stray not in ("open", "rest") and i == t.odd_row % len(t.rows):
            lines.append((stray_line(t, ""), None))
        lines.append((json_row(t, columns, i), i))
    return lines


def with_blanks(t, lines):
    """Blank lines where the dialect has them."""
    if not t.blanks or not lines:
        return lines
    blank = ("   " if t.blanks == "spaces" else "", None)
    if t.blanks == "start":
        return [blank, *lines]
    if t.blanks == "end":
        return [*lines, blank, blank]
    if t.blanks == "each":
        return [x for line in lines for x in (line, blank)]
    middle = max(1, len(lines) // 2)
    return [*lines[:middle], blank, blank, *lines[middle:]]


def write(t):
    """The bytes of a table, and where each row stands.

    The places are lists, one number a row: which record it is among those that are not blank,
    and which of all records; from 1, the header not counted. A person counts so or so; by lines
    where a quote may be nothing but a quote.
    """
    lines = text_lines(t) if is_text(t) else json_lines(t)
    if t.kind == "json":
        head = "[" if t.stray != "open" else ""
        tail = "]" if t.stray != "open" else ""
        tail += " 5" if t.stray == "rest" else ""
        eol = "\n" if t.eol == "mixed" else t.eol
        content = head + ("," + eol).join(line for line, _ in lines) + tail
        content += eol if t.last_eol else ""
    else:
        lines = with_blanks(t, lines)
        content = join_lines(t, [line for line, _ in lines])
    n_heads = is_text(t) * (t.header != "missing") + (t.header == "sep")
    by_lines = delimiter_of(t) == "\t" or t.quoting in ("none", "lazy") or t.escape != "double"
    records = ([], [], []) if is_text(t) and by_lines else ([], [])
    counts = [-n_heads] * 3
    for line, row in lines:
        n_more = len(re.findall("\r+\n|\r|\n", line))
        for k, step in enumerate((bool(line.strip(" ")), 1, 1)):
            counts[k] += step
        if row is not None:
            for numbers, count in zip(records, counts, strict=False):
                numbers.append(count)
        counts[2] += n_more
    errors = "surrogatepass" if t.encoding.startswith("utf") else "strict"
    data = content.encode(t.encoding.removesuffix("-sig"), errors)
    return pack(t, b"\xef\xbb\xbf" + data if t.encoding.endswith("-sig") else data), records


def join_lines(t, lines):
    """Lines with their ends."""
    ends = ("\n", "\r\n") if t.eol == "mixed" else (t.eol,)
    content = "".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
    return content if t.last_eol else content.removesuffix("\n").rstrip("\r")


def pack(t, data):
    """The bytes as they lie on disk."""
    if t.packing in ("gz", "cut gz", "gz unnamed"):
        packed = gzip.compress(data, 1)
        return packed[: len(packed) * 2 // 3] if t.packing == "cut gz" else packed
    if t.packing == "gz in two":
        half = len(data) // 2
        return gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1)
    if t.packing == "gz garbage":
        return gzip.compress(data, 1) + b"garbage"
    if t.packing == "zst in two":
        half = len(data) // 2
        return zstandard.compress(data[:half]) + zstandard.compress(data[half:])
    if t.packing in ("zst", "cut zst"):
        packed = zstandard.compress(data)
        return packed[: len(packed) * 2 // 3] if t.packing == "cut zst" else packed
    return data


def file_suffix(t):
    """The end of the file's name."""
    packed = next((x for x in ("gz", "zst") if x in t.packing.split()), "")
    packed = "" if t.packing == "gz unnamed" else packed
    return (t.suffix or SUFFIXES[t.kind]) + (f".{packed}" if packed else "")


# ---------------------------------------------------------------- random tables


TWISTS = {  # field: its other values, some more often than others
    "suffix": (".csv", ".tsv", ".json", ".jsonl"),
    "delimiter": (";", "|", "\t", ","),
    "quoting": ("all", "none", "none", "none", "lazy"),
    "escape": ("backslash", "backslash", "raw"),
    "eol": ("\r\n", "\r\n", "mixed", "\r", "\r\r\n"),
    "last_eol": (False,),
    "encoding": ("utf-8-sig", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"),
    "blanks": ("start", "middle", "end", "each", "spaces"),
    "ragged": ("extra", "empty", "short", "bare"),
    "header": tuple(HEADERS),
    "order": tuple(range(1, 20)),
    "other": tuple(OTHER),
    "labels": (*WORDS, "float", "bool", "string", "signed", "mixed", "five", "none", "absent"),
    "missing": ("NaN", "nan", "None", "null", "NA", "N/A", "<NA>", "absent"),
    "stars": (*SCALES, "none", "absent"),
    "number": ("float", "str"),
    "packing": ("gz", "gz", "zst", "zst", "gz in two", "zst in two", "cut gz", "cut zst")
    + ("gz unnamed", "gz garbage"),
    "ascii": (True,),
    "pretty": (True,),
    "declared": (True,),
    "json_text": ("number", "list", "null", "object", "true"),
}
TEXT_ONLY = {"delimiter", "quoting", "escape"}
JSON_ONLY = {"ascii", "pretty", "json_text"}
TEXT_NAMES = ("text", "text", "reviewText", "sentence", "review_body", "Text", "review text", "ä")
STARS_NAMES = ("stars", "overall", "rating", "Score", "star_rating")
LABEL_NAMES = ("label", "label", "sentiment", "class", "y")


def random_text(rng, i, spices):
    """A short text, different from those of all other rows."""
    parts = [f"r{i}"]
    for _ in range(rng.randrange(5)):
        parts.append(rng.choice(("good", "bad", "it works", "never again", " ", "a")))
    for spice in spices:
        for _ in range(rng.randrange(3)):
            parts.append(rng.choice(SPICE[spice]))
    rng.shuffle(parts)
    return rng.choice((" ", "")).join(parts)


def random_table(rng):
    """A table of 1 to 12 rows; most have one to four twists, so that none hides another."""
    kind = rng.choice(("csv", "csv", "tsv", "tsv", "jsonl", "jsonl", "json", "literal"))
    spices = rng.sample(list(SPICE), rng.choice((0, 1, 1, 2, 3)))
    rows = [
        Row(random_text(rng, i, spices), rng.randrange(5), rng.randrange(5))
        for i in range(rng.choice((1, 2, 3, 4, 5, 6, 8, 12)))
    ]
    if rng.random() < 0.2:
        at = rng.randrange(len(rows))
        change = rng.choice(({"text": rng.choice(("", " "))}, {"label": None}, {"level": None}))
        rows[at] = dataclasses.replace(rows[at], **change)
    if rng.random() < 0.003:
        size = 2 ** rng.choice((16, 17, 18, 20)) + rng.randrange(-200, 9)
        rows[0] = dataclasses.replace(rows[0], text="long " + "x" * size)
    names = (rng.choice(TEXT_NAMES), rng.choice(LABEL_NAMES), rng.choice(STARS_NAMES))
    t = Table(tuple(rows), kind, names=names, odd_row=rng.randrange(12))
    twists = [f for f in TWISTS if f not in (JSON_ONLY if is_text(t) else TEXT_ONLY)]
    for field in rng.sample(twists, rng.choice((0, 1, 2, 2, 3, 4))):
        t = dataclasses.replace(t, **{field: rng.choice(TWISTS[field])})
    if is_text(t) and rng.random() < 0.1:
        t = dataclasses.replace(t, quoting=rng.choice(("none", "none", "lazy")))
        t = stray_quotes(rng, dataclasses.replace(t, order=rng.randrange(9)))
    if rng.random() < 0.06:
        lines = {"tsv": "csv", "literal": "jsonl"}.get(kind, kind)
        t = dataclasses.replace(t, stray=rng.choice(STRAYS[lines]))
    if rng.random() < 0.01:
        t = dataclasses.replace(t, padding=rng.choice((60, 130, 300, 1100)))
    if rng.random() < 0.3:
        default = (rng.choice(("reviewText", "text")), names[1], rng.choice(("overall", "rating")))
        t = dataclasses.replace(t, by_default=True, names=default)
    return settle(t)


def stray_quotes(rng, t):
    """Two texts or so begin or end with a quote that is a quote and nothing else."""
    for i in range(len(t.rows)):
        if rng.random() < 2 / len(t.rows):
            text = t.rows[i].text
            text = rng.choice(
                (f'"{text}', f'{text}"', f'"{text}', f'"{text}" he said', f'""{text}')
            )
            t = with_row(t, i, text=text)
    return t


def settle(t):
    """The table without twists that cannot go together."""
    t = fit(t)
    if t.declared and not (CAN_DECLARE and declarations(t)):
        t = dataclasses.replace(t, declared=False)
    if t.other and OTHER[t.other][0] in t.names:
        t = dataclasses.replace(t, other="")
    if not is_text(t):
        if t.header in ("missing", "sep", "more", "index") or t.ragged in (
            "extra",
            "empty",
            "bare",
        ):
            t = dataclasses.replace(
                t, header="plain", ragged=t.ragged if t.ragged == "short" else ""
            )
        if t.kind == "json":
            t = dataclasses.replace(t, blanks="")
    if t.escape == "raw" and (delimiter_of(t) == "\t" or t.header == "sep"):
        t = dataclasses.replace(t, escape="double")
    if t.ragged:
        header = "plain" if t.header == "more" else t.header
        escape = "double" if t.escape == "raw" else t.escape
        t = dataclasses.replace(t, header=header, escape=escape)
    if t.ragged == "bare":
        t = dataclasses.replace(t, quoting="none")
    if t.other in ("rating", "Score") and t.stars == "absent":
        t = dataclasses.replace(t, other="")
    if t.other in ("rating", "Score") and t.by_default and t.stars != "none":
        t = dataclasses.replace(t, other="")
    if t.other == "surrogate" and t.encoding[:3] != "utf":
        t = dataclasses.replace(t, other="")
    if t.by_default and t.stars == "absent":
        t = dataclasses.replace(t, stars="none")
    if is_text(t) and t.quoting == "none" and t.other in ("nested", "quoted"):
        t = dataclasses.replace(t, other="")
    t = fit(t)
    if t.stray == "quote" and sum(line.count('"') for line, _ in text_lines(t)) > 1:
        t = dataclasses.replace(t, stray="")  # who is to say which quotes belong together?
    return t


# ---------------------------------------------------------------- the judge


@dataclasses.dataclass(frozen=True)
class Failure:
    """What went wrong, in which reader; `what` names the kind, `detail` the case."""

    reader: str
    what: str
    detail: str


def normal(text):
    """A text up to what is documented: line ends, lone surrogates, space at its ends."""
    text = re.sub("\r+\n|\r", "\n", text).strip()
    pair = lambda m: m[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    text = re.sub("[\ud800-\udbff][\udc00-\udfff]", pair, text)
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def parse_quoted(content, d):
    """Records of a table by RFC 4180, or None where it is not well-formed."""
    records, fields, at, n = [], [], 0, len(content)
    while at < n:
        if content[at] == '"':
            field = ""
            while True:
                end = content.find('"', at + 1)
                if end < 0:
                    return None
                field += content[at + 1 : end]
                at = end + 1
                if content[at : at + 1] != '"':
                    break
                field += '"'
            if at < n and content[at] not in (d, "\n"):
                return None
        else:
            end = min(x for x in (content.find(d, at), content.find("\n", at), n) if x >= 0)
            field = content[at:end]
            at = end
        fields.append(field)
        if at >= n or content[at] == "\n":
            records.append(fields)
            fields = []
        elif at == n - 1:
            records.append([*fields, ""])
        at += 1
    return records


def readings(t):
    """What the rows may be said to be: as written, or as the same bytes say in another dialect.

    `"hello"` written without quoting is a quoted hello to every reader. Where all of a file is
    well-formed by RFC 4180, that reading is right, too; in a tab file only line by line.
    """
    yield t
    if is_text(t) and (t.quoting in ("none", "lazy") or t.escape != "double"):
        d = delimiter_of(t)
        content = "\n".join(line for line, _ in text_lines(t))
        content = re.sub("\r+\n|\r", "\n", content) + "\n"
        quoted = parse_quoted(content, d)
        plain = [line.split(d) for line in content.removesuffix("\n").split("\n")]
        parses = [quoted, parse_escaped(content, d)]
        parses += [plain] if quoted is None and t.escape == "raw" else []
        if quoted is None and d != "\t":
            lines = (
                parse_quoted(line + "\n", d) for line in content.removesuffix("\n").split("\n")
            )
            parses.append([line[0] if line else plain[i] for i, line in enumerate(lines)])
        for records in parses:
            yield from said_by(t, records)
    if t.encoding in ("latin-1", "cp1252"):
        for encoding in ("utf-8", "cp1252", "latin-1"):
            with contextlib.suppress(UnicodeDecodeError):
                rows = []
                for row in t.rows:
                    text = row.text.encode(t.encoding).decode(encoding)
                    rows.append(dataclasses.replace(row, text=text))
                yield dataclasses.replace(t, rows=tuple(rows))


def parse_escaped(content, d):
    """Records of a table whose quotes and delimiters have backslashes, or None."""
    how = dict(delimiter=d, escapechar="\\", doublequote=False, strict=True)
    content = re.sub(rf'\\(?=[^"\\{d}\n])', r"\\\\", content)
    try:
        return list(csv.reader(io.StringIO(content, newline=""), **how))
    except csv.Error:
        return None


def said_by(t, records):
    """The table whose texts are those of these records, if they fit; None where nobody can know."""
    header = [name.strip().casefold() for name in records[0]] if records else []
    if t.names[0].strip().casefold() not in header:
        return
    width = len(records[0])
    uneven = sum(len(r) != width for r in records)
    if uneven > bool(t.ragged) and t.escape != "raw":
        return
    at = header.index(t.names[0].strip().casefold())
    if len(records) == len(t.rows) + 1:
        rows = zip(records[1:], t.rows, strict=True)
        rows = tuple(
            dataclasses.replace(row, text=r[at]) if len(r) == width else row for r, row in rows
        )
        yield dataclasses.replace(t, rows=rows)
    elif delimiter_of(t) != "\t":
        yield None


def star_values(t, row):
    """The numbers that a reader may give for a rating."""
    if row.level is None or t.stars in ("none", "absent", "words"):
        return (None,)
    word = SCALES[t.stars][row.level]
    on_five = row.level + 1.0
    if t.stars.startswith("of"):
        value, top = map(float, word.split("/"))
        close = {5 * value / top, 1 + 4 * (value - 1) / (top - 1), value / top}
        return tuple(close) if top != 5 else (value,)
    value = float(word.rstrip("%"))
    values = value, on_five, value / 20, 1 + value / 25, 1 + 4 * value, 5 * value, value / 2
    return *values, 1 + 4 * (value - 1) / 9


def label_is(t, row, got):
    """Whether `got` is the class of the row; of words only that they are words of the row."""
    if row.label is None:
        return got is None
    name = str(got).lower()
    if t.labels in POLAR or (name in ("negative", "positive") and row.label < 2):
        return name in (NEGATIVE, POSITIVE)[row.label]
    if t.labels in WORDS:
        return got == WORDS[t.labels][row.label] or name.isdecimal()
    return name in (str(row.label), f"{row.label}.0")


def plain_table(t, reader="read_reviews"):
    """Whether a reader must read this table, each row that is not `excused`."""
    rules = (
        t.suffix in ("", SUFFIXES[t.kind]),
        delimiter_of(t) == DELIMITERS.get(t.kind, ","),
        t.eol in ("\n", "\r\n", "mixed"),
        t.encoding in ("utf-8", "utf-8-sig"),
        t.header in ("plain", "quoted", "index") or (t.declared and t.header == "missing"),
        t.packing in ("", "gz", "zst", "gz in two", "zst in two"),
        t.stars in ("1-5", "none") or (t.declared and t.stars in TOPS),
        t.labels != "absent",
        not t.pretty or t.kind == "json",
        t.stray in ("", "number", "list", "string", "cut", "object") or t.kind == "json",
        t.stray not in ("open", "rest", "deep", "digits") or t.kind != "json",
        t.blanks not in ("spaces", "start") or not is_text(t),
        t.missing != "absent" or is_text(t) or something_known(t),
        not is_text(t) or plain_quotes(t, reader),
        t.other != "surrogate" or not is_text(t),
        t.kind != "literal" or t.other not in ("nan", "infinite"),
    )
    return all(rules)


def something_known(t):
    """Whether a row has a label and a row has stars: else JSON lacks the key everywhere."""
    levels = [row.level for row in t.rows if row.level is not None]
    return bool(levels) and any(row.label is not None for row in t.rows)


def plain_quotes(t, reader):
    """Whether quotes and backslashes are clear: doubled quotes in a csv, none in a tab file."""
    texts = "".join(row.text for row in t.rows) + str(OTHER[t.other][1] if t.other else "")
    if t.declared and reader == "read_reviews" and "quoting" in declarations(t):
        newlines = t.kind == "tsv" and re.search("[\n\r\t]", texts)
        newlines = newlines or t.header == "quoted"
        return not t.stray and t.ragged != "bare" and t.escape != "raw" and not newlines
    if "\\\\" in texts or ("\\" in texts and t.escape == "backslash"):
        return False
    if '"' not in texts:
        return t.kind == "csv" or not re.search("[\n\r\t]", texts)
    if t.kind == "tsv" or t.stray:
        return False
    return t.quoting in ("minimal", "all") and t.escape == "double" and t.ragged != "bare"


def excused(t, i, reader="read_reviews"):
    """Whether this row may be set aside, however plain the table is."""
    row = t.rows[i]
    odd = i == t.odd_row % len(t.rows)
    text = row.text.strip()
    return (
        not text
        or "\x00" in text
        or bool(is_text(t) and re.search("[\ud800-\udfff]", text))
        or bool(odd and (t.ragged or t.json_text))
        or (row.label is None and t.labels not in ("none", "absent"))
        or (reader == "read_reviews" and t.labels in ("signed", *WORDS))
        or (row.level is None and t.missing not in ("", "absent"))
        or (t.kind == "literal" and (t.missing == "NaN" or re.search("[\x00-\x1f]", text)))
        or (t.kind == "literal" and len(text) > 50_000)
    )


@contextlib.contextmanager
def listening():
    """What is said meanwhile: a list of one string."""
    said = []
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
            yield said
    words = [out.getvalue(), *(str(w.message) for w in caught)]
    said.append("\n".join(words))


def call(read):
    """(result, error, what was said, failure): a `KitError` is an answer, another error is not."""
    start = time.perf_counter()
    result, error, failure = None, None, None
    with listening() as said:
        try:
            result = read()
        except KitError as e:
            error = str(e)
            if not 0 < len(error.strip()) < 1500:
                failure = (f"a message of {len(error)} characters", error[:300])
            elif re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", error):
                failure = ("control characters in a message", repr(error))
        except (Exception, RecursionError) as e:
            where = [f for f in traceback.extract_tb(e.__traceback__) if "sentiment_kit" in f[0]]
            place = f"{Path(where[-1].filename).name} {where[-1].name}" if where else "?"
            failure = (f"traceback: {type(e).__name__} in {place}", str(e)[:200])
    seconds = time.perf_counter() - start
    if seconds > 10:
        failure = ("slow", f"{seconds:.0f} s")
    return result, error, said[0], failure


def judge(t, folder, serial=0):
    """Every failure of every reader on one table."""
    if t.padding:
        plain = tuple(Row(f"padding {i}", i % 2, i % 5) for i in range(t.padding))
        t = dataclasses.replace(
            t, rows=plain + t.rows, odd_row=t.padding + t.odd_row % len(t.rows), padding=0
        )
        t = fit(t)
    data, records = write(t)
    path = Path(folder) / f"t{serial}{file_suffix(t)}"
    path.write_bytes(data)
    try:
        failures = [*judge_reviews(t, path, records), *judge_labelled(t, path)]
    finally:
        path.unlink()
    return failures


def judge_reviews(t, path, records):
    """`read_reviews`, with a quarantine that takes any number of rows."""
    text, label, stars = t.names
    keys = dict(text_key=text, stars_key=None if t.stars == "none" else stars)
    keys = {} if t.by_default else keys
    keys |= declarations(t)
    if t.labels != "none":
        keys["label_key"] = label
    aside = path.with_suffix(".aside")
    quarantine = Quarantine(aside, max_bad=1.0)
    rows, error, said, failure = call(
        lambda: list(read_reviews(path, quarantine=quarantine, **keys))
    )
    bad = [json.loads(line) for line in aside.read_text().splitlines()] if aside.exists() else []
    aside.unlink(missing_ok=True)
    if failure:
        return [Failure("read_reviews", *failure)]
    if error:
        must = plain_table(t) and not all(excused(t, i) for i in range(len(t.rows)))
        return [Failure("read_reviews", "refused", error)] if must else []
    got = [(r.text, r.label, r.stars, r.row) for r in rows]
    aside = [(b["row"], b["reason"]) for b in bad]
    found = []
    for reading in readings(t):
        what = compare(reading, got, aside, records, said) if reading else None
        if what is None:
            return []
        found.append(what)
    return [Failure("read_reviews", *found[0])]


def declarations(t):
    """What the call says about the table."""
    if not t.declared:
        return {}
    said = {}
    if t.stars in TOPS:
        said["stars_scale"] = TOPS[t.stars]
    if is_text(t) and t.header == "missing":
        said["header"] = ",".join(name for name, _ in columns_of(t))
    if is_text(t) and t.quoting == "none":
        said["quoting"] = "none"
    elif is_text(t) and t.quoting != "lazy" and t.escape == "backslash":
        said["quoting"] = "backslash"
    return said


def compare(t, got, aside, records, said):
    """None, or (what, detail): rows that were read and rows set aside against those written."""
    expected = [normal(row.text) for row in t.rows]
    at = 0
    found = []
    for text, label, stars, number in got:
        if t.header == "twice-text" or (t.header == "twice-label" and t.labels != "none"):
            return "a column of two was taken", f"{text!r}"
        here = row_from(at, text, expected)
        if here is None:
            if t.json_text and normal(text) in OTHER_JSON:
                continue
            return unwritten(text, expected)
        row = t.rows[here]
        if t.labels == "none":
            if label is not None:
                return "label from nowhere", f"{text!r}: {label!r}"
        elif t.labels == "absent" or not label_is(t, short(t, here), label):
            return "label is another", f"{text!r}: {label!r} and not {row.label}"
        if t.stars == "absent":
            return "no word of an asked column that is not there", f"stars of {text!r}"
        values = star_values(t, short(t, here))
        value = None if stars is None or stars != stars else stars
        told = value is None and t.by_default and "star" in said
        if not told and not any(
            v == value or (v and value and abs(v - value) < 1e-6) for v in values
        ):
            return "stars are others", f"{text!r}: {stars!r} and not {values[0]!r}"
        found.append((here, number))
        at = here + 1
    return misplaced(t, found, records, aside) or lost(t, found, records, aside, said)


OTHER_JSON = ("12.5", "True", "true", "['a']")  # JSON values that are no texts, read as texts


def row_from(at, text, expected):
    """The first row from `at` on that has this text; None where there is none."""
    word = normal(text)
    return next((j for j in range(at, len(expected)) if expected[j] == word), None)


def unwritten(text, expected):
    """What to call a text that nobody wrote."""
    parts = [word for word in expected if word and word in text]
    what = "rows merged" if len(parts) > 1 and "\n" in text else "text is another"
    return what, f"{text!r} was never written"


def short(t, i):
    """The row as far as a short line says it."""
    row = t.rows[i]
    if t.ragged != "short" or i != t.odd_row % len(t.rows):
        return row
    dropped = {name for name, _ in columns_of(t)[-1:]} if is_text(t) else set(t.names[1:])
    label = None if t.names[1] in dropped else row.label
    return dataclasses.replace(row, label=label, level=None if t.names[2] in dropped else row.level)


def misplaced(t, found, records, aside):
    """Row numbers are those of one way to count; who is to count what quotes run together?"""
    if aside and is_text(t) and (t.quoting in ("none", "lazy") or t.escape != "double"):
        return None
    for count in records:
        if all(count[i] == number for i, number in found):
            return None
    return "row number", f"{[n for _, n in found]} and not {[records[0][i] for i, _ in found]}"


def lost(t, found, records, aside, said):
    """Rows that were not read are named in the quarantine, and only those that may be there."""
    read = {i for i, _ in found}
    missing = [i for i in range(len(t.rows)) if i not in read]
    numbers = {row for row, _ in aside}
    reason = "; ".join(f"row {row}: {why}" for row, why in aside)
    for count in records:
        named = {i for i in missing if count[i] in numbers or in_range(count[i], aside)}
        if set(missing) <= named:
            break
    else:
        silent = [i for i in missing if t.rows[i].text.strip()]
        if silent:
            texts = [t.rows[i].text[:60] for i in silent]
            return "row lost without a word", f"{texts}; set aside: {reason or 'nothing'}"
    if plain_table(t):
        needless = [i for i in missing if not excused(t, i)]
        if needless:
            return "row set aside", f"{t.rows[needless[0]].text[:60]!r}; {reason}"
    return None


def in_range(number, aside):
    """Whether a reason speaks of a range of rows that holds this one."""
    for row, why in aside:
        ends = [int(n) for n in re.findall(r"\d+", why)]
        if ends and row <= number <= max(ends) and re.search("line|row", why):
            return True
    return False


def judge_labelled(t, path):
    """`load_texts` and `load_labelled`: all rows with their labels, or an error."""
    if t.labels == "none":
        return []
    text, label, _ = t.names
    found = []
    readers = {
        "load_texts": lambda: load_texts(path, label, text),
        "load_labelled": lambda: load_labelled(path, path, path, text, label)["train"],
    }
    for name, read in readers.items():
        result, error, said, failure = call(read)
        if failure:
            found.append(Failure(name, *failure))
            continue
        if error:
            if must_load(t, name):
                found.append(Failure(name, "refused", error))
            continue
        texts, labels = result if name == "load_texts" else (result.texts, named_labels(result))
        whats = []
        for reading in readings(t):
            what = compare_labels(reading, texts, list(labels), said) if reading else None
            whats.append(what)
            if what is None:
                break
        if whats[-1] is not None:
            found.append(Failure(name, *whats[0]))
    return found


def named_labels(texts):
    """The labels of a `Texts` by their names, where it knows names."""
    names = getattr(texts, "names", None) or {}
    return [names.get(int(label), label) for label in texts.labels]


def must_load(t, reader):
    """Whether a reader of labels must take this table."""
    t = dataclasses.replace(t, declared=False)
    if not plain_table(t, reader) or t.stray or t.labels == "absent":
        return False
    if any(excused(t, i, reader) for i in range(len(t.rows))):
        return False
    classes = {row.label for row in t.rows}
    return len(classes) > 1 and (n_classes(t) == 2 or reader == "load_texts")


def compare_labels(t, texts, labels, said):
    """None, or (what, detail) of texts with labels against those written."""
    expected = [normal(row.text) for row in t.rows]
    at = 0
    names = {}
    read = set()
    for text, label in zip(texts, labels, strict=True):
        if t.header in ("twice-text", "twice-label"):
            return "a column of two was taken", f"{text!r}"
        here = row_from(at, text, expected)
        if here is None:
            if t.json_text and normal(text) in OTHER_JSON:
                continue
            return unwritten(text, expected)
        if t.labels == "absent":
            return "label from nowhere", f"{text!r}: {label!r}"
        row = short(t, here)
        if row.label is None:
            return "missing label is a class", f"{text!r}: {label!r}"
        if not label_is(t, row, label):
            return "label is another", f"{text!r}: {label!r} and not {spell_label(t, here, row)!r}"
        if names.setdefault(row.label, label) != label:
            return "one class has two names", f"{names[row.label]!r}, {label!r}"
        read.add(here)
        at = here + 1
    if len(set(map(str, names.values()))) < len(names):
        return "two classes have one name", f"{names}"
    missing = [i for i in range(len(t.rows)) if i not in read]
    if t.ragged == "short":  # then a line may be blank
        missing = [i for i in missing if t.rows[i].text.strip()]
    if missing and not re.search(r"\d.*(row|label|text|left)|(row|label|text|left).*\d", said):
        return "row lost without a word", f"{[t.rows[i].text[:60] for i in missing]}"
    return None


# ---------------------------------------------------------------- shrinking and the report


def smaller(t):
    """Tables with a little less, most promising first."""
    plain = Table()
    n = len(t.rows)
    for size in sorted({n // 2, 1} - {0}, reverse=True):
        for at in range(0, n, size):
            if n > size:
                yield dataclasses.replace(t, rows=t.rows[:at] + t.rows[at + size :])
    for field in dataclasses.fields(Table):
        if field.name in ("rows", "kind"):
            continue
        default = getattr(plain, field.name)
        if getattr(t, field.name) != default:
            yield dataclasses.replace(t, **{field.name: default})
    if t.padding > 1:
        yield dataclasses.replace(t, padding=t.padding // 2)
        yield dataclasses.replace(t, padding=t.padding - 1)
    if t.odd_row >= n:
        yield dataclasses.replace(t, odd_row=t.odd_row % n)
    for i, row in enumerate(t.rows):
        for text in shorter(row.text):
            yield with_row(t, i, text=text)
        if row.label not in (0, None):
            yield with_row(t, i, label=0)
        if row.level != 4:
            yield with_row(t, i, level=4)


def shorter(text):
    """A text without its halves, quarters, …, characters; of a long one only the large parts."""
    size = len(text) // 2
    while size and len(text) < 200 * size:
        for at in range(0, len(text) - size + 1, size):
            yield text[:at] + text[at + size :]
        size //= 2


def with_row(t, i, **changes):
    """The table with one row changed."""
    row = dataclasses.replace(t.rows[i], **changes)
    return dataclasses.replace(t, rows=(*t.rows[:i], row, *t.rows[i + 1 :]))


def shrink(t, failure, folder, budget=400):
    """The smallest table found that fails in the same way, and its failure."""
    best, its_failure = t, failure
    moved = True
    while moved and budget > 0:
        moved = False
        for candidate in smaller(best):
            candidate = settle(candidate)
            texts = [normal(row.text) for row in candidate.rows]
            if candidate == best or len(set(texts)) < len(texts) or not texts:
                continue
            budget -= 1
            same = [
                f
                for f in judge(candidate, folder)
                if (f.reader, f.what) == (failure.reader, failure.what)
            ]
            if same:
                best, its_failure, moved = candidate, same[0], True
                break
            if budget <= 0:
                break
    return best, its_failure


def dialect(t):
    """What is not plain about a table, as words."""
    plain = Table(kind=t.kind)
    words = [t.kind]
    for field in dataclasses.fields(Table):
        value = getattr(t, field.name)
        if field.name not in ("rows", "kind", "odd_row", "order") and value != getattr(
            plain, field.name
        ):
            words.append(f"{field.name}={value!r}")
    return ", ".join(words)


def describe(t, failure):
    """A failure as somebody wants to read it."""
    data, _ = write(t)
    shown = repr(data if len(data) < 600 else data[:300] + b" ... " + data[-100:])
    return (
        f"{failure.reader}: {failure.what}\n  dialect: {dialect(t)}\n  file {file_suffix(t)}: "
        f"{shown}\n  {failure.detail[:400]}"
    )


def fuzz(n, seed=0, folder=None, shrinks=25, out=print):
    """Try n tables; {(reader, what): [count, {dialect: [count, example]}]} of what failed."""
    own = folder is None
    if own:
        folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    kinds = {}
    try:
        for i in range(n):
            t = random_table(random.Random(f"{seed}/{i}"))
            for failure in judge(t, folder, i):
                key = (failure.reader, failure.what)
                kind = kinds.setdefault(key, [0, {}])
                kind[0] += 1
                if kind[0] <= shrinks:
                    small, its = shrink(t, failure, folder)
                    group = kind[1].setdefault(dialect(small), [0, describe(small, its), i])
                    group[0] += 1
            if out and i and i % 10_000 == 0:
                out(f"{i} tables, {sum(k[0] for k in kinds.values())} failures")
    finally:
        if own:
            shutil.rmtree(folder)
    return kinds


def report(kinds):
    """The failures as text, the most frequent kinds first."""
    lines = []
    for (reader, what), (count, groups) in sorted(kinds.items(), key=lambda x: -x[1][0]):
        lines.append(f"== {reader}: {what}: {count} tables")
        for example in sorted(groups.values(), key=lambda g: -g[0]):
            lines.append(f"-- {example[0]} shrunk to this (table {example[2]})\n{example[1]}")
    return "\n".join(lines)


def main():
    """The command at the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", type=int, nargs="?", default=2000, help="tables")
    parser.add_argument("--seed", default="0", help="another seed is other tables")
    parser.add_argument("--shrinks", type=int, default=25, help="failures of a kind to shrink")
    given = parser.parse_args()
    start = time.perf_counter()
    kinds = fuzz(given.n, given.seed, shrinks=given.shrinks)
    print(report(kinds))
    seconds = time.perf_counter() - start
    print(
        f"{given.n} tables, {Counter({k: v[0] for k, v in kinds.items()}).total()} failures", end=""
    )
    print(f" of {len(kinds)} kinds, {seconds:.0f} s")


if __name__ == "__main__":
    main()
