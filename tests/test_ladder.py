"""The ladder of pressure: what is held equal, what controls keep, order of work, record, resume."""

import json
import shutil
from collections import Counter

import numpy as np
import papermill
import pytest
import torch
from forks import fork_kernels
from safetensors.torch import load_file
from scipy.stats import ttest_1samp
from stop_at import StopAt
from sync import ROOT

from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import Texts
from sentiment_kit.data.recut import body_slice, read_fields, recut
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.starred import labelled_by_stars
from sentiment_kit.data.template import Template
from sentiment_kit.evidence import ladder as ladder_room
from sentiment_kit.evidence import ladder_record as record_room
from sentiment_kit.evidence.ladder import (
    POOL_TEMPLATE,
    Ladder,
    climb_config,
    corpora_of,
    equal_table,
    order_of_work,
    sample_reviews,
    train_climb,
)
from sentiment_kit.evidence.ladder_growth import from_then_on, kind_of_pair, overlap_of
from sentiment_kit.evidence.ladder_readings import (
    asked_texts,
    cut_in_three,
    labelled_sets,
    ladder_texts,
    length_area,
    spread_of,
)
from sentiment_kit.evidence.ladder_record import (
    Reading,
    add_row,
    climb_ladder,
    lacking_of,
    read_record,
)
from sentiment_kit.evidence.ladder_report import finished, over_seeds, paired
from sentiment_kit.evidence.rungs import (
    all_rungs,
    control_of,
    fields_of_rung,
    group_numbers,
    move_all,
)
from sentiment_kit.recipes import plan_run, read_recipe
from sentiment_kit.training.trainer import Stopped, first_model, settled

TINY = dict(sizes=[16], seeds=[0], texts=[0], body_mb=0.012, marks_mb=[0.004], lanes=4, seq_len=32)
TINY |= dict(embed_size=4, warmup_steps=0, precision="fp32", device="cpu", save_every=20)


def one_sentence(call, told):
    with pytest.raises(KitError, match=told) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    return make_shards(sample_reviews(), folder / "pool", (3, 1, 1), template=POOL_TEMPLATE)


@pytest.fixture(scope="module")
def corpora(pool, tmp_path_factory):
    "All corpora of a ladder of two texts, and its climbs."
    folder = tmp_path_factory.mktemp("ladder")
    ladder = Ladder(str(folder), **TINY | dict(texts=[0, 1]))
    climbs = order_of_work(ladder)
    return ladder, climbs, corpora_of(ladder, pool, climbs)


# ---------------------------------------------------------------- the control


@pytest.mark.parametrize("seed", range(5))
def test_every_review_gets_anothers_and_each_is_given_once(seed):
    draw = np.random.default_rng(seed)
    group_N = draw.integers(0, 12, size=60)
    group_N[:2] = 50, 51  # two groups of one
    from_N = move_all(group_N, seed)
    assert sorted(from_N) == list(range(60)) and (from_N != np.arange(60)).all()
    alone_N = np.array([np.sum(group_N == g) == 1 for g in group_N])
    kept_N = group_N[from_N] == group_N
    assert kept_N[~alone_N].all() and alone_N[from_N[alone_N]].all()


def test_a_last_review_alone_goes_to_the_largest_group():
    from_N = move_all(np.array([1, 1, 1, 2, 2, 9]))
    assert (from_N != np.arange(6)).all() and sorted(from_N[3:5]) == [3, 4]
    one_sentence(lambda: move_all(np.array([3])), "no other")


def test_a_control_keeps_what_each_category_has_and_all_else(pool):
    fields = read_fields(pool.split("train"))
    for name, part in (("other stars weighted", "stars"), ("other headline", "summary")):
        moved = fields_of_rung(fields, all_rungs()[name])
        for other in {"text", "stars", "summary"} - {part}:
            assert moved.columns[other] == fields.columns[other]
        assert (moved.meta == fields.meta)[~np.isnan(fields.meta["stars"])].all()
        group_N = group_numbers(fields.meta).tolist()
        before, after = (
            Counter(zip(group_N, f.columns[part], strict=True)) for f in (fields, moved)
        )
        assert before == after and moved.columns[part] != fields.columns[part]
    assert fields_of_rung(fields, all_rungs()["stars"]) is fields


