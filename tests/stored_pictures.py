"""A picture beside every stored plotly figure: `make sync` draws those that are missing.

Code hosts and nbconvert show nothing of plotly's JSON; they show the PNG that stands beside it.
A picture holds the digest of the figure that it was drawn from, so that one of an older figure,
as a merge may leave it, is found and drawn again. What plotly repeats in each figure is cut.

Needs Chromium, as pictures.py does; without it the figures are counted and left as they are.
"""

import base64
import hashlib
import io
import json
from pathlib import Path

import pytest
from browser import open_tab
from PIL import Image, PngImagePlugin
from plotly.offline import get_plotlyjs

PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"
WIDTH, HEIGHT = 860, 450  # CSS pixels, where a figure is as wide as its page
SCALE = 1.25  # pixels of the file for a CSS pixel
COLOURS = 64
METHOD = Image.Quantize.FASTOCTREE  # the default gives thin lines the colours of their neighbours
FLAT = {"scatter", "bar", "heatmap"}  # kinds of traces that need only x and y
OTHER_AXES = ("geo", "map", "mapbox", "polar", "scene", "smith", "ternary")
PAINT = """([figure, width, height, scale]) =>
    Plotly.toImage({data: figure.data, layout: figure.layout},
        {format: 'png', width, height, scale})
"""


def trim(figure: dict) -> None:
    "Drop what the template says of other kinds of figures: in the file 15 KB, never read."
    kinds = {trace.get("type", "scatter") for trace in figure["data"]}
    template = figure["layout"].get("template", {})
    if "data" in template:
        template["data"] = {k: v for k, v in template["data"].items() if k in kinds}
    if kinds <= FLAT and "layout" in template:
        template["layout"] = {k: v for k, v in template["layout"].items() if k not in OTHER_AXES}


def digest(figure: dict) -> str:
    "What tells one picture from another: the figure, and how it is drawn."
    how = [figure["data"], figure["layout"], SCALE, COLOURS, METHOD.name]
    shown = json.dumps(how, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def drawn_from(png: str | list | None) -> str | None:
    "The digest in a stored picture."
    if png is None:
        return None
    picture = Image.open(io.BytesIO(base64.b64decode("".join(png))))
    return getattr(picture, "text", {}).get("figure")


def stored_figures(notebook: dict) -> list[dict]:
    "Those outputs that hold a plotly figure."
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return [output for output in outputs if PLOTLY in output.get("data", {})]


def small_png(data: bytes, figure: str) -> str:
    "Few colours, no dithering, the figure's digest; as base64."
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.quantize(COLOURS, METHOD, dither=Image.Dither.NONE)
    told = PngImagePlugin.PngInfo()
    told.add_text("figure", figure)
    file = io.BytesIO()
    picture.save(file, "png", optimize=True, pnginfo=told)
    return base64.b64encode(file.getvalue()).decode()


def size_of(figure: dict) -> tuple[int, int]:
    "CSS pixels across and down."
    layout = figure["layout"]
    return int(layout.get("width") or WIDTH), int(layout.get("height") or HEIGHT)


def draw(missing: list[dict]) -> None:
    "Give these outputs a picture, and the size to show it in."
    with open_tab() as tab:
        tab.page.set_content("<html></html>")
        tab.page.add_script_tag(content=get_plotlyjs())
        for output in missing:
            figure = output["data"][PLOTLY]
            width, height = size_of(figure)
            url = tab.page.evaluate(PAINT, [figure, width, height, SCALE])
            png = base64.b64decode(url.partition(",")[2])
            output["data"][PNG] = small_png(png, digest(figure))
            output["metadata"] = {PNG: dict(width=width, height=height)}


def has_picture(output: dict) -> bool:
    "Whether the picture beside a figure is there and shows it."
    return drawn_from(output["data"].get(PNG)) == digest(output["data"][PLOTLY])


def add_pictures(paths: list[Path]) -> None:
    "Trim and picture the stored figures of these notebooks."
    read = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    found = [output for notebook in read.values() for output in stored_figures(notebook)]
    for output in found:
        trim(output["data"][PLOTLY])
    missing = [output for output in found if not has_picture(output)]
    if missing:
        try:
            draw(missing)
        except pytest.skip.Exception as reason:
            print(f"{len(missing)} stored figures have no picture beside them: {reason}")
    for path, notebook in read.items():
        text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
        if stored_figures(notebook) and text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
