"A step that nobody waits for trains what a step that is waited for trains, and its log is whole."

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import run_ranks
from stop_at import StopAt
from torch.utils._python_dispatch import TorchDispatchMode

from sentiment_kit.data.datasets import SAMPLE_KEYS, SAMPLES
from sentiment_kit.data.files import KitError
from sentiment_kit.data.loader import Batch, PartBatch
from sentiment_kit.data.shards import make_shards
from sentiment_kit.model import mlstm
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.training import queued_step
from sentiment_kit.training import trainer as trainer_room
from sentiment_kit.training.callbacks import usual_callbacks
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.distributed import GradientReducer, World, join_world
from sentiment_kit.training.evaluate import evaluate
from sentiment_kit.training.events import Callback
from sentiment_kit.training.fp16 import DynamicLossScaler, scaler_for
from sentiment_kit.training.queued_step import launch_step
from sentiment_kit.training.run_state import RunState
from sentiment_kit.training.step import make_optimizer, take_step
from sentiment_kit.training.trainer import Stopped, Trainer, train

TINY = LanguageModelConfig(hidden_size=8, embed_size=4)
USUAL = dict(global_batch=32, seq_len=16, lr=0.04, max_lr=0.01, log_every=4, save_every=10)
USUAL |= dict(valid_lanes=32, valid_every=25, valid_bytes=2000, progress="none", device="cpu")
USUAL |= dict(stop_bytes=60 * 32 * 16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("queued") / "corpus"
    return make_shards(SAMPLES, folder, (1, 1, 1), **SAMPLE_KEYS)


def settings(corpus, out, **changes):
    return TrainConfig(str(corpus.folder), str(out), TINY, **(USUAL | changes))


class Poison(Callback):
    "Makes the gradients of some steps infinite, by the state that the next step finds."

    def on_step(self, trainer):
        if trainer.run.step in (7, 21):
            trainer.run.state.h_LBH.fill_(float("inf"))
        if trainer.run.step in (9, 22):  # what was skipped has left the state as it was
            assert not trainer.run.state.h_LBH.isfinite().any()
            trainer.run.state.h_LBH.zero_()


def metrics(run):
    lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if k not in ("seconds", "bytes_per_s")} for x in lines]


def saved(run):
    from safetensors.torch import load_file

    folder = latest_checkpoint(run)
    names = ("model", "optimizer", "state")
    tensors = {n: load_file(folder / f"{n}.safetensors") for n in names}
    numbers = json.loads((folder / "trainer.json").read_text())
    numbers["callbacks"]["LogMetrics"].pop("seconds")
    return tensors, {k: v for k, v in numbers.items() if k not in ("seconds", "config")}


def steps_of(monkeypatch, queued):
    monkeypatch.setattr(trainer_room, "take_step", launch_step if queued else take_step)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_queued_run_is_the_waiting_run_to_the_bit(corpus, tmp_path, monkeypatch, precision):
    "Without clipping: the one thing that is computed by another operation."
    how = dict(clip_norm=0.0, precision=precision)
    runs = {}
    for queued in (False, True):
        steps_of(monkeypatch, queued)
        config = settings(corpus, tmp_path / str(queued), **how)
        runs[queued] = train(config, [Poison(), *usual_callbacks()])
    assert metrics(runs[True]) == metrics(runs[False])
    (ours, numbers), (theirs, numbers_2) = saved(runs[True]), saved(runs[False])
    assert numbers == numbers_2 and numbers["scaler"]["skipped"] >= 2
    for file, tensors in ours.items():
        assert all(torch.equal(t, theirs[file][name]) for name, t in tensors.items())


