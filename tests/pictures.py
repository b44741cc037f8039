"""The README's pictures, made anew by `make refresh RUN=out/…`: from a finished run the heatmap of a review of the
embedded sample, from a benchmark (`make bench`) the bars of its training steps.

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
from sentiment_kit.speed import speed_figure
from sentiment_kit.text import encode

IMAGES = Path(__file__).resolve().parents[1] / "nbs" / "images"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def photograph(html: str, name: str, width: int) -> None:
    "Save what Chromium makes of a page."
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=OPTIONS)
        page = browser.new_page(viewport={"width": width, "height": 200}, device_scale_factor=2)
        page.set_content(html)
        IMAGES.mkdir(exist_ok=True)
        page.screenshot(path=IMAGES / name, full_page=True)
        browser.close()


def draw_heatmap(run: Path) -> None:
    "A positive and a negative test review of the sample, coloured by the vote of the unit that `run` found."
    model, neuron = LanguageModel.from_pretrained(latest_checkpoint(run)), read_json(run / "neuron.json")
    test, items = load_dataset("samples")["test"], []
    by_length = sorted(test.texts, key=lambda text: (abs(len(text) - 210), text))
    for label, name in ((1, "a good review"), (0, "a bad review")):
        text = next(text for text in by_length if test.labels[test.texts.index(text)] == label)
        encoded = encode(text, model.config.preset)
        value_T = record_states(model, encoded, [neuron["unit"]])[:, 0]
        items.append((encoded, neuron["sign"] * (value_T - neuron["threshold"]), name))
    photograph(
        heatmap_page(items, title=f"Unit {neuron['unit']}: orange votes for good, blue for bad"), "heatmap.png", 860
    )
    print(f"heatmap.png: unit {neuron['unit']} of {run.name}")


def draw_speed(run: Path) -> None:
    "Shares of the floor of a training step."
    figure = speed_figure(read_json(run / "speed.json")["training"], "Training on two cores, bytes/s on the bars")
    photograph(figure.update_layout(width=860).to_html(include_plotlyjs=True), "speed.png", 880)
    print(f"speed.png: {run.name}")


if __name__ == "__main__":
    run = Path(sys.argv[1])
    draw_speed(run) if (run / "speed.json").exists() else draw_heatmap(run)
