"""The embedded reviews: complete, balanced, varied, and none of them twice."""

import csv
import re
from collections import Counter

import pytest

from sentiment_kit.data.datasets import SAMPLES, load_dataset
from sentiment_kit.data.dedup import dedup_key


@pytest.fixture(scope="module")
def rows():
    with open(SAMPLES, encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def test_columns_and_counts(rows):
    assert list(rows[0]) == ["text", "label", "stars", "category", "split"]
    assert Counter(r["split"] for r in rows) == dict(train=700, valid=150, test=150)


def test_labels_follow_stars_and_balance(rows):
    assert Counter((r["label"], r["stars"]) for r in rows).keys() == {
        ("1", "5"),
        ("1", "4"),
        ("0", "2"),
        ("0", "1"),
    }
    for split in ("train", "valid", "test"):
        labels = Counter(r["label"] for r in rows if r["split"] == split)
        assert labels["0"] == labels["1"]
    by_category = Counter((r["category"], r["label"]) for r in rows)
    assert len(by_category) >= 16 and max(by_category.values()) <= 1.25 * min(by_category.values())
    assert {r["category"] for r in rows if r["split"] == "test"} == {r["category"] for r in rows}


def test_texts_are_one_clean_line_and_not_only_ascii(rows):
    for r in rows:
        assert r["text"] == r["text"].strip() and not re.search(r"[\n\r\t\0\ufffd]", r["text"])
        assert 20 <= len(r["text"]) <= 600
    assert sum(not r["text"].isascii() for r in rows) >= 100
    assert sum(bool(re.search("[\U0001f300-\U0001faff]", r["text"])) for r in rows) >= 20
    assert (
        sum(
            bool(re.search(r"\b(not|never|no)\b|n't", r["text"], re.I))
            for r in rows
            if r["label"] == "1"
        )
        >= 50
    )


def test_no_review_is_there_twice_or_nearly(rows):
    assert len({dedup_key(r["text"]) for r in rows}) == len(rows)
    seen = {}
    for i, r in enumerate(rows):
        words = re.findall(r"\w+", r["text"].casefold())
        for gram in {tuple(words[j : j + 8]) for j in range(len(words) - 7)}:
            other = seen.setdefault(gram, i)
            assert other == i, f"rows {other + 1} and {i + 1} share {' '.join(gram)!r}"


def test_no_templates(rows):
    openings = Counter(" ".join(re.findall(r"\w+", r["text"].casefold())[:4]) for r in rows)
    assert openings.most_common(1)[0][1] <= 4


def test_load_dataset_gives_them(rows):
    data = load_dataset("samples")
    assert {split: len(texts) for split, texts in data.items()} == dict(
        train=700, valid=150, test=150
    )
    assert data["test"].texts == [r["text"] for r in rows if r["split"] == "test"]
    assert data["test"].labels.tolist() == [int(r["label"]) for r in rows if r["split"] == "test"]
