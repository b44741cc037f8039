"""A corpus is the same bytes from the same reviews, whole or refused by name, and never lost
half-way."""

import errno
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentiment_kit.data import build_passes, build_tasks, shards
from sentiment_kit.data.build_plan import ORDERS
from sentiment_kit.data.corpus import META, SPLITS, name_hashes, open_corpus
from sentiment_kit.data.datasets import SAMPLE_KEYS, SAMPLES
from sentiment_kit.data.dedup import dedup_key, encoded_key
from sentiment_kit.data.files import KitError, digest
from sentiment_kit.data.lines import Lines
from sentiment_kit.data.near_duplicates import near_duplicates, shingles
from sentiment_kit.data.reviews import read_reviews
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.text import decode, encode

RNG = np.random.default_rng(0)
WORDS = "the lamp works great — très bien 👍 but not for long & breaks".split()
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(1, 12))) for _ in range(400)]
ROWS = [
    dict(reviewText=t, overall=float(i % 5 + 1), category="ABC"[i % 3], label=i % 2)
    for i, t in enumerate(TEXTS)
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def files(folder, pattern="*"):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob(pattern))
        if p.is_file()
    }


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "reviews.jsonl", ROWS)


@pytest.fixture
def corpus(tmp_path, source):
    return make_shards(source, tmp_path / "corpus", counts=(3, 1, 1), label_key="label")


def all_reviews(corpus):
    return [
        review
        for split in SPLITS
        for shard in corpus.split(split)
        for review in shard.encoded_reviews()
    ]


def test_every_review_arrives_once(corpus):
    kept = all_reviews(corpus)
    keys = [dedup_key(decode(b)) for b in kept]
    assert len(set(keys)) == len(keys) and set(keys) == {dedup_key(t) for t in TEXTS}
    assert set(kept) <= {encode(t) for t in TEXTS}
    assert corpus.manifest["rows"] == dict(
        read=400, bad=0, duplicates=400 - len(kept), near_duplicates=0, kept=len(kept)
    )


def test_meta_says_where_each_review_came_from(corpus):
    for shard in (shard for split in SPLITS for shard in corpus.split(split)):
        for review, meta in zip(shard.encoded_reviews(), shard.meta, strict=True):
            row = ROWS[int(meta["row"]) - 1]
            assert review == encode(row["reviewText"]) and meta["label"] == row["label"]
            assert meta["stars"] == row["overall"]
            assert corpus.manifest["categories"][meta["category"]] == row["category"]
            assert corpus.manifest["sources"][meta["source"]]["name"] == "reviews.jsonl"


def test_header_is_64_bytes_and_the_index_starts_reviews(corpus):
    for shard in corpus.split("train"):
        raw = shard.path("bin").read_bytes()
        assert (
            raw[:8] == b"SKBYTES1"
            and raw[64:] == shard.data.tobytes()
            and shard.data.dtype == np.uint8
        )
        assert shard.starts.dtype == np.uint64 and shard.starts[0] == 0
        assert all(shard.data[int(start)] == ord("\n") for start in shard.starts)


@settings(deadline=None)
@given(
    st.text(
        st.characters(exclude_categories=["Cs"])
        | st.sampled_from("aB3 .-!ßÉİς½ǅﬃ²٣中👍\u0301\u0345")
    )
)
@example("\u0130\u1e9e\ufb03")
@example(":-) \u2026")
def test_the_key_of_encoded_bytes_is_the_key_of_the_text(text):
    b = encode(text, "raw")
    assert encoded_key(b) == dedup_key(decode(b))


def test_the_key_of_every_character():
    "All of Unicode up to U+1FFFF, but for ideographs, syllables and surrogates."
    for first in [
        *range(0, 0x3000, 0x400),
        *range(0xA000, 0xAC00, 0x400),
        *range(0xF800, 0x20000, 0x400),
    ]:
        text = "".join(map(chr, range(first, first + 0x400)))
        assert encoded_key(encode(text, "raw")) == dedup_key(decode(encode(text, "raw")))


