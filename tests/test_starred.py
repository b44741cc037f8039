"""Reviews by their stars: what is drawn, and what is said where nothing can be."""

import json
from collections import Counter

import numpy as np
import pytest

from sentiment_kit.data.files import KitError
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.starred import drawn_evenly, labelled_by_stars, length_class


def written(path, name, many):
    "A file of reviews: of each category so many with each number of stars."
    rows = [
        dict(text=f"{name} {kind} {stars} {n}" + " more" * (n % 9), stars=stars, main=kind)
        for kind, counts in many.items()
        for stars, count in counts.items()
        for n in range(count)
    ]
    file = path / f"{name}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def corpus_of(path, **files):
    columns = dict(text_key="text", stars_key="stars", category_key="main")
    named = [written(path, name, many) for name, many in files.items()]
    return make_shards(named, path / "corpus", (1, 0, 0), **columns).split("train")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    "Praise is frequent in some groups, blame in others."
    x = dict(toy={1: 20, 5: 90}, pan={2: 70, 4: 30})
    y = dict(toy={1: 50, 4: 25}, pan={1: 3, 5: 60})
    return corpus_of(tmp_path_factory.mktemp("starred"), x=x, y=y)


def groups_of(drawn, kind, within):
    "How many of a kind there are of each source and category, and perhaps length."
    texts = [text for text, y in zip(drawn.texts, drawn.labels, strict=True) if y == kind]
    length = [length_class(text) if "length" in within else 0 for text in texts]
    return Counter((*text.split()[:2], k) for text, k in zip(texts, length, strict=True))


@pytest.mark.parametrize("within", ["category", "category and length"])
@pytest.mark.parametrize("n", [2, 7, 20, 60, 111, None])
@pytest.mark.parametrize("seed", [0, 3])
def test_so_many_as_are_wanted_are_balanced_in_each_group(shards, within, n, seed):
    drawn = labelled_by_stars(shards, n, seed, within)
    assert groups_of(drawn, 0, within) == groups_of(drawn, 1, within)
    assert len(set(drawn.texts)) == len(drawn) and (n is None or len(drawn) == n // 2 * 2)
    again = labelled_by_stars(shards, n, seed, within)
    assert again.texts == drawn.texts and np.array_equal(again.labels, drawn.labels)
    assert labelled_by_stars(shards, n, seed + 1, within).texts != drawn.texts


def test_more_than_there_are_is_all_there_are(shards):
    every = labelled_by_stars(shards, within="category")
    assert len(every) == 2 * (20 + 30 + 25 + 3)
    assert labelled_by_stars(shards, 999, within="category").texts == every.texts


def test_a_draw_that_leaves_nothing_out_is_as_it_was():
    kinds = [[f"{kind} {n}" for n in range(40)] for kind in ("blame", "praise")]
    for half, paired in ((40, True), (40, False), (15, False)):
        rng = np.random.default_rng(5)
        chosen = [kind[i] for kind in kinds for i in rng.permutation(40)[:half]]
        texts = [chosen[i] for i in rng.permutation(2 * half)]
        assert drawn_evenly(kinds, half, np.random.default_rng(5), paired).texts == texts


ASKED = [
    (dict(n=1), "n is 1; ask for 2 texts or more"),
    (dict(n=0), "n is 0; ask for 2"),
    (dict(n=-5), "n is -5; ask for 2"),
    (dict(n=2.5), "n is 2.5; ask for 2"),
    (dict(n=True), "n is True; ask for 2"),
    (dict(sources="lzq"), "sources is 'lzq'; give places in the manifest's sources"),
    (dict(sources=1), "sources is 1; give places"),
    (dict(sources=set()), "from the sources asked for; the corpus has 0 (x.jsonl), 1 (y.jsonl)"),
    (dict(sources=["x.jsonl"]), "the corpus has 0 (x.jsonl), 1 (y.jsonl)"),
    (dict(sources={2}), "no reviews with 1 or 2 and none with 4 or 5 stars from the sources"),
    (dict(within="shop"), "within is 'shop'; use one of"),
]


@pytest.mark.parametrize("asked, told", ASKED)
def test_what_cannot_be_drawn_is_said_with_its_cause(shards, asked, told):
    with pytest.raises(KitError) as error:
        labelled_by_stars(shards, **dict(within="category") | asked)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "many, within, told",
    [
        (dict(toy={5: 4}), "all", "no reviews with 1 or 2 stars; name others"),
        (dict(toy={1: 4, 3: 2}), "category", "no reviews with 4 or 5 stars; name others"),
        (dict(toy={1: 4}, pan={5: 4}), "category", "within category, no group of these shards has"),
    ],
)
def test_the_kind_or_the_group_that_is_missing_is_named(tmp_path, many, within, told):
    with pytest.raises(KitError, match=told):
        labelled_by_stars(corpus_of(tmp_path, x=many), within=within)