def test_stopped_anywhere_a_queued_run_goes_on_as_if_it_had_not(corpus, tmp_path, monkeypatch):
    steps_of(monkeypatch, True)
    whole = train(settings(corpus, tmp_path / "whole", precision="fp16"))
    config = settings(corpus, tmp_path / "run", precision="fp16")
    for step in (13, 14, 40):
        with pytest.raises(Stopped):
            train(config, [StopAt(step), *usual_callbacks()])
        assert saved(config.out)[1]["step"] == step
    train(config)
    assert metrics(config.out) == metrics(whole)
    assert metrics(whole)[-1]["step"] == 60 and "loss_bits" in metrics(whole)[-1]
    (ours, _), (theirs, _) = saved(config.out), saved(whole)
    assert all(torch.equal(t, theirs["model"][name]) for name, t in ours["model"].items())


def test_clipping_on_the_device_is_clipping(corpus, tmp_path, monkeypatch):
    lines = {}
    for queued in (False, True):
        steps_of(monkeypatch, queued)
        run = train(settings(corpus, tmp_path / str(queued), clip_norm=0.05, log_every=1))
        lines[queued] = metrics(run)
    assert all(line["clipped"] == 1 for line in lines[True][1:])
    for ours, theirs in zip(lines[True], lines[False], strict=True):
        assert ours.keys() == theirs.keys()
        figures = {key: value for key, value in ours.items() if not isinstance(value, str)}
        assert all(value == pytest.approx(theirs[key], rel=1e-4) for key, value in figures.items())


