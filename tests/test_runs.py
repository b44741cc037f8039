"""The run notebooks chained by papermill: at their defaults, and by `sentiment-kit run`."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import time

import nbformat
import numpy as np
import papermill
import pytest
from forks import fork_kernels
from shadows import shadow_folder
from sync import ROOT, SCRIPTS

from sentiment_kit.cli import main
from sentiment_kit.data.datasets import load_dataset
from sentiment_kit.recipes import RUN_CHAIN
from sentiment_kit.transfer.classifier import TextClassifier

TINY = "hidden_size=16 embed_size=4 epochs=1 global_batch=32".split()
MADE = {
    "shards.json",
    "train.json",
    "transfer.json",
    "neuron.json",
    "heatmap.html",
    "metrics.jsonl",
    "environment.json",
}


def test_defaults_chain(tmp_path, monkeypatch):
    "With nothing but the defaults, started where they lie, as by *Run All Cells* in JupyterLab."
    fork_kernels(monkeypatch)
    runs = shutil.copytree(ROOT / "nbs" / "runs", tmp_path / "nbs" / "runs")
    for name in RUN_CHAIN:
        papermill.execute_notebook(
            runs / f"{name}.ipynb", tmp_path / f"{name}.ipynb", cwd=runs, progress_bar=False
        )
    run = tmp_path / "out" / "first_look"
    assert {path.name for path in run.iterdir()} >= MADE
    train = json.loads((run / "train.json").read_text())
    assert 0 < train["bits_after"] < train["bits_before"] < 9
    papermill.execute_notebook(
        runs / "69_bundle.ipynb", tmp_path / "69.ipynb", cwd=runs, progress_bar=False
    )
    classifier, said = (
        TextClassifier.from_pretrained(run / "bundle"),
        json.loads((run / "bundle.json").read_text()),
    )
    test = load_dataset("samples")["test"]
    right = np.mean(classifier.predict(test.texts) == test.labels)
    assert (
        right == said["all_units"]["labels"]["test"]["value"]
    )  # what the card says is what the folder does
    assert (
        json.loads((run / "bundle" / "neuron.json").read_text())["unit"] == said["neuron"]["unit"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["64_loss_gap", "65_precision", "66_model_size", "67_scaling", "68_speed"]
)
def test_defaults_of_the_notebooks_beside_the_chain(name, tmp_path):
    runs = shutil.copytree(ROOT / "nbs" / "runs", tmp_path / "nbs" / "runs")
    for each in ("60_make_shards", name):
        papermill.execute_notebook(
            runs / f"{each}.ipynb", tmp_path / f"{each}.ipynb", cwd=runs, progress_bar=False
        )
    kind = name[3:]
    result = json.loads((tmp_path / "out" / kind / f"{kind}.json").read_text())
    if kind == "precision":
        bits = [run["valid_bits"] for run in result["runs"]]
        assert len(bits) == 3 and max(bits) - min(bits) < 0.01
    if kind == "loss_gap":
        assert (
            json.loads((tmp_path / "out" / kind / "gap.json").read_text())["gap"]["bits"] < 0
        )  # loss fell on the way
    if kind == "model_size":
        assert len(result["runs"]) == 6 and 2 < result["forecast"]["bits"] < 8
    if kind == "scaling":
        assert all(row["loss_apart"] < 1e-3 for row in result["processes"].values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A tiny run of the smoke recipe, started where files have the standard library's names."
    out = tmp_path_factory.mktemp("out {braces} and spaces")
    with contextlib.chdir(shadow_folder(out / "shadows")):
        assert main(["run", "smoke", "--out", str(out), "--name", "tiny", "--set", *TINY]) == 0
    return out / "tiny"


def test_run_leaves_figures_notebooks_and_a_record(finished):
    assert {path.name for path in finished.iterdir()} >= MADE | {
        "run.json",
        "corpus",
        "checkpoints",
        "notebooks",
    }
    assert [path.stem for path in sorted((finished / "notebooks").iterdir())] == list(RUN_CHAIN)
    record = json.loads((finished / "run.json").read_text())
    assert record["parameters"]["61_train"]["hidden_size"] == 16
    assert (
        record["environment"]["torch"]
        and record["recipe"] == "smoke"
        and set(record["seconds"]) == set(RUN_CHAIN)
    )
    executed = nbformat.read(finished / "notebooks" / "61_train.ipynb", 4)
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    corpus = json.loads((finished / "environment.json").read_text())["corpus"]
    assert corpus == json.loads((finished / "shards.json").read_text())["corpus"]


def test_the_same_command_again_resumes_and_ends_with_the_table(finished, capsys, monkeypatch):
    fork_kernels(monkeypatch)
    metrics = (finished / "metrics.jsonl").read_bytes()
    corpus = (finished / "corpus" / "manifest.json").stat().st_mtime_ns
    assert (
        main(["run", "smoke", "--out", str(finished.parent), "--name", "tiny", "--set", *TINY]) == 0
    )
    assert (finished / "metrics.jsonl").read_bytes() == metrics
    assert (finished / "corpus" / "manifest.json").stat().st_mtime_ns == corpus
    said = capsys.readouterr().out
    headings = [said.index(f"── {name}") for name in RUN_CHAIN]
    assert headings == sorted(headings)
    table = said[headings[-1] :]
    train = json.loads((finished / "train.json").read_text())
    assert f"{train['bits_before']:.3f}" in table and f"{train['bits_after']:.3f}" in table
    assert "all 16 units" in table and "alone" in table
    assert table.rstrip().endswith("heatmap.html") and "61_train.ipynb" in table


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", text, re.S)
    [output] = re.findall(r"```text\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert capsys.readouterr().out == output
    assert "<script" in (tmp_path / "mine.html").read_text()


def test_the_first_failing_notebook_ends_the_run(finished, tmp_path, capsys, monkeypatch):
    "The notebook's own error comes out as the one line, and nothing after it is run."
    fork_kernels(monkeypatch)
    (tmp_path / "bad.csv").write_text("label,words\n1,good\n")
    capsys.readouterr()
    assert (
        main(
            [
                "run",
                "smoke",
                "--out",
                str(tmp_path),
                "--name",
                "bad",
                "--data",
                str(tmp_path / "bad.csv"),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1
        and "60_make_shards" in error
        and "bad.csv has no column 'reviewText'" in error
    )
    assert [path.stem for path in (tmp_path / "bad" / "notebooks").iterdir()] == ["60_make_shards"]
    other = [
        "run",
        "smoke",
        "--out",
        str(finished.parent),
        "--name",
        "tiny",
        "--set",
        *TINY,
        "hidden_size=24",
    ]
    assert main(other) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "61_train" in error and "hidden_size=16" in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_saves_and_goes_on(number, tmp_path):
    command = [
        SCRIPTS / "sentiment-kit",
        "run",
        "smoke",
        "--out",
        tmp_path,
        "--set",
        "hidden_size=32",
        "log_every=1",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "smoke" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 5:
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(30) == 2
    error = process.stderr.read()
    assert error == "sentiment-kit: stopped; the same command again continues\n"
    [saved] = (tmp_path / "smoke" / "checkpoints").glob("step-*")
    assert 5 <= int(saved.name.removeprefix("step-")) < 100
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(366 + 1)), "every step once, as if nothing had happened"
