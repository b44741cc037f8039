"""New processes that have torch already: copies of a server that only imported what takes long.

Importing torch, its optimizers and scikit-learn takes three seconds, and most processes of the
suite do little else. `FORKS` starts processes without that; notebooks run in kernels that begin as
such a copy, and ranks whose numbers are tested, not their start. What starts as it does for users
has tests of its own.
"""

import atexit
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

from jupyter_client.provisioning import local_provisioner

from sentiment_kit.training.distributed import RankLost

HEAVY = (
    *("torch", "torch._dynamo", "safetensors.torch", "scipy.stats", "plotly.graph_objects"),
    *("sklearn.linear_model", "sklearn.model_selection", "sklearn.feature_extraction.text"),
    *("IPython", "ipykernel.ipkernel", "ipykernel.kernelapp"),
)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(list(HEAVY))


class Fork:
    "A process with what `subprocess.Popen` offers; what it writes on stderr goes to a file."

    stdin = stdout = stderr = None  # jupyter_client closes them

    def __init__(self, target, *args, errors: Path | None = None):
        self.process = FORKS.Process(target=call, args=(target, args, errors))
        self.process.start()
        self.pid, self.errors = self.process.pid, errors
        self.kill, self.terminate = self.process.kill, self.process.terminate

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode

    def said(self) -> str:
        "What it wrote on stderr."
        return self.errors.read_text(encoding="utf-8")


def call(target, args, errors: Path | None) -> None:
    if errors:
        with open(errors, "wb") as file:
            os.dup2(file.fileno(), 2)
    target(*args)


def start_kernel(command: list[str], **options) -> Fork:
    "In place of jupyter_client's function of the same arguments."
    words = command[command.index("ipykernel_launcher") + 1 :]
    kernel = Fork(run_kernel, words, options["env"], options.get("cwd") or os.getcwd())
    while os.getpgid(kernel.pid) != kernel.pid:  # signals go to the whole group
        time.sleep(0.001)
    return kernel


def run_kernel(words: list[str], env: dict[str, str], folder: str) -> None:
    "What `python -m ipykernel_launcher` does; imports are looked for where a new Python would."
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path[:] = [path for path in sys.path if path.startswith((sys.base_prefix, sys.prefix))]
    sys.argv[:] = ["ipykernel_launcher.py", *words]
    try:
        launch_new_instance(argv=words)
    finally:
        atexit._run_exitfuncs()


def rank_main(target, args, place: dict[str, str], told) -> None:
    "A rank of `run_ranks`: leave the result, or the error."
    os.environ.update(place)
    try:
        told.put((int(place["RANK"]), target(*args), None))
    except Exception as error:
        told.put((int(place["RANK"]), None, error))


def run_ranks(target, n: int, args=()) -> object:
    "What `run_processes` does without its launcher: call `target` in n ranks; rank 0's result."
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    told = FORKS.Queue()
    for rank in range(n):
        place = where | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        FORKS.Process(target=rank_main, args=(target, args, place, told), daemon=True).start()
    results = {}
    while len(results) < n:
        rank, results[rank], error = told.get(timeout=120)
        if error and not isinstance(error, RankLost):
            raise error
    return results[0]


def fork_kernels(monkeypatch) -> None:
    "From now on, in a test, kernels are copies."
    monkeypatch.setattr(local_provisioner, "launch_kernel", start_kernel)
