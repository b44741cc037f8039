"""The package and the README are what the notebooks say: nothing edited by hand or left over."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pages import NBS, README, SECTIONS, START, Renderer, navigation, read_notebooks
from sync import ROOT, SCRIPTS, default_exp, module_path, modules, notebooks, readme, stale_modules


def written(package):
    "What nbdev writes: all but the hand-written `__init__.py` at the top."
    paths = [path for path in package.rglob("*.py") if path != package / "__init__.py"]
    return {str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in paths}


def test_package_equals_a_fresh_export(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "sentiment_kit").mkdir()
    subprocess.run([SCRIPTS / "nbdev_export"], cwd=tmp_path, check=True)
    fresh, ours = (written(root / "sentiment_kit") for root in (tmp_path, ROOT))
    assert set(ours) == set(fresh), "run `make sync`: modules and notebooks do not match"
    assert [name for name in fresh if fresh[name] != ours[name]] == [], (
        "run `make sync`: these differ from their notebooks"
    )


def test_no_stale_module():
    assert stale_modules() == []
    assert modules() == sorted(module_path(default_exp(path)) for path in notebooks("lib"))


def test_everything_exported_is_in_git():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "sentiment_kit", "nbs"], cwd=ROOT, capture_output=True, text=True
    )
    tracked = set(listed.stdout.split("\n"))
    made = [*(ROOT / "sentiment_kit").rglob("*.py"), *notebooks()]
    assert [path.name for path in made if str(path.relative_to(ROOT)) not in tracked] == [], (
        "git add them"
    )


def test_every_notebook_has_a_page():
    "And the sections of `make docs` stand in the order in which modules import each other."
    made = list(read_notebooks([]))
    found = {path.relative_to(NBS).with_suffix(".html") for path in notebooks()}
    found = found - {START} | {README}  # index.html says what to open first
    assert set(made) == found | {Path("runs/recipes.html")} and len(made) == len(set(made))
    folders = list(dict.fromkeys(page.parent.as_posix() for page in made))
    assert folders == [".", *(name for name in SECTIONS if any(notebooks(name)))]
    here = Path("lib/data/10_text.html")
    shown = navigation(made, here)
    assert "<details open><summary>Library: data</summary>" in shown
    assert '<a href="../../tour/' in shown and shown.count("aria-current") == 1
    assert shown.count("<summary>") == len(folders) - 1


def test_links_of_a_page_are_seen_from_its_folder(tmp_path):
    renderer = Renderer(Path("pages/data.html"), tmp_path)
    assert renderer.target("../lib/data/10_text.ipynb#x") == "../lib/data/10_text.html#x"
    assert renderer.target("../lib/data") == "../lib/data/00_files.html"
    assert renderer.target("../runs/recipes") == "../runs/recipes.html"
    assert renderer.target("../images/gap.png") == "../images/gap.png"
    assert (tmp_path / "images/gap.png").exists()
    deep = Renderer(Path("lib/data/10_text.html"), tmp_path)
    assert deep.target("../model/05_norms.ipynb") == "../model/05_norms.html"


def test_readme_equals_the_index():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), (
        "run `make sync`: README.md is not index.ipynb"
    )


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [
        link for link in re.findall(r"\]\(([^)\s]+)", text) if not re.match(r"https?://|#", link)
    ]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []
