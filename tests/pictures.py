"""The README's pictures, made anew by `make refresh RUN=out/…`.

From a finished run: its loss, and the values of its unit on the test texts. From the folder of the
bundled models: two reviews in the colours of their neurons, and `sk.play()` after its first
suggestion, on the last of them. From a benchmark (`make bench`): the bars of its training steps.
From a run of 60_make_shards that compared the orders, of 63_map_the_neuron, 64_loss_gap or
66_model_size: the figure in its executed notebook.

Needs Chromium (Debian: apt-get install chromium; elsewhere name it in the variable CHROMIUM).
"""

import sys
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
from browser import open_tab
from PIL import Image

from sentiment_kit.data.datasets import load_splits
from sentiment_kit.data.files import read_json
from sentiment_kit.data.text import encode
from sentiment_kit.evidence.speed import speed_figure
from sentiment_kit.looking.edits import SUGGESTIONS
from sentiment_kit.looking.heatmap_widget import HeatmapView
from sentiment_kit.looking.loss_curves import plot_losses
from sentiment_kit.looking.play import PLAY_TEXT, Play
from sentiment_kit.looking.readings import Reading, reading_of
from sentiment_kit.model.language_model import LanguageModel
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.metrics import read_metrics
from sentiment_kit.transfer.features import ByteFeaturizer, cached_features, record_states
from sentiment_kit.transfer.neuron import NeuronClassifier, unit_histogram
from sentiment_kit.transfer.neuron_file import neuron_of

IMAGES = Path(__file__).resolve().parents[1] / "nbs" / "images"
WIDTH = 860  # CSS pixels; the files have twice as many
TURNS = {
    "a turn for the worse": "The colour is lovely and it fits well. But after two washes it looked "
    "like a rag. Not what I expected.",
    "a turn for the better": "The first one arrived broken and nobody answered my letters. The new "
    "one, though, is great: it lasts for days. I love it.",
}


def photograph(html: str, name: str, part: str, pointed: str = "") -> None:
    "Save what Chromium makes of a part of a page, the mouse on another part."
    IMAGES.mkdir(exist_ok=True)
    with open_tab(size=(WIDTH, 900), device_scale_factor=2) as tab:
        tab.page.set_content(html)
        if pointed:
            tab.page.locator(pointed).last.hover()
        tab.page.locator(part).screenshot(path=IMAGES / name)
    picture = Image.open(IMAGES / name).convert("RGB")
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        IMAGES / name, optimize=True
    )


def draw(figure: go.Figure, name: str) -> None:
    "Save a figure as wide as the page."
    html = figure.update_layout(width=WIDTH).to_html(
        include_plotlyjs=True, config=dict(displayModeBar=False)
    )
    photograph(f"<style>body {{ margin: 0 }}</style>{html}", name, ".plotly-graph-div")


def draw_run(run: Path) -> None:
    "Loss of a run, and the unit that transfer and the neuron's map name in the model they read."
    transfer, neuron = read_json(run / "transfer.json"), read_json(run / "neuron.json")
    name = f"{read_json(latest_checkpoint(run) / 'config.json')['hidden_size']} cells"
    losses = plot_losses({name: run}, smoothing=10)
    losses.data = [
        line for line in losses.data if len(line.x)
    ]  # the axes of the others would be drawn
    lowest = float(np.nanmin(read_metrics(run)["loss_bits"]))
    draw(losses.update_layout(height=360, yaxis_range=[0.98 * lowest, 1.4 * lowest]), "loss.png")
    print(f"loss.png: {run.name}")
    draw_neuron(run / transfer["checkpoint"], neuron["unit"], transfer, run / "features")


def draw_neuron(folder: Path, unit: int, transfer: dict, cache: Path) -> None:
    "Values of a model's unit on the test texts of a transfer.json."
    model, asked = LanguageModel.from_pretrained(folder), transfer["labels"]
    how = {key: transfer["features"][key] for key in ("state", "pool", "layer")}
    splits = load_splits(asked["given"], asked["text_key"], asked["label_key"])
    train, test = splits["train"], splits["test"]
    featurizer = ByteFeaturizer(model, **how)
    X, X_test = (cached_features(featurizer, s.texts, cache) for s in (train, test))
    cut = NeuronClassifier(unit).fit(X, train.labels)
    right = cut.score(X_test, test.labels)
    title = f"Unit {unit} on {len(test.texts):,} test texts, {right:.1%} on the right side"
    draw(unit_histogram(X_test[:, unit], test.labels, cut.threshold_, title), "neuron.png")
    print(f"neuron.png: unit {unit} of {folder.name}")


