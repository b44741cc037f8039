"""What a run finds when it starts: damaged checkpoints, room, other weights, more epochs."""

import dataclasses
import errno
import itertools
import json
import math
import os
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stop_at import StopAt

from sentiment_kit.cli import main
from sentiment_kit.data.datasets import SAMPLE_KEYS, SAMPLES
from sentiment_kit.data.files import KitError, read_json
from sentiment_kit.data.shards import make_shards
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.training import checkpoint, preflight
from sentiment_kit.training.callbacks import Progress, usual_callbacks
from sentiment_kit.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from sentiment_kit.training.checkpoint_writer import prune_checkpoints
from sentiment_kit.training.config import TrainConfig, learning_rate
from sentiment_kit.training.evaluate import evaluate
from sentiment_kit.training.events import Callback
from sentiment_kit.training.step import make_optimizer
from sentiment_kit.training.trainer import Stopped, Trainer, train

TINY = LanguageModelConfig(hidden_size=8, embed_size=4)
USUAL = dict(global_batch=32, seq_len=64, lr=0.04, max_lr=0.01, log_every=5, save_every=10)
USUAL |= dict(valid_lanes=4, valid_bytes=500, progress="none", device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_shards(
        SAMPLES, tmp_path_factory.mktemp("resume") / "corpus", (1, 1, 1), **SAMPLE_KEYS
    )


def settings(corpus, out, **changes):
    return TrainConfig(str(corpus.folder), str(out), **({"model": TINY} | USUAL | changes))


@pytest.fixture(scope="module")
def stopped(corpus):
    "A run with checkpoints of steps 10 and 20."
    config = settings(corpus, corpus.folder.parent / "stopped")
    with pytest.raises(Stopped):
        train(config, [StopAt(20), *usual_callbacks()])
    return Path(config.out)


@pytest.fixture
def run(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def content(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def steps(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "bytes_per_s")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


# Checkpoints that cannot be used


DAMAGE = {
    "manifest gone": lambda f: (f / "manifest.json").unlink(),
    "weights cut": lambda f: (f / "model.safetensors").write_bytes(b""),
    "numbers changed": lambda f: (f / "trainer.json").write_text("{}"),
    "all gone": lambda f: [path.unlink() for path in f.iterdir()],
    "no folder": lambda f: (shutil.rmtree(f), f.write_text("")),
}


@pytest.mark.parametrize(
    "damage, resume", [*((damage, "auto") for damage in DAMAGE), ("weights cut", "never")]
)
def test_when_no_checkpoint_is_whole_nothing_is_changed(corpus, run, damage, resume):
    for folder in (run / "checkpoints").iterdir():
        DAMAGE[damage](folder)
    before = content(run)
    told = "already holds a run" if resume == "never" else "step-000000020 .*step-000000010"
    with pytest.raises(KitError, match=told):
        train(settings(corpus, run, resume=resume))
    assert content(run) == before


def test_never_refuses_a_folder_with_a_log_alone(corpus, run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(KitError, match="already holds a run"):
        train(settings(corpus, run, resume="never"))


@pytest.mark.parametrize("number, where", [(errno.EIO, "file"), (errno.EACCES, "folder")])
def test_what_cannot_be_read_is_not_damaged(corpus, run, monkeypatch, number, where):
    def refuse(path):
        raise OSError(number, os.strerror(number))

    real = Path.iterdir
    ours = run / "checkpoints"
    before = content(run)
    with monkeypatch.context() as patch:
        if where == "file":
            patch.setattr(checkpoint, "sha256_file", refuse)
        else:
            patch.setattr(Path, "iterdir", lambda p: refuse(p) if p == ours else real(p))
        with pytest.raises(KitError, match="not damage"):
            train(settings(corpus, run))
        with pytest.raises(KitError, match="not damage"):
            prune_checkpoints(run / "checkpoints", keep=1)
    assert content(run) == before


def test_a_folder_of_checkpoints_on_a_disk_that_is_not_mounted(corpus, run):
    shutil.move(run / "checkpoints", run / "elsewhere")
    (run / "checkpoints").symlink_to(run / "nowhere")
    before = content(run)
    with pytest.raises(KitError, match="leads nowhere"):
        train(settings(corpus, run))
    assert content(run) == before


def test_a_log_whose_checkpoints_were_taken_away_is_kept(corpus, run, capsys):
    shutil.rmtree(run / "checkpoints")
    log = (run / "metrics.jsonl").read_bytes()
    train(settings(corpus, run))
    assert (run / "metrics-1.jsonl").read_bytes() == log and metrics(run)[-1]["epoch"] == 1
    assert "metrics-1.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["weights", "moments"])
def test_a_spoilt_checkpoint_of_an_earlier_version_is_passed_over(corpus, run, capsys, part):
    folder = latest_checkpoint(run)
    model = LanguageModel(TINY)
    optimizer = make_optimizer(model, settings(corpus, run))
    _, state, numbers = load_checkpoint(folder, model, optimizer)
    with torch.no_grad():
        spoilt = (
            model.head.bias if part == "weights" else optimizer.state[model.head.bias]["exp_avg"]
        )
        spoilt[0] = math.nan
    save_checkpoint(run / "checkpoints", model, optimizer, state, numbers)
    train(settings(corpus, run))
    said = capsys.readouterr().out
    assert "passed over: step-000000020 (" in said and "head.bias" in said
    assert "has 1 of 256 values that are no numbers" in said
    whole = train(settings(corpus, run.parent / "whole"))
    assert metrics(run) == metrics(whole)


# Numbers that are none


class Spoil(Callback):
    "Puts infinity into the weights or into a moment of the optimizer."

    def __init__(self, step, part):
        self.at = step
        self.part = part

    def on_step(self, trainer):
        if trainer.run.step == self.at:
            bias = trainer.model.head.bias
            moments = trainer.optimizer.state[bias]
            (bias.data if self.part == "weights" else moments[self.part])[0] = math.inf


@pytest.mark.parametrize("at, part", [(30, "weights"), (30, "exp_avg_sq"), (28, "exp_avg")])
def test_what_is_not_finite_is_never_saved(corpus, run, part, at):
    before = content(run / "checkpoints")
    with pytest.raises(KitError, match="head.bias.*not saved|times in a row"):
        train(settings(corpus, run, lr=0.04, keep=1), [Spoil(at, part), *usual_callbacks()])
    assert content(run / "checkpoints") == before


class SkipFrom(Callback):
    "Counts steps as skipped, from one to another."

    def __init__(self, first, last):
        self.skipped = range(first, last + 1)

    def on_step(self, trainer):
        trainer.scaler.skipped_in_a_row = trainer.run.step in self.skipped and 1


def test_no_save_while_steps_are_skipped_and_the_one_that_is_due_follows(corpus, run):
    config = settings(corpus, run, keep=9)
    train(config, [SkipFrom(29, 33), *usual_callbacks()])
    assert 30 not in steps(run) and {20, 34, 40} <= set(steps(run))


def test_a_stop_while_steps_are_skipped_deletes_nothing(corpus, run):
    config = settings(corpus, run, keep=1)
    callbacks = [SkipFrom(21, 99), StopAt(24), *usual_callbacks()]
    with pytest.raises(Stopped):
        train(config, callbacks)
    assert {20, 24} <= set(steps(run))
    train(config)
    assert len(steps(run)) == 1


@pytest.mark.parametrize(
    "bits, good", [(372.0, False), (math.nan, False), (8.2, True), (2.0, True)]
)
def test_a_run_that_came_apart_is_no_success(bits, good):
    config = TrainConfig("c", "o", TINY)
    if good:
        return preflight.check_learnt(config, {0: 8.0, 9: bits})
    with pytest.raises(KitError, match=f"ended at {bits:.4g} bits"):
        preflight.check_learnt(config, {0: 8.0, 9: bits})


# The log


def test_the_log_is_on_disk_before_the_checkpoint_is_published(corpus, tmp_path, monkeypatch):
    order, fsync, rename = [], os.fsync, os.rename
    name = {"metrics.jsonl": "log"}

    def told(fd):
        order.append(name.get(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
        return fsync(fd)

    monkeypatch.setattr(os, "fsync", told)
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append("published"), rename(a, b)))
    train(settings(corpus, tmp_path, save_every=1000))
    told = [what for what in order if what]
    assert told[-2:] == ["log", "published"]


def test_a_broken_line_does_not_keep_a_run_from_going_on(corpus, run, capsys):
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(
        b"".join(lines[:2]) + lines[2].replace(b"1", b"x") + b"".join(lines[3:])
    )
    train(settings(corpus, run))
    said = capsys.readouterr().out
    assert "metrics.jsonl, line 3: not JSON; the line is left out" in said
    assert [line["step"] for line in metrics(run)][:4] == [0, 5, 15, 20]


# Before the first step


Disk = namedtuple("Disk", "total used free")


def test_too_little_room_is_said_before_the_first_step(corpus, tmp_path, monkeypatch):
    config = settings(corpus, tmp_path)
    each = preflight.checkpoint_bytes(TINY, LanguageModel(TINY).n_parameters, config.global_batch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, 4 * each - 1))
    with pytest.raises(KitError, match="make room, lower keep"):
        train(config)
    assert not (tmp_path / "metrics.jsonl").exists()
    train(dataclasses.replace(config, keep=1))
    real = sum(path.stat().st_size for path in latest_checkpoint(tmp_path).iterdir())
    assert 0.8 < each / real < 1.25
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, 0))
    train(config)  # it has finished, and needs none


def test_a_place_for_checkpoints_that_is_a_file(corpus, tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(KitError, match="checkpoints cannot be written to"):
        train(settings(corpus, tmp_path))
    assert (tmp_path / "checkpoints").read_text() == "mine"


def test_a_package_that_is_missing_is_said_before_the_first_step(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(KitError, match="pip install tensorboard"):
        train(settings(corpus, tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


# Weights to start from


def test_a_run_starts_where_the_evaluation_of_its_weights_stands(corpus, stopped, tmp_path, capsys):
    words = f"--corpus {corpus.folder} --out {tmp_path / 'tuned'} --start-from {stopped} --epochs 2"
    words += " --global-batch 32 --seq-len 64 --lr 0.004 --valid-lanes 4 --progress none"
    assert main(["train", *words.split(), "--device", "cpu"]) == 0
    model = LanguageModel.from_pretrained(latest_checkpoint(stopped))
    there = evaluate(model, corpus, "valid", lanes=4, seq_len=64).bits_per_byte
    lines = metrics(tmp_path / "tuned")
    assert lines[0]["valid_bits"] == there > lines[-1]["valid_bits"]
    config = read_json(tmp_path / "tuned" / "train_config.json")
    assert config["model"] == dataclasses.asdict(TINY) and config["start_from"] == str(stopped)
    fresh = Trainer(settings(corpus, tmp_path / "fresh", start_from=str(stopped)))
    assert not fresh.optimizer.state and fresh.run.step == 0
    assert main(["train", *words.split(), "--device", "cpu"]) == 0  # again: it has finished


@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(model=LanguageModelConfig(hidden_size=16)), "hidden_size is 16, but .* has 8"),
        (dict(model=LanguageModelConfig(cell="lstm")), "cell is 'lstm'"),
        (dict(model=LanguageModelConfig(preset="raw")), "preset is 'raw'"),
        (dict(start_from="nowhere"), "nowhere"),
        (dict(start_from="reviews-small", global_batch=0), "global_batch"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(corpus, stopped, tmp_path, changes, told):
    with pytest.raises(KitError, match=told):
        train(settings(corpus, tmp_path / "run", **({"start_from": str(stopped)} | changes)))
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_start_from_itself(corpus, run):
    with pytest.raises(KitError, match="inside out itself"):
        train(settings(corpus, run, start_from=str(latest_checkpoint(run))))


def test_a_corpus_of_another_preset_is_refused(corpus, stopped, tmp_path):
    raw = make_shards(SAMPLES, tmp_path / "raw", (1, 1, 1), preset="raw", **SAMPLE_KEYS)
    with pytest.raises(KitError, match="preset"):
        train(settings(raw, tmp_path / "run", model=LanguageModelConfig(), start_from=str(stopped)))


# More epochs


def test_a_finished_run_goes_on_for_more_epochs(corpus, tmp_path, capsys):
    config = settings(corpus, tmp_path / "run", log_every=1)
    run = train(config)
    first = metrics(run)
    more = dataclasses.replace(config, epochs=2)
    with pytest.raises(Stopped):
        train(more, [StopAt(first[-1]["step"] + 5), *usual_callbacks()])
    assert "goes on to 2" in capsys.readouterr().out
    train(more)
    lines = metrics(run)
    assert lines[: len(first)] == first and lines[-1]["bytes"] == 2 * first[-1]["bytes"]
    steps_per_epoch = first[-1]["step"]
    for before, line in itertools.pairwise(lines[len(first) - 1 :]):
        total = lines[-1]["bytes"]
        assert line["lr"] == learning_rate(more, before["step"], before["bytes"], total)
    half = learning_rate(more, steps_per_epoch, 1, 2)
    assert lines[len(first)]["lr"] == half > 10 * first[-1]["lr"]
    assert min(line["loss_bits"] for line in lines[1:]) < first[-1]["loss_bits"]
    whole = train(dataclasses.replace(more, out=str(tmp_path / "other")))
    assert [line["step"] for line in metrics(whole)] == [line["step"] for line in lines]
    with pytest.raises(KitError, match="epochs=2, this one has epochs=1"):
        train(config)


def test_a_run_that_has_not_finished_keeps_its_epochs(corpus, run):
    with pytest.raises(KitError, match="epochs=1, this one has epochs=2.*finished may get more"):
        train(settings(corpus, run, epochs=2))


def test_the_line_of_progress_after_a_resume_has_no_pace(capsys, monkeypatch):
    "A run that was cut in its last validation reads nothing more; the pace was divided by zero."
    known = SimpleNamespace(nats=1.0)
    run = SimpleNamespace(step=7, bytes=500, total_bytes=500, stop_reason="finished", known=known)
    run.settle = lambda: None
    trainer = SimpleNamespace(config=SimpleNamespace(progress="lines"), run=run)
    progress = Progress()
    progress.on_start(trainer)
    progress.on_step(trainer)
    assert capsys.readouterr().out == "step 7  0.00 of 0.00 MB  1.443 bits/byte\n"
    progress.bytes = 100
    run.bytes = 600  # the last step reads a little beyond the end
    progress.on_step(trainer)
    assert capsys.readouterr().out.endswith(" bytes/s  0.0 min to go\n")