def test_every_rung_has_a_control_that_differs_in_one_thing():
    rungs = all_rungs()
    for name, rung in rungs.items():
        if not rung.is_control and name != "bytes":
            control = rungs[control_of(name)]
            assert control.other and control.is_control
            same = (control.template, control.part_weights)
            assert same == (rung.template, rung.part_weights)
    assert not rungs[control_of("bytes")].trained


# ---------------------------------------------------------------- what is held equal


def test_all_rungs_of_a_text_read_the_same_reviews_in_one_order(corpora):
    ladder, climbs, found = corpora
    table = equal_table(ladder, climbs, found)
    for text in (0, 1):
        rows = [row for row in table if row["text"] == text]
        for name in ("reviews", "body_bytes", "order"):
            assert len({row[name] for row in rows}) == 1
        by = {row["reads"]: row["all_bytes"] for row in rows}
        if text == 0:  # a control reads as many bytes as its rung
            assert by["text_other_stars"] == by["text_stars"] == by["text"] + 2 * rows[0]["reviews"]
            assert by["text_other_summary"] == by["text_summary"] > by["text_stars"]
    assert 12_000 <= table[0]["body_bytes"] < 12_500
    assert {row["order"] for row in table if row["text"] == 0}.isdisjoint(
        row["order"] for row in table if row["text"] == 1
    )
    for corpus in found.values():
        corpus.verify()


def test_slices_of_text_do_not_overlap_and_too_much_is_refused(pool):
    fields = read_fields(pool.split("train"))
    slices = [body_slice(fields, start, 20_000) for start in (0, 20_000, 40_000)]
    assert np.concatenate(slices).tolist() == list(range(slices[-1][-1] + 1))
    one_sentence(lambda: body_slice(fields, 0, 10**7), "10,000,000 bytes of body text are needed")


def test_a_recut_corpus_is_opened_again_and_another_refused(pool, tmp_path):
    fields = read_fields(pool.split("valid"))
    how = (dict(train=fields), dict(by="test"))
    made = recut(pool, tmp_path / "c", Template("{text} {stars}"), *how)
    assert recut(pool, tmp_path / "c", Template("{text} {stars}"), *how).digest == made.digest
    assert read_fields(made.split("train")).columns["stars"] == fields.columns["stars"]
    assert open_corpus(tmp_path / "c").manifest["recut"] == dict(pool=pool.digest, by="test")
    for changed in ((Template("{text}"), *how), (Template("{text} {stars}"), how[0], dict(by="x"))):
        one_sentence(lambda c=changed: recut(pool, tmp_path / "c", *c), "holds another corpus")


def test_a_pool_without_stars_is_refused(tmp_path):
    rows = [dict(reviewText=f"text {n}", summary="s", overall=3) for n in range(9)]
    poor = make_shards(rows, tmp_path / "p", (1, 1, 0), template="{text} {summary}")
    ladder = Ladder(str(tmp_path / "ladder"), **TINY)
    one_sentence(lambda: corpora_of(ladder, poor, order_of_work(ladder)), "without stars")


# ---------------------------------------------------------------- the order of work


def test_a_ladder_that_is_stopped_early_has_all_rungs_of_one_seed():
    climbs = order_of_work(Ladder("out"))
    names = [climb.name for climb in climbs]
    assert len(set(names)) == len(names) == 2 * (3 * 10 + 5)
    first = climbs[:10]
    assert {(c.size, c.seed, c.text) for c in first} == {(256, 0, 0)}
    assert [c.rung.is_control for c in first] == [True] + [False] * 5 + [True] * 4
    assert not first[0].rung.trained
    keys = [(c.size, c.text, c.seed) for c in climbs]
    assert keys == sorted(keys)  # size, then text, then seed
    assert all(not c.rung.is_control and c.seed == 0 for c in climbs if c.text == 1)


