"""The wheel has everything a user needs and nothing a developer needs."""

import json
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser

import pytest
from sync import ROOT, modules, notebooks

# A few lines and a file: a sentiment score and a heatmap for a sentence of one's own.
FEW_LINES = """
import sentiment_kit as sk
from sentiment_kit.transfer.classifier import LabelLogits
classifier = sk.TextClassifier.from_pretrained("reviews-stars")
print(classifier.predict_proba(["a great lid"]).tolist())
sk.HeatmapWidget(LabelLogits(classifier), "a great lid").save("mine.html")
"""
PARTS = "settings.ini setup.py MANIFEST.in README.md LICENSE CITATION.cff Makefile".split()
PARTS += ["ruff.toml", "mypy.ini", "constraints.txt"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built as a release is: from the source archive, which proves MANIFEST.in too."
    copy = tmp_path_factory.mktemp("build")
    for name in PARTS:
        shutil.copy(ROOT / name, copy)
    for name in ("nbs", "sentiment_kit", "tests"):
        shutil.copytree(
            ROOT / name,
            copy / name,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next((copy / "dist").glob("*.whl"))


def test_wheel_carries_modules_samples_runs_and_recipes(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    code = [*(ROOT / "sentiment_kit").rglob("*.py"), ROOT / "sentiment_kit" / "py.typed"]
    wanted = {str(path.relative_to(ROOT)) for path in code}
    for folder in ("samples", "static", "weights"):
        found = (ROOT / "sentiment_kit" / folder).rglob("*")
        wanted |= {str(path.relative_to(ROOT)) for path in found if path.is_file()}
    wanted |= {f"sentiment_kit/runs/{path.name}" for path in notebooks("runs")}
    wanted |= {
        f"sentiment_kit/runs/recipes/{path.name}"
        for path in (ROOT / "nbs/runs/recipes").glob("*.yaml")
    }
    assert len(wanted) > 25
    assert wanted - inside == set()
    assert {
        f"sentiment_kit/weights/{model}/{name}"
        for model in ("reviews", "reviews-small", "reviews-stars")
        for name in ("model.safetensors", "neuron.json", "README.md")
    } <= inside
    assert not [
        name for name in inside if name.startswith(("tests", "nbs")) or "checkpoints" in name
    ]
    assert wheel.stat().st_size < 36e6  # three models of 7 to 12 MB


def test_users_are_not_asked_for_developers_tools(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    requires = HeaderParser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist")
    always = {line for line in requires if "extra ==" not in line}
    assert any(line.startswith("torch>=") for line in always)
    assert not [
        line
        for line in always
        if line.startswith(("nbdev", "fastcore", "pytest", "papermill", "jupyterlab"))
    ]


def test_the_oldest_python_is_the_same_everywhere(wheel):
    "scikit-learn 1.8 needs 3.11, so the kit does: wheel, README, Makefile, mypy and pins agree."
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    said = HeaderParser().parsestr(archive.read(metadata).decode())["Requires-Python"]
    oldest = said.removeprefix(">=")
    places = {
        "README.md": f"Python {oldest} or later",
        "constraints.txt": f"Python {oldest} or later",
        "Makefile": f"v >= ({oldest.replace('.', ', ')})",
        "mypy.ini": f"python_version = {oldest}",
    }
    for name, words in places.items():
        assert words in (ROOT / name).read_text(encoding="utf-8"), name


@pytest.mark.slow
def test_wheel_works_in_a_clean_environment(wheel, tmp_path):
    "Without extras every module imports and the commands work; with [lab] a whole run does."

    def call(*command, status=0):
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    call(sys.executable, "-m", "venv", tmp_path / "env")
    python, kit = tmp_path / "env/bin/python", tmp_path / "env/bin/sentiment-kit"
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    call(*install, wheel)
    call(python, "-c", "import nbdev", status=1)
    call(python, "-c", "import fastcore", status=1)
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in modules()]
    call(python, "-c", "import " + ", ".join(".".join(names) for names in parts))
    assert "shards" in call(kit, "--help").stdout
    [[p_negative, p_positive]] = json.loads(call(python, "-c", FEW_LINES).stdout)
    assert 0 < p_negative < 1 and abs(p_negative + p_positive - 1) < 1e-6
    assert "<script" in (tmp_path / "mine.html").read_text()
    refused = call(kit, "run", "smoke", status=2).stderr
    assert refused.count("\n") == 1 and "sentiment_kit[lab]" in refused
    call(*install, f"{wheel}[lab]")
    assert "heatmap.html" in call(kit, "run", "smoke", "--set", "hidden_size=16", "epochs=1").stdout
