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
from sentiment_kit.model.loss import cross_entropy, mean_and_nats
from sentiment_kit.training import trainer as trainer_room
from sentiment_kit.training.callbacks import usual_callbacks
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.config import TrainConfig, changed_settings, read_train_config
from sentiment_kit.training.evaluate import evaluate
from sentiment_kit.training.log import SUMS, means, tally
from sentiment_kit.training.metrics import Metrics, read_metrics
from sentiment_kit.training.part_weights import (
    take_mean_weight_out,
    weights_by_number,
    weights_of_targets,
)
from sentiment_kit.training.queued_step import launch_step
from sentiment_kit.training.run_state import RunState, Step
from sentiment_kit.training.step import go_back, take_step
from sentiment_kit.training.trainer import Trainer, train
from sentiment_kit.transfer.finetune import FinetuneConfig

LN2 = math.log(2)
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


def lines_of(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def last_line(run):
    return lines_of(run)[-1]


def untimed(line):
    return {name: value for name, value in line.items() if name not in ("seconds", "bytes_per_s")}


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


def sums_by_definition(model, state, batch, names):
    "Summed nats, and bytes, of each part: target by target."
    with torch.no_grad():
        logits_BTV, _ = model(batch.input_BT, state, batch.reset_BT)
    nats_BT = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), batch.target_BT.flatten(), reduction="none"
    )
    sums = {name: [0.0, 0] for name in names}
    for nats, part in zip(nats_BT.tolist(), batch.part_BT.flatten().tolist(), strict=True):
        sums[names[part]][0] += nats
        sums[names[part]][1] += 1
    return sums


@pytest.mark.parametrize("take", [take_step, launch_step])
@pytest.mark.parametrize("weights", [{}, WEIGHTS])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_tells_what_each_part_took(starred, tmp_path, take, weights, accumulate):
    how = dict(part_weights=weights, accumulate=accumulate)
    trainer = Trainer(settings(starred, tmp_path, **how), [])
    for batch in itertools.islice(trainer.loader, 3):
        want = sums_by_definition(trainer.model, trainer.run.state, batch, starred.parts)
        take(trainer, batch)
        step = trainer.run.last
        assert list(step.parts) == list(starred.parts) and step.n_bytes == 16 * 32
        for name, (nats, n) in want.items():
            assert step.parts[name] == [pytest.approx(nats, rel=1e-5), n]


def test_a_line_has_the_mean_of_each_part(starred, tmp_path):
    fine, coarse = (
        lines_of(train(settings(starred, tmp_path / str(n), log_every=n, stop_bytes=8 * 512)))[1:]
        for n in (1, 4)
    )
    assert len(fine) == 8 and len(coarse) == 2
    for k, line in enumerate(coarse):
        own = fine[4 * k : 4 * k + 4]
        for part in starred.parts:
            n = [each.get(f"loss_bytes_{part}", 0) for each in own]
            bits = [each.get(f"loss_bits_{part}", 0.0) for each in own]
            assert line[f"loss_bytes_{part}"] == sum(n) > 0
            assert line[f"loss_bits_{part}"] == pytest.approx(np.average(bits, weights=n), rel=1e-6)
    for line in [*fine, *coarse]:
        n = [line.get(f"loss_bytes_{part}", 0) for part in starred.parts]
        bits = [line.get(f"loss_bits_{part}", 0.0) for part in starred.parts]
        assert sum(n) == (512 if line in fine else 4 * 512)
        assert line["loss_bits"] == pytest.approx(np.average(bits, weights=n), rel=1e-6)


def test_telling_parts_changes_no_gradient_to_the_bit(starred, tmp_path, monkeypatch):
    how = dict(accumulate=2, log_every=2, stop_bytes=6 * 16 * 32)
    told = train(settings(starred, tmp_path / "told", **how))
    monkeypatch.setattr(trainer_room, "told_parts", lambda corpus: ())
    silent = train(settings(starred, tmp_path / "silent", **how))
    assert same_weights(told, silent)
    timed = ("seconds", "bytes_per_s")
    for line, plain in zip(lines_of(told), lines_of(silent), strict=True):
        more = set(line) - set(plain)
        assert all(name.startswith(("loss_bits_", "loss_bytes_")) for name in more)
        assert all(line[name] == plain[name] for name in plain if name not in timed)
        assert more or line["step"] == 0


def test_the_mean_that_training_goes_back_from_is_torchs_own_to_the_bit():
    draw = torch.Generator().manual_seed(0)
    target_BT = torch.randint(256, (3, 50), generator=draw)
    for dtype, time_first in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        shape = (50, 3, 256) if time_first else (3, 50, 256)
        made = (4 * torch.randn(shape, generator=draw)).to(dtype)
        grads = []
        for ours in (True, False):
            lies = made.clone().requires_grad_()
            logits_BTV = lies.transpose(0, 1) if time_first else lies
            if ours:
                mean, nats_BT = mean_and_nats(logits_BTV, target_BT)
                assert not nats_BT.requires_grad
                assert torch.equal(nats_BT, cross_entropy(logits_BTV, target_BT, mean=False))
            else:
                ids_N = (target_BT.t() if time_first else target_BT).reshape(-1)
                mean = torch.nn.functional.cross_entropy(lies.float().view(-1, 256), ids_N)
            mean.backward()
            grads += [mean.detach(), lies.grad]
        assert torch.equal(grads[0], grads[2]) and torch.equal(grads[1], grads[3])