def test_products_reviewers_and_times_are_in_the_meta_where_a_source_has_them(tmp_path):
    named = [
        dict(asin=f"B{i % 7}", reviewerID=f"A{i}", unixReviewTime=10**9 + i) for i in range(400)
    ]
    write(
        tmp_path / "named.jsonl",
        [dict(reviewText=f"named {i}") | row for i, row in enumerate(named)],
    )
    write(tmp_path / "plain.jsonl", [dict(reviewText=f"plain {i}") for i in range(100)])
    corpus = make_shards(sorted(tmp_path.glob("*.jsonl")), tmp_path / "corpus", counts=(2, 1, 1))
    metas = np.concatenate([shard.meta for split in SPLITS for shard in corpus.split(split)])
    assert metas.dtype == META and len(metas) == 500
    for meta in metas:
        row = (
            named[int(meta["row"]) - 1]
            if meta["source"] == 0
            else dict(asin=None, reviewerID=None, unixReviewTime=-1)
        )
        assert [meta["item"], meta["user"]] == name_hashes([row["asin"], row["reviewerID"]])
        assert meta["time"] == row["unixReviewTime"]
    only_time = make_shards(
        tmp_path / "named.jsonl", tmp_path / "time", counts=(1, 1, 1), item_key=None, user_key=None
    )
    assert only_time.split("train")[0].meta.dtype.names == (
        "label",
        "stars",
        "category",
        "source",
        "row",
        "time",
    )


@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_shuffled_rows_in_other_files_give_the_same_bytes(tmp_path, source, dedup):
    shuffled = [ROWS[i] for i in np.random.default_rng(1).permutation(len(ROWS))]
    for name, part in dict(z=shuffled[:10], y=shuffled[10:250], a=shuffled[250:]).items():
        write(tmp_path / "parts" / f"{name}.jsonl", part)
    one = make_shards(source, tmp_path / "one", counts=(3, 1, 1), dedup=dedup)
    two = make_shards(
        tmp_path / "parts" / "*.jsonl", tmp_path / "two", counts=(3, 1, 1), dedup=dedup
    )
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
        [tmp_path / "there" / "deeper" / n for n in sorted(names)],
        tmp_path / "x" / "two",
        counts=(2, 1, 1),
    )
    assert files(one.folder) == files(two.folder) and one.digest == two.digest
    assert str(tmp_path) not in (one.folder / "manifest.json").read_text()


def test_another_seed_is_another_shuffle_of_the_same_reviews(tmp_path, source):
    one, two = (make_shards(source, tmp_path / str(s), counts=(2, 1, 1), seed=s) for s in (0, 1))
    assert {dedup_key(decode(b)) for b in all_reviews(one)} == {
        dedup_key(decode(b)) for b in all_reviews(two)
    }
    assert all_reviews(one) != all_reviews(two)


def test_shards_fill_in_proportion(tmp_path):
    source = write(tmp_path / "many.jsonl", [dict(reviewText=f"review {i}") for i in range(4000)])
    corpus = make_shards(source, tmp_path / "corpus", counts=(8, 1, 1))
    counts = [shard.n_reviews for split in SPLITS for shard in corpus.split(split)]
    assert max(abs(n - 400) for n in counts) < 5 * 400**0.5


