"""Several processes train what one does, and resume it: same bytes, gradients, stops and skips."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import torch
from forks import FORKS, run_ranks
from ranks import train_double, train_poisoned
from safetensors.torch import load_file

from sentiment_kit.data.datasets import SAMPLES
from sentiment_kit.data.files import KitError
from sentiment_kit.data.shards import make_shards
from sentiment_kit.model.language_model import LanguageModelConfig
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.preflight import logs_of_run
from sentiment_kit.training.rank_notes import Refused
from sentiment_kit.training.trainer import launch, train, train_rank

TIMINGS = ("seconds", "bytes_per_s")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    make_shards(
        SAMPLES, folder, counts=(1, 1, 1), text_key="text", stars_key="stars", split_key="split"
    )
    return folder


def settings(corpus, out, **changes) -> TrainConfig:
    "Twenty steps, and a short one at the end."
    same = dict(
        global_batch=32, seq_len=192, lr=0.02, max_lr=0.01, log_every=1, valid_every=8, save_every=6
    )
    model = LanguageModelConfig(hidden_size=16, embed_size=4)
    return TrainConfig(
        str(corpus), str(out), model, **(same | dict(device="cpu", progress="none") | changes)
    )


def lines_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(latest_checkpoint(run) / "model.safetensors")


@pytest.mark.parametrize("nproc", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))])
def test_ranks_train_what_one_process_trains(corpus, tmp_path, nproc):
    "In float64: parameters within 1e-9 after twenty steps, and every figure of the log."
    for n in (1, nproc):
        run_ranks(train_double, n, [asdict(settings(corpus, tmp_path / str(n)))])
    one, many = (weights_of(tmp_path / str(n)) for n in (1, nproc))
    worst = max(float((one[name] - many[name]).abs().max()) for name in one)
    print(f"{nproc} ranks: largest difference of a parameter {worst:.1e}")
    assert one["head.weight"].dtype == torch.float64 and worst < 1e-9
    for a, b in zip(lines_of(tmp_path / "1"), lines_of(tmp_path / str(nproc)), strict=True):
        assert a.keys() == b.keys() and (a["step"], a["bytes"]) == (b["step"], b["bytes"])
        assert all(a[key] == pytest.approx(b[key], abs=1e-9) for key in a)


@pytest.mark.slow
def test_ranks_in_fp32_and_with_half_the_traffic(corpus, tmp_path):
    losses = {}
    for name, n, changes in (("one", 1, {}), ("two", 2, {}), ("half", 2, {"all_reduce": "bf16"})):
        launch(settings(corpus, tmp_path / name, **changes), n)
        losses[name] = [line["loss_bits"] for line in lines_of(tmp_path / name) if line["step"]]
    worst = max(abs(a - b) for a, b in zip(losses["one"], losses["two"], strict=True))
    rough = max(abs(a - b) for a, b in zip(losses["one"], losses["half"], strict=True))
    print(f"2 ranks: loss within {worst:.1e} bits in fp32, {rough:.1e} with bf16 sums")
    assert worst < 1e-4 and 0 < rough < 0.05


def test_another_number_of_ranks_goes_on_at_the_exact_byte(corpus, tmp_path):
    whole, parts = settings(corpus, tmp_path / "whole"), settings(corpus, tmp_path / "parts")
    run_ranks(train_double, 1, [asdict(whole)])
    process = FORKS.Process(target=train_double, args=[asdict(parts)])
    process.start()
    while not (tmp_path / "parts" / "checkpoints").is_dir() or not any(
        (tmp_path / "parts/checkpoints").glob("step-*")
    ):
        assert process.is_alive()
        time.sleep(0.02)
    process.terminate()
    process.join(60)
    assert process.exitcode == 0
    assert latest_checkpoint(tmp_path / "parts").name < latest_checkpoint(tmp_path / "whole").name
    run_ranks(train_double, 2, [asdict(parts)])
    one, many = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert max(float((one[name] - many[name]).abs().max()) for name in one) < 1e-9
    steps = [
        [(line["step"], line["bytes"]) for line in lines_of(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert steps[0] == steps[1]


def launch_in_the_background(config: TrainConfig, nproc: int) -> subprocess.Popen:
    script = (
        "import sys, json\n"
        "from sentiment_kit.training.trainer import *\n"
        "from sentiment_kit.training.config import *\n"
        "from sentiment_kit.data.checked_json import *\n"
        "if __name__ == '__main__':\n"
        "    config = config_from_json(TrainConfig, json.loads(sys.argv[1]), 'test')\n"
        "    try: launch(config, int(sys.argv[2]))\n"
        "    except Stopped as stopped: print(stopped)"
    )
    command = [sys.executable, "-c", script, json.dumps(asdict(config)), str(nproc)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, **pipes, text=True, start_new_session=True)


def wait_for_lines(run: Path, n: int, process: subprocess.Popen) -> bool:  # False: it ended before
    while (
        not (run / "metrics.jsonl").exists()
        or len((run / "metrics.jsonl").read_text().splitlines()) < n
    ):
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return True


def assert_same_run(run: Path, whole: Path):
    "Line by line, timings aside, and bit by bit: weights, optimizer, states."
    assert lines_of(run) == lines_of(whole)
    for name in ("model", "optimizer", "state"):
        a, b = (
            load_file(latest_checkpoint(folder) / f"{name}.safetensors") for folder in (run, whole)
        )
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_two_ranks_asked_to_stop_and_started_again_write_the_same_log(corpus, tmp_path):
    many = dict(global_batch=16, seq_len=128, valid_every=25, save_every=10)
    run_ranks(train_rank, 2, [asdict(settings(corpus, tmp_path / "whole", **many))])
    config = settings(corpus, tmp_path / "parts", **many)
    process = launch_in_the_background(config, 2)
    assert wait_for_lines(tmp_path / "parts", random.Random(0).randint(15, 60), process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert "the same call goes on from there" in said
    assert len(lines_of(tmp_path / "parts")) < len(lines_of(tmp_path / "whole"))
    launch(config, 2)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [1, 2])
def test_killed_many_times_and_started_again_at_once(corpus, tmp_path, request, nproc):
    "kill -9 of caller, launcher or a rank; the next start comes while others may still write."
    kills, rng = request.config.getoption("--n") or 20, random.Random(nproc)
    many = dict(global_batch=16, seq_len=64, save_every=3, epochs=1 + kills // 5)
    launch(settings(corpus, tmp_path / "whole", **many), nproc)
    config, run, killed, ended = (
        settings(corpus, tmp_path / "parts", **many),
        tmp_path / "parts",
        Counter(),
        False,
    )
    while sum(killed.values()) < kills and not ended:
        done = int(folder.name[5:]) if run.is_dir() and (folder := latest_checkpoint(run)) else 0
        process = launch_in_the_background(config, nproc)
        ended = not wait_for_lines(run, done + rng.randint(2, 20), process)
        if not ended:
            time.sleep(rng.random() * 0.1)
            family = [
                process.pid,
                *(child.pid for child in psutil.Process(process.pid).children(recursive=True)),
            ]
            victim = rng.randrange(len(family))
            os.kill(family[victim], signal.SIGKILL)
            killed[victim] += 1
        process.communicate(timeout=120)
    launch(config, nproc)
    print(f"{nproc} ranks, kills by place in the family: {dict(killed)}")
    assert_same_run(run, tmp_path / "whole")
    assert sum(killed.values()) > kills // 2


def test_a_rank_whose_numbers_are_none_stops_all_and_leaves_what_it_stumbled_over(corpus, tmp_path):
    config = settings(corpus, tmp_path / "run", max_skips=3, save_every=3)
    with pytest.raises(KitError, match="not finite 3 times in a row, last at step 7"):
        run_ranks(train_poisoned, 2, [asdict(config), 1, 4])
    names = sorted(path.name for path in (tmp_path / "run" / "nonfinite").iterdir())
    assert names[0].startswith("step-000000007-rank-")
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["step-000000003"], "nothing is saved while steps are skipped"
    assert all(t.isfinite().all() for t in weights_of(tmp_path / "run").values())


def test_parts_of_a_step_sum_to_the_same_run(corpus, tmp_path):
    for parts in (1, 4):
        train(settings(corpus, tmp_path / str(parts), accumulate=parts))
    losses = [
        [line["loss_bits"] for line in lines_of(tmp_path / str(n)) if line["step"]] for n in (1, 4)
    ]
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 1e-4
    with pytest.raises(KitError, match="accumulate is 5"):
        train(settings(corpus, tmp_path / "five", accumulate=5))


def test_a_run_ends_when_validation_does_not_improve(corpus, tmp_path):
    config = settings(
        corpus, tmp_path / "run", epochs=2, lr=1e-12, valid_every=2, valid_bytes=2_000, patience=3
    )
    run = train(config)
    steps = [line["step"] for line in lines_of(run) if "valid_bits" in line]
    assert steps[-1] < 40 and train(config) == run
    validated = [line for line in lines_of(run) if "valid_bits" in line]
    assert [line["step"] for line in validated] == steps
    sizes = [line["valid_bytes"] for line in validated]
    assert sizes[0] == sizes[-1] > max(sizes[1:-1]), (
        "before and after it reads the whole split, whatever ended it"
    )
    train(replace(config, patience=0, valid_every=50))
    assert lines_of(run)[-1]["epoch"] == 2


@pytest.mark.parametrize("begun", [False, True])
def test_a_refusal_leaves_no_logs_of_a_run_that_has_not_begun(corpus, tmp_path, monkeypatch, begun):
    out, logs = tmp_path / "runs" / "run", tmp_path / "runs" / "run" / "logs"

    def refuse(*args):
        for name in ("rank-0.log", "launcher.log"):
            (logs / name).write_text("no room")
        if begun:
            (out / "train_config.json").write_text("{}")
        raise Refused("rank 0 of 2 failed: no room")

    monkeypatch.setattr("sentiment_kit.training.trainer.run_processes", refuse)
    with pytest.raises(KitError, match="no room"):
        launch(settings(corpus, out), nproc=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == (["runs"] if begun else [])
    assert (logs / "rank-0.log").exists() == begun


def test_what_lay_there_before_a_refusal_stays_and_so_do_the_logs_of_a_crash(tmp_path):
    logs = tmp_path / "run" / "logs"
    logs.mkdir(parents=True)
    (logs / "mine.log").write_text("mine")
    with suppress(Refused), logs_of_run(logs):
        (logs / "rank-0.log").write_text("no room")
        raise Refused("no room")
    assert [log.name for log in logs.iterdir()] == ["mine.log"]
    with suppress(KitError), logs_of_run(tmp_path / "other" / "logs"):
        (tmp_path / "other" / "logs" / "rank-0.log").write_text("Segmentation fault")
        raise KitError("rank 0 of 2 was killed")
    assert (tmp_path / "other" / "logs" / "rank-0.log").exists()


@pytest.mark.slow
def test_two_processes_that_refuse_leave_nothing(corpus, tmp_path):
    with pytest.raises(Refused, match="cannot import .math:nothing"):
        launch(settings(corpus, tmp_path / "run"), nproc=2, callbacks=("math:nothing",))
    assert not list(tmp_path.iterdir())
