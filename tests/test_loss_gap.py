"""The loss gap: planted causes come out where they were put, and nothing comes out of nothing."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.datasets import SAMPLES
from sentiment_kit.data.files import KitError
from sentiment_kit.data.loader import ShardLoader
from sentiment_kit.data.shard_parts import part_ids
from sentiment_kit.data.shards import make_shards
from sentiment_kit.evidence import gap_losses, loss_gap
from sentiment_kit.evidence.gap_losses import (
    fill_losses,
    measure_losses,
    review_table,
)
from sentiment_kit.evidence.gap_report import check_gap, read_gap
from sentiment_kit.evidence.gap_table import (
    BITS,
    LOSSES,
    bit_columns,
    keep_table,
    losses_dtype,
    of_part,
    parts_of_table,
)
from sentiment_kit.evidence.gap_terms import CAUSES, gaps_without, shapley, standardise
from sentiment_kit.evidence.held_out import (
    ARMS,
    Arm,
    flag_near_duplicates,
    hold_out,
    review_ids,
    unseen_reviews,
)
from sentiment_kit.evidence.loss_gap import draw_counts, explain, measure_gap, t_interval
from sentiment_kit.evidence.running_loss import running_bits, running_parts
from sentiment_kit.model.language_model import LanguageModelConfig
from sentiment_kit.training.callbacks import LogMetrics, SaveCheckpoint
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.trainer import train


class Counting:
    "Predicts the next byte by how often each was read lately; its state helps among one's kind."

    head = SimpleNamespace(bias=torch.zeros(1))

    def prepare(self, lanes):
        return self

    def logits(self, ids_BT, state, reset_BT):
        count_BV = torch.full((len(ids_BT), 256), 0.02) if state is None else state
        out = []
        for t in range(ids_BT.shape[1]):
            count_BV = torch.where(reset_BT[:, t, None], 0.02, 0.995 * count_BV).clone()
            count_BV[torch.arange(len(ids_BT)), ids_BT[:, t]] += 1
            out.append(count_BV.log())
        return torch.stack(out, 1), count_BV


def write_reviews(path, shelves, each, letters=None, seed=0):
    "Reviews in order of category, with stars; a category may have letters of its own."
    rng, lines = np.random.default_rng(seed), []
    for shelf in range(shelves):
        own = (letters or ["abcdefgh"] * shelves)[shelf]
        for _ in range(each):
            words = [
                "".join(rng.choice(list(own), rng.integers(2, 7)))
                for _ in range(rng.integers(8, 30))
            ]
            lines.append(
                json.dumps(
                    dict(
                        reviewText=" ".join(words),
                        category=f"shelf {shelf}",
                        overall=int(words[0][0] > "c") * 4 + 1,
                    )
                )
                + "\n"
            )
    path.write_text("".join(lines))
    return path


def cut(folder, path, slices, K, template="{text}", **options):
    how = dict(workers=1, template=template)
    sliced = make_shards(path, folder / "sliced", (slices, 0, 0), "shard_then_shuffle", **how)
    return hold_out(sliced, folder / "corpus", K, **options)


def read_with(model, corpus):
    "The table that `measure_losses` would make, for a model that learns nothing: early is final."
    table = fill_losses(review_table(corpus, np.empty(0, np.uint64)), corpus, model, model)
    table["fresh"] = True
    return table, table["final"][table["arm"] == 3].sum() / table["bytes"][table["arm"] == 3].sum()


def certain(gap):
    "Names of the terms whose interval leaves out zero."
    return {term["name"] for term in gap["terms"] if not term["low"] <= 0 <= term["high"]}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "One alphabet, 6 categories that are alike."
    folder = tmp_path_factory.mktemp("plain")
    return cut(folder, write_reviews(folder / "reviews.jsonl", 6, 250), slices=60, K=8, shards=2)


def test_hold_out_parts_the_reviews(plain, tmp_path):
    ids = {
        split: [set(review_ids(s.meta).tolist()) for s in plain.split(split)]
        for split in ("train", "valid", "test")
    }
    train_ids, valid_ids = set().union(*ids["train"]), set().union(*ids["valid"])
    assert not train_ids & valid_ids and len(train_ids | valid_ids) == 1500 == sum(
        map(len, ids["train"] + ids["valid"])
    )
    assert set().union(*ids["test"]) <= train_ids
    assert len(ids["valid"]) == len(ids["test"]) == 16
    sizes = [shard.n_bytes for shard in plain.split("valid") + plain.split("test")]
    assert max(sizes[:16]) < 1.2 * min(sizes[:16]) and max(sizes) < 1.7 * min(sizes)
    rows = [sorted(i & (1 << 48) - 1 for i in block) for block in ids["valid"][:8]]
    assert all(row[-1] - row[0] < 40 for row in rows), "a block is a stretch of the input"
    rows = [sorted(i & (1 << 48) - 1 for i in a_set) for a_set in ids["valid"][8:]]
    assert all(row[-1] - row[0] > 750 for row in rows), "a set is from all over it"
    plain.verify()
    sliced = open_corpus(plain.folder.parent / "sliced")
    assert hold_out(sliced, plain.folder, 8, 2).digest == plain.digest
    assert hold_out(sliced, tmp_path / "other", 8, 2, seed=1).digest != plain.digest
    with pytest.raises(KitError, match="held out otherwise"):
        hold_out(sliced, plain.folder, 9, 2)
    with pytest.raises(KitError, match="60 slices, K=21 blocks need 63"):
        hold_out(sliced, tmp_path / "many", 21)
    shuffled = make_shards(
        SAMPLES, tmp_path / "dealt", (9, 0, 0), text_key="text", stars_key="stars"
    )
    with pytest.raises(KitError, match="in the order shuffle_then_shard"):
        hold_out(shuffled, tmp_path / "held", 3)
    assert not list(tmp_path.glob(".*"))


def test_an_arm_is_its_own_name_and_knows_its_shards(plain):
    assert [arm.number for arm in ARMS] == [0, 1, 2, 3] and {"train sets": 1}[Arm.TRAIN_SETS]
    assert f"{Arm.HELD_OUT_SETS}" == "held-out sets" == json.loads(json.dumps(Arm.HELD_OUT_SETS))
    found = [shard.name for arm in ARMS for shard in arm.shards(plain)]
    assert found == [shard.name for shard in plain.split("valid") + plain.split("test")]
    assert len(Arm.TRAIN_BLOCKS.shards(plain)) == 8


def test_unseen_reviews_agree_with_what_the_loader_hands_out(plain):
    loader = ShardLoader(plain, "train", 4, 50, seed=3)
    for step in (0, 1, 200, loader.steps_per_epoch // 2 + 90, loader.steps_per_epoch):
        expected = []
        first = 0
        for shard in loader.order(0):
            n = (shard.n_bytes - 1) // 4
            steps = -(-n // 50)
            read = {b * n + t for b in range(4) for t in range(min(n, max(0, step - first) * 50))}
            ends = [*shard.starts[1:].tolist(), shard.n_bytes]
            keep = [
                not read.intersection(range(s, e))
                for s, e in zip(shard.starts.tolist(), ends, strict=True)
            ]
            expected.append((review_ids(shard.meta)[keep], first))
            first += steps
        got, want = (
            set(unseen_reviews(loader, step).tolist()),
            set(np.concatenate([ids for ids, _ in expected]).tolist()),
        )
        assert got <= want and len(want - got) <= 2, (
            "at most the tails that no lane reads are left out"
        )


def test_near_duplicates_are_found_and_a_review_is_not_its_own(tmp_path):
    path = write_reviews(tmp_path / "reviews.jsonl", 1, 300)
    lines = path.read_text().splitlines()
    edited = [
        json.dumps(json.loads(line) | dict(reviewText=json.loads(line)["reviewText"] + " also"))
        for line in lines[:40]
    ]
    path.write_text("\n".join(lines + edited) + "\n")
    corpus = cut(tmp_path, path, slices=34, K=4)
    where = {}
    for shard in corpus.split("train"):
        where |= dict.fromkeys((shard.meta["row"] - 1).tolist())
    flags = flag_near_duplicates(corpus)
    for shard in corpus.split("valid") + corpus.split("test"):
        rows = (shard.meta["row"] - 1).tolist()
        partner = [row + 300 if row < 40 else row - 300 for row in rows]
        np.testing.assert_array_equal(
            flags[shard.name],
            [p in where and (row < 40 or row >= 300) for row, p in zip(rows, partner, strict=True)],
        )


def test_shapley_adds_up_and_is_fair():
    rng, players = np.random.default_rng(0), CAUSES
    sets = [frozenset(p for i, p in enumerate(players) if n >> i & 1) for n in range(32)]
    worth = {p: rng.normal() for p in players}
    values = {s: rng.normal() for s in sets}
    assert np.isclose(
        sum(shapley(values).values()), values[frozenset()] - values[frozenset(players)]
    )
    additive = shapley({s: -sum(worth[p] for p in s) for s in sets})
    assert all(np.isclose(additive[p], worth[p]) for p in players)


def test_standardise_claims_nothing_about_text_that_train_lacks():
    rng, valid = np.random.default_rng(0), np.zeros((1, 2, 15))
    bytes_GL = rng.integers(1, 500, (5, 3)) * [[1], [1], [0], [1], [1]]
    bits_GL = (rng.normal(2, 0.3, (5, 1)) + rng.normal(0, 0.2, 3)) * bytes_GL
    train = np.stack([bits_GL, bytes_GL]).reshape(1, 2, -1)
    assert np.isclose(standardise(train, train)[0], bits_GL.sum() / bytes_GL.sum(), atol=1e-4)
    valid[0, 1, 4] = 100
    assert np.isclose(standardise(train, valid)[0], bits_GL[1, 1] / bytes_GL[1, 1], atol=1e-3)
    valid[0, 1] = np.eye(15)[6] + np.eye(15)[7] + np.eye(15)[8]
    lengths = standardise(train, valid)[0] - bits_GL.sum() / bytes_GL.sum()
    known = [
        standardise(train, np.tile(np.repeat(np.eye(5)[g], 3), (1, 2, 1)))[0] for g in (0, 1, 3, 4)
    ]
    assert abs(lengths) < 0.2 < np.ptp(known), "of an unknown category only the lengths count"


def test_nothing_planted_nothing_found(plain):
    table, running = read_with(Counting(), plain)
    gap = explain([table], [running]).gap
    assert certain(gap) == set() and abs(gap["gap"]["bits"]) < 0.05
    assert (
        gap["gap"]["low"] <= 0 <= gap["gap"]["high"]
        and "not distinguishable" in gap["words"]
        and "of it" not in gap["words"]
    )


def test_a_state_that_helps_among_its_own_kind(tmp_path):
    "Each category has letters of its own, equally many: neighbours of a block tell the letters."
    letters = ["abcdef", "ghijkl", "mnopqr", "stuvwx"]
    corpus = cut(tmp_path, write_reviews(tmp_path / "r.jsonl", 4, 160, letters), slices=32, K=8)
    table, running = read_with(Counting(), corpus)
    report = explain([table], [running])
    gap, rows = report.gap, {row["name"]: row for row in report.table}
    assert certain(gap) == {"neighbours in the state"}
    term = rows["neighbours in the state"]
    assert gap["gap"]["high"] < 0 and term["share"] > 0.8
    assert abs(term["bits"] - rows["held-out blocks: own neighbours − strangers"]["bits"]) < 1e-9
    sets = explain([table], [running], kind="sets").gap
    assert certain(sets) == set() and sets["gap"]["low"] < 0 < sets["gap"]["high"]


def test_an_easier_category(tmp_path):
    "One category needs fewer letters; the held-out blocks have too much of it, or too little."
    corpus = cut(
        tmp_path,
        write_reviews(tmp_path / "r.jsonl", 4, 160, ["ab", *["abcdefghijklmnop"] * 3]),
        slices=32,
        K=8,
    )
    table, running = read_with(Counting(), corpus)
    shuffled = table.copy()
    shuffled["final"] = shuffled["early"] = table["shuffled"]  # leave out what the state does
    easy = corpus.manifest["categories"].index("shelf 0")
    share = {
        a: np.average(table["category"] == easy, weights=(table["arm"] == a) * table["bytes"])
        for a in (0, 3)
    }
    means = [
        shuffled["final"][m].sum() / table["bytes"][m].sum()
        for m in (table["category"] == easy, table["category"] != easy)
    ]
    expected = (share[0] - share[3]) * (means[0] - means[1])
    running = shuffled["final"][table["arm"] == 3].sum() / table["bytes"][table["arm"] == 3].sum()
    terms = {term["name"]: term["bits"] for term in explain([shuffled], [running]).gap["terms"]}
    assert abs(expected) > 0.02 and abs(terms["category and length"] - expected) < 0.25 * abs(
        expected
    )
    assert abs(terms["which blocks"]) < 0.7 * abs(expected)


def make_up(seed, K=20, reviews=30, **planted):
    "A table without a model, and its running loss; `planted`: the size of a cause in bits."
    rng, N, size = np.random.default_rng(seed), 4 * K * reviews, planted.get
    table = np.zeros(N, LOSSES)
    table["arm"], table["block"] = np.divmod(np.repeat(np.arange(4 * K), reviews), K)
    held, blocks = table["arm"] < 2, table["arm"] % 2 == 0
    table["category"] = np.where(
        blocks, np.repeat(rng.integers(0, 6, 4 * K), reviews), rng.integers(0, 6, N)
    )
    table["bytes"], table["fresh"] = rng.lognormal(6, 0.7, N) + 20, held | (rng.random(N) < 0.7)
    table["twin"] = rng.random(N) < np.where(held & ("twins" in planted), 0.4, 0.0)
    hard = rng.normal(0, 0.05, 6)[table["category"]]
    bits = (
        2
        + hard
        - hard[table["arm"] == 3].mean()
        + rng.normal(0, 0.3, N)
        - size("twins", 0) / 0.4 * table["twin"]
    )
    for column in ("early", "final", "shuffled", "reset"):
        table[column] = (
            bits
            + rng.normal(0, 0.02, N)
            + 0.3 * (column == "early")
            + size("state", 0) * (column == "reset")
        )
        table[column] -= size("neighbours", 0) * ((table["arm"] == 0) & (column == "final"))
        table[column] -= size("seen", 0) * (~held & (column != "early"))
        table[column] *= table["bytes"]
    return table, 2.0 + size("weights", 0)


@pytest.mark.parametrize(
    "planted, term, sign",
    [
        ("weights", "moving weights", -1),
        ("neighbours", "neighbours in the state", -1),
        ("twins", "near duplicates", -1),
    ],
)
@pytest.mark.parametrize("size", [0.15, -0.15])
def test_a_planted_cause_comes_out_with_its_size_and_sign(planted, term, sign, size):
    gaps = [
        explain([table], [running], resamples=300).gap
        for table, running in map(lambda s: make_up(s, **{planted: size}), range(6))
    ]
    found = {
        t["name"]: np.mean(
            [next(x["bits"] for x in gap["terms"] if x["name"] == t["name"]) for gap in gaps]
        )
        for t in gaps[0]["terms"]
    }
    assert abs(found.pop(term) - sign * size) < 0.025
    assert all(abs(bits) < 0.035 for bits in found.values()), found
    assert sum(term in certain(gap) for gap in gaps) >= 5


def test_what_was_seen_is_no_part_of_a_gap_to_unseen_text():
    "Remembering raises the term of seen text by half and lowers that of the weights by as much."
    table, running = make_up(0, seen=0.2)
    before, _ = make_up(0)
    with_memory, without = (explain([t], [running], resamples=300).gap for t in (table, before))
    assert np.isclose(with_memory["gap"]["bits"], without["gap"]["bits"])
    terms = [{t["name"]: t["bits"] for t in gap["terms"]} for gap in (with_memory, without)]
    assert np.isclose(terms[0]["seen text"] - terms[1]["seen text"], 0.1, atol=0.01)
    assert np.isclose(terms[0]["moving weights"] - terms[1]["moving weights"], -0.1, atol=0.01)
    rows = {c["name"]: c for c in with_memory["contrasts"]}
    assert rows["held-out sets − train sets seen, final weights"]["low"] > 0
    saved = rows["saved by having seen the text, final weights"]
    assert saved["low"] < 0.2 < saved["high"] and saved["high"] - saved["low"] < 0.03


def test_intervals_of_nothing_cover_zero_in_about_95_of_100():
    hits = []
    for seed in range(80):
        gap = explain([make_up(seed)[0]], [2.0], resamples=100).gap
        hits.append([item["low"] <= 0 <= item["high"] for item in (gap["gap"], *gap["terms"])])
    covered = np.mean(hits, axis=0)
    assert (covered > 0.88).all(), covered
    assert covered[0] < 1, "an interval that covers always says nothing"


def test_runs_on_one_hold_out_share_their_draws():
    table, running = make_up(0)
    one, same, other = (
        explain([table] * len(seeds), [running] * len(seeds), seeds=seeds, resamples=500).gap["gap"]
        for seeds in ([1], [1, 1], [1, 2])
    )
    width = {
        name: gap["high"] - gap["low"]
        for name, gap in dict(one=one, same=same, other=other).items()
    }
    assert np.isclose(width["one"], width["same"]) and width["other"] < 0.85 * width["one"]


def test_interval_holds_its_estimate_and_counts_start_with_once():
    counts = draw_counts(5, 50)
    assert set(counts) == set(ARMS) and all(
        (c[0] == 1).all() and (c[1:].sum(1) == 4).all() for c in counts.values()
    )
    got = t_interval(np.array([1.0, 0.0, 2.0, 0.0, 2.0]), K=5)
    assert got["low"] < got["bits"] == 1 < got["high"]
    assert len(gaps_without(make_up(0)[0], 2.0)) == 32


@pytest.fixture(scope="module")
def trained(plain):
    "A small model on the plain corpus."
    model = LanguageModelConfig(hidden_size=16, embed_size=8)
    how = dict(
        global_batch=32,
        seq_len=32,
        lr=0.1,
        max_lr=0.01,
        log_every=1,
        save_every=20,
        keep=20,
        progress="none",
    )
    config = TrainConfig(str(plain.folder), str(plain.folder.parent / "run"), model, **how)
    return train(config, callbacks=[LogMetrics(), SaveCheckpoint()]), config


def test_a_trained_model(trained):
    run, _ = trained
    report = measure_gap(run, resamples=300)
    assert read_gap(run)["gap"] == report.gap["gap"]
    assert np.isclose(sum(t["bits"] for t in report.gap["terms"]), report.gap["gap"]["bits"])
    assert "moving weights" in certain(report.gap) and report.gap["gap"]["high"] < 0
    rows = {row["name"]: row for row in report.table}
    assert rows["moving weights"]["share"] > 0.7 and "moving weights" in report._repr_markdown_()
    late = measure_gap(run, since=0.9, resamples=300, out=run / "late").gap["gap"]["bits"]
    assert abs(late) < abs(report.gap["gap"]["bits"]) / 2 and (run / "late" / "gap.json").exists()
    both = measure_gap([run, run], resamples=300)
    assert np.isclose(both.gap["gap"]["bits"], report.gap["gap"]["bits"])
    assert (
        measure_gap(run, kind="sets", resamples=300, out=run / "sets").gap["terms"][-1]["name"]
        == "which sets"
    )


def test_the_table_is_read_again_only_for_other_weights(trained, monkeypatch):
    run, _ = trained
    table = measure_losses(run)
    assert set(np.unique(table["arm"])) == {0, 1, 2, 3} and np.isfinite(table["final"]).all()
    assert (
        table["fresh"][table["arm"] < 2].all()
        and 0.5 < table["fresh"][table["arm"] == 3].mean() < 0.9
    )
    monkeypatch.setattr(gap_losses, "fill_losses", lambda *_: pytest.fail("read again"))
    np.testing.assert_array_equal(measure_losses(run), table)


def test_runs_that_cannot_tell_are_refused(trained, tmp_path):
    run, config = trained
    (tmp_path / "train_config.json").write_text(json.dumps(asdict(config) | dict(epochs=3)))
    with pytest.raises(KitError, match="3 epochs"):
        running_bits(tmp_path)
    with pytest.raises(KitError, match="0 checkpoints"):
        measure_losses(tmp_path)
    with pytest.raises(KitError, match="not made by hold_out"):
        measure_losses(run, corpus=open_corpus(config.corpus).folder.parent / "sliced")


# Part by part


@pytest.fixture(scope="module")
def starred(tmp_path_factory):
    "Reviews with their stars behind them, in 6 categories."
    folder = tmp_path_factory.mktemp("starred")
    path = write_reviews(folder / "reviews.jsonl", 6, 60)
    return cut(folder, path, slices=30, K=4, template="{text}\n{stars}")


def test_the_bits_of_a_review_are_told_by_the_part_of_each_byte(starred):
    "By definition: the bytes of a lane one after the other, each with the part that it is of."
    table, _ = read_with(Counting(), starred)
    names = parts_of_table(table)
    assert names == starred.parts == ("frame", "text", "stars")
    for column in BITS:
        whole, *own = (table[name] for name in bit_columns(column, names))
        np.testing.assert_allclose(sum(own), whole, rtol=1e-12)
        assert all((bits >= 0).all() and bits.sum() > 0 for bits in own)
    for arm in (Arm.HELD_OUT_BLOCKS, Arm.TRAIN_SETS):
        for block, shard in enumerate(arm.shards(starred)[:2]):
            last = int(shard.starts[-1])
            text = torch.tensor([*shard.data[last:].tolist(), *shard.data.tolist(), ord("\n")])
            part_T = [0] * (shard.n_bytes - last) + part_ids(shard).tolist() + [0]
            logits, _ = Counting().logits(text[None, :-1], None, torch.zeros(1, len(text)).bool())
            bits_T = -logits[0].double().log_softmax(1)[range(len(text) - 1), text[1:]] / np.log(2)
            want = np.zeros((3, shard.n_reviews))
            first = shard.n_bytes - last
            for t in range(first, len(text) - 1):
                review = np.searchsorted(shard.starts, t - first, side="right") - 1
                want[part_T[t + 1], review] += bits_T[t]
            rows = table[(table["arm"] == arm.number) & (table["block"] == block)]
            for p, name in enumerate(names):
                np.testing.assert_allclose(rows[f"final_{name}"], want[p], rtol=1e-4)


def test_strangers_keep_their_parts(starred):
    "A model without a memory: neighbours and resets change no part of any review."
    table, _ = read_with(Forgetful(), starred)
    for name in parts_of_table(table):
        for column in ("shuffled", "reset", "early"):
            np.testing.assert_allclose(table[f"{column}_{name}"], table[f"final_{name}"], rtol=1e-6)


class Forgetful(Counting):
    "Knows the last byte alone."

    def logits(self, ids_BT, state, reset_BT):
        return torch.cos(ids_BT[..., None] * torch.arange(256) / 7.0), None


def parted(seed, parts=("text", "stars"), shares=(0.7, 0.3), **planted):
    "A made-up table whose bits are of parts; what is planted is of the first one."
    plain, _ = make_up(seed)
    table, running = make_up(seed, **planted)
    made = np.zeros(len(table), losses_dtype(parts))
    for name in LOSSES.names:
        made[name] = table[name]
    took = {part: 2.0 * share for part, share in zip(parts, shares, strict=True)}
    took[parts[0]] += running - 2.0
    for column in BITS:
        for part, share in zip(parts, shares, strict=True):
            made[f"{column}_{part}"] = share * plain[column]
        made[f"{column}_{parts[0]}"] += table[column] - plain[column]
    return made, running, took


@pytest.mark.parametrize("planted, term", [("weights", 0), ("neighbours", 2)])
def test_a_cause_of_one_part_comes_out_there(planted, term):
    table, running, took = parted(1, **{planted: 0.15})
    gap = explain([table], [running], resamples=200, running_parts=[took]).gap
    found = {part: own["terms"][term] for part, own in gap["parts"].items()}
    assert found["text"]["high"] < -0.05 and abs(found["stars"]["bits"]) < 0.03
    assert not found["stars"]["high"] < 0


def test_parts_of_gap_and_terms_add_up_exactly():
    many = [parted(seed, ("frame", "text", "stars"), (0.1, 0.6, 0.3), seen=0.1) for seed in (1, 2)]
    tables, running, took = zip(*many, strict=True)
    for kind in ("blocks", "sets"):
        whole = explain(tables, running, kind, resamples=50, running_parts=took).gap
        alone = explain(tables, running, kind, resamples=50).gap
        assert whole["gap"] == alone["gap"] and whole["terms"] == alone["terms"]
        assert whole["contrasts"] == alone["contrasts"] and "parts" not in alone
        sums = [sum(own["gap"]["bits"] for own in whole["parts"].values())]
        for n, term in enumerate(whole["terms"]):
            sums.append(sum(own["terms"][n]["bits"] for own in whole["parts"].values()))
            names = {own["terms"][n]["name"] for own in whole["parts"].values()}
            assert names == {term["name"]}
        want = [whole["gap"]["bits"], *(term["bits"] for term in whole["terms"])]
        np.testing.assert_allclose(sums, want, atol=1e-13)


@pytest.fixture(scope="module")
def starred_run(starred):
    model = LanguageModelConfig(hidden_size=16, embed_size=8)
    how = dict(global_batch=16, seq_len=32, lr=0.1, max_lr=0.01, log_every=3, save_every=15)
    how |= dict(keep=20, progress="none", device="cpu")
    config = TrainConfig(str(starred.folder), str(starred.folder.parent / "run"), model, **how)
    return train(config, callbacks=[LogMetrics(), SaveCheckpoint()])


def test_a_run_with_a_template_tells_its_gap_by_part(starred_run, tmp_path):
    report = measure_gap(starred_run, resamples=50)
    gap = read_gap(starred_run)
    assert gap == report.gap and list(gap["parts"]) == ["frame", "text", "stars"]
    took = running_parts(starred_run)
    assert sum(took.values()) == pytest.approx(running_bits(starred_run), rel=1e-12)
    table = measure_losses(starred_run)
    blocks = of_part(table, "stars")[table["arm"] == 0]
    stars = blocks["final"].sum() / blocks["bytes"].sum() - took["stars"]
    assert gap["parts"]["stars"]["gap"]["bits"] == pytest.approx(stars, rel=1e-9)
    told = [own["gap"]["bits"] for own in gap["parts"].values()]
    assert sum(told) == pytest.approx(gap["gap"]["bits"], abs=1e-12)
    assert "stars" in gap["words"] and "| all | frame | text | stars |" in report._repr_markdown_()
    assert [trace.name for trace in report.figure.data] == ["all", "frame", "text", "stars"]
    late = measure_gap(starred_run, since=0.5, resamples=50, out=tmp_path).gap
    assert late["parts"]["text"]["gap"] != gap["parts"]["text"]["gap"]


def test_text_alone_is_told_as_a_whole(trained):
    report = measure_gap(trained[0], resamples=50)
    assert "parts" not in report.gap and running_parts(trained[0]) == {}
    assert measure_losses(trained[0]).dtype == LOSSES
    assert "all text" not in report.gap["words"] + report._repr_markdown_()
    assert len(report.figure.data) == 1


def test_a_log_without_parts_is_said_and_the_gap_is_told_as_a_whole(
    starred_run, tmp_path, monkeypatch, capsys
):
    table = measure_losses(starred_run)
    monkeypatch.setattr(loss_gap, "measure_losses", lambda *_, **__: table)
    for name in ("train_config.json", "environment.json"):
        (tmp_path / name).write_text((starred_run / name).read_text())
    lines = map(json.loads, (starred_run / "metrics.jsonl").read_text().splitlines())
    old = [{k: v for k, v in line.items() if "_stars" not in k} for line in lines]
    for line in old[1::2]:  # half of the run was trained by an older version
        for name in [k for k in line if k.startswith(("loss_bits_", "loss_bytes_"))]:
            del line[name]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    gap = measure_gap(tmp_path, resamples=50).gap
    assert "parts" not in gap and "no training loss by part" in capsys.readouterr().out


def test_a_table_that_an_older_version_kept_without_parts_is_read_anew(starred_run):
    path = starred_run / "gap_losses.npz"
    table = measure_losses(starred_run)
    with np.load(path) as stored:
        key = str(stored["key"])
    plain = np.zeros(len(table), LOSSES)
    keep_table(path, key, plain)
    np.testing.assert_array_equal(measure_losses(starred_run), table)


def part_of(bits):
    item = dict(bits=bits, low=bits - 0.1, high=bits + 0.1)
    return dict(gap=item, terms=[item | dict(name="moving weights")])


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(stars=part_of(-0.1)), "the parts add up to -0.30000 and the gap is -0.20000"),
        (dict(stars=part_of(0.0) | dict(terms=[])), "'stars' are not those of the gap"),
        (dict(stars=dict(gap=part_of(0)["gap"])), "lacks the field 'terms'"),
        (dict(stars=[1]), "parts"),
    ],
)
def test_parts_that_do_not_add_up_are_refused(change, told):
    good = dict(version=1, level=0.95, words="…") | part_of(-0.2)
    assert check_gap(good) is good
    fine = good | dict(parts=dict(text=part_of(-0.2), stars=part_of(0.0)))
    assert check_gap(fine) is fine
    with pytest.raises(KitError, match=told) as error:
        check_gap(good | dict(parts=dict(text=part_of(-0.2)) | change))
    assert "\n" not in str(error.value) and "gap.json" in str(error.value)
    other = part_of(0.0)
    other["terms"][0]["name"] = "luck"
    with pytest.raises(KitError, match="the terms of 'stars' are not those of the gap"):
        check_gap(good | dict(parts=dict(text=part_of(-0.2), stars=other)))
