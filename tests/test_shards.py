"""A corpus is the same bytes from the same reviews, whole or refused by name, and never lost half-way."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sentiment_kit import shards
from sentiment_kit.files import KitError, digest
from sentiment_kit.reviews import dedup_key
from sentiment_kit.shards import SPLITS, Spill, make_shards, open_corpus
from sentiment_kit.text import decode, encode

RNG = np.random.default_rng(0)
WORDS = "the lamp works great — très bien 👍 but not for long & breaks".split()
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(1, 12))) for _ in range(400)]
ROWS = [dict(reviewText=t, overall=float(i % 5 + 1), category="ABC"[i % 3], label=i % 2) for i, t in enumerate(TEXTS)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def files(folder, pattern="*"):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob(pattern)) if p.is_file()}


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "reviews.jsonl", ROWS)


@pytest.fixture
def corpus(tmp_path, source):
    return make_shards(source, tmp_path / "corpus", counts=(3, 1, 1), label_key="label")


def all_reviews(corpus):
    return [review for split in SPLITS for shard in corpus.split(split) for review in shard.reviews()]


def test_every_review_arrives_once(corpus):
    kept = all_reviews(corpus)
    keys = [dedup_key(decode(b)) for b in kept]
    assert len(set(keys)) == len(keys) and set(keys) == {dedup_key(t) for t in TEXTS}
    assert set(kept) <= {encode(t) for t in TEXTS}
    assert corpus.manifest["rows"] == dict(read=400, bad=0, duplicates=400 - len(kept), kept=len(kept))


def test_meta_says_where_each_review_came_from(corpus):
    for shard in (shard for split in SPLITS for shard in corpus.split(split)):
        for review, meta in zip(shard.reviews(), shard.meta, strict=True):
            row = ROWS[int(meta["row"]) - 1]
            assert review == encode(row["reviewText"]) and meta["label"] == row["label"]
            assert meta["stars"] == row["overall"]
            assert corpus.manifest["categories"][meta["category"]] == row["category"]
            assert corpus.manifest["sources"][meta["source"]]["name"] == "reviews.jsonl"


def test_header_is_64_bytes_and_the_index_starts_reviews(corpus):
    for shard in corpus.split("train"):
        raw = shard.path("bin").read_bytes()
        assert raw[:8] == b"SKBYTES1" and raw[64:] == shard.data.tobytes() and shard.data.dtype == np.uint8
        assert shard.starts.dtype == np.uint64 and shard.starts[0] == 0
        assert all(shard.data[int(start)] == ord("\n") for start in shard.starts)


@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_shuffled_rows_in_other_files_give_the_same_bytes(tmp_path, source, dedup):
    shuffled = [ROWS[i] for i in np.random.default_rng(1).permutation(len(ROWS))]
    for name, part in dict(z=shuffled[:10], y=shuffled[10:250], a=shuffled[250:]).items():
        write(tmp_path / "parts" / f"{name}.jsonl", part)
    one = make_shards(source, tmp_path / "one", counts=(3, 1, 1), dedup=dedup)
    two = make_shards(tmp_path / "parts" / "*.jsonl", tmp_path / "two", counts=(3, 1, 1), dedup=dedup)
    for pattern in ("*.bin", "*.idx.npy"):
        assert files(one.folder, pattern) == files(two.folder, pattern)
    assert Counter(all_reviews(one)) == Counter(map(encode, TEXTS)) or dedup == "exact"


def test_the_folder_depends_on_nothing_but_reviews_and_options(tmp_path):
    names = ["b.jsonl", "a.jsonl", "c.jsonl"]
    for where in ("here", "there/deeper"):
        for i, name in enumerate(names):
            write(tmp_path / where / name, ROWS[i::3])
    one = make_shards([tmp_path / "here" / n for n in names], tmp_path / "one", counts=(2, 1, 1))
    two = make_shards(
        [tmp_path / "there" / "deeper" / n for n in sorted(names)], tmp_path / "x" / "two", counts=(2, 1, 1)
    )
    assert files(one.folder) == files(two.folder) and one.digest == two.digest
    assert str(tmp_path) not in (one.folder / "manifest.json").read_text()


def test_another_seed_is_another_shuffle_of_the_same_reviews(tmp_path, source):
    one, two = (make_shards(source, tmp_path / str(s), counts=(2, 1, 1), seed=s) for s in (0, 1))
    assert {dedup_key(decode(b)) for b in all_reviews(one)} == {dedup_key(decode(b)) for b in all_reviews(two)}
    assert all_reviews(one) != all_reviews(two)


def test_shards_fill_in_proportion(tmp_path):
    source = write(tmp_path / "many.jsonl", [dict(reviewText=f"review {i}") for i in range(4000)])
    corpus = make_shards(source, tmp_path / "corpus", counts=(8, 1, 1))
    counts = [shard.n_reviews for split in SPLITS for shard in corpus.split(split)]
    assert max(abs(n - 400) for n in counts) < 5 * 400**0.5


def test_spilling_in_small_pieces_changes_nothing(tmp_path, source, corpus, monkeypatch):
    monkeypatch.setattr(shards, "Spill", lambda folder: Spill(folder, limit=200))
    again = make_shards(source, tmp_path / "again", counts=(3, 1, 1), label_key="label")
    assert files(again.folder) == files(corpus.folder)


def test_a_split_column_decides(tmp_path):
    rows = [row | dict(split=SPLITS[i % 3], reviewText=f"{i} {row['reviewText']}") for i, row in enumerate(ROWS)]
    corpus = make_shards(write(tmp_path / "r.jsonl", rows), tmp_path / "corpus", counts=(2, 1, 1), split_key="split")
    for i, split in enumerate(SPLITS):
        found = {review for shard in corpus.split(split) for review in shard.reviews()}
        assert found == {encode(row["reviewText"]) for row in rows[i::3]}
    rows[7]["split"] = "dev"
    with pytest.raises(KitError, match=r"r\.jsonl, row 8, has split 'dev'"):
        make_shards(write(tmp_path / "r.jsonl", rows), tmp_path / "other", counts=(2, 1, 1), split_key="split")


def test_bad_rows_are_counted_and_listed_in_the_corpus(tmp_path):
    source = write(tmp_path / "r.jsonl", [*ROWS, dict(overall=3), dict(reviewText="&#10; \n")])
    corpus = make_shards(source, tmp_path / "corpus", counts=(1, 1, 1))
    assert corpus.manifest["rows"]["bad"] == 2
    records = map(json.loads, (corpus.folder / "quarantine.jsonl").read_text().splitlines())
    assert [(r["row"], r["reason"]) for r in records] == [(401, "no text in reviewText"), (402, "empty text")]


# ── damage


def damaged_files():
    names = [f"{split}/00000" for split in ("train", "valid")]
    return [f"{name}.{part}" for name in names for part in ("bin", "idx.npy", "meta.npy")] + ["manifest.json"]


@pytest.mark.parametrize("name", damaged_files())
def test_flips_cuts_and_missing_files_are_named(corpus, name):
    path = corpus.folder / name
    whole = path.read_bytes()
    flips = [int(i) for i in np.linspace(0, len(whole) - 1, 25)]
    for damaged in [*(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in flips), whole[:-2], b"", None]:
        path.unlink(missing_ok=True) if damaged is None else path.write_bytes(damaged)
        with pytest.raises(KitError, match=name.split("/")[-1].replace(".", r"\.")) as caught:
            open_corpus(corpus.folder).verify()
        assert "\n" not in str(caught.value) and (
            "make_shards" in str(caught.value) or "make it again" in str(caught.value)
        )
    path.write_bytes(whole)
    open_corpus(corpus.folder).verify()


def test_cut_shards_are_refused_on_open_and_a_lost_index_on_use(corpus):
    shard = corpus.split("train")[0]
    shard.path("idx.npy").unlink()
    with pytest.raises(KitError, match=r"00000\.idx\.npy is missing or damaged"):
        open_corpus(corpus.folder).split("train")[0].starts  # noqa: B018
    shard.path("bin").write_bytes(shard.path("bin").read_bytes()[:-1])
    with pytest.raises(KitError, match=r"00000\.bin is cut short"):
        open_corpus(corpus.folder)


def test_a_shard_of_another_corpus_is_found(tmp_path, source, corpus):
    other = make_shards(source, tmp_path / "other", counts=(3, 1, 1), seed=5)
    shutil.copy(other.split("valid")[0].path("bin"), corpus.split("valid")[0].path("bin"))
    with pytest.raises(KitError, match=r"valid/00000\.bin"):
        open_corpus(corpus.folder).verify()


def test_a_corpus_of_a_later_version_is_refused(corpus):
    manifest = {k: v for k, v in corpus.manifest.items() if k != "digest"} | dict(version=2)
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest | dict(digest=digest(manifest))))
    with pytest.raises(KitError, match="version 2, this kit reads 1"):
        open_corpus(corpus.folder)


# ── building into a folder


def test_the_same_build_returns_at_once_and_another_is_refused(tmp_path, source, corpus, monkeypatch):
    before = files(corpus.folder)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_build", None)
        again = make_shards(source, corpus.folder, counts=(3, 1, 1), label_key="label")
    assert again.digest == corpus.digest
    with pytest.raises(KitError, match="other options; choose another folder or overwrite=True"):
        make_shards(source, corpus.folder, counts=(2, 1, 1), label_key="label")
    write(source, ROWS[:-1])
    with pytest.raises(KitError, match="other sources"):
        make_shards(source, corpus.folder, counts=(3, 1, 1), label_key="label")
    assert files(corpus.folder) == before
    make_shards(source, corpus.folder, counts=(2, 1, 1), overwrite=True)
    assert files(corpus.folder) != before


def test_a_failed_build_leaves_the_old_corpus_and_no_debris(tmp_path, source, corpus, monkeypatch):
    before = files(tmp_path)
    monkeypatch.setattr(shards, "write_shard", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_shards(source, corpus.folder, counts=(2, 1, 1), overwrite=True)
    assert files(tmp_path) == before


def test_a_killed_build_is_started_over(tmp_path, source):
    debris = tmp_path / ".corpus.building" / "train"
    debris.mkdir(parents=True)
    (debris / "00007.bin").write_bytes(b"half")
    corpus = make_shards(source, tmp_path / "corpus", counts=(3, 1, 1))
    assert len(list(corpus.folder.rglob("*.bin"))) == 5 and not debris.exists()


def test_a_folder_with_other_things_is_never_replaced(tmp_path, source):
    notes = write(tmp_path / "thesis" / "manifest.json", [])
    with pytest.raises(KitError, match="thesis exists and is not a corpus"):
        make_shards(source, notes.parent, overwrite=True)
    with pytest.raises(KitError, match="not a corpus"):
        make_shards(source, source, overwrite=True)
    assert source.exists() and notes.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(counts=(2, 1)), "counts"),
        (dict(counts=(0, 1, 1)), "counts"),
        (dict(order="sorted"), "order='sorted' is unknown; take one of: shuffle_then_shard"),
        (dict(dedup="fuzzy"), "dedup='fuzzy'"),
        (dict(preset="bert"), "preset 'bert'"),
        (dict(counts=(4000, 1, 1)), "would be empty; there are too few reviews"),
        (dict(text_key="body"), "no column 'body'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(tmp_path, source, options, message):
    with pytest.raises(KitError, match=message):
        make_shards(source, tmp_path / "corpus", **dict(counts=(1, 1, 1)) | options)
    assert [p.name for p in tmp_path.iterdir()] == ["reviews.jsonl"]


def test_a_folder_without_a_manifest_is_no_corpus(tmp_path):
    with pytest.raises(KitError, match="no manifest.json, so it is not a corpus; build one with make_shards"):
        open_corpus(Path(tmp_path))


def test_repr_shows_what_is_there(corpus):
    assert "preset openai" in repr(corpus) and f"{corpus.n_bytes('train'):,} bytes" in repr(corpus)