def test_part_of_a_ladder_has_the_same_folders():
    whole = {climb.name for climb in order_of_work(Ladder("out"))}
    part = order_of_work(Ladder("out", sizes=[512], seeds=[1], rungs=["stars", "bytes"]))
    assert [c.rung.name for c in part[:2]] == ["bytes", "stars"]
    assert {c.name for c in part if c.text == 0} <= whole
    one_sentence(lambda: Ladder("out", rungs=["sky"]), "there is no rung 'sky'")
    one_sentence(lambda: Ladder("out", marks_mb=[13]), "up to body_mb")


# ---------------------------------------------------------------- training


def snapshots(run):
    return {p.name: load_file(p / "model.safetensors") for p in (run / "snapshots").iterdir()}


def same_weights(a, b):
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_a_climb_that_was_stopped_ends_with_the_same_weights(corpora, tmp_path, monkeypatch):
    ladder, climbs, found = corpora
    climb = next(c for c in climbs if c.rung.name == "stars weighted")
    corpus = found[climb.text, climb.rung.reads]
    whole = snapshots(train_climb(ladder, climb, corpus))
    assert list(sorted(whole)) == ["0000.004MB", "0000.012MB"]
    assert not same_weights(*whole.values())
    elsewhere = Ladder(str(tmp_path), **TINY)
    with monkeypatch.context() as patched:
        patched.setattr(ladder_room, "Progress", lambda: StopAt(45))
        with pytest.raises(Stopped):
            train_climb(elsewhere, climb, corpus)
    run = tmp_path / climb.name
    assert list(snapshots(run)) == ["0000.004MB"]
    shutil.rmtree(run / "snapshots")  # as after a kill before the mark: made again from there
    again = snapshots(train_climb(elsewhere, climb, corpus))
    assert same_weights(again["0000.012MB"], whole["0000.012MB"])
    assert "0000.004MB" not in again  # its place is past: never other weights under its name