def in_small_pieces(monkeypatch):
    "Every line becomes a spill of its own."
    read = build_passes.read_blocks

    def lines(source, **how):
        for block in read(source, **how):
            lines = block.text.split(b"\n")
            yield from (Lines(block.row + i, line) for i, line in enumerate(lines))

    monkeypatch.setattr(build_passes, "read_blocks", lines)
    monkeypatch.setattr(
        build_passes, "_gathered", lambda blocks, size: ([block] for block in blocks)
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dedup", ["exact", "near", "none"])
def test_neither_workers_nor_the_size_of_spills_change_a_byte(
    tmp_path, source, monkeypatch, order, dedup
):
    write(source, [*ROWS, dict(reviewText="&#32;"), dict(overall=1)])
    options = dict(counts=(3, 1, 1), order=order, dedup=dedup, label_key="label")
    one = make_shards(source, tmp_path / "one", **options)
    with ThreadPoolExecutor(3) as pool:
        two = make_shards(source, tmp_path / "two", workers=2, executor=pool, **options)
        assert pool.submit(len, "still open").result() == 10
    in_small_pieces(monkeypatch)
    three = make_shards(source, tmp_path / "three", **options)
    assert files(one.folder) == files(two.folder) == files(three.folder)
    assert one.verify().manifest["rows"]["bad"] == 2


def test_processes_build_the_same_folder(tmp_path, source):
    options = dict(counts=(3, 1, 1), order="shard_then_shuffle_set", label_key="label")
    one, two = (make_shards(source, tmp_path / str(n), workers=n, **options) for n in (1, 2))
    assert files(one.folder) == files(two.folder)


@pytest.mark.slow
def test_dask_builds_the_same_folder(tmp_path, source):
    from dask.distributed import Client, LocalCluster

    one = make_shards(
        source, tmp_path / "one", counts=(3, 1, 1), order="shard_then_shuffle", label_key="label"
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        two = make_shards(
            source,
            tmp_path / "two",
            counts=(3, 1, 1),
            order="shard_then_shuffle",
            executor=client.get_executor(),
            label_key="label",
        )
        assert len(client.scheduler_info()["workers"]) == 2
        source.write_bytes(b'{"reviewText": "x", "split": "dev"}\n' + source.read_bytes())
        with pytest.raises(KitError, match="row 1, has split 'dev'"):
            make_shards(
                source,
                tmp_path / "bad",
                (3, 1, 1),
                executor=client.get_executor(),
                split_key="split",
            )
    assert files(one.folder) == files(two.folder)


# ── orders


def naive_slices(source, counts):
    """Survivors in the order of the input, cut where the bytes before pass a multiple of the
    length of a slice."""
    best = {}
    for r in read_reviews(source):
        b = encode(r.text)
        key = dedup_key(decode(b))
        best[key] = min(best.get(key, (b, r.source, r.row)), (b, r.source, r.row))
    kept, slices, before = [b for b, *_ in sorted(best.values(), key=lambda x: x[1:])], [], 0
    slices = [[] for _ in range(sum(counts))]
    for b in kept:
        slices[before * sum(counts) // sum(map(len, kept))].append(b)
        before += len(b)
    return slices


def test_contiguous_shards_are_slices_of_what_dedup_left(tmp_path, source):
    write(
        source,
        [
            *ROWS,
            *ROWS,
            *(row | dict(reviewText=f"{row['reviewText']} {i}") for i, row in enumerate(ROWS)),
        ],
    )
    slices = naive_slices(source, (5, 2, 1))
    corpus = make_shards(source, tmp_path / "one", counts=(5, 2, 1), order="shard_then_shuffle")
    built = {s: [sorted(shard.encoded_reviews()) for shard in corpus.split(s)] for s in SPLITS}
    assert (
        sorted(sum(built.values(), [])) == sorted(map(sorted, slices))
        and max(map(len, slices)) < 400
    )
    places = {s: [list(map(sorted, slices)).index(shard) for shard in built[s]] for s in SPLITS}
    assert all(places[s] == sorted(places[s]) for s in SPLITS), (
        "each split in the order of the input"
    )
    assert any(
        list(shard.encoded_reviews()) != sorted(shard.encoded_reviews())
        for shard in corpus.split("train")
    )
    mixed = make_shards(source, tmp_path / "two", counts=(5, 2, 1), order="shard_then_shuffle_set")
    for s in SPLITS:
        assert sorted(sum(built[s], [])) == sorted(
            b for shard in mixed.split(s) for b in shard.encoded_reviews()
        )
    train = [
        {i for i, part in enumerate(built["train"]) for b in shard.encoded_reviews() if b in part}
        for shard in mixed.split("train")
    ]
    assert all(len(slices) == 5 for slices in train), (
        "every training shard has something of every training slice"
    )


def test_the_seed_draws_the_slices_held_out(tmp_path, source):
    held = set()
    for seed in range(6):
        corpus = make_shards(
            source, tmp_path / str(seed), counts=(6, 1, 1), order="shard_then_shuffle", seed=seed
        )
        held.add(int(corpus.split("valid")[0].meta["row"].min()))
    assert len(held) > 1


@pytest.mark.parametrize("dedup", ["exact", "none"])
def test_all_orders_hold_the_same_reviews(tmp_path, source, dedup):
    kept = [
        Counter(
            all_reviews(
                make_shards(source, tmp_path / order, counts=(3, 1, 1), order=order, dedup=dedup)
            )
        )
        for order in ORDERS
    ]
    assert kept[0] == kept[1] == kept[2]
    assert dedup == "exact" or kept[0] == Counter(map(encode, TEXTS))


def test_contiguous_orders_respect_a_split_column(tmp_path):
    rows = [
        row | dict(split=SPLITS[i // 134], reviewText=f"{i} {row['reviewText']}")
        for i, row in enumerate(ROWS)
    ]
    source = write(tmp_path / "r.jsonl", rows)
    for order in ORDERS:
        corpus = make_shards(
            source, tmp_path / order, counts=(2, 2, 1), split_key="split", order=order
        )
        for split in SPLITS:
            found = {review for shard in corpus.split(split) for review in shard.encoded_reviews()}
            assert found == {encode(row["reviewText"]) for row in rows if row["split"] == split}


# ── near duplicates


def edited(tmp_path):
    "Long reviews, some of them twice with a small change."
    rng = np.random.default_rng(3)
    long = [" ".join(rng.permutation(WORDS * 6)) + f" number {i}" for i in range(60)]
    again = [f"Update! {text}, {'really' if i % 2 else ''}" for i, text in enumerate(long[:20])]
    return (
        write(
            tmp_path / "long.jsonl", [dict(reviewText=text) for text in [*long, *again, long[0]]]
        ),
        long,
        again,
    )


def test_near_duplicates_go_whatever_the_order_of_the_input(tmp_path):
    source, long, again = edited(tmp_path)
    corpus = make_shards(source, tmp_path / "one", counts=(3, 1, 1), dedup="near")
    assert corpus.manifest["rows"] == dict(
        read=81, bad=0, duplicates=1, near_duplicates=20, kept=60
    )
    kept = set(all_reviews(corpus))
    assert all(
        (encode(a) in kept) + (encode(b) in kept) == 1 for a, b in zip(long, again, strict=False)
    )
    assert {encode(text) for text in long[20:]} <= kept
    source.write_text(
        "".join(reversed(source.read_text(encoding="utf-8").splitlines(keepends=True))),
        encoding="utf-8",
    )
    other = make_shards(source, tmp_path / "two", counts=(3, 1, 1), dedup="near")
    assert files(corpus.folder, "*.bin") == files(other.folder, "*.bin")


def test_the_report_finds_what_the_loop_over_all_pairs_finds(tmp_path):
    source, long, again = edited(tmp_path)
    corpus = make_shards(source, tmp_path / "corpus", counts=(3, 1, 1))
    report = near_duplicates(corpus, threshold=0.7)
    reviews = {
        shard.name: list(shard.encoded_reviews())
        for split in SPLITS
        for shard in corpus.split(split)
    }
    sets = {
        (name, i): set(shingles(b).tolist())
        for name, texts in reviews.items()
        for i, b in enumerate(texts)
    }
    naive = {
        (*a, *b)
        for a in sets
        for b in sets
        if not a[0].startswith("train") and b[0].startswith("train")
        if len(sets[a] & sets[b]) >= 0.7 * len(sets[a] | sets[b])
    }
    assert {tuple(match)[:4] for match in report.matches.tolist()} == naive and len(naive) >= 5
    with_twin = {(name, i) for name, i, _, _ in naive}
    for split in ("valid", "test"):
        [shard] = corpus.split(split)
        mask = report.reviews(shard)
        assert [(shard.name, i) in with_twin for i in range(shard.n_reviews)] == mask.tolist()
        assert report.share(split) == mask.mean()
    assert all(
        encode(text) in sum(reviews.values(), [])
        for _, a, b in report.examples(3)
        for text in (a, b)
    )
    with ThreadPoolExecutor(2) as pool:
        assert (
            near_duplicates(corpus, threshold=0.7, executor=pool).matches.tolist()
            == report.matches.tolist()
        )
    assert (
        len(
            near_duplicates(
                make_shards(source, tmp_path / "two", counts=(3, 1, 1), dedup="near")
            ).matches
        )
        == 0
    )


def test_near_duplicates_need_datasketch_and_say_so_first(tmp_path, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(KitError, match="pip install datasketch"):
        make_shards(source, tmp_path / "corpus", counts=(1, 1, 1), dedup="near")
    assert [p.name for p in tmp_path.iterdir()] == ["reviews.jsonl"]


def test_a_split_column_decides(tmp_path):
    rows = [
        row | dict(split=SPLITS[i % 3], reviewText=f"{i} {row['reviewText']}")
        for i, row in enumerate(ROWS)
    ]
    corpus = make_shards(
        write(tmp_path / "r.jsonl", rows), tmp_path / "corpus", counts=(2, 1, 1), split_key="split"
    )
    for i, split in enumerate(SPLITS):
        found = {review for shard in corpus.split(split) for review in shard.encoded_reviews()}
        assert found == {encode(row["reviewText"]) for row in rows[i::3]}
    rows[7]["split"] = "dev"
    with pytest.raises(KitError, match=r"r\.jsonl, row 8, has split 'dev'"):
        make_shards(
            write(tmp_path / "r.jsonl", rows),
            tmp_path / "other",
            counts=(2, 1, 1),
            split_key="split",
        )


def test_bad_rows_are_counted_and_listed_in_the_corpus(tmp_path):
    source = write(tmp_path / "r.jsonl", [*ROWS, dict(overall=3), dict(reviewText="&#10; \n")])
    corpus = make_shards(source, tmp_path / "corpus", counts=(1, 1, 1))
    assert corpus.manifest["rows"]["bad"] == 2
    records = map(json.loads, (corpus.folder / "quarantine.jsonl").read_text().splitlines())
    assert [(r["row"], r["reason"]) for r in records] == [
        (401, "no text in reviewText"),
        (402, "empty text"),
    ]


# ── damage


def damaged_files():
    names = [f"{split}/00000" for split in ("train", "valid")]
    parts = [f"{name}.{part}" for name in names for part in ("bin", "idx.npy", "meta.npy")]
    return [*parts, "manifest.json", "quarantine.jsonl"]


@pytest.mark.parametrize("name", damaged_files())
def test_flips_cuts_and_missing_files_are_named(tmp_path, source, name):
    write(source, [*ROWS, dict(overall=1)])
    corpus = make_shards(source, tmp_path / "corpus", counts=(3, 1, 1), label_key="label")
    path = corpus.folder / name
    whole = path.read_bytes()
    flips = [int(i) for i in np.linspace(0, len(whole) - 1, 25)]
    for damaged in [
        *(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in flips),
        whole[:-2],
        b"",
        None,
    ]:
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


def test_stray_shard_files_are_refused_and_notes_are_not(tmp_path, source, corpus):
    (corpus.folder / "README.txt").write_text("from the lab")
    (corpus.folder / "train" / ".DS_Store").write_bytes(b"")
    corpus.verify()
    stray = corpus.folder / "train" / "00003.bin"
    shutil.copy(corpus.split("train")[0].path("bin"), stray)
    with pytest.raises(KitError, match=r"train/00003\.bin is not part of this corpus"):
        open_corpus(corpus.folder).verify()


def test_a_pickled_sidecar_is_refused(corpus):
    shard = corpus.split("train")[0]
    np.save(shard.path("meta.npy"), np.array([None] * shard.n_reviews), allow_pickle=True)
    with pytest.raises(KitError, match=r"00000\.meta\.npy is missing or damaged"):
        open_corpus(corpus.folder).split("train")[0].meta  # noqa: B018


def test_a_corpus_from_before_the_quarantine_had_a_checksum_still_opens(corpus):
    manifest = {k: v for k, v in corpus.manifest.items() if k not in ("digest", "quarantine")}
    (corpus.folder / "manifest.json").write_text(
        json.dumps(manifest | dict(digest=digest(manifest)))
    )
    assert len(open_corpus(corpus.folder).verify().split("train")[0].meta)


def test_a_corpus_of_a_later_version_is_refused(corpus):
    manifest = {k: v for k, v in corpus.manifest.items() if k != "digest"} | dict(version=2)
    (corpus.folder / "manifest.json").write_text(
        json.dumps(manifest | dict(digest=digest(manifest)))
    )
    with pytest.raises(KitError, match="version 2, this kit reads 1"):
        open_corpus(corpus.folder)


# ── building into a folder


def test_the_same_build_returns_at_once_and_another_is_refused(
    tmp_path, source, corpus, monkeypatch
):
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
    monkeypatch.setattr(
        build_tasks, "write_shard", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        make_shards(source, corpus.folder, counts=(2, 1, 1), overwrite=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("where", ["write_sorted_parts", "write_shard"])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_corpus(
    tmp_path, source, corpus, monkeypatch, where
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(tmp_path)
    monkeypatch.setattr(build_tasks, where, full)
    with pytest.raises(KitError, match="no room left beside .*corpus, which is as it was"):
        make_shards(source, corpus.folder, counts=(2, 1, 1), overwrite=True)
    assert files(tmp_path) == before


BUILD = """
import resource, sys
from sentiment_kit.data.shards import make_shards
if __name__ == "__main__":
    source, out, limit, workers = sys.argv[1:]
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    print("building", flush=True)
    make_shards(source, out, counts=(4, 1, 1), overwrite=True, workers=int(workers))
"""


def start_build(source, out, limit=0, workers=2):
    script = source.parent / "build.py"
    script.write_text(BUILD)
    command = [sys.executable, script, source, out, str(limit), str(workers)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def test_a_worker_without_room_ends_the_build_in_one_sentence(tmp_path, source, corpus):
    before = files(corpus.folder)
    build = start_build(source, corpus.folder, limit=4096)
    assert (
        b"KitError: no room left beside" in build.communicate(timeout=60)[1]
        and build.returncode == 1
    )
    assert files(corpus.folder) == before


def alive(session):
    "Processes of a session, by /proc."
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes by /proc")
@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_at_any_moment_the_old_corpus_stays_and_no_worker_does(
    request, tmp_path, source, whole_group
):
    rows = [
        row | dict(reviewText=f"{i} {j} {row['reviewText']}")
        for j in range(30)
        for i, row in enumerate(ROWS)
    ]
    old = make_shards(source, tmp_path / "corpus", counts=(4, 1, 1))
    other = write(tmp_path / "more" / "reviews.jsonl", rows)
    new, before = make_shards(other, tmp_path / "new", counts=(4, 1, 1)), files(old.folder)
    rng = np.random.default_rng(0)
    for _ in range(request.config.getoption("--n") or 1 + whole_group):
        build = start_build(other, old.folder)
        build.stdout.readline()
        time.sleep(rng.uniform(0, 1.2))
        (os.killpg if whole_group else os.kill)(build.pid, signal.SIGKILL)
        build.wait()
        build.stdout.close()
        build.stderr.close()
        until = time.monotonic() + 20
        while alive(build.pid) and time.monotonic() < until:
            time.sleep(0.02)
        assert alive(build.pid) == []
        assert files(open_corpus(old.folder).verify().folder) in (before, files(new.folder))
    again = make_shards(other, old.folder, counts=(4, 1, 1), overwrite=True)
    assert files(again.folder) == files(new.folder)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_worker_that_dies_ends_the_build_in_one_sentence(tmp_path, source, corpus, monkeypatch):
    with ProcessPoolExecutor(1) as pool:
        pool.submit(int).result()
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        with pytest.raises(KitError, match="a worker process ended early"):
            make_shards(source, corpus.folder, counts=(2, 1, 1), overwrite=True, executor=pool)
    assert open_corpus(corpus.folder).verify().digest == corpus.digest


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
    with pytest.raises(KitError, match="is one of the inputs"):
        make_shards(source, source, overwrite=True)
    assert source.exists() and notes.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(counts=(2, 1)), "counts"),
        (dict(counts=(0, 1, 1)), "counts"),
        (dict(order="sorted"), "order='sorted' is unknown; take one of: shuffle_then_shard"),
        (dict(dedup="fuzzy"), "dedup='fuzzy'"),
        (dict(workers=0), "workers=0 should be at least 1"),
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
    with pytest.raises(
        KitError, match="no manifest.json, so it is not a corpus; build one with make_shards"
    ):
        open_corpus(Path(tmp_path))


def test_repr_shows_what_is_there(corpus):
    assert "preset openai" in repr(corpus) and f"{corpus.n_bytes('train'):,} bytes" in repr(corpus)


# ── size


def generated(path, megabytes):
    """JSON lines as McAuley's of the embedded texts, three to a review (520 bytes), each with
    its own number."""
    rng = np.random.default_rng(0)
    texts = [json.dumps(r.text)[1:-1] for r in read_reviews(SAMPLES, **SAMPLE_KEYS)]
    n_bytes = n = json_mb = 0
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=4) as f:
        while n_bytes < megabytes * 10**6:
            lines = []
            for picked in rng.integers(0, len(texts), (1000, 3)):
                text = " ".join(texts[i] for i in picked) + f" ({n})"
                lines.append(
                    f'{{"reviewerID": "A{n * 7919 % 10**9:013}", "asin": "B{n % 99991:09}", '
                    f'"reviewerName": "N. {n}", '
                    f'"helpful": [{n % 3}, {n % 7}], "reviewText": "{text}", '
                    f'"overall": {n % 5 + 1}.0, '
                    f'"summary": "Review {n}", "unixReviewTime": {10**9 + n}, '
                    f'"reviewTime": "09 13, 2009", '
                    f'"category": "{"ABCDEFG"[n % 7]}"}}\n'
                )
                n_bytes, n = n_bytes + len(text), n + 1
            f.write("".join(lines))
            json_mb += len("".join(lines)) / 1e6
    return path, n, json_mb


def highest(pid):
    "The most memory that a process has held so far, in MB; 0 when it has gone."
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) / 1024 if found else 0


MEASURED = """
import json, resource, sys, time
from sentiment_kit.data.corpus import SPLITS
from sentiment_kit.data.shards import make_shards
if __name__ == "__main__":
    source, out, train, workers = sys.argv[1:]
    start = time.perf_counter()
    corpus = make_shards(source, out, counts=(int(train), 1, 1), workers=int(workers))
    wall = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    text = sum(corpus.n_bytes(split) for split in SPLITS) / 1e6
    cpu = [u.ru_utime + u.ru_stime for u in used]
    print(json.dumps(dict(text=text, wall=wall, cpu=cpu, rows=corpus.manifest["rows"])))
"""


def measured(folder, megabytes, shard, workers):
    """Build a generated input in a fresh process; what it printed, and the sum of its
    processes' peaks."""
    folder.mkdir()
    script, (source, n, json_mb) = (
        folder / "measured.py",
        generated(folder / "reviews.jsonl.gz", megabytes),
    )
    script.write_text(MEASURED)
    train = max(1, round(megabytes / shard) - 2)
    command = [sys.executable, script, source, folder / "corpus", str(train), str(workers)]
    build = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    peaks = Counter()
    while build.poll() is None:
        peaks |= Counter({pid: highest(pid) for pid in alive(build.pid)})  # the larger of the two
        time.sleep(0.02)
    peak = sum(peaks.values())
    result = json.loads(build.communicate()[0]) | dict(peak=peak)
    assert result["rows"] == dict(read=n, bad=0, duplicates=0, near_duplicates=0, kept=n)
    busy = max(result["cpu"]) if workers > 1 else sum(result["cpu"])
    rates = [
        f"{mb / busy:.0f} MB of {kind}"
        for mb, kind in ((result["text"], "text"), (json_mb, "JSON"))
    ]
    print(
        f"{megabytes} MB of text, {workers} workers: {result['wall']:.1f} s, "
        f"{sum(result['cpu']):.1f} s of CPU;",
        end=" ",
    )
    print(f"peak {peak:.0f} MB; in a second of a worker's CPU {' or '.join(rates)}")
    shutil.rmtree(folder)
    return result


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory by /proc")
def test_memory_is_flat_in_small(tmp_path):
    small, large = (measured(tmp_path / str(mb), mb, shard=4, workers=1)["peak"] for mb in (10, 24))
    assert large < 1.2 * small and large < 300


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_is_flat(request, tmp_path, workers):
    "--n is the larger size in MB of text: 1000 unless told, 10000 for the full check."
    n = request.config.getoption("--n") or 1000
    small, large = (
        measured(tmp_path / str(mb), mb, shard=min(32, n / 30), workers=workers)["peak"]
        for mb in (n // 10, n)
    )
    assert large < 1.2 * small and large < 1500
