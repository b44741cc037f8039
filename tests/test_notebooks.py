"""Every notebook that teaches runs from top to bottom: one item each, in a copy."""

import shutil

import nbformat
import pytest
from forks import fork_kernels
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from sync import ROOT, cells, notebooks

NOTEBOOKS = [
    pytest.param(
        str(path.relative_to(ROOT / "nbs")),
        id=f"{path.parent.name}/{path.stem}",
        marks=[pytest.mark.slow] * (path.parent.name == "tour"),
    )
    for path in notebooks("lib", "tour", "pages")
    if cells(path, "code")  # pages of nothing but prose have nothing to run
]


@pytest.fixture(scope="session")
def nbs(tmp_path_factory):
    return shutil.copytree(ROOT / "nbs", tmp_path_factory.mktemp("notebooks") / "nbs")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(nbs, name, monkeypatch):
    if "TRITON_INTERPRET" not in (nbs / name).read_text(
        encoding="utf-8"
    ):  # read at triton's import
        fork_kernels(monkeypatch)
    notebook, resources = (
        nbformat.read(nbs / name, 4),
        {"metadata": {"path": str((nbs / name).parent)}},
    )
    try:
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        pytest.fail(f"{name}: {error}", pytrace=False)
