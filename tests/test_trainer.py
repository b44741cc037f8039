"""Training that can be killed, and figures that mean what they say."""

import dataclasses
import itertools
import json
import math
import os
import random
import signal
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import Fork
from safetensors.torch import load_file

from sentiment_kit.data.datasets import SAMPLES
from sentiment_kit.data.files import KitError, read_json, write_json
from sentiment_kit.data.shards import make_shards
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.training import callbacks as callbacks_room
from sentiment_kit.training import trainer as trainer_room
from sentiment_kit.training.callbacks import Callback, LogMetrics, Progress, SaveCheckpoint, emit
from sentiment_kit.training.checkpoint import latest_checkpoint, load_checkpoint
from sentiment_kit.training.config import TrainConfig, learning_rate
from sentiment_kit.training.evaluate import evaluate
from sentiment_kit.training.machine import check_precision, pick_device
from sentiment_kit.training.step import make_optimizer, take_step
from sentiment_kit.training.trainer import Stopped, Trainer, resume_run, train

TINY = LanguageModelConfig(hidden_size=16, embed_size=8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("trainer") / "corpus"
    return make_shards(
        SAMPLES, out, counts=(2, 1, 1), text_key="text", stars_key="stars", split_key="split"
    )


def settings(corpus, out, **changes):
    usual = dict(
        global_batch=8, seq_len=64, lr=0.1, max_lr=0.01, log_every=7, save_every=20, valid_every=50
    )
    usual |= dict(valid_lanes=4, valid_bytes=2_000, progress="none", weight_decay=0.02)
    return TrainConfig(str(corpus.folder), str(out), TINY, **(usual | changes))


def metrics(run):
    "The lines of a run without what a clock wrote into them."
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "bytes_per_s")} for line in lines
    ]


def tensors(run):
    folder = latest_checkpoint(run)
    model = LanguageModel(TINY)
    optimizer = make_optimizer(model, TrainConfig("corpus", "out"))
    state = load_checkpoint(folder, model, optimizer).state
    moments = [t for entry in optimizer.state_dict()["state"].values() for t in entry.values()]
    return [*model.state_dict().values(), *state, *moments]


def assert_same_run(a, b):
    assert metrics(a) == metrics(b)
    assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.fixture(scope="module")
def uninterrupted(corpus):
    return train(settings(corpus, corpus.folder.parent / "whole"))


