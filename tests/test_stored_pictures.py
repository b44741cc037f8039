"""Every stored plotly figure has a picture of itself beside it, in the kit's colours."""

import base64
import copy
import io
import json
import re

import plotly.graph_objects as go
import pytest
import stored_pictures
from browser import open_tab, serve
from PIL import Image, ImageColor, ImageDraw
from stored_pictures import PLOTLY, PNG, add_pictures, has_picture, stored_figures
from sync import ROOT, notebooks

from sentiment_kit.figures import AXIS, NEGATIVE, PALE, POSITIVE, SERIES, rgb, standard_layout

NEUTRAL = {AXIS, "black", "white", "grey", "#eee"}


def all_figures():
    "Where each stored figure is, and its output."
    for path in notebooks():
        for n, output in enumerate(stored_figures(json.loads(path.read_text(encoding="utf-8")))):
            yield f"{path.relative_to(ROOT / 'nbs')}, figure {n}", output


def plain(colour: str) -> str:
    "A colour without its opacity and blanks."
    found = re.fullmatch(r"rgba?\((\d+),\s*(\d+),\s*(\d+)\b.*\)", colour)
    return f"rgb({found[1]},{found[2]},{found[3]})" if found else colour


def foreign_colours(figure: dict) -> set[str]:
    "Colours of traces that are not the kit's; `default` where plotly's own would be taken."
    series = {rgb(tuple(int(c[i : i + 2], 16) for i in (1, 3, 5))) for c in SERIES}
    ours = {rgb(c) for c in (NEGATIVE, POSITIVE, PALE)} | {*SERIES} | series | NEUTRAL
    seen = set()
    for trace in figure["data"]:
        named = [trace.get(part, {}).get("color") for part in ("line", "marker")]
        named.append(trace.get("fillcolor"))
        named = [colour for colour in named if colour is not None]
        if not named and trace["type"] in ("scatter", "bar"):
            own = figure["layout"].get("colorway")
            seen |= set() if own and set(own) <= set(SERIES) else {"default"}
        flat = [c for colour in named for c in ([colour] if isinstance(colour, str) else colour)]
        seen |= {plain(c) for c in flat if isinstance(c, str)} - ours
    return seen


def notebook_of(*figures: go.Figure) -> str:
    "A notebook that shows these, as JSON."
    shown = [
        dict(output_type="display_data", data={PLOTLY: json.loads(f.to_json())}) for f in figures
    ]
    return json.dumps(dict(cells=[dict(outputs=shown)]))


def test_each_stored_figure_has_its_picture():
    found = dict(all_figures())
    assert len(found) > 50
    missing = [name for name, output in found.items() if PNG not in output["data"]]
    assert missing == [], "run `make sync`; it needs Chromium"
    older = [name for name, output in found.items() if not has_picture(output)]
    assert older == [], "these pictures are of an older figure: run `make sync`"


def test_pictures_show_something_and_are_small():
    for name, output in all_figures():
        picture = base64.b64decode("".join(output["data"][PNG]))
        assert len(picture) < 60_000, name
        assert set(output["metadata"][PNG]) == {"width", "height"}, name
        colours = Image.open(io.BytesIO(picture)).convert("RGB").getcolors(1 << 20)
        assert len(colours) > 4 and max(colours)[0] < 0.99 * sum(n for n, _ in colours), name


def test_figures_have_the_colours_of_the_kit():
    foreign = {name: foreign_colours(out["data"][PLOTLY]) for name, out in all_figures()}
    assert {name: found for name, found in foreign.items() if found} == {}


def test_foreign_colours_are_seen():
    plain_one = go.Figure(go.Scatter(y=[1, 2]))
    assert foreign_colours(plain_one.to_plotly_json()) == {"default"}
    assert foreign_colours(standard_layout(plain_one).to_plotly_json()) == set()
    assert foreign_colours(go.Figure(go.Bar(y=[1], marker_color="crimson")).to_plotly_json()) == {
        "crimson"
    }


