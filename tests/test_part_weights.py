"""Weights of a template's parts, losses told part by part, and whose text a model reads."""

import itertools
import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import run_ranks
from ranks import train_double
from safetensors.torch import load_file
from stop_at import StopAt

from sentiment_kit import TextClassifier
from sentiment_kit.cli import main
from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.files import KitError, read_json
from sentiment_kit.data.loader import PartBatch, ShardLoader
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.starred import labelled_by_stars
from sentiment_kit.evidence.gap_losses import measure_losses
from sentiment_kit.evidence.held_out import hold_out
from sentiment_kit.looking.loss_curves import plot_losses
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import cross_entropy
from sentiment_kit.training import trainer as trainer_room
from sentiment_kit.training.callbacks import usual_callbacks
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.config import TrainConfig, changed_settings, read_train_config
from sentiment_kit.training.evaluate import evaluate
from sentiment_kit.training.part_weights import (
    take_mean_weight_out,
    weights_by_number,
    weights_of_targets,
)
from sentiment_kit.training.queued_step import launch_step
from sentiment_kit.training.step import go_back, take_step
from sentiment_kit.training.trainer import Trainer, train
from sentiment_kit.transfer.finetune import FinetuneConfig

STARRED = "{text}\n{stars} {summary}"
TINY = LanguageModelConfig(hidden_size=16, embed_size=4)
USUAL = dict(global_batch=16, seq_len=32, lr=0.2, max_lr=0.02, log_every=5, valid_lanes=16)
USUAL |= dict(progress="none", device="cpu", stop_bytes=20 * 16 * 32)


def rows(n):
    draw = random.Random(0)
    for i in range(n):
        good = draw.random() < 0.5
        words = ["lovely", "warm", "perfect"] if good else ["broken", "poor", "dreadful"]
        text = " ".join(draw.choice([*words, "it", "is", "the kettle"]) for _ in range(6))
        yield dict(reviewText=f"{i} {text}", summary=words[0], overall=5 if good else 1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(1500)))
    return path


@pytest.fixture(scope="module")
def corpora(written):
    made = {}
    for name, template in (
        ("plain", "{text}"),
        ("starred", STARRED),
        ("headed", "{text}: {summary}"),
    ):
        out = written.parent / name
        made[name] = make_shards(written, out, counts=(1, 1, 1), template=template)
    return made


@pytest.fixture
def starred(corpora):
    return corpora["starred"]


def settings(corpus, out, **changes):
    return TrainConfig(str(corpus.folder), str(out), **({"model": TINY} | USUAL | changes))


def last_line(run):
    return json.loads((Path(run) / "metrics.jsonl").read_text().splitlines()[-1])


def weights_of(run):
    return load_file(latest_checkpoint(run) / "model.safetensors")


def same_weights(a, b):
    return all(torch.equal(x, weights_of(b)[name]) for name, x in weights_of(a).items())


@pytest.fixture(scope="module")
def even(corpora):
    return train(settings(corpora["starred"], corpora["starred"].folder.parent / "even"))


@pytest.fixture(scope="module")
def plain_run(corpora):
    return train(settings(corpora["plain"], corpora["plain"].folder.parent / "plain_run"))


# Whose text a model reads


def test_a_trained_model_knows_the_template_of_its_corpus(even, plain_run):
    assert LanguageModel.from_pretrained(latest_checkpoint(even)).config.template == STARRED
    assert read_train_config(even).model.template == STARRED
    assert read_train_config(plain_run).model.template == "{text}"


def test_a_template_that_contradicts_the_corpus_is_refused(corpora, tmp_path):
    for name, said in (("plain", STARRED), ("starred", "{text} {stars}")):
        config = settings(corpora[name], tmp_path, model=replace(TINY, template=said))
        with pytest.raises(KitError, match="template is .* was built with .* leave template out"):
            Trainer(config)
    escaped = replace(TINY, template=r"{text}\n{stars} {summary}")
    assert Trainer(settings(corpora["starred"], tmp_path, model=escaped)).model.config == replace(
        TINY, template=STARRED
    )


@pytest.mark.parametrize(
    "pair", [("plain", "starred"), ("starred", "plain"), ("starred", "headed")]
)
def test_a_model_is_not_judged_on_other_text(corpora, pair):
    template = corpora[pair[0]].template.text
    with pytest.raises(KitError, match="the model reads reviews as") as error:
        evaluate(LanguageModel(replace(TINY, template=template)), corpora[pair[1]], "valid")
    assert "\n" not in str(error.value)


