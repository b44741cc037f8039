"""Every notebook that teaches runs from top to bottom: one item each, in a copy, so that the originals stay."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from sync import ROOT, notebooks

LONG = {"92_why_fp16_needs_care"}  # tour notebooks that take more than 20 s: `make slow`
NOTEBOOKS = [
    pytest.param(f"{path.parent.name}/{path.name}", id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG))
    for path in notebooks("lib", "tour")
]


def execute(path):
    NotebookClient(
        nbformat.read(path, 4), timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()


@pytest.fixture(scope="session")
def running(request, tmp_path_factory):
    "The selected notebooks, started two at a time when the first is asked for: most of their time is a kernel's start."
    nbs = shutil.copytree(ROOT / "nbs", tmp_path_factory.mktemp("notebooks") / "nbs")
    selected = [item.callspec.params["name"] for item in request.session.items if "running" in item.fixturenames]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(execute, nbs / name) for name in selected}
        pool.shutdown(wait=False, cancel_futures=True)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(running, name):
    try:
        running[name].result()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        pytest.fail(f"{name}: {error}", pytrace=False)
