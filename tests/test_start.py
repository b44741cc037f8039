"Where a run starts and where it ends: branches of a held run, gates over time scales, the rate."

import dataclasses
import itertools
import json
import math
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from stop_at import StopAt

from sentiment_kit.cli import main
from sentiment_kit.data.datasets import SAMPLE_KEYS, SAMPLES
from sentiment_kit.data.files import KitError, read_json
from sentiment_kit.data.shards import make_shards
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.start_checks import find_models
from sentiment_kit.training.callbacks import usual_callbacks
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.config import TrainConfig, changed_settings, learning_rate
from sentiment_kit.training.run_lock import claim_run
from sentiment_kit.training.trainer import Stopped, Trainer, launch, train

TINY = LanguageModelConfig(hidden_size=8, embed_size=4)
A_STEP = 32 * 16
USUAL = dict(global_batch=32, seq_len=16, lr=0.04, max_lr=0.01, log_every=1, save_every=10)
USUAL |= dict(valid_lanes=32, progress="none", device="cpu", warmup_steps=4)
HELD = USUAL | dict(epochs=5, decay_bytes=10 * A_STEP, chrono_share=0.5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_shards(
        SAMPLES, tmp_path_factory.mktemp("start") / "corpus", (1, 1, 1), **SAMPLE_KEYS
    )


def settings(corpus, out, **changes):
    return TrainConfig(str(corpus.folder), str(out), TINY, **(HELD | changes))


@pytest.fixture(scope="module")
def held(corpus):
    "A run that was stopped at step 30, while its rate was held."
    config = settings(corpus, corpus.folder.parent / "held")
    with pytest.raises(Stopped):
        train(config, [StopAt(30), *usual_callbacks()])
    return Path(config.out)


def weights(run):
    return LanguageModel.from_pretrained(latest_checkpoint(run)).state_dict()


def metrics(run):
    lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "bytes_per_s")} for line in lines
    ]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_branch_of_a_held_run_is_the_run_that_ends_there(corpus, held, tmp_path, interrupted):
    before = {path: path.read_bytes() for path in held.rglob("*") if path.is_file()}
    end = dict(stop_bytes=45 * A_STEP)
    branch = settings(corpus, tmp_path / "branch", **end, branch_from=str(held))
    if interrupted:
        with pytest.raises(Stopped):
            train(branch, [StopAt(38), *usual_callbacks()])
    one = train(settings(corpus, tmp_path / "one", **end))
    two = train(branch)
    assert all(map(torch.equal, weights(one).values(), weights(two).values()))
    assert metrics(one) == metrics(two)
    rates = {line["step"]: line["lr"] for line in metrics(one) if "lr" in line}
    assert rates[5] == rates[30] == rates[35] == 0.01 and rates[42] < 0.005
    falls = [rates[step] for step in sorted(rates) if step > 37]
    assert all(a > b > 0 for a, b in itertools.pairwise(falls)) and falls[-1] < 0.0012
    assert metrics(one)[-1]["bytes"] >= 45 * A_STEP > metrics(one)[-2]["bytes"]
    assert before == {path: path.read_bytes() for path in held.rglob("*") if path.is_file()}
    assert train(branch) == two  # finished: nothing is read on


def test_one_command_branches(corpus, held, tmp_path, capsys):
    config = read_json(held / "train_config.json")
    words = {name: config[name] for name in USUAL} | {"epochs": 5, "decay_bytes": 10 * A_STEP}
    words |= {"corpus": corpus.folder, "out": tmp_path / "run", "branch_from": held}
    words |= {"stop_bytes": 42 * A_STEP, "chrono_share": 0.5}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in words.items()]
    assert main(["train", *options]) == 0
    said = capsys.readouterr().out
    assert f"at step 30, {metrics(held)[-1]['bytes']:,} bytes" in said and "1.00e-02" in said
    assert metrics(tmp_path / "run")[-1]["step"] > 40