def draw_turns(folders: list[Path]) -> None:
    "Two reviews with a turn in the middle, in the colours of each model's own carrier."
    panes, units = [], []
    for folder in folders:
        source = ModelStates(folder)
        neuron = neuron_of(source)
        reading = reading_of(neuron.unit, neuron)
        units.append(f"unit {neuron.unit} of {folder.name}")
        texts = {name: encode(text, source.preset) for name, text in TURNS.items()}
        votes = {
            name: reading.drawn(record_states(source, encoded, [neuron.unit])[:, 0])
            for name, encoded in texts.items()
        }
        largest = max(np.abs(vote_T).max() for vote_T in votes.values())
        panes += [
            (f"{folder.name}: {name}", texts[name], (vote_T / largest)[None])
            for name, vote_T in votes.items()
        ]
    shown = "carrier"
    view = HeatmapView()
    view.show(panes, [shown], {shown: Reading(ends=reading.ends)})
    photograph(view.html(), "heatmap.png", "main", ".skh-view .skh-mark:not(.skh-faint)")
    print(f"heatmap.png: {', '.join(units)}")


def draw_play(folder: Path) -> None:
    "One text in four views, with what the first suggestion changed."
    [suggest, *_] = SUGGESTIONS.values()
    widget = Play(folder)
    widget.before, widget.text = PLAY_TEXT, suggest(PLAY_TEXT)
    photograph(widget.html(), "play.png", "main", '.skp-card [data-g="32"]')
    print(f"play.png: {folder.name}")


def draw_speed(run: Path) -> None:
    "Shares of the floor of a training step."
    draw(
        speed_figure(
            read_json(run / "speed.json")["training"], "Training on two cores, bytes/s on the bars"
        ),
        "speed.png",
    )
    print(f"speed.png: {run.name}")


def draw_cell(notebook: Path, code: str, name: str) -> None:
    "The figure that a cell of an executed notebook shows."
    [cell] = [cell for cell in nbformat.read(notebook, 4).cells if cell.source.startswith(code)]
    shown = next(
        o.data for o in cell.outputs if "application/vnd.plotly.v1+json" in o.get("data", {})
    )
    figure = shown["application/vnd.plotly.v1+json"]
    draw(go.Figure(data=figure["data"], layout=figure["layout"]), name)
    print(f"{name}: {notebook.stem} of {notebook.parents[1].name}")


FIGURES = {
    "60_make_shards": ("shown = np.argsort", "orders.png"),
    "63_map_the_neuron": ("source = ModelStates", "map.png"),
    "64_loss_gap": ("whole.figure", "gap.png"),
    "66_model_size": ("figure = go.Figure", "sizes.png"),
    "70_ladder": (
        'for size in sizes:\n    for figure in ("carrier, inside", "bits of the body"',
        "ladder.png",
    ),
}

if __name__ == "__main__":
    run = Path(sys.argv[1])
    shown = [path for path in sorted(run.glob("notebooks/*.ipynb")) if path.stem in FIGURES]
    if not (run / "orders").exists():  # one order alone is no comparison
        shown = [path for path in shown if path.stem != "60_make_shards"]
    for path in shown:
        code, name = FIGURES[path.stem]
        if "stars" in run.name:  # beside that of the model which read text alone
            name = name.replace(".png", "_stars.png")
        draw_cell(path, code, name)
    models = [path.parent for path in sorted(run.glob("*/neuron.json"))]
    if models:
        draw_turns([m for m in models if m.name != "reviews-small"])
        draw_play(models[-1])
    elif (run / "speed.json").exists():
        draw_speed(run)
    elif (run / "transfer.json").exists() and (run / "metrics.jsonl").exists():
        draw_run(run)
