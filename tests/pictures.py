"""The README's heatmap, made anew by `make refresh RUN=out/…` from a finished run and a review of the embedded sample.

Needs Chromium (Debian: apt-get install chromium; elsewhere name it in the variable CHROMIUM).
"""

import os
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from sentiment_kit.checkpoint import latest_checkpoint
from sentiment_kit.features import record_states
from sentiment_kit.files import read_json
from sentiment_kit.heatmap import heatmap_page
from sentiment_kit.language_model import LanguageModel
from sentiment_kit.reviews import load_dataset
from sentiment_kit.text import encode

OUT = Path(__file__).resolve().parents[1] / "nbs" / "images" / "heatmap.png"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def draw(run: Path) -> None:
    "A positive and a negative test review of the sample, coloured by the vote of the unit that `run` found."
    model, neuron = LanguageModel.from_pretrained(latest_checkpoint(run)), read_json(run / "neuron.json")
    test, items = load_dataset("samples")["test"], []
    by_length = sorted(test.texts, key=lambda text: (abs(len(text) - 210), text))
    for label, name in ((1, "a good review"), (0, "a bad review")):
        text = next(text for text in by_length if test.labels[test.texts.index(text)] == label)
        encoded = encode(text, model.config.preset)
        value_T = record_states(model, encoded, [neuron["unit"]])[:, 0]
        items.append((encoded, neuron["sign"] * (value_T - neuron["threshold"]), name))
    html = heatmap_page(items, title=f"Unit {neuron['unit']}: orange votes for good, blue for bad")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=OPTIONS)
        page = browser.new_page(viewport={"width": 860, "height": 200}, device_scale_factor=2)
        page.set_content(html)
        OUT.parent.mkdir(exist_ok=True)
        page.screenshot(path=OUT, full_page=True)
        browser.close()
    print(f"{OUT.name}: unit {neuron['unit']} of {run.name}")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
