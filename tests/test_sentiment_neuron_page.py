"""The page that tells what was found: its figures, its pictures and the records they come from."""

import json
import re
import shutil
from datetime import date
from pathlib import Path

import nbformat
import papermill
import pytest
from fill_page import (
    BUNDLED,
    FOLDER,
    LADDER,
    PAGE,
    control,
    figures_of,
    fill,
    fill_page,
    largest_direction,
    page_figures,
    strongest,
    unit_of,
)
from forks import fork_kernels
from pages import prepare
from sync import ROOT, cells, notebooks
from test_hygiene import MACHINE_PATH

from sentiment_kit.data.files import KitError, write_json
from sentiment_kit.evidence.run_records import (
    RunRecord,
    estimate_of,
    read_records,
    weights_digest,
    write_record,
)
from sentiment_kit.training.checkpoint import find_model

PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")


@pytest.fixture(scope="module")
def records():
    return read_records(FOLDER)


def page():
    return "\n\n".join(cell["source"] for cell in cells(PAGE))


def prose():
    "The page without pictures and without what links lead to."
    return re.sub(r"\]\([^)]*\)", "]", PICTURE.sub("", page()))


def test_every_figure_of_the_page_is_that_of_a_record_in_the_order_of_reading(records):
    "All numbers of the page but those in its pictures and links; in words for pictures are none."
    assert figures_of([page()]) == page_figures(records)
    assert not [alt for alt, _ in PICTURE.findall(page()) if re.search(r"\d", alt)]


def test_the_words_of_the_page_hold_in_the_records(records):
    "What stands above or below what, and how clearly, however the figures move."
    carrier = {model: control(records, model, "unit") for model in BUNDLED}
    for model in BUNDLED:
        assert carrier[model].low > strongest(records, model).high, model
        counted = control(records, model, "word counts")
        assert model == "reviews-stars" or carrier[model].high < counted.low, model
    assert unit_of(records, "reviews-small") == unit_of(records, "reviews-stars")
    assert carrier["reviews-small"].high < carrier["reviews-stars"].low
    rungs = records["ladder"].figures["rungs"]
    climbed = {name: estimate_of(rungs[name]["carrier, inside"]) for name in LADDER}
    others = [found.high for name, found in climbed.items() if name != "stars weighted"]
    assert climbed["stars weighted"].low > max(others)
    found = records["patches"].figures["reviews-stars"]["patches"]
    whole, alone, rest, *controls = (estimate_of(patch["moved"][0]) for patch in found.values())
    assert alone.value > whole.value / 2 > rest.high and alone.low > max(c.high for c in controls)
    bits = [estimate_of(patch["bits_intervals"][0]) for patch in list(found.values())[:2]]
    assert bits[1].high < bits[0].low / 100
    small = records["patches"].figures["reviews-small"]["patches"]
    whole, alone = (estimate_of(patch["moved"][0]) for patch in list(small.values())[:2])
    assert alone.low < 0 < alone.high < whole.value and whole.low > 0
    for texts in records["accuracy"].figures["reviews-stars"].values():
        assert texts["word counts"]["high"] > texts["all units"]["value"]
    swings = records["steering"].figures["reviews-stars"]
    assert (
        largest_direction(records)["swing"]
        > swings[f"unit {unit_of(records, 'reviews-stars')}"]["swing"]
    )


def test_remade_records_are_taken_into_the_page(records, tmp_path):
    "The n-th figure for the n-th; pictures and links stay; other numbers of figures are said."
    source = (
        "Unit 7 of [2017](https://a.b/1) has −0.3 [−0.4, 0.2] ![90 dots](1.svg) and 1,024 ± 2%."
    )
    filled = "Unit 8 of [2018](https://a.b/1) has 0.5 ![90 dots](1.svg) and 12%."
    assert figures_of([source]) == ["7", "2017", "−0.3 [−0.4, 0.2]", "1,024 ± 2%"]
    assert fill([source], ["8", "2018", "0.5", "12%"]) == [filled]
    with pytest.raises(ValueError, match="the page has 4 figures, its records give 3"):
        fill([source], ["8", "2018", "0.5"])
    folder = shutil.copytree(FOLDER, tmp_path / "records")
    copied = Path(shutil.copy(PAGE, tmp_path))
    assert fill_page(copied, folder) == [] and copied.read_bytes() == PAGE.read_bytes()
    stated = json.loads((folder / "pushes.json").read_text(encoding="utf-8"))
    stated["figures"]["curves"][0]["after"]["100"]["value"] = 0.6966
    write_json(folder / "pushes.json", stated)
    assert fill_page(copied, folder) == ["0.71 [0.69, 0.73] → 0.70 [0.69, 0.73]"]
    assert figures_of([cell["source"] for cell in cells(copied)]) == page_figures(
        read_records(folder)
    )


