"""The figures of the page nbs/pages/sentiment_neuron.ipynb, as its records have them.

python tests/fill_page.py: after records were remade, put them in the place of those that stand
there, the n-th for the n-th; then read the page again, for words do not change by themselves.
"""

import json
import re
import sys
from pathlib import Path

from sync import ROOT, cells

from sentiment_kit.evidence.confidence import Estimate
from sentiment_kit.evidence.run_records import RunRecord, estimate_of, read_records

PAGE = ROOT / "nbs" / "pages" / "sentiment_neuron.ipynb"
FOLDER = ROOT / "nbs" / "pages" / "records"
BUNDLED = ("reviews-small", "reviews", "reviews-stars")
LADDER = ("bytes", "headline", "stars", "stars weighted", "other stars weighted")  # its rungs
CONTROLS = {  # how their rows begin: which column tells them
    "best unit of the untrained": "inside",
    "best unit, labels shuffled": "chosen",
    "best of as many random": "chosen",
    "best axis of the rotated": "inside",
    "bytes up to": "inside",
}
NUMBER = r"[−+]?\d+(?:,\d{3})*(?:\.\d+)?%?"
FIGURE = rf"{NUMBER}(?: \[{NUMBER}, {NUMBER}\]| ± {NUMBER})?"
APART = r"!\[[^\]]*\]\([^)]+\)|\]\([^)]*\)"  # pictures, and what links lead to
TOKEN = re.compile(rf"{APART}|({FIGURE})")
Records = dict[str, RunRecord]


def amount(found: Estimate, digits: int = 2) -> str:
    value, low, high = (f"{x:.{digits}f}".replace("-", "−") for x in found[:3])
    return f"{value} [{low}, {high}]"


def pairs(found: Estimate) -> str:
    "Right of 100 pairs."
    return amount(Estimate(*(100 * share for share in found[:3]), found.n), 0)


def right(stated: dict) -> str:
    "A share in percent."
    value, low, high = (f"{100 * share:.1f}" for share in estimate_of(stated)[:3])
    return f"{value}% [{low}, {high}]"


def swing(found: dict) -> str:
    return f"{found['swing']:.2f} ± {found['half_width']:.2f}"


def control(records: Records, model: str, reads: str, part: str = "inside") -> Estimate:
    "A row of the controls, by how it begins."
    rows = records["controls"].figures[model]
    return estimate_of(next(row for row in rows if row["reads"].startswith(reads))[part])


def strongest(records: Records, model: str) -> Estimate:
    "Of the five controls of a carrier."
    return max(control(records, model, *row) for row in CONTROLS.items())


def unit_of(records: Records, model: str) -> str:
    return str(records["units"].figures[model]["unit"])


def found_figures(records: Records) -> list[str]:
    "The table, and the findings on either side of the first picture of units."
    told = [
        text
        for model in BUNDLED
        for text in (unit_of(records, model), pairs(control(records, model, "unit")))
    ]
    told += [pairs(control(records, model, "all units")) for model in BUNDLED]
    told += [pairs(strongest(records, model)) for model in BUNDLED]
    told += [pairs(control(records, model, "word counts")) for model in BUNDLED]
    _, with_stars = records["training"].figures.values()
    unit = unit_of(records, "reviews-stars")
    told += [pairs(estimate_of(with_stars[n]["units"][unit]["inside"])) for n in (0, -1)]
    rungs = records["ladder"].figures["rungs"]
    areas = [pairs(estimate_of(rungs[name]["carrier, inside"])) for name in LADDER]
    return [*told, "256", "12", *areas[:3], "150", *areas[3:]]


def held_figures(records: Records) -> list[str]:
    "Pushes, patches and verdicts."
    after = {
        found["name"]: estimate_of(found["after"]["100"])
        for found in records["pushes"].figures["curves"]
    }
    ratio = next(r["ratio"] for r in records["pushes"].figures["ratios"] if r["bytes"] == 100)
    told = ["100", amount(after["carrier, with stars"]), amount(estimate_of(ratio))]
    told.append(amount(after["carrier, text alone"], 3))
    patches = records["patches"].figures["reviews-stars"]["patches"]
    whole, carrier = patches["the whole state"], patches["the carrier alone"]
    told += [amount(estimate_of(patch["moved"][0])) for patch in (whole, carrier)]
    told.append(amount(estimate_of(whole["bits_intervals"][0])))
    told.append(amount(estimate_of(carrier["bits_intervals"][0]), 3))
    judged = records["accuracy"].figures["reviews-stars"]
    readers = ("word counts", "all units")
    return told + [right(judged[texts][name]) for texts in ("reviews", "sst") for name in readers]


def largest_direction(records: Records) -> dict:
    "The swing of the random direction that moves the judge most."
    swings = records["steering"].figures["reviews-stars"]
    return max(
        (found for name, found in swings.items() if "direction" in name),
        key=lambda found: found["swing"],
    )


def missed_figures(records: Records) -> list[str]:
    "What was not found."
    slowest = records["rest"].figures["modes"]["reviews-stars"]
    resting = records["rest"].figures["rest"]["mean of all bytes"]
    told = ["2019", "2021", f"{resting['carrier_cosine']:.2f}", "1"]
    told.append(amount(estimate_of(slowest["slowest"]), 0))
    told.append(amount(estimate_of(slowest["carrier_cosine"])))
    for model in ("reviews-stars", "reviews"):
        told.append(swing(records["steering"].figures[model][f"unit {unit_of(records, model)}"]))
    told.append(swing(largest_direction(records)))
    patches = records["patches"].figures["reviews-small"]["patches"]
    for name in ("the carrier alone", "the whole state"):
        told.append(amount(estimate_of(patches[name]["moved"][0])))
    return told


def page_figures(records: Records) -> list[str]:
    "All figures of the page, in the order of reading."
    asked = ["2017", "82", "2018", "768", "1,024", "50", "100", "100", "95%"]
    told = found_figures(records) + held_figures(records) + missed_figures(records)
    return [*asked, *told, "38", "1", "2023"]


def figures_of(sources: list[str]) -> list[str]:
    "All figures in cells of markdown but those in pictures and behind links."
    return [m[1] for source in sources for m in TOKEN.finditer(source) if m[1]]


def fill(sources: list[str], figures: list[str]) -> list[str]:
    "The cells with these figures in place of theirs, in order; as many as there are, or nothing."
    there = figures_of(sources)
    if len(there) != len(figures):
        raise ValueError(f"the page has {len(there)} figures, its records give {len(figures)}")
    left = iter(figures)
    return [TOKEN.sub(lambda m: next(left) if m[1] else m[0], source) for source in sources]


def fill_page(page: Path = PAGE, folder: Path = FOLDER) -> list[str]:
    "Fill a page in place; what changed."
    notebook = json.loads(page.read_text(encoding="utf-8"))
    sources = [cell["source"] for cell in cells(page)]
    filled = fill(sources, page_figures(read_records(folder)))
    for cell, source in zip(notebook["cells"], filled, strict=True):
        cell["source"] = source.splitlines(keepends=True)
    text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
    page.write_text(text, encoding="utf-8")
    both = zip(figures_of(sources), figures_of(filled), strict=True)
    return [f"{old} → {new}" for old, new in both if old != new]


if __name__ == "__main__":
    changed = fill_page(*map(Path, sys.argv[1:]))
    print("\n".join([*changed, f"{len(changed)} figures changed"]))