def test_weights_go_on_with_another_template_only_where_it_is_said(
    corpora, plain_run, even, tmp_path
):
    config = settings(corpora["starred"], tmp_path, start_from=str(plain_run))
    config = replace(config, model=LanguageModelConfig())
    with pytest.raises(KitError, match="reads reviews as '{text}'.* set template="):
        Trainer(config)
    said = replace(config, model=LanguageModelConfig(template=STARRED))
    trainer = Trainer(said)
    assert trainer.model.config == replace(TINY, template=STARRED)
    before = weights_of(plain_run)
    assert all(torch.equal(x, before[name]) for name, x in trainer.model.state_dict().items())
    back = settings(corpora["plain"], tmp_path, start_from=str(even))
    with pytest.raises(KitError, match="take its corpus") as error:
        Trainer(back)
    assert "set template" not in str(error.value)


def test_a_branch_keeps_its_template(corpora, even, tmp_path):
    with pytest.raises(KitError, match="reads reviews as .* take its corpus"):
        Trainer(settings(corpora["plain"], tmp_path, branch_from=str(even)))
    other = replace(TINY, template="{text} {stars}")
    with pytest.raises(KitError, match="template is '{text} {stars}', but"):
        Trainer(settings(corpora["starred"], tmp_path, model=other, branch_from=str(even)))


def test_a_run_on_a_starred_corpus_goes_on(starred, even, tmp_path):
    half = settings(starred, tmp_path / "run", save_every=5)
    with pytest.raises(KitError, match="stopped"):
        train(half, [StopAt(10), *usual_callbacks()])
    assert same_weights(train(half), even)


def test_the_loss_gap_refuses_other_text(written, tmp_path):
    how = dict(counts=(12, 1, 1), order="shard_then_shuffle")
    for name, template in (("plain", "{text}"), ("starred", STARRED)):
        made = make_shards(written, tmp_path / name, template=template, **how)
        hold_out(made, tmp_path / f"{name}_held", K=3, shards=2, seed=1)
    config = settings(open_corpus(tmp_path / "plain_held"), tmp_path / "run", save_every=5)
    train(replace(config, keep=4))
    assert len(measure_losses(tmp_path / "run"))
    (tmp_path / "run" / "gap_losses.npz").unlink()
    with pytest.raises(KitError, match="the model reads reviews as '{text}'"):
        measure_losses(tmp_path / "run", tmp_path / "starred_held")


# Settings


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (dict(headline=3), "no part; parts are frame, text, summary, stars"),
        (dict(stars=-1), "use at least 0"),
        (dict(stars=math.nan), "use at least 0"),
        (dict(stars=math.inf), "use at least 0"),
        (dict(stars="many"), "use a number"),
        (dict(stars=True), "use a number"),
        (dict(stars=1e9), "use at most"),
        ([60], "use parts and numbers"),
    ],
)
def test_weights_that_are_none_are_one_sentence(weights, said):
    with pytest.raises(KitError, match=said) as error:
        TrainConfig("corpus", "out", part_weights=weights)
    assert "part_weights" in str(error.value) and "\n" not in str(error.value)


def test_weights_must_fit_the_corpus(corpora, tmp_path):
    with pytest.raises(
        KitError, match="part_weights has stars, but the corpus has the parts frame"
    ):
        Trainer(settings(corpora["plain"], tmp_path, part_weights=dict(stars=60)))
    nothing = dict.fromkeys(("frame", "text", "stars", "summary"), 0)
    with pytest.raises(KitError, match="nothing would be learnt"):
        Trainer(settings(corpora["starred"], tmp_path, part_weights=nothing))


def test_a_run_keeps_its_weights_and_an_older_one_had_none(corpora):
    config = settings(corpora["starred"], "out", part_weights=dict(stars=60))
    stored = json.loads(json.dumps(asdict(config)))
    assert changed_settings(stored, config) == []
    [(name, then, now)] = changed_settings(stored, replace(config, part_weights={}))
    assert (name, then, now) == ("part_weights", {"stars": 60}, {})
    del stored["part_weights"]
    assert changed_settings(stored, replace(config, part_weights={})) == []
    assert [name for name, *_ in changed_settings(stored, config)] == ["part_weights"]


@pytest.mark.parametrize("words", [["stars", "60", "summary", "3"], ["stars=60", "summary=3"]])
def test_the_command_takes_weights(starred, tmp_path, monkeypatch, words):
    got = []
    monkeypatch.setattr(trainer_room, "launch", lambda config, **how: got.append(config) or "done")
    command = ["train", "--corpus", str(starred.folder), "--out", str(tmp_path / "run")]
    assert main([*command, "--part-weights", *words, "--epochs", "2"]) == 0
    assert got[0].part_weights == {"stars": 60, "summary": 3} and got[0].epochs == 2