class NoWaiting(TorchDispatchMode):
    "Counts what makes a processor wait for a GPU: a number taken out of a tensor."

    waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.waits += name in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_queued_step_asks_the_device_for_nothing(corpus, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(mlstm, "any_resets", lambda reset_BT: None)  # asks on CPUs only
    monkeypatch.setenv("SENTIMENT_KIT_KERNELS", "torch")  # those of a CPU look at the ids
    trainer = Trainer(settings(corpus, tmp_path, precision=precision), [])
    batches = iter(trainer.loader)
    launch_step(trainer, next(batches))  # the first makes buffers
    for take, least, most in ((launch_step, 0, 0), (take_step, 2, 9)):
        batch = next(batches)
        trainer.run.settle()
        with NoWaiting() as counted:
            take(trainer, batch)
        assert least <= counted.waits <= most, (take.__name__, counted.waits)
    assert isinstance(trainer.scaler, DynamicLossScaler) == (precision == "fp16")


def test_a_run_that_only_skips_ends_at_the_same_step(corpus, tmp_path, monkeypatch):
    class Spoil(Callback):
        def on_step(self, trainer):
            if trainer.run.step >= 9:
                trainer.run.state.h_LBH.fill_(float("nan"))

    said = []
    for queued in (False, True):
        steps_of(monkeypatch, queued)
        with pytest.raises(KitError, match="times in a row") as told:
            train(settings(corpus, tmp_path / str(queued)), [Spoil(), *usual_callbacks()])
        said.append(str(told.value).replace(str(tmp_path / str(queued)), "…"))
    assert said[0] == said[1] and "step-000000014" in said[0]


def stop_one_rank(corpus, out):
    trainer_room.take_step = launch_step
    config = TrainConfig(corpus, out, TINY, **(USUAL | dict(log_every=2)))
    with join_world("cpu", timeout=60) as world:
        ask = [StopAt(17)] if world.rank else []
        with pytest.raises(Stopped) as told:
            train(config, [*ask, *usual_callbacks()], world)
    return str(told.value)


def test_ranks_stop_after_the_same_queued_step(corpus, tmp_path):
    "Rank 0 reads steps early, for its log; it must not stop early."
    said = run_ranks(stop_one_rank, 2, [str(corpus.folder), str(tmp_path / "run")])
    step = saved(tmp_path / "run")[1]["step"]
    assert step in (18, 19) and f"at step {step}" in said
    assert metrics(tmp_path / "run")[-1]["step"] == 18


# ---- on a GPU that is not there


def gpu_trainer(device, precision):
    config = TrainConfig("corpus", "run", TINY, lr=0.1, max_lr=0.01, clip_norm=0.5)
    torch.manual_seed(0)
    model = LanguageModel(TINY, precision).to(device)
    scaler = (
        DynamicLossScaler(2.0**24, growth_steps=3) if precision == "fp16" else scaler_for("fp32")
    )
    reducer = GradientReducer(World(device=torch.device(device)))
    parts = dict(config=config, model=model, scaler=scaler, reducer=reducer, asked=None)
    parts |= dict(optimizer=make_optimizer(model, config), device_scale=None)
    run = RunState(10**6, 10**6, model.rnn.initial_state(4))
    return SimpleNamespace(run=run, device=torch.device(device), **parts)


def batches_on(device):
    ids_SBT = torch.randint(97, 123, (6, 4, 17), generator=torch.Generator().manual_seed(0))
    for ids_BT in ids_SBT:
        parts = (ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous(), torch.zeros(4, 16).bool())
        yield Batch(*(x.to(device) for x in parts))


def weighted(trainer, batch):
    "Every fifth target counts 60."
    trainer.weight_P = torch.tensor([1.0, 60.0]).to(trainer.device)
    trainer.parts = ("text", "stars")
    part_BT = torch.arange(64, dtype=torch.uint8).view(4, 16) % 5 == 0
    return PartBatch(*batch, part_BT.to(trainer.device, torch.uint8))


@pytest.mark.parametrize(
    "precision, weights", [("fp32", False), ("bf16", False), ("fp16", False), ("fp16", True)]
)
def test_a_gpu_waits_once_a_step_and_for_the_step_before(monkeypatch, precision, weights):
    fake_cuda = pytest.importorskip("fake_cuda")
    monkeypatch.setattr(queued_step, "fetch", lambda numbers: numbers.tolist)  # no pinned memory
    figures = {}
    for take in (take_step, launch_step):
        with fake_cuda.FakeGpu() as gpu:
            trainer = gpu_trainer("cuda:0", precision)
            steps = []
            for batch in batches_on("cuda:0"):
                batch = weighted(trainer, batch) if weights else batch
                gpu.clear()
                steps.append(take(trainer, batch))
                waits = list(gpu.waits)
            trainer.run.settle()
        done = [step if take is take_step else step.step for step in steps]
        figures[take] = [(step.nats, step.figures) for step in done]
        for step in done:
            assert not weights or [n for _, n in step.parts.values()] == [51, 13]
            whole = sum(nats for nats, _ in step.parts.values())
            assert not weights or whole == pytest.approx(64 * step.nats, rel=1e-5, nan_ok=True)
        assert len(waits) == 1 if take is launch_step else len(waits) >= 3, waits
    for (nats, how), (same_nats, same) in zip(*figures.values(), strict=True):
        assert (how["skipped"], how["loss_scale"]) == (same["skipped"], same["loss_scale"])
        assert nats == pytest.approx(same_nats, rel=1e-3, nan_ok=True)


@pytest.mark.parametrize("device, forbidden", [("cuda:0", ()), ("mps:0", (torch.float64,))])
def test_a_validation_on_a_gpu_adds_up_there(corpus, device, forbidden):
    "Where there is float64: one wait for the whole split. Apple's GPUs have none."
    fake_cuda = pytest.importorskip("fake_cuda")
    torch.manual_seed(0)
    model = LanguageModel(TINY)
    want = evaluate(model, corpus, "valid", lanes=32, max_bytes=6000).bits_per_byte
    with fake_cuda.FakeGpu(device, forbidden=forbidden) as gpu:
        far = LanguageModel(TINY).to(device)
        far.load_state_dict(model.state_dict())
        gpu.clear()
        assert evaluate(
            far, corpus, "valid", lanes=32, max_bytes=6000
        ).bits_per_byte == pytest.approx(want, rel=1e-5)
        assert len(gpu.waits) == 1 or forbidden
        if forbidden:
            trainer = gpu_trainer(device, "fp32")
            losses = [take_step(trainer, batch).nats for batch in batches_on(device)]
            assert losses[-1] == losses[-1]
