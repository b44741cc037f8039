"""A stop is heard within seconds wherever a run is, and leaves no trace in it."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from sentiment_kit.data.datasets import SAMPLE_KEYS, SAMPLES, load_dataset
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.stopping import hear, stop_signals
from sentiment_kit.data.workers import choose_executor, run_tasks
from sentiment_kit.model.language_model import LanguageModelConfig
from sentiment_kit.training import callbacks as callbacks_room
from sentiment_kit.training.callbacks import usual_callbacks
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.events import Callback
from sentiment_kit.training.launcher import run_processes
from sentiment_kit.training.trainer import Stopped, listen_for_stop, train
from sentiment_kit.transfer import probe_callback

TINY = LanguageModelConfig(hidden_size=8, embed_size=4)
USUAL = dict(global_batch=32, seq_len=64, lr=0.04, max_lr=0.01, log_every=7, save_every=25)
USUAL |= dict(valid_every=20, valid_lanes=4, valid_bytes=500, progress="none", device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_shards(
        SAMPLES, tmp_path_factory.mktemp("stops") / "corpus", (1, 1, 1), **SAMPLE_KEYS
    )


def settings(corpus, out, **changes):
    return TrainConfig(str(corpus.folder), str(out), TINY, **(USUAL | changes))


def metrics(run):
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "bytes_per_s")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def weights(run):
    return (latest_checkpoint(run) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(corpus):
    return train(settings(corpus, corpus.folder.parent / "whole"))


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    "Not as under nohup, where a closed terminal is ignored."
    with hear([signal.SIGHUP], signal.SIG_DFL):
        yield


def signal_at_call(monkeypatch, n, number):
    "A signal while the n-th validation is at its second window."
    real, calls = callbacks_room.evaluate, iter(range(99))

    def evaluate(*args):
        *args, asked = args
        looks = iter(range(99)) if next(calls) == n else iter([9] * 9999)

        def sent():
            if next(looks) == 1:
                os.kill(os.getpid(), number)
            return asked()

        return real(*args, sent)

    monkeypatch.setattr(callbacks_room, "evaluate", evaluate)


@pytest.mark.parametrize(
    "n, number, step",
    [(0, "SIGTERM", 0), (1, "SIGHUP", 20), (2, "SIGINT", 40), (4, "SIGTERM", 61)],
)
def test_a_stop_during_a_validation_drops_it_and_leaves_no_trace(
    corpus, whole, tmp_path, monkeypatch, n, number, step
):
    config = settings(corpus, tmp_path)
    with monkeypatch.context() as patch:
        signal_at_call(patch, n, signal.Signals[number])
        with pytest.raises(Stopped, match=f"stopped by {number}"):
            train(config)
    if step:
        assert latest_checkpoint(tmp_path).name == f"step-{step:09d}"
        assert metrics(tmp_path)[-1]["step"] < step
    assert metrics(train(config)) == metrics(whole) and weights(tmp_path) == weights(whole)


class KillAt(Callback):
    "Ends the run as a fault would, after a step and all that followed it."

    def on_step(self, trainer):
        if trainer.run.step == 22:
            raise RuntimeError("killed")


def test_a_run_killed_after_it_took_up_a_dropped_validation(corpus, whole, tmp_path, monkeypatch):
    config = settings(corpus, tmp_path)
    with monkeypatch.context() as patch:
        signal_at_call(patch, 1, signal.SIGTERM)
        with pytest.raises(Stopped):
            train(config)
    saved = (latest_checkpoint(tmp_path) / "manifest.json").read_bytes()
    with pytest.raises(RuntimeError):
        train(config, [*usual_callbacks(), KillAt()])
    assert (latest_checkpoint(tmp_path) / "manifest.json").read_bytes() == saved
    assert metrics(train(config)) == metrics(whole) and weights(tmp_path) == weights(whole)


def test_a_stop_during_a_probe_drops_it(corpus, tmp_path, monkeypatch):
    real, calls = probe_callback.probe_figures, iter(range(99))

    def probed(*args):
        if next(calls) == 1:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(60)
        return {"probe_all": 0.5}

    monkeypatch.setattr(probe_callback, "probe_figures", probed)

    def callbacks():
        data = load_dataset("samples")
        return [probe_callback.TransferCallback(data, 40_000), *usual_callbacks()]

    start = time.monotonic()
    with pytest.raises(Stopped):
        train(settings(corpus, tmp_path / "a"), callbacks())
    assert time.monotonic() - start < 20
    train(settings(corpus, tmp_path / "a"), callbacks())
    train(settings(corpus, tmp_path / "b"), callbacks())
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b") and callable(real)
    assert sum("probe_all" in line for line in metrics(tmp_path / "a")) > 3


class PressTwice(Callback):
    "Ctrl-C, and again after a while."

    def __init__(self, between):
        self.between = between

    def on_step(self, trainer):
        if trainer.run.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(self.between)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)


@pytest.mark.parametrize("between, ends", [(0.6, KeyboardInterrupt), (0.0, Stopped)])
def test_a_second_ctrl_c_ends_at_once(corpus, tmp_path, between, ends):
    with pytest.raises(ends):
        train(settings(corpus, tmp_path), [PressTwice(between), *usual_callbacks()])
    assert (latest_checkpoint(tmp_path) is None) == (ends is KeyboardInterrupt)


def test_nohup_is_respected_and_handlers_come_back():
    with hear([signal.SIGHUP], signal.SIG_IGN):
        assert signal.SIGHUP not in stop_signals()
        with listen_for_stop(print):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert set(stop_signals()) == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = [signal.getsignal(number) for number in stop_signals()]
    with listen_for_stop(print):
        pass
    assert [signal.getsignal(number) for number in stop_signals()] == before


def test_where_the_system_has_no_sighup(monkeypatch):
    monkeypatch.delattr(signal, "SIGHUP")
    assert stop_signals() == [signal.SIGINT, signal.SIGTERM]


def test_workers_are_interrupted_in_the_midst_of_a_task():
    "In seconds, not when the task is over; nobody is left."
    context, ahead = choose_executor(None, 2, 0)
    with context as executor:
        next(run_tasks(executor, ahead, time.sleep, [(0,)]))  # they have started
        workers = list(executor._processes.values())
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        heard = hear([signal.SIGINT], signal.default_int_handler)  # a shell's job may ignore it
        with heard, pytest.raises(KeyboardInterrupt):
            list(run_tasks(executor, ahead, time.sleep, [(60,), (60,), (60,)]))
        assert time.monotonic() - start < 10
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_a_build_that_is_stopped_leaves_nothing_beside(tmp_path, monkeypatch, number):
    from sentiment_kit.data import build_passes

    def finish(*args):
        os.kill(os.getpid(), signal.Signals[number])
        time.sleep(1)

    monkeypatch.setattr(build_passes, "finish_shard", finish)
    with pytest.raises(KeyboardInterrupt):
        make_shards(SAMPLES, tmp_path / "corpus", (1, 1, 1), **SAMPLE_KEYS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ranks_drop_a_validation_together(corpus, tmp_path):
    "Only one of them is asked, in the midst of it; all save the same step and go on as if never."
    config = settings(corpus, tmp_path / "run").__dict__ | {"model": TINY.__dict__}
    told = run_processes("ranks:train_stopped", 2, [config, 1, 1])
    assert "at step 20" in told["stopped"]
    run_processes("ranks:train_stopped", 2, [config, 1, -1])
    run_processes("ranks:train_stopped", 2, [config | {"out": str(tmp_path / "whole")}, 1, -1])
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
