"""Processes that were started together join one group or say why not; nobody else gets in."""

import ast
import contextlib
import json
import multiprocessing
import os
import pickle
import re
import subprocess
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path
from types import SimpleNamespace

import pytest
from shadows import shadow_folder
from sync import SCRIPTS, modules
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousParameters

from sentiment_kit.cli import COMMANDS, main
from sentiment_kit.data.datasets import SAMPLES
from sentiment_kit.data.files import KitError
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.workers import choose_executor
from sentiment_kit.training import rendezvous
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.group import STARTERS, Group, group_of_environment, joined_group
from sentiment_kit.training.rendezvous import StaticRendezvous, listen
from sentiment_kit.training.trainer import launch, train

MEETING = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
NUMBERED = {name for words in STARTERS.values() for name in words}
SMALL = "--hidden-size 8 --embed-size 4 --global-batch 16 --seq-len 256 --progress none".split()


@pytest.fixture(autouse=True)
def nobody_started_us(monkeypatch):
    for name in NUMBERED | {"LOCAL_WORLD_SIZE", *MEETING}:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group") / "corpus"
    columns = dict(text_key="text", stars_key="stars", split_key="split")
    make_shards(SAMPLES, folder, counts=(1, 1, 1), **columns)
    return str(folder)


def setenv(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def free_port():
    with listen("127.0.0.1", 0) as door:
        return door.getsockname()[1]


# ---- what the environment says


@pytest.mark.parametrize("starter", STARTERS)
def test_every_starter_s_numbers_are_read(monkeypatch, starter):
    rank, size, local_rank = STARTERS[starter]
    setenv(monkeypatch, **{rank: "3", size: "8", local_rank: "1"}, **MEETING)
    assert group_of_environment() == Group(starter, 3, 8, 1, one_node=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert group_of_environment().one_node
    setenv(monkeypatch, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="2")
    assert group_of_environment() == Group("torchrun", 0, 2, 0, one_node=True), "the innermost"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert group_of_environment() is None, "a rank that is alone, in a job of several"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is '2' in the environment but there is no RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node0"}, "; MASTER_PORT not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", **MEETING}, "RANK is '2' .* below 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2", **MEETING}, "RANK is '-1'"),
        ({"RANK": "one", "WORLD_SIZE": "2", **MEETING}, "RANK is 'one'"),
        ({"RANK": "0", "WORLD_SIZE": "two", **MEETING}, "WORLD_SIZE is 'two'"),
        ({"RANK": "0", "WORLD_SIZE": "2", **MEETING, "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, "srun has started 4 .*--nproc 4"),
        ({"PMI_RANK": "0", "PMI_SIZE": "4"}, "mpiexec has started 4 processes"),
    ],
)
def test_a_group_with_gaps_is_refused_by_name(
    monkeypatch, capsys, corpus, tmp_path, variables, said
):
    setenv(monkeypatch, **variables)
    with pytest.raises(KitError, match=said):
        launch(TrainConfig(corpus, str(tmp_path / "run")))
    assert main(["train", "--corpus", corpus, "--out", str(tmp_path / "run"), *SMALL]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "3"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # in a job's script, outside of srun
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_alone_is_alone(monkeypatch, variables):
    setenv(monkeypatch, **variables)
    assert group_of_environment() is None and joined_group(2, 1) is None


def test_a_group_is_joined_or_started_but_not_both(monkeypatch):
    setenv(monkeypatch, SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="2", SLURM_LOCALID="0")
    assert joined_group(nproc=8, nnodes=2) is None, "one launcher a node, started by srun"
    setenv(monkeypatch, **MEETING)
    assert joined_group(nproc=1, nnodes=1).rank == 1
    for nproc, nnodes in ((2, 1), (1, 2), (2, 2)):
        setenv(monkeypatch, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
        with pytest.raises(KitError, match=r"torchrun has started 2 processes already.*--nproc"):
            joined_group(nproc, nnodes)


def test_all_but_training_is_refused_under_torchrun(monkeypatch, capsys, corpus, tmp_path):
    setenv(monkeypatch, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", **MEETING)
    for command in COMMANDS.keys() - {"train"}:
        assert main([command, "x"]) == 2
        error = capsys.readouterr().err
        assert f"sentiment-kit {command} works in one process and torchrun has started 2" in error
        assert error.count("\n") == 1 and main([command, "--help"]) == 0
    with pytest.raises(KitError, match="train works in one process .*call launch"):
        train(TrainConfig(corpus, str(tmp_path / "run")))


# ---- joining


def join(environment, words, log):
    "What one of several processes does; its outputs go to a file."
    os.environ.update(environment)
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = main(words)
    os._exit(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are copies of this one")
def test_processes_of_one_group_train_one_model(corpus, tmp_path):
    "As torchrun and srun start them, but copied, so that nothing is imported anew."
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["train", "--corpus", corpus, "--out", str(tmp_path / "run"), *SMALL, "--device", "cpu"]
    ranks = []
    for rank in range(2):
        number = {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": 2, "SLURM_LOCALID": rank}
        place = meeting | {name: str(value) for name, value in number.items()}
        order = (place, words, tmp_path / f"{rank}.log")
        ranks.append(multiprocessing.get_context("fork").Process(target=join, args=order))
        ranks[-1].start()
    for rank in ranks:
        rank.join(120)
    logs = [(tmp_path / f"{rank}.log").read_text() for rank in range(2)]
    assert [rank.exitcode for rank in ranks] == [0, 0], logs
    assert logs == [f"{tmp_path / 'run'}\n", ""], "rank 0 says where it is, once"
    assert json.loads((tmp_path / "run/environment.json").read_text())["processes"] == 2
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps)), "one log of one run"


@pytest.mark.slow
def test_torchrun_around_the_command(corpus, tmp_path):
    starter = [SCRIPTS / "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python"]
    words = ["train", "--corpus", corpus, "--out", tmp_path / "run", *SMALL, "--device", "cpu"]
    done = subprocess.run(
        [*starter, SCRIPTS / "sentiment-kit", *words], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'run'}\n", done.stderr
    assert json.loads((tmp_path / "run/environment.json").read_text())["processes"] == 2


# ---- who gets in


class Payload:
    "Makes a folder where it is unpickled."

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_what_a_stranger_writes_into_the_store_is_not_executed(tmp_path):
    "Under every key that is there, under those of torch's other protocol, in both spellings."
    import base64

    payload = pickle.dumps(Payload(str(tmp_path / "owned")))
    with contextlib.suppress(FileExistsError):
        pickle.loads(payload)
    (tmp_path / "owned").rmdir()  # it does work, where something loads it
    endpoint = f"127.0.0.1:{free_port()}"
    two = RendezvousParameters("sentiment_kit", endpoint, "job", 2, 2, timeout=5)
    first = StaticRendezvous(two)
    met = first.next_rendezvous()
    stranger = TCPStore("127.0.0.1", first.port, timeout=timedelta(seconds=5))
    others = {"torch.rendezvous.job", "job/torchelastic/role_info/1", "job/nodes", "job/open"}
    keys = {key.lstrip("/") for key in stranger.list_keys()} | others
    for spelling in (payload, base64.b64encode(payload)):
        for key in keys:
            stranger.set(key, spelling)
        with pytest.raises((KitError, RuntimeError, ValueError)):
            StaticRendezvous(two).next_rendezvous()
        assert met.store.get("open") == spelling and not (tmp_path / "owned").exists()


def test_the_address_to_listen_on(monkeypatch):
    for name in ("localhost", "127.0.0.1"):
        with listen(name, 0) as door:
            assert door.getsockname()[0] == "127.0.0.1"
    own = SimpleNamespace(address="127.0.1.1")
    monkeypatch.setattr(rendezvous, "own_address", lambda host: own.address)
    with listen("node0", 0) as door:
        assert door.getsockname()[0] == "0.0.0.0", "a name that other machines know otherwise"
    own.address = "127.0.0.3"
    with listen("127.0.0.3", 0) as door:
        assert door.getsockname()[0] == "127.0.0.3"
    own.address = None
    assert listen("elsewhere", 0) is None


# ---- files that lie in the working directory


def test_every_python_that_the_kit_starts_is_started_safely():
    "With -P where it is called by name; worker processes and kernels start in `safe_path`."
    for module in modules():
        tree = ast.parse(Path(module).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.List):
                words = [ast.unparse(word) for word in node.elts]
                if "sys.executable" in words:
                    assert words[words.index("sys.executable") + 1] == "'-P'", module
        source = ast.unparse(tree)
        assert not re.search(r"get_context\(|multiprocessing\.(Process|Pool)\(", source), module


def test_worker_processes_import_nothing_from_the_working_directory(tmp_path, monkeypatch, capfd):
    resource_tracker._resource_tracker._stop()  # so that the pool starts a new one
    monkeypatch.chdir(shadow_folder(tmp_path))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with choose_executor(None, workers=2, n_bytes=0)[0] as executor:
        assert executor.submit(pow, 2, 3).result() == 8
    assert "PYTHONSAFEPATH" not in os.environ and "shadowed" not in capfd.readouterr().err