def test_the_table_speaks_of_the_units_of_the_models(records):
    "And of units that stand out from luck."
    for model in BUNDLED:
        found = records["units"].figures[model]
        neuron = json.loads((find_model(model) / "neuron.json").read_text())
        assert found["unit"] == neuron["unit"], model
        config = json.loads((find_model(model) / "config.json").read_text())
        assert {len(found[key]) for key in ("tau", "last", "inside")} == {config["hidden_size"]}
        assert min(found["last"][found["unit"]], found["inside"][found["unit"]]) > found["chance"]


def test_records_say_where_they_come_from(records):
    assert set(records) >= {"units", "controls", "training", "pushes", "patches", "accuracy"}
    for name, record in records.items():
        assert date.fromisoformat(record.date), name
        for model, stated in record.models.items():
            if model in BUNDLED:
                assert stated == weights_digest(find_model(model)), f"{name}: other weights"
        text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
        assert not MACHINE_PATH.search(text), name
        longest = max(re.findall(r'"((?:[^"\\]|\\.)*)"', text), key=len)
        assert len(longest) < 400, f"{name} holds a text: {longest[:60]}"
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000


def test_a_record_lacks_nothing(records, tmp_path):
    "Every field is asked for, by name; a folder without records is said to be one."
    stated = json.loads((FOLDER / "pushes.json").read_text())
    assert write_record(tmp_path / "pushes.json", records["pushes"]).read_text() == (
        FOLDER / "pushes.json"
    ).read_text(encoding="utf-8")
    for field in stated:
        write_json(tmp_path / "pushes.json", stated | {field: type(stated[field])()})
        with pytest.raises(KitError, match=rf"pushes.json says nothing in {field};"):
            read_records(tmp_path)
        write_json(tmp_path / "pushes.json", {k: v for k, v in stated.items() if k != field})
        with pytest.raises(KitError, match=rf"pushes.json lacks the field '{field}'"):
            read_records(tmp_path)
    with pytest.raises(KitError, match="holds no record"):
        read_records(tmp_path / "none")
    with pytest.raises(KitError, match="new.json says nothing in machine"):
        write_record(tmp_path / "new.json", RunRecord(**(stated | dict(machine=""))))
    assert not (tmp_path / "new.json").exists()


def test_the_notebook_draws_the_pictures_of_the_page_again(tmp_path, monkeypatch):
    "From the records alone; the same to the byte."
    fork_kernels(monkeypatch)
    runs = shutil.copytree(ROOT / "nbs" / "runs", tmp_path / "nbs" / "runs")
    shutil.copytree(FOLDER, tmp_path / "nbs" / "pages" / "records")
    name = "72_sentiment_neuron.ipynb"
    papermill.execute_notebook(runs / name, tmp_path / name, cwd=runs, progress_bar=False)
    made = {path.name: path.read_bytes() for path in (tmp_path / "nbs" / "images").iterdir()}
    assert {f"../images/{name}" for name in made} == {link for _, link in PICTURE.findall(page())}
    for name, picture in made.items():
        assert picture == (ROOT / "nbs" / "images" / name).read_bytes(), "run 72_sentiment_neuron"


def test_the_page_is_short_and_its_links_lead_somewhere():
    assert len(prose().split()) < 700
    headings = set()
    for link in re.findall(r"\]\(([^)]+)\)", page()):
        path, _, heading = link.partition("#")
        if ":" not in link:
            assert (PAGE.parent / path).resolve().is_file(), link
            headings |= {heading} - {""}
    known = "\n".join(cell["source"] for cell in cells(PAGE.parent / "results.ipynb"))
    for heading in headings:
        assert re.search(rf"^##+ {heading.replace('-', ' ')}$", known, re.M), heading


def test_every_picture_of_a_page_is_told_in_words():
    told = [
        (path.name, alt)
        for path in notebooks()
        for cell in cells(path, "markdown")
        for alt, _ in PICTURE.findall(cell["source"])
    ]
    assert len(told) > 10 and [name for name, alt in told if len(alt) < 20] == []


def test_a_stored_svg_says_its_title_in_the_static_pages():
    "nbconvert shows it as an image, and would say that nobody has described it."
    found = 0
    for path in notebooks("lib", "runs"):
        notebook = nbformat.read(path, 4)
        outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
        stored = [o for o in outputs if "image/svg+xml" in o.get("data", {})]
        titles = [re.search("<title>(.+?)</title>", o.data["image/svg+xml"], re.S) for o in stored]
        assert all(titles), path.name
        if stored:
            prepare(notebook)
        for output, title in zip(stored, titles, strict=True):
            assert output.data["text/html"].startswith(f'<img alt="{title[1]}" src="data:image/svg')
            assert "image/svg+xml" not in output.data
        found += len(stored)
    assert found >= 6