def test_an_interrupted_run_tells_its_parts_as_if_nothing_had_been(starred, even, tmp_path):
    half = settings(starred, tmp_path / "run", save_every=5)
    with pytest.raises(KitError, match="stopped"):
        train(half, [StopAt(8), *usual_callbacks()])  # in the middle of a line
    told = [untimed(line) for line in lines_of(train(half))]
    assert told == [untimed(line) for line in lines_of(even)]
    assert all("loss_bits_stars" in line for line in told[1:])


def test_a_pending_step_keeps_its_parts():
    parts = {"text": [12.5, 10], "stars": [3.0, 1]}
    run = RunState(100, 100, None)
    run.advance(Step(None, None, 1.4, 11, 0.1, {"skipped": False}, parts), None)
    run.pending = True
    again = RunState(100, 100, None)
    again.take_up(json.loads(json.dumps(run.unseen())))
    assert again.last.parts == parts
    run.take_up({"nats": 1.4, "n_bytes": 11, "seconds": 0.1, "figures": {}})  # an older one
    run.pending = True
    assert run.last.parts == {} and "parts" not in run.unseen()


def test_a_line_that_was_begun_without_parts_tells_none():
    "A run of an older version that goes on in the middle of a line."
    old = dict.fromkeys(SUMS, 0) | {"nats": 4000.0, "bytes": 1000}
    figures = {"clipped": False, "skipped": False}
    step = Step(None, None, 2.0, 512, 0.1, figures, {"text": [1000.0, 500], "stars": [24.0, 12]})
    assert not any("_text" in name for name in means(tally(old, step)))
    line = means(tally(dict.fromkeys(SUMS, 0), step))
    assert line["loss_bytes_stars"] == 12 and line["loss_bits_stars"] == pytest.approx(2 / LN2)
    lost = step._replace(nats=math.nan)
    assert means(tally(tally(dict.fromkeys(SUMS, 0), step), lost))["loss_bytes_text"] == 500


@pytest.mark.slow
def test_ranks_with_weights_train_what_one_process_trains(starred, tmp_path):
    config = settings(starred, tmp_path, part_weights=WEIGHTS, accumulate=2, log_every=1)
    for n in (1, 2):
        run_ranks(train_double, n, [asdict(replace(config, out=str(tmp_path / str(n))))])
    one, two = (weights_of(tmp_path / str(n)) for n in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-9
    alone, together = (lines_of(tmp_path / str(n)) for n in (1, 2))
    for line, same in zip(alone, together, strict=True):
        assert {k: v for k, v in line.items() if k.startswith("loss_")} == pytest.approx(
            {k: v for k, v in same.items() if k.startswith("loss_")}, rel=1e-9
        )
    assert "loss_bits_stars" in together[-1]


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
    told = [field for line in lines_of(plain_run) for field in line]
    assert not [
        field for field in told if field.startswith(("valid_bits_", "loss_bits_", "loss_by"))
    ]
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


def test_training_losses_of_parts_are_drawn_beside_their_validations(even, plain_run):
    figures = [plot_losses([run], x="steps") for run in (even, plain_run)]
    drawn, none = (
        {
            trace.name.rpartition(", ")[2]: trace
            for trace in figure.data
            if "training," in trace.name
        }
        for figure in figures
    )
    assert drawn.keys() == none.keys() == {"frame", "text", "summary", "stars"}
    assert not any(len(trace.y) for trace in none.values())
    lines = lines_of(even)
    ends = [n for n, line in enumerate(lines) if n and "valid_bits" in line]
    want = []
    for start, end in zip([0, *ends], ends, strict=False):
        between = [line for line in lines[start + 1 : end + 1] if "loss_bits_stars" in line]
        n = [line["loss_bytes_stars"] for line in between]
        want.append(np.average([line["loss_bits_stars"] for line in between], weights=n))
    assert list(drawn["stars"].y) == pytest.approx(want, rel=1e-9)
    assert list(drawn["stars"].x) == [lines[n]["step"] for n in ends]
    said = [figure.layout.legend.title.text for figure in figures]
    assert "★ in training" in said[0] and "in training" not in said[1]


def test_a_run_that_is_followed_has_the_means_of_one_that_is_read(even, tmp_path):
    whole = read_metrics(even)
    text = (even / "metrics.jsonl").read_bytes()
    followed = Metrics(tmp_path)
    for cut in (len(text) // 3, len(text) // 2, len(text)):
        (tmp_path / "metrics.jsonl").write_bytes(text[:cut])
        followed.look()
    for name, column in whole.items():
        np.testing.assert_array_equal(followed.columns[name], column)
    assert np.isfinite(whole["train_bits_stars"]).sum() >= 1


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
