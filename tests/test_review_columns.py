"""Reviews read field by field are the reviews read one by one."""

import json
import random

import pytest

from sentiment_kit.data.columns import KEYS
from sentiment_kit.data.dedup import encoded_key, encoded_keys
from sentiment_kit.data.files import KitError
from sentiment_kit.data.lines import Lines, parse_line, parse_lines
from sentiment_kit.data.review_columns import parse_columns
from sentiment_kit.data.reviews import parse_block
from sentiment_kit.data.stars import Scale
from sentiment_kit.data.text import PRESETS, encode, encode_all

VALUES = dict(
    text=["Good", "Good", "Ça va", "", " ", "a\0b", 5, None, "\ud83d", "&#32;", 'say ": " :)'],
    label=[0, 1, None, "1", "1.0", True, 2.5, 128, "pos", float("nan")],
    stars=[5, 4.5, None, "5", "3 stars", "five", True, 1e9, [5]],
    category=["lamps", "", None, "Käse", 7, 7.0, True, ["lamps"], {}],
    split=["train", None, "valid", 3, ""],
    item=["B1", None, 12],
    user=["u", "ü", None],
    time=[1588687728, 1588687728923, "1588687728", None, "soon", 1e300],
)
KEY_SETS = [
    [*VALUES],
    ["text"],
    ["text", "stars", "category"],
    ["text", "label"],
    ["text", "split", "time", "user"],
]


def block_of(rng, names):
    "A hundred lines; in half of the blocks nearly all of them plain."
    plain = rng.random() < 0.5
    lines = []
    for _ in range(100):
        few = {k: v[:1] if plain and rng.random() < 0.98 else v for k, v in VALUES.items()}
        line = json.dumps({name: rng.choice(few[name]) for name in names})
        if not plain and rng.random() < 0.1:
            line = rng.choice([line[:-3], "", " ", "[1]", line + "\r", '{"text": 1, "text"  : 2}'])
        lines.append(line)
    return Lines(rng.randrange(1, 99), "\n".join(lines).encode() + rng.choice([b"", b"\n"]))


@pytest.mark.parametrize("names", KEY_SETS, ids=len)
@pytest.mark.parametrize("scale", [Scale(), Scale(0, 1e9, True)], ids=["five", "declared"])
def test_a_block_as_columns_is_the_block_of_reviews(names, scale):
    rng = random.Random(len(names))
    keys = dict.fromkeys(KEYS) | {f"{name}_key": name for name in names} | dict(scale=scale)
    kept = set_aside = 0
    for _ in range(30):
        block = block_of(rng, names)
        try:
            reviews, bad = parse_block(block, "a.jsonl", keys)
        except KitError as error:
            with pytest.raises(KitError) as other:
                parse_columns(block, "a.jsonl", keys)
            assert str(other.value) == str(error)
            continue
        columns, bad_too = parse_columns(block, "a.jsonl", keys)
        assert bad_too == bad
        for name, column in zip(columns._fields[:-1], columns[:-1], strict=True):
            one_by_one = [getattr(review, name) for review in reviews]
            assert column == one_by_one
            known = [x for x in column if x is not None]
            assert all(type(x) is not bool for x in known)
        kept += len(reviews)
        set_aside += len(bad)
    assert kept and set_aside


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "a" : 2}',
        b'{"a"  : 1, "a": 2}',
        b'{"a" \t : 1, "a": 2}',
        b'{"b": "\\":", "a"  :1, "a" :2}',
    ],
)
def test_a_name_twice_is_found_among_plain_lines(line):
    lines = [b'{"a": 1}', line, b'{"a": "6:30 :"}']
    plain, twice, other = parse_lines(lines, b"\n".join(lines))
    assert (plain, twice, other) == tuple(map(parse_line, lines))
    assert "twice" in twice
    assert plain == {"a": 1}


def test_many_texts_are_encoded_and_keyed_as_one_is():
    texts = ["Good &amp; new\nline ", "", ":-)", "Ça", "a\ud83d", "<br />x", "\0"]
    for preset in PRESETS:
        encoded = encode_all(texts, preset)
        assert encoded == [encode(text, preset) for text in texts]
        assert encoded_keys(encoded) == [encoded_key(text) for text in encoded]