@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(lr=0.02), "lr=0.04, this one has lr=0.02"),
        (dict(seed=1), "seed=0, this one has seed=1"),
        (dict(stop_bytes=20 * A_STEP), "raise stop_bytes or epochs"),
        (dict(stop_bytes=10**9), "but 5 epochs have"),
        (dict(decay_bytes=10**9), "more than the .* bytes that the run reads"),
        (dict(branch_from="reviews-small"), "without the state of its run"),
        (dict(chrono_share=0.25), "chrono_share=0.5, this one has chrono_share=0.25"),
        (dict(start_from="reviews-small"), "both given"),
    ],
)
def test_what_no_branch_can_be_is_refused_by_name(corpus, held, tmp_path, changes, told):
    model = LanguageModelConfig() if changes.get("branch_from") else TINY
    with pytest.raises(KitError, match=told):
        config = settings(corpus, tmp_path / "run", **({"branch_from": str(held)} | changes))
        train(dataclasses.replace(config, model=model))
    assert not (tmp_path / "run").exists()


# A run that has begun needs nothing but its own folder


@pytest.fixture
def parent(held, tmp_path):
    "A copy of the held run, to be lost."
    return Path(shutil.copytree(held, tmp_path / "parent"))


@pytest.mark.parametrize("way", ["branch_from", "start_from"])
@pytest.mark.parametrize("lost", ["deleted", "moved", "retrained"])
def test_a_run_goes_on_without_its_start(corpus, held, parent, tmp_path, way, lost):
    how = dict(stop_bytes=36 * A_STEP, valid_every=0)
    if way == "start_from":
        how |= dict(stop_bytes=12 * A_STEP, chrono_share=0.0, save_every=4)
    at = 33 if way == "branch_from" else 6
    runs = []
    for name in ("whole", "cut"):
        config = settings(corpus, tmp_path / name, **how, **{way: str(parent)})
        config = dataclasses.replace(config, model=LanguageModelConfig())
        if name == "cut":
            with pytest.raises(Stopped):
                train(config, [StopAt(at), *usual_callbacks()])
            if lost == "moved":
                parent.rename(tmp_path / "elsewhere")
            else:
                shutil.rmtree(parent)
            if lost == "retrained":  # as a model of another size
                other = LanguageModelConfig(hidden_size=12, embed_size=4)
                fresh = dict(chrono_share=0.0, stop_bytes=10 * A_STEP)
                train(dataclasses.replace(settings(corpus, parent, **fresh), model=other))
        runs.append(train(config))
    assert all(map(torch.equal, weights(runs[0]).values(), weights(runs[1]).values()))
    told = [
        [{k: v for k, v in line.items() if k != "bytes_per_s"} for line in metrics(run)]
        for run in runs
    ]
    assert told[0] == told[1]


def test_what_contradicts_a_run_that_has_begun_names_that_run(corpus, held, tmp_path):
    own = settings(corpus, tmp_path / "run", stop_bytes=36 * A_STEP, branch_from=str(held))
    with pytest.raises(Stopped):
        train(own, [StopAt(33), *usual_callbacks()])
    for model in (LanguageModelConfig(hidden_size=16), LanguageModelConfig(cell="lstm")):
        with pytest.raises(KitError, match="but the run in .*run has .* in another out"):
            train(dataclasses.replace(own, model=model))
    with pytest.raises(KitError, match="inside out itself"):
        train(dataclasses.replace(own, branch_from=str(tmp_path / "run")))


def test_a_chain_goes_on_without_its_start(held, tmp_path):
    wanted = {"61_train": dict(start_from=str(tmp_path / "gone"), branch_from=None)}
    with pytest.raises(KitError, match="gone"):
        find_models(wanted, tmp_path / "new")
    find_models(wanted, held)
    with pytest.raises(KitError, match="gone"):
        find_models({"62_transfer": dict(model=str(tmp_path / "gone"))}, held)


