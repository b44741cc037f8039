"""The page that tells what was found: its figures, its pictures and the records they come from."""

import json
import re
import shutil
from datetime import date

import nbformat
import papermill
import pytest
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

PAGE = ROOT / "nbs" / "pages" / "sentiment_neuron.ipynb"
FOLDER = ROOT / "nbs" / "pages" / "records"
BUNDLED = ("reviews-small", "reviews", "reviews-stars")
PATCHED = ("the carrier alone", "all but the carrier")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
NUMBER = r"[−+]?\d+(?:,\d{3})*(?:\.\d+)?%?"
FIGURE = re.compile(rf"{NUMBER}(?: \[{NUMBER}, {NUMBER}\]| ± {NUMBER})?")


@pytest.fixture(scope="module")
def records():
    return read_records(FOLDER)


def page():
    return "\n\n".join(cell["source"] for cell in cells(PAGE))


def prose():
    "The page without pictures and without what links lead to."
    return re.sub(r"\]\([^)]*\)", "]", PICTURE.sub("", page()))


def pairs(stated):
    "Right of 100 pairs."
    found = estimate_of(stated)
    value, low, high = (f"{100 * share:.0f}" for share in found[:3])
    return f"{value} [{low}, {high}]"


def right(stated):
    "A share in percent."
    value, low, high = (f"{100 * share:.1f}" for share in estimate_of(stated)[:3])
    return f"{value}% [{low}, {high}]"


def amount(stated, digits=2):
    value, low, high = (f"{x:.{digits}f}".replace("-", "−") for x in estimate_of(stated)[:3])
    return f"{value} [{low}, {high}]"


def swing(found):
    return f"{found['swing']:.2f} ± {found['half_width']:.2f}"


def control(records, model, reads, part="inside"):
    "A row of the controls, by how it begins."
    rows = records["controls"].figures[model]
    return pairs(next(row for row in rows if row["reads"].startswith(reads))[part])


def table(records):
    "The figures of the table, row by row."
    units = {model: str(records["units"].figures[model]["unit"]) for model in BUNDLED}
    told = [text for model in BUNDLED for text in (units[model], control(records, model, "unit"))]
    rows = [("all units", "inside"), ("best unit of the untrained", "inside")]
    rows += [("best unit, labels shuffled", "chosen"), ("best of as many random", "chosen")]
    rows += [("bytes up to", "inside"), ("word counts", "inside")]
    return told + [control(records, model, *row) for row in rows for model in BUNDLED]


def test_every_figure_of_the_page_is_that_of_a_record_in_the_order_of_reading(records):
    "All numbers of the page but those in its pictures and links."
    held = records["patches"].figures
    stars, text = held["reviews-stars"]["patches"], held["reviews-small"]["patches"]
    moved = [stars[name]["moved"][0] for name in ("the whole state", *PATCHED)]
    bits = [stars[name]["bits_intervals"][0] for name in ("the carrier alone", "the whole state")]
    curves = {found["name"]: found for found in records["pushes"].figures["curves"]}
    ratio = next(r["ratio"] for r in records["pushes"].figures["ratios"] if r["bytes"] == 100)
    told = records["accuracy"].figures["reviews-stars"]
    slowest = records["rest"].figures["modes"]["reviews-stars"]
    swings = records["steering"].figures
    largest = max(
        (found for name, found in swings["reviews-stars"].items() if "direction" in name),
        key=lambda found: found["swing"],
    )
    alone, with_stars = records["training"].figures.values()

    def along(points, n, unit):
        return pairs(points[n]["units"][unit]["inside"])

    expected = ["2017", "82", "2017", "2018", "768", "1,024", "50", "100", "95%", "100"]
    expected += table(records)
    expected += ["866", along(alone, 1, "866"), f"{alone[1]['mb']:.0f}", along(alone, -1, "866")]
    expected += [f"{alone[-1]['mb']:.0f}", "217", along(with_stars, 0, "217")]
    expected += [f"{with_stars[1]['mb']:.0f}", along(with_stars, 1, "217")]
    expected += [along(with_stars, -1, "217")]
    rungs = records["ladder"].figures["rungs"]
    climbed = ("bytes", "headline", "stars", "stars weighted", "other stars weighted")
    areas = [pairs(rungs[name]["carrier, inside"]) for name in climbed]
    expected += ["256", "12", *areas[:3], "150", *areas[3:]]
    expected += ["100", amount(curves["carrier, with stars"]["after"]["100"])]
    expected += [amount(curves["carrier, text alone"]["after"]["100"], 3), amount(ratio)]
    expected += [amount(found) for found in moved]
    expected += [amount(bits[0], 3), amount(bits[1])]
    expected += [right(told["reviews"]["word counts"]), f"{told['reviews']['one unit']['n']:,}"]
    expected += [right(told["reviews"]["all units"]), right(told["reviews"]["one unit"])]
    expected += [right(told["sst"]["word counts"]), right(told["sst"]["all units"])]
    expected += ["2019", "2021"]
    expected += [f"{records['rest'].figures['rest']['mean of all bytes']['carrier_cosine']:.2f}"]
    expected += ["1", amount(slowest["slowest"], 0), amount(slowest["carrier_cosine"])]
    expected += [swing(swings["reviews-stars"]["unit 217"]), swing(swings["reviews"]["unit 866"])]
    expected += [swing(largest), amount(text["the carrier alone"]["moved"][0])]
    expected += [amount(text["the whole state"]["moved"][0]), "38", "0.3", "2023"]
    assert FIGURE.findall(prose()) == expected


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
    name = "71_sentiment_neuron.ipynb"
    papermill.execute_notebook(runs / name, tmp_path / name, cwd=runs, progress_bar=False)
    made = {path.name: path.read_bytes() for path in (tmp_path / "nbs" / "images").iterdir()}
    assert {f"../images/{name}" for name in made} == {link for _, link in PICTURE.findall(page())}
    for name, picture in made.items():
        assert picture == (ROOT / "nbs" / "images" / name).read_bytes(), "run 71_sentiment_neuron"


def test_the_page_is_short_and_its_links_lead_somewhere():
    assert len(prose().split()) < 1000
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