def test_the_untrained_network_is_what_its_rungs_begin_with(corpora):
    ladder, climbs, found = corpora
    fresh, rung = climbs[0], climbs[5]
    assert not fresh.rung.trained and rung.rung.name == "stars weighted"
    [weights] = snapshots(train_climb(ladder, fresh, found[0, fresh.rung.reads])).values()
    config = climb_config(ladder, rung, found[0, rung.rung.reads])
    model = first_model(settled(config, 1)[0], torch.device("cpu"))
    assert same_weights(weights, model.state_dict())
    H = config.model.hidden_size
    assert (weights["rnn.layers.0.b"][H : H + H // 4] > 0).any()  # some units begin slow


# ---------------------------------------------------------------- the record


def test_a_torn_line_is_left_out_and_a_broken_one_named(tmp_path):
    path = tmp_path / "readings.jsonl"
    assert read_record(path) == []
    add_row(path, dict(a=1))
    with open(path, "ab") as file:
        file.write(b'{"a": 2, "b"')
    assert read_record(path) == [dict(a=1)]
    add_row(path, dict(a=[0.1, None]))
    assert read_record(path) == [dict(a=1), dict(a=[0.1, None])]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    one_sentence(lambda: read_record(path), "line 2, is no JSON")


@pytest.fixture(scope="module")
def climbed(pool, tmp_path_factory):
    "The smallest ladder, climbed."
    folder = tmp_path_factory.mktemp("climbed")
    ladder = Ladder(str(folder), **TINY | dict(rungs=["untrained", "stars"]))
    texts = ladder_texts(pool, 60, 60, {})
    return ladder, pool, texts, climb_ladder(ladder, pool, texts, 2, 5)


def test_a_record_says_what_was_read_where(climbed):
    ladder, _, texts, rows = climbed
    assert [(r["rung"], r["mark"], r["kind"]) for r in rows] == [
        *(("untrained", 0.0, "stars"), ("untrained", 0.0, "asked")),
        *(("stars", 0.004, "stars"), ("stars", 0.012, "stars"), ("stars", 0.012, "asked")),
    ]
    last = rows[3]
    assert last["carrier"]["unit"] == int(
        np.minimum(last["units"]["last"], last["units"]["inside"]).argmax()
    )
    value, low, high, n = last["all"]["inside"]
    assert low <= value <= high and n == len(texts.judge)
    assert set(last["bits"]) == {"frame", "text", "stars"} and last["bits"]["text"] < 8
    assert rows[0]["bits"].keys() == {"frame", "text"} and 7 < rows[0]["bits"]["text"] < 9
    assert json.loads(json.dumps(rows)) == rows


def test_what_is_finished_is_not_done_again(climbed, monkeypatch):
    ladder, pool, texts, rows = climbed

    def never(*args):
        raise AssertionError("it trained again")

    monkeypatch.setattr(record_room, "train_climb", never)
    assert climb_ladder(ladder, pool, texts, 2, 5) == rows
    climb = order_of_work(ladder)[1]
    less = [row for row in rows if row["mark"] != 0.004]
    lacking = lacking_of(less, ladder, climb, texts)
    assert lacking == [Reading(climb.name, 0.004, "stars", texts.digest("stars"))]
    other = texts._replace(judge=texts.choose)
    assert len(lacking_of(rows, ladder, climb, other)) == 3  # of other texts all is asked again


def test_a_lost_line_is_measured_again_to_the_same_numbers(climbed):
    ladder, pool, texts, rows = climbed
    path = f"{ladder.out}/readings.jsonl"
    kept = [row for row in rows if row["mark"] != 0.004]
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in kept)
    again = climb_ladder(ladder, pool, texts, 2, 5)
    lost, made = (next(r for r in many if r["mark"] == 0.004) for many in (rows, again))
    assert made | dict(seconds=0) == lost | dict(seconds=0)


# ---------------------------------------------------------------- texts


def test_lengths_are_balanced_within_a_category(tmp_path):
    rows = [
        dict(reviewText=f"{n:02} " + "word " * words, overall=stars, category="toy")
        for n, (stars, words) in enumerate([(5, 3)] * 20 + [(1, 30)] * 20 + [(1, 3)] * 5)
    ]
    shards = make_shards(rows, tmp_path / "c", (1, 0, 0)).split("train")
    by_category = labelled_by_stars(shards, within="category")
    even = labelled_by_stars(shards, within="category and length")
    assert len(by_category) == 40 and length_area(by_category) < 0.2
    assert len(even) == 10 and max(map(len, even.texts)) < 40
    assert length_area(even) == 0.5


def test_a_set_cut_in_three_has_no_text_twice():
    data = Texts([f"text {n}" for n in range(50)], np.arange(50) % 2)
    parts = cut_in_three(data, 40, 20, 40)
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [20, 10, 20]
    texts = [text for part in parts.values() for text in part.texts]
    assert len(set(texts)) == 50
    label = {text: n % 2 for n, text in enumerate(data.texts)}
    assert all(
        label[t] == y for p in parts.values() for t, y in zip(p.texts, p.labels, strict=True)
    )


def test_two_sets_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "films.csv").write_text("label,sentence\n" + "0,no\n1,yes\n" * 9)
    files = [str(tmp_path / name / "films.csv") for name in ("a", "b")]
    one_sentence(lambda: labelled_sets("samples", files, [4, 4, 4]), "films.csv; rename one")


def test_asked_texts_end_where_the_answer_begins():
    [asked] = asked_texts(Texts(["Good."], np.array([1])), "openai").texts
    assert asked == b"\n Good.\n"


# ---------------------------------------------------------------- the report


def test_intervals_over_seeds_are_those_of_students_t():
    values = [0.61, 0.58, 0.66]
    found = over_seeds(values)
    low, high = ttest_1samp(values, 0).confidence_interval()
    assert np.allclose(found[:3], (np.mean(values), low, high)) and found.n == 3
    assert np.isnan(over_seeds([0.6]).low) and over_seeds([]).n == 0