def test_a_run_learns_and_its_last_line_is_a_full_validation(corpus, uninterrupted):
    lines = metrics(uninterrupted)
    assert lines[0]["step"] == 0 and 7.9 < lines[0]["valid_bits"] < 8.1
    assert lines[-1]["valid_bits"] < 5
    model = LanguageModel.from_pretrained(latest_checkpoint(uninterrupted))
    assert math.isclose(
        evaluate(model, corpus, "valid", lanes=4).bits_per_byte,
        lines[-1]["valid_bits"],
        rel_tol=1e-6,
    )
    want = {
        "step",
        "bytes",
        "epoch",
        "loss_bits",
        "lr",
        "grad_norm",
        "clipped",
        "loss_scale",
        "skipped",
    }
    assert want <= lines[1].keys()
    assert lines[-1]["bytes"] == sum((s.n_bytes - 1) // 8 * 8 for s in corpus.split("train"))


def test_the_mean_loss_of_the_lines_is_the_mean_loss_of_the_steps(corpus, tmp_path):
    trainer = Trainer(settings(corpus, tmp_path, valid_every=0), [LogMetrics()])
    emit(trainer, "on_start")
    nats, n = 0.0, 0
    for batch in trainer.loader:
        step = take_step(trainer, batch)
        emit(trainer, "on_step")
        nats += step.nats * batch.target_BT.numel()
        n += batch.target_BT.numel()
    lines = metrics(tmp_path)
    spans = [b["bytes"] - a["bytes"] for a, b in zip([{"bytes": 0}, *lines], lines, strict=False)]
    mean = sum(line["loss_bits"] * span for line, span in zip(lines, spans, strict=True)) / n
    assert math.isclose(mean, nats / n / math.log(2), rel_tol=1e-9)


@pytest.mark.parametrize(
    "precision, capability, good",
    [("bf16", (7, 5), False), ("fp16", (7, 0), True), ("bf16", (8, 0), True)],
)
def test_bf16_is_refused_where_a_card_has_none(monkeypatch, precision, capability, good):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    if good:
        return check_precision(torch.device("cuda"), precision)
    with pytest.raises(KitError, match="precision is bf16, but Tesla T4 .*7.5.* use fp16"):
        check_precision(torch.device("cuda"), precision)


def test_the_trainer_looks_at_the_card_before_anything_is_put_on_it(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_room, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(KitError, match="Tesla V100 .* use fp16"):
        Trainer(settings(corpus, tmp_path, precision="bf16"))


def test_devices_are_taken_by_name_and_auto_never_takes_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "cpu" and pick_device("mps").type == "mps"
    with pytest.raises(KitError, match="fp32 only"):
        check_precision(torch.device("mps"), "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda" and pick_device("cuda:1").index == 1
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(KitError, match="device is 'mps', but torch finds no GPU of that kind"):
        pick_device("mps")


def start(config):
    "The same run in a process of its own, ready to be killed."
    return Fork(train, config, errors=Path(config.out).with_suffix(".err"))


def wait_for_step(config, process, step):
    path = Path(config.out) / "metrics.jsonl"
    for _ in range(6000):
        lines = path.read_text().splitlines() if path.exists() else []
        if any(line.endswith("}") and json.loads(line)["step"] >= step for line in lines):
            return
        assert process.poll() is None, process.said()
        time.sleep(0.01)
    raise AssertionError("the run did not get there")


def test_killed_at_random_moments_equals_uninterrupted(corpus, uninterrupted, tmp_path):
    config = settings(corpus, tmp_path / "run")
    rng = random.Random(0)
    for _ in range(3):
        process = start(config)
        done = read_json(folder / "trainer.json")["step"] if (folder := latest(config)) else 0
        wait_for_step(config, process, done + rng.randrange(5, 60))
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(config)
    assert_same_run(config.out, uninterrupted)


def latest(config):
    checkpoints = Path(config.out) / "checkpoints"
    return latest_checkpoint(checkpoints) if checkpoints.is_dir() else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_saves_and_goes_on(corpus, uninterrupted, tmp_path, number):
    config = settings(corpus, tmp_path / "run", save_every=10_000)
    process = start(config)
    wait_for_step(config, process, 21)
    process.send_signal(number)
    process.wait()
    assert f"stopped by {signal.Signals(number).name} at step" in process.said()
    stopped = read_json(latest(config) / "trainer.json")["step"]
    assert stopped >= 21
    train(config)
    assert_same_run(config.out, uninterrupted)


class StopAt(Callback):
    "Sends this process a signal after a step."

    def __init__(self, step):
        self.at = step

    def on_step(self, trainer):
        if trainer.run.step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_stop_in_this_process_raises_stopped(corpus, tmp_path):
    trainer = Trainer(settings(corpus, tmp_path))
    trainer.callbacks.insert(0, StopAt(5))
    with pytest.raises(Stopped, match="at step 5;"):
        trainer.fit()
    assert latest_checkpoint(tmp_path).name == "step-000000005"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    corpus, uninterrupted, tmp_path, capsys
):
    config = settings(corpus, tmp_path / "run", keep=3)
    train(config)
    newest, before = sorted((tmp_path / "run/checkpoints").glob("step-*"))[-1:-3:-1]
    for name in ("model.safetensors", "state.safetensors", "trainer.json", "manifest.json"):
        path, good = newest / name, (newest / name).read_bytes()
        for bad in (good[: len(good) // 2], good[:-9] + bytes([good[-9] ^ 1]) + good[-8:], b""):
            path.write_bytes(bad)
            assert latest_checkpoint(config.out) == before
            assert f"{newest.name}/{name}" in capsys.readouterr().out
        path.write_bytes(good)
    (newest / "optimizer.safetensors").unlink()
    train(config)
    assert_same_run(config.out, uninterrupted)


def test_only_the_same_run_goes_on(corpus, uninterrupted, tmp_path):
    config = settings(corpus, uninterrupted)
    before = (uninterrupted / "train_config.json").read_bytes()
    changes = dict(
        lr=0.2,
        weight_decay=0.1,
        seq_len=32,
        model=dataclasses.replace(TINY, hidden_size=24),
        seed=1,
    )
    for name, value in changes.items():
        with pytest.raises(KitError, match="hidden_size" if name == "model" else name):
            train(dataclasses.replace(config, **{name: value}))
    other = make_shards(
        SAMPLES,
        tmp_path / "c",
        counts=(1, 1, 1),
        text_key="text",
        stars_key="stars",
        split_key="split",
    )
    with pytest.raises(KitError, match="another corpus"):
        train(dataclasses.replace(config, corpus=str(other.folder)))
    with pytest.raises(KitError, match="already holds a run"):
        train(dataclasses.replace(config, resume="never"))
    assert (uninterrupted / "train_config.json").read_bytes() == before
    train(dataclasses.replace(config, log_every=3))  # only watching: may change


def test_resuming_leaves_no_trace_of_later_lines(corpus, tmp_path):
    config = settings(corpus, tmp_path / "run", keep=9, valid_every=0)
    trainer = Trainer(config)
    trainer.callbacks.insert(0, StopAt(30))
    with pytest.raises(Stopped):
        trainer.fit()
    assert [line["step"] for line in metrics(config.out)] == [0, 7, 14, 21, 28]
    (latest_checkpoint(config.out) / "manifest.json").unlink()  # as if killed before this save
    again = Trainer(config)
    resume_run(again)
    assert again.run.step == 20
    emit(again, "on_start")
    assert [line["step"] for line in metrics(config.out)] == [0, 7, 14]


def test_tensorboard_shows_the_lines_of_the_log_once_also_after_a_restart(corpus, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = settings(corpus, tmp_path / "run", tensorboard=True)
    with pytest.raises(Stopped):
        train(config, [LogMetrics(), SaveCheckpoint(), StopAt(45)])
    train(config, [LogMetrics(), SaveCheckpoint()])
    board = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"scalars": 0})
    board.Reload()
    for name in ("loss_bits", "lr", "grad_norm"):
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert shown == [
            (line["step"], pytest.approx(line[name], rel=1e-6)) for line in metrics(config.out)
        ]


def test_loss_that_is_no_number_ends_the_run_in_one_sentence(corpus, tmp_path):
    trainer = Trainer(settings(corpus, tmp_path))
    with torch.no_grad():
        trainer.model.head.bias[0] = float("nan")
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(KitError, match="5 times in a row, last at step 5 .loss nan nats"):
        trainer.fit()
    torch.testing.assert_close(
        list(trainer.model.parameters()), before, rtol=0, atol=0, equal_nan=True
    )
    saved = load_file(tmp_path / "nonfinite" / "step-000000005-rank-0.safetensors")
    assert set(saved) == {"input_BT", "target_BT", "reset_BT", "h_LBH", "c_LBH"}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all("NaN" not in json.dumps(line) for line in lines if line["step"])


def test_evaluation_does_not_depend_on_the_window_and_does_on_resets(corpus):
    torch.manual_seed(0)
    model = LanguageModel(TINY)
    bits = [
        evaluate(model, corpus, "valid", lanes=4, seq_len=n).bits_per_byte for n in (16, 100, 256)
    ]
    assert max(bits) - min(bits) < 1e-5
    assert evaluate(model, corpus, "valid", "review", lanes=4).bits_per_byte != bits[0]
    text = torch.cat(
        [torch.from_numpy(shard.data[:].astype("int64")) for shard in corpus.split("valid")]
    )  # one shard
    size = (len(text) - 1) // 4
    lane_bits = []
    for b in range(4):
        logits_BTV, _ = model(text[None, b * size : (b + 1) * size])
        nats = torch.nn.functional.cross_entropy(
            logits_BTV[0], text[b * size + 1 : (b + 1) * size + 1]
        )
        lane_bits.append(nats.item() / math.log(2))
    assert math.isclose(sum(lane_bits) / 4, bits[0], rel_tol=1e-5)
    half_width = evaluate(model, corpus, "valid", lanes=4).half_width
    assert math.isclose(half_width, 1.96 * statistics.stdev(lane_bits) / 2, rel_tol=1e-3)
    assert math.isnan(evaluate(model, corpus, "valid", lanes=1, max_bytes=500).half_width)
    raw = LanguageModel(dataclasses.replace(TINY, preset="raw"))
    with pytest.raises(KitError, match="preset"):
        evaluate(raw, corpus, "valid")


def test_learning_rate_scales_caps_warms_and_never_goes_below_zero():
    config = TrainConfig("c", "o", TINY, global_batch=256, lr=5e-4, max_lr=3e-3, warmup_steps=4)
    assert learning_rate(config, 4, 0, 100) == 1e-3
    assert learning_rate(config, 0, 0, 100) == 2.5e-4
    assert learning_rate(config, 99, 75, 100) == 2.5e-4
    assert learning_rate(config, 99, 150, 100) == 0
    assert learning_rate(dataclasses.replace(config, global_batch=4096), 99, 0, 100) == 3e-3


@pytest.mark.parametrize("cell, weight_norm", [("mlstm", True), ("mlstm", False), ("lstm", True)])
def test_what_has_a_length_of_its_own_decays_and_nothing_else(cell, weight_norm):
    model = LanguageModel(dataclasses.replace(TINY, cell=cell, n_layers=2, weight_norm=weight_norm))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    make_optimizer(model, TrainConfig("c", "o", lr=0.1, weight_decay=0.2)).step()
    for name, p in model.named_parameters():
        kept = name.endswith((".b", ".bias")) or (
            "layers" in name and weight_norm and ".w_" in name
        )
        torch.testing.assert_close(
            p.detach(), before[name] * (1 if kept else 1 - 0.1 * 0.2), msg=name
        )


@pytest.mark.parametrize(
    "field, value",
    [
        ("global_batch", 0),
        ("lr", 0),
        ("max_lr", math.inf),
        ("weight_decay", -0.1),
        ("warmup_steps", -5),
        ("clip_norm", math.nan),
        ("patience", 2),  # with nothing that validates on the way
        ("reset", "chapter"),
        ("precision", "fp8"),
        ("resume", "yes"),
    ],
)
def test_bad_settings_are_named(field, value):
    with pytest.raises(KitError, match=field):
        TrainConfig("c", "o", TINY, **{field: value})


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(KitError, match="'gpu'; use cpu, cuda, mps or auto"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(KitError, match="finds no GPU"):
            pick_device("cuda:1")
    assert pick_device("cpu").type == "cpu"


def test_any_number_of_lanes_that_fits_is_validated(corpus):
    model, most = LanguageModel(TINY), min(shard.n_bytes for shard in corpus.split("valid")) - 1
    assert (
        evaluate(model, corpus, "valid", lanes=most // 3).n_bytes >= most // 3 * 3
    )  # 3 bytes a lane
    for lanes in (0, -1):
        with pytest.raises(KitError, match="lanes"):
            evaluate(model, corpus, "valid", lanes=lanes)


def test_another_architecture_is_refused_by_array(tmp_path):
    LanguageModel(TINY).save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", dataclasses.asdict(dataclasses.replace(TINY, cell="lstm")))
    with pytest.raises(
        KitError, match=r"model.safetensors does not fit its config.json: rnn.layers.0.g_mh"
    ):
        LanguageModel.from_pretrained(tmp_path)
    write_json(tmp_path / "config.json", {"colour": "blue"})
    with pytest.raises(KitError, match="unknown field 'colour'"):
        LanguageModel.from_pretrained(tmp_path)


def test_lines_come_soon_and_then_rarely(monkeypatch, capsys):
    "Whoever watches sees within seconds that something happens; a long log stays short."
    clock = itertools.count()
    monkeypatch.setattr(callbacks_room.time, "perf_counter", lambda: float(next(clock)))
    run = SimpleNamespace(stop_reason=None, known=None, step=0, bytes=0, total_bytes=10**6)
    trainer = SimpleNamespace(config=SimpleNamespace(progress="lines"), run=run)
    progress = Progress()
    progress.on_start(trainer)
    for run.step in range(1, 100):  # a look at the clock is a second
        run.bytes += 10
        progress.on_step(trainer)
    steps = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert steps[0] <= 4 and 5 <= len(steps) <= 9
    assert all(later - sooner <= 17 for sooner, later in itertools.pairwise(steps))
