"""What a heatmap shows is what it was given: every byte, every character, every colour, and no markup from the text."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from sentiment_kit.features import record_states
from sentiment_kit.files import KitError
from sentiment_kit.heatmap import (
    LEVELS,
    STATIC,
    HeatmapWidget,
    heatmap_figure,
    heatmap_html,
    heatmap_page,
    heatmap_payload,
    lay_out,
    shade,
    wrap_marks,
)
from sentiment_kit.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.text import encode, graphemes

TEXTS = [
    "It broke after a week.",
    "",
    "Cafe\u0301 nai\u0308ve 👩‍🚀👨‍👩‍👧‍👦🇩🇪👍🏽 ❤️",
    "この商品はとても良いです。한국어",
    "هذا المنتج رائع. מוצר",
    "<script>alert(1)</script><img src=x onerror=alert(2)> &lt;b&gt; \"a\" 'b' </span></div> <!-- ]]>",
    "\u202eoverride\u2066 \x00\x07\x1b[31m tab\t \u200b\u2028 \u0301",
    "a\nb\r\nc\rd",
]


class Painted(HTMLParser):
    "(text, ground, title) of every piece of text inside the heatmap's own block."

    def __init__(self, markup):
        super().__init__()
        self.stack, self.pieces, self.tags = [], [], set()
        self.feed(markup)
        assert not self.stack, "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.stack.append(dict(attrs))

    def handle_endtag(self, tag):
        self.stack.pop()

    def handle_data(self, data):
        styles = [re.search(r"background:(#\w+)", a.get("style", "")) for a in self.stack]
        ground = next((s[1] for s in reversed(styles) if s), None)
        self.pieces.append((data, ground, next((a["title"] for a in reversed(self.stack) if "title" in a), None)))


def values_for(encoded, seed=0):
    return np.random.default_rng(seed).normal(size=len(encoded)).cumsum()


@pytest.mark.parametrize("preset", ["openai", "raw"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_grapheme_shows_its_last_byte(text, preset):
    encoded = encode(text, preset)
    values, slices = values_for(encoded), graphemes(encoded)
    scale = np.abs([values[s.stop - 1] for s in slices]).max()
    painted = Painted(heatmap_html(encoded, values, legend=False))
    assert painted.tags == {"div", "span"} and len(painted.pieces) == len(slices)
    for s, (shown, ground, title) in zip(slices, painted.pieces, strict=True):
        expected = shade(int(np.rint(values[s.stop - 1] / scale * LEVELS)))
        assert (f"background:{ground}" if ground else "") == expected
        drawn, told, value = title.rsplit(" · ", 2)
        assert drawn == (shown.strip() or "␣") and bytes.fromhex(told) == encoded[s]
        assert float(value.replace("−", "-")) == pytest.approx(values[s.stop - 1], rel=6e-3)


@pytest.mark.parametrize("text", TEXTS)
def test_runs_without_titles_are_the_same_picture(text):
    encoded = encode(text, "raw")
    values = values_for(encoded).round()

    def letters(hover):
        pieces = Painted(heatmap_html(encoded, values, legend=False, hover=hover)).pieces
        return [(char, ground) for shown, ground, _ in pieces for char in shown]

    assert letters(True) == letters(False)


def test_pads_and_invisible_bytes_are_drawn():
    marks = lay_out(encode("a b\tc\x07\u202e", "raw")[:-1] + b"\xff ")
    assert [m.shown for m in marks] == ["↵", "␣", "a", " ", "b", "⇥", "c", "^G", "U+202E", "\ufffd", "␣"]
    assert [m.faint for m in marks] == [True, True, *[False] * 3, True, False, True, True, True, True]
    assert not any(m.breaks for m in marks) and marks[-2].piece == b"\xff"
    assert [m.shown for m in lay_out(b" a ")] == [" ", "a", "␣"]  # no front pad, no mark
    assert lay_out(b"\xcc\x81")[0].shown == "◌\u0301"


def test_lines_keep_their_layout():
    marks = lay_out(encode("one\n  two\r\n\nthree", "raw"))
    assert "".join(m.shown + "\n" * m.breaks for m in marks) == "↵␣one↵\n  two^M↵\n↵\nthree␣"


def test_bad_values_are_refused():
    encoded = encode("é")
    with pytest.raises(KitError, match=r"shape \(5,\), not \(4,\)"):
        heatmap_html(encoded, np.zeros(4))
    for bad in np.nan, np.inf, -np.inf:
        values = np.zeros(5)
        values[2] = bad  # the first byte of é: not shown, refused all the same
        for draw in heatmap_html, heatmap_figure:
            with pytest.raises(KitError, match="byte 2 has the value"):
                draw(encoded, values)
    for scale in 0, -1, np.nan, np.inf:
        with pytest.raises(KitError, match="above 0"):
            heatmap_html(encoded, np.zeros(5), scale=scale)
    with pytest.raises(KitError, match="encode"):
        heatmap_html("é", np.zeros(1))


def test_scale_is_symmetric_and_printed():
    encoded = b"ab"
    assert "−0.5 " in heatmap_html(encoded, [0.5, -0.25]) and " +0.5" in heatmap_html(encoded, [0.5, -0.25])
    assert "clipped" not in heatmap_html(encoded, [0.5, -0.25])
    assert "(values up to ±4 are clipped)" in heatmap_html(encoded, [0.5, -4], scale=1)
    grounds = [ground for _, ground, _ in Painted(heatmap_html(encoded, [0.3, -0.3], legend=False)).pieces]
    assert grounds[0][-2:] == grounds[1][-2:] and grounds[0] != grounds[1]  # same strength, other hue
    assert heatmap_html(encoded, [0, 0], legend=False).count("background") == 0


def test_a_page_is_whole_and_on_one_scale():
    items = [(encode(t), 10.0**i * np.ones(len(encode(t))), f"<{i}>") for i, t in enumerate(TEXTS[:3])]
    page = heatmap_page(items, title="A & B", note="1 < 2")
    assert page.startswith("<!doctype html>") and '<meta charset="utf-8">' in page and page.isascii() is False
    assert "default-src 'none'" in page and "<script" not in page and "A &amp; B" in page and "1 &lt; 2" in page
    assert "+100" in page and shade(LEVELS) in page and shade(LEVELS // 10) in page and page.count("&lt;0&gt;") == 1
    assert "</html>" in heatmap_page([], title="none")


@pytest.mark.parametrize("text", TEXTS)
def test_figure_holds_the_text(text):
    encoded = encode(text, "raw")
    values = values_for(encoded)
    figure = heatmap_figure(encoded, values, columns=7)
    (trace,) = figure.data
    assert type(figure) is go.Figure and trace.zmin == -trace.zmax and {len(row) for row in trace.z} == {7}
    shown = [z for row in trace.z for z in row if z is not None]
    np.testing.assert_array_equal(shown, [values[s.stop - 1] for s in graphemes(encoded)])
    assert not any("<s" in t.replace("<span", "") for row in trace.text for t in row)


def test_rows_break_at_spaces():
    marks = lay_out(b"one two three abcdefghijkl m")
    rows = ["".join(m.shown for m in marks[r]) for r in wrap_marks(marks, 8)]
    assert rows == ["one two ", "three ", "abcdefgh", "ijkl m"]
    assert wrap_marks([], 8) == []


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4))


@pytest.mark.parametrize("text", TEXTS)
def test_payload_is_what_the_model_says(model, text):
    payload = heatmap_payload(model, text, [3, 1])
    encoded = encode(text)
    c_TU = record_states(model, encoded, [3, 1])
    stops = np.cumsum([len(bytes.fromhex(b)) for b in payload["bytes"]])
    assert stops[-1] == len(encoded) and bytes.fromhex(" ".join(payload["bytes"])) == encoded
    np.testing.assert_allclose(np.transpose(payload["values"]), c_TU[stops - 1], rtol=1e-3)
    assert payload["scales"] == [max(map(abs, v)) for v in payload["values"]]
    assert json.loads(json.dumps(payload)) == payload and payload["note"] == ""


def test_a_long_text_is_cut_and_said_so(model):
    payload = heatmap_payload(model, "long " * 100, [0], max_chars=50)
    assert len(payload["shown"]) <= 53 and payload["note"] == "only the first 50 of 500 characters are shown"


def test_widget_recolours(model):
    widget = HeatmapWidget(model, ["good", "bad"], [2, 5])
    assert (widget.text, widget.unit) == ("good", 2) and widget.payload == heatmap_payload(model, "good", [2, 5])
    strongest = widget.payload["scales"]
    widget.text = "x"
    assert widget.payload["shown"] == ["↵", "␣", "x", "␣"]
    assert all(np.array(widget.payload["scales"]) >= strongest)  # colours do not jump while typing
    widget.units = [7]
    assert widget.payload["scales"] == heatmap_payload(model, "x", [7])["scales"]
    widget.units = [99]
    assert "99" in widget.payload["error"] and "\n" not in widget.payload["error"]
    widget.units = [7]
    assert "error" not in widget.payload
    with pytest.raises(KitError, match="at least one text"):
        HeatmapWidget(model, [], 3)


def test_widget_files_are_local_and_safe():
    script, sheet = [(STATIC / name).read_text("utf-8") for name in ("heatmap.js", "heatmap.css")]
    assert not re.search(r"https?://|\bimport\b|@import|url\(", script + sheet)  # nothing from any network
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)