# The weighted mean


def oracle(model, batch, weight_P):
    "Σ w·nats / Σ w by its definition, and the plain mean."
    logits_BTV, _ = model(batch.input_BT, None, batch.reset_BT)
    nats_BT = cross_entropy(logits_BTV, batch.target_BT, mean=False)
    weight_BT = torch.tensor(weight_P)[batch.part_BT.long()]
    ((nats_BT * weight_BT).sum() / weight_BT.sum()).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return gradients, nats_BT.mean().item()


WEIGHTS = dict(stars=60, summary=2.5, frame=0)


def caught(trainer):
    "The gradients that its optimizer is given."
    taken = []
    trainer.optimizer.step = lambda: taken.extend(
        p.grad.clone() for p in trainer.model.parameters()
    )
    return taken


@pytest.mark.parametrize("take", [take_step, launch_step])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_gradient_is_that_of_the_weighted_mean(starred, tmp_path, take, accumulate):
    how = dict(part_weights=WEIGHTS, accumulate=accumulate, clip_norm=0.0)
    trainer = Trainer(settings(starred, tmp_path, **how), [])
    taken = caught(trainer)
    batch = next(iter(trainer.loader))
    want, nats = oracle(trainer.model, batch, weights_by_number(WEIGHTS, starred.parts))
    take(trainer, batch)
    torch.testing.assert_close(taken, want, rtol=1e-4, atol=1e-6)
    assert trainer.run.last.nats == pytest.approx(nats, rel=1e-6)