def line(rung, seed, inside, mark=12.0, text=0, units=None):
    row = dict(climb=f"{rung}{seed}{text}", kind="stars", rung=rung, seed=seed, text=text)
    row |= dict(mark=mark, size=8, control=False, units=units)
    return row | dict(carrier=dict(inside=[inside, 0, 1, 9], unit=0))


def test_differences_are_of_one_seed():
    rows = [line("stars", 0, 0.7), line("stars", 1, 0.9), line("bytes", 1, 0.6)]
    found = paired(rows, "stars", "bytes", "carrier, inside")
    assert found.n == 1 and abs(found.value - 0.3) < 1e-9


def test_only_finished_models_are_counted():
    rows = [line("stars", 0, 0.6, 6.0), line("stars", 0, 0.7), line("bytes", 0, 0.6, 6.0)]
    rows += [line("untrained", 0, 0.5, 0.0)]
    for order in (rows, rows[::-1]):  # a lost line is made again, behind those of later marks
        assert {row["rung"] for row in finished(order, 12.0)} == {"stars", "untrained"}
    assert finished(rows, 12.0, size=9) == []


def test_what_holds_from_a_mark_on():
    marks = [1, 2, 4, 8]
    assert from_then_on([True, False, True, True], marks) == 4
    assert from_then_on([True, True, True, False], marks) is None
    assert from_then_on([True] * 4, marks) == 1


def test_pairs_of_models_are_told_apart():
    a = line("stars", 0, 0.7, units=dict(last=[0.5] * 12, inside=list(np.arange(12) / 20)))
    b = line("stars", 0, 0.7, text=1, units=a["units"])
    assert kind_of_pair(a, b) == "same rung and seed, other text"
    assert kind_of_pair(a, line("bytes", 1, 0.7)) == "other rung and seed, same text"
    assert kind_of_pair(a, a) is None
    same, ten, correlation = overlap_of(a, b)
    assert same and ten == 10 and correlation > 0.99


def test_the_spread_of_a_probe_counts_equal_units():
    assert spread_of(np.array([0.25] * 4)) == 4 and spread_of(np.array([1.0, 0])) == 1
    assert spread_of(np.zeros(3)) == 0


# ---------------------------------------------------------------- the notebook


def test_the_recipe_is_the_whole_ladder(tmp_path):
    plan = plan_run(read_recipe("ladder"), dict(data=["a.jsonl"]), tmp_path)
    given = plan["70_ladder"]
    ladder = Ladder(
        str(tmp_path), **{name: given[name] for name in vars(Ladder("")) if name in given}
    )
    assert list(plan) == ["70_ladder"] and order_of_work(ladder) == order_of_work(Ladder(""))
    assert ladder == Ladder(str(tmp_path))  # the room's defaults are the recipe's


@pytest.mark.slow
def test_the_smallest_ladder_runs_in_its_notebook(tmp_path, monkeypatch):
    fork_kernels(monkeypatch)
    runs = shutil.copytree(ROOT / "nbs" / "runs", tmp_path / "nbs" / "runs")
    less = dict(rungs=["untrained", "stars"], repeats=5, places=2)
    for train in (True, False):
        papermill.execute_notebook(
            runs / "70_ladder.ipynb",
            tmp_path / "70.ipynb",
            less | dict(train=train),
            cwd=runs,
            progress_bar=False,
        )
    out = tmp_path / "out" / "ladder"
    result = json.loads((out / "ladder.json").read_text())
    assert result["progress"] == [
        {"units": 16, "rungs": "1 of 1", "controls": "1 of 1", "rungs, other text": "0 of 0"}
    ]
    assert result["rows"] == len(read_record(out / "readings.jsonl")) == 8
    assert [row["rung"] for row in result["rungs"]["16"]] == ["stars", "untrained"]