# A run that is refused leaves nothing behind


SOONER = [  # than any process starts
    dict(global_batch=31, accumulate=2),
    dict(seq_len=10**6),
    dict(corpus="nowhere"),
    dict(part_weights=dict(stars=3)),
    dict(start_from="nowhere", chrono_share=0.0),
]
LATER = [dict(device="cuda"), dict(branch_from="reviews-small"), dict(keep=10**9)]


@pytest.mark.parametrize(
    "changes, nproc", [*((c, n) for c in SOONER for n in (1, 2)), *((c, 1) for c in LATER)]
)
def test_a_refused_run_leaves_no_folder(corpus, tmp_path, monkeypatch, changes, nproc):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = settings(corpus, tmp_path / "deep" / "run", chrono_share=0.0)
    if "branch_from" in changes:
        config = dataclasses.replace(config, model=LanguageModelConfig())
    with pytest.raises(KitError):
        launch(dataclasses.replace(config, **changes), nproc=nproc)
    assert not (tmp_path / "deep").exists()


def test_a_refused_run_leaves_an_older_folder_as_it_was(corpus, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(KitError, match="free"):
        train(settings(corpus, tmp_path / "run", keep=10**9))
    assert list(tmp_path.iterdir()) == [tmp_path / "run"] and not any((tmp_path / "run").iterdir())


def test_who_waits_for_a_run_that_is_refused_gets_its_folder(tmp_path):
    "The folder that the other one took away is made anew."
    run = tmp_path / "deep" / "run"
    got = []

    def wait():
        with claim_run(run, patience=30):
            got.append(run.is_dir())

    with pytest.raises(KitError), claim_run(run):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        raise KitError("refused")
    thread.join(30)
    assert got == [True] and not (tmp_path / "deep").exists()


def test_a_new_setting_is_compared_with_its_default(corpus, tmp_path):
    "A run of an older version cannot be given a held rate half-way."
    config = settings(corpus, tmp_path)
    old = {k: v for k, v in dataclasses.asdict(config).items() if k != "decay_bytes"}
    assert changed_settings(old, config) == [("decay_bytes", 0, config.decay_bytes)]
    assert changed_settings(old, dataclasses.replace(config, decay_bytes=0)) == []


# The start of the gates


@pytest.mark.parametrize("share, n", [(1.0, 8), (0.25, 2)])
def test_gates_start_as_in_the_trials(corpus, tmp_path, share, n):
    "Literally what the trials chrono-400 and chronoq-400 set before the first step."
    fresh = Trainer(settings(corpus, tmp_path, chrono_share=0.0, seed=3)).model
    ours = Trainer(settings(corpus, tmp_path, chrono_share=share, seed=3)).model
    draw, H = torch.Generator().manual_seed(1000 + 3), 8
    bias_H = torch.exp(torch.rand(H, generator=draw) * math.log(400.0)).clamp_min(1.05).log()
    with torch.no_grad():
        fresh.rnn.layers[0].b[H : H + n] = bias_H[:n]
        fresh.rnn.layers[0].b[:n] = -bias_H[:n]
    assert all(map(torch.equal, fresh.state_dict().values(), ours.state_dict().values()))


def test_new_settings_stand_at_the_end():
    "So that settings given by their place keep their meaning."
    names = [f.name for f in dataclasses.fields(TrainConfig)]
    assert names[:4] == ["corpus", "out", "model", "global_batch"]
    assert names[names.index("tensorboard") + 1] == "start_from"


def test_the_published_decay_is_what_it_was():
    config = TrainConfig("corpus", "out", lr=1e-3, global_batch=192, warmup_steps=7)
    for step, done in ((0, 0), (3, 100), (50, 333_333), (99, 999_999)):
        warm = min(1.0, (step + 1) / 7)
        assert learning_rate(config, step, done, 10**6) == 1.5e-3 * warm * (1 - done / 10**6)