def test_two_ranks_go_back_from_what_one_does(starred, tmp_path):
    "By hand: the mean of what both have, divided by the mean weight of all targets."
    trainer = Trainer(settings(starred, tmp_path, part_weights=WEIGHTS, clip_norm=0.0), [])
    batch = next(iter(trainer.loader))
    want, _ = oracle(trainer.model, batch, weights_by_number(WEIGHTS, starred.parts))
    state = trainer.model.rnn.initial_state(8)
    gradients = []
    extras = []
    for half in zip(*(t.chunk(2) for t in batch), strict=True):
        trainer.run.state = state
        back = go_back(trainer, PartBatch(*half), trainer.scaler)
        gradients.append([g.clone() for g in back.gradients])
        extras.append(back.extras)
        trainer.model.zero_grad()
    assert float(extras[0].weight) != float(extras[1].weight)
    mean = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
    weight = sum(float(each.weight) for each in extras)
    take_mean_weight_out(mean, weight / sum(each.n_bytes for each in extras))
    torch.testing.assert_close(mean, want, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_ranks_with_weights_train_what_one_process_trains(starred, tmp_path):
    config = settings(starred, tmp_path, part_weights=WEIGHTS, accumulate=2, log_every=1)
    for n in (1, 2):
        run_ranks(train_double, n, [asdict(replace(config, out=str(tmp_path / str(n))))])
    one, two = (weights_of(tmp_path / str(n)) for n in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-9


def test_a_queued_run_with_weights_is_the_waiting_run_to_the_bit(starred, tmp_path, monkeypatch):
    runs = []
    for name, take in (("waits", take_step), ("queued", launch_step)):
        monkeypatch.setattr(trainer_room, "take_step", take)
        how = dict(part_weights=WEIGHTS, clip_norm=0.0, stop_bytes=8 * 16 * 32)
        runs.append(train(settings(starred, tmp_path / name, **how)))
    assert same_weights(*runs)


def test_weights_that_are_all_alike_change_nothing(starred, even, tmp_path):
    alike = dict.fromkeys(starred.parts, 7.0)
    run = train(settings(starred, tmp_path / "run", part_weights=alike))
    assert last_line(run)["loss_bits"] == pytest.approx(last_line(even)["loss_bits"], abs=1e-3)
    assert last_line(run)["valid_bits"] == pytest.approx(last_line(even)["valid_bits"], abs=1e-3)


def test_steps_without_any_weight_leave_numbers(starred, tmp_path):
    only = dict.fromkeys(("frame", "text", "summary"), 0)
    how = dict(part_weights=only, global_batch=2, seq_len=3, stop_bytes=60)
    trainer = Trainer(settings(starred, tmp_path, **how), [])
    weights = []
    for batch in itertools.islice(trainer.loader, 10):
        weights.append(weights_of_targets(batch.part_BT, trainer.weight_P).sum().item())
        take_step(trainer, batch)
    assert 0 in weights
    assert all(p.isfinite().all() for p in trainer.model.parameters())


# What is told of each part


def test_the_bits_of_each_part_are_those_of_its_bytes(starred, even):
    model = LanguageModel.from_pretrained(latest_checkpoint(even))
    result = evaluate(model, starred, "valid", lanes=16)
    assert result.template == STARRED
    nats = dict.fromkeys(starred.parts, 0.0)
    n = dict.fromkeys(starred.parts, 0)
    state = None
    for batch in ShardLoader(starred, "valid", 16, 256, parts=True):
        with torch.no_grad():
            logits_BTV, state = model(batch.input_BT, state, batch.reset_BT)
        nats_BT = cross_entropy(logits_BTV, batch.target_BT, mean=False)
        for bits, part in zip(nats_BT.flatten().tolist(), batch.part_BT.flatten(), strict=True):
            nats[starred.parts[int(part)]] += bits / math.log(2)
            n[starred.parts[int(part)]] += 1
    want = {name: nats[name] / n[name] for name in starred.parts}
    assert result.part_bits == pytest.approx(want, rel=1e-5)
    whole = sum(result.part_bits[name] * n[name] for name in n) / result.n_bytes
    assert whole == pytest.approx(result.bits_per_byte, rel=1e-6)
    line = last_line(even)
    assert {name: line[f"valid_bits_{name}"] for name in n} == pytest.approx(want, rel=1e-5)


def test_text_alone_is_told_as_before(corpora, plain_run):
    assert not [field for field in last_line(plain_run) if field.startswith("valid_bits_")]
    model = LanguageModel.from_pretrained(latest_checkpoint(plain_run))
    row = evaluate(model, corpora["plain"], "valid").row()
    assert list(row) == "bits_per_byte half_width n_bytes split reset lanes preset".split()


def test_the_command_prints_the_bits_of_each_part(starred, even, capsys):
    assert main(["evaluate", str(even), str(starred.folder)]) == 0
    said = capsys.readouterr().out
    assert all(f"'{part}': " in said for part in starred.parts)


def test_parts_are_drawn_where_a_run_has_them(even, plain_run):
    figures = [plot_losses([run], x="steps") for run in (even, plain_run)]
    assert len(figures[0].data) == len(figures[1].data)
    drawn = [
        {
            trace.name.rpartition(", ")[2]: trace
            for trace in figure.data
            if "validation, " in trace.name
        }
        for figure in figures
    ]
    bits = [json.loads(line) for line in (even / "metrics.jsonl").read_text().splitlines()]
    want = [line["valid_bits_stars"] for line in bits if "valid_bits_stars" in line]
    assert list(drawn[0]["stars"].y) == want and len(want) >= 2
    assert drawn[0].keys() == {"frame", "text", "summary", "stars"}
    assert not any(len(trace.y) for trace in drawn[1].values())
    lowest = figures[0].layout.yaxis.autorangeoptions.clipmin
    assert lowest < min(want[1:])


# From made-up reviews to a classifier


def test_star_bits_fall_with_their_weight(starred, even, tmp_path):
    run = train(settings(starred, tmp_path / "run", part_weights=dict(stars=60, summary=3)))
    light, heavy = (last_line(each)["valid_bits_stars"] for each in (even, run))
    assert heavy < light - 0.3
    assert last_line(run)["valid_bits_text"] > last_line(even)["valid_bits_text"]
    model = LanguageModel.from_pretrained(latest_checkpoint(run))
    assert model.config.template == STARRED
    texts = ["lovely warm perfect", "broken poor dreadful"] * 10
    labels = np.array([1, 0] * 10)
    classifier = TextClassifier(model, FinetuneConfig(mode="frozen"))
    classifier.fit(texts, labels, texts, labels)
    folder = classifier.save_pretrained(tmp_path / "classifier")
    again = TextClassifier.from_pretrained(folder)
    assert again.predict(texts).tolist() == classifier.predict(texts).tolist()
    assert (again.predict(texts) == labels).mean() > 0.9
    assert read_json(folder / "config.json")["template"] == STARRED


def test_whoever_learns_from_stars_does_not_read_them(corpora):
    plain, starred = (
        labelled_by_stars(corpora[name].split("train"), n=200) for name in ("plain", "starred")
    )
    assert not any("\n" in text for text in starred.texts)
    every = {
        name: {
            text
            for s in ("train", "valid", "test")
            for text in labelled_by_stars(corpora[name].split(s)).texts
        }
        for name in ("plain", "starred")
    }
    assert len(plain.texts) == 200 and len(every["plain"] & every["starred"]) > 1000