def test_a_figure_is_trimmed_of_what_it_does_not_use():
    figure = json.loads(standard_layout(go.Figure(go.Bar(y=[1, 2]))).to_json())
    kept = copy.deepcopy(figure)
    stored_pictures.trim(kept)
    assert set(kept["layout"]["template"]["data"]) == {"bar"}
    assert len(json.dumps(kept)) < 0.4 * len(json.dumps(figure))
    kept["layout"]["template"] = figure["layout"]["template"]
    assert kept == figure


def test_without_chromium_figures_are_left_and_told(tmp_path, monkeypatch, capsys):
    path = tmp_path / "one.ipynb"
    path.write_text(notebook_of(standard_layout(go.Figure(go.Bar(y=[1, 2])))))
    monkeypatch.setenv("CHROMIUM", "/nowhere")
    monkeypatch.setenv("PATH", "")
    add_pictures([path])
    assert "1 stored figures have no picture" in capsys.readouterr().out
    [output] = stored_figures(json.loads(path.read_text()))
    assert PNG not in output["data"] and output["data"][PLOTLY]["data"][0]["y"] == [1, 2]


@pytest.mark.slow
def test_only_new_and_changed_figures_are_drawn(tmp_path, monkeypatch):
    path = tmp_path / "two.ipynb"
    figure = standard_layout(go.Figure(go.Bar(y=[1, 2])), 300, 200)
    path.write_text(notebook_of(figure, figure))
    add_pictures([path])
    notebook = json.loads(path.read_text())
    one, two = stored_figures(notebook)
    assert one == two and has_picture(one)
    picture = base64.b64decode(one["data"][PNG])
    assert Image.open(io.BytesIO(picture)).size == (375, 250)
    assert one["metadata"] == {PNG: dict(width=300, height=200)}

    two["data"][PLOTLY]["data"][0]["y"] = [2, 1]  # as a merge may leave it: an older picture
    assert not has_picture(two)
    path.write_text(json.dumps(notebook))
    add_pictures([path])
    first, changed = stored_figures(json.loads(path.read_text()))
    assert first == one and has_picture(changed) and changed["data"][PNG] != one["data"][PNG]

    drawn = path.read_bytes()
    monkeypatch.setattr(stored_pictures, "draw", lambda missing: pytest.fail("drawn again"))
    add_pictures([path])
    assert path.read_bytes() == drawn


@pytest.mark.slow
def test_a_stored_figure_comes_alive_in_jupyterlab(tmp_path):
    "The picture is there at once; the figure takes its place when it is pointed at."
    stored = json.loads((ROOT / "nbs/lib/00_figures.ipynb").read_text(encoding="utf-8"))
    stored["cells"] = [cell for cell in stored["cells"] if stored_figures(dict(cells=[cell]))]
    (tmp_path / "stored.ipynb").write_text(json.dumps(stored))
    with serve(tmp_path, False) as (own, token), open_tab(own=own) as tab:
        tab.page.goto(f"http://{own}/lab/tree/stored.ipynb?token={token}&reset")
        tab.page.locator(".jp-OutputArea-output img.plot-img").wait_for(timeout=90_000)
        tab.page.locator(".jp-OutputArea-output").first.hover()
        tab.page.locator(".jp-OutputArea-output .main-svg").first.wait_for(timeout=60_000)
        assert tab.outside == []


def test_thin_lines_keep_their_colours():
    "Six series, one above the other as thin lines with pale edges, on much white."
    picture = Image.new("RGB", (900, 450), "white")
    draw = ImageDraw.Draw(picture)
    for k in range(120):  # shades, as antialiasing makes them
        draw.line((0, 300 + k, 900, 300 + k), fill=(255 - k, 255 - k // 2, 255 - k // 3))
    for n, colour in enumerate(SERIES):
        draw.line((50, 20 + 9 * n, 90, 20 + 9 * n), fill=colour, width=2)
    file = io.BytesIO()
    picture.save(file, "png")
    small = stored_pictures.small_png(file.getvalue(), "figure")
    stored = Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB")
    for n, colour in enumerate(SERIES):
        there = stored.getpixel((70, 20 + 9 * n))
        assert sum(abs(a - b) for a, b in zip(there, ImageColor.getrgb(colour), strict=True)) < 30
