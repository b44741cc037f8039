"""What a heatmap shows is what it was given: every byte, character and colour, and no markup."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from hostile import HOSTILE

from sentiment_kit.data.files import KitError
from sentiment_kit.data.text import encode, graphemes
from sentiment_kit.looking.heatmap import (
    LEVELS,
    heatmap_figure,
    heatmap_html,
    heatmap_page,
    shade,
    wrap_marks,
)
from sentiment_kit.looking.heatmap_widget import (
    HeatmapView,
    HeatmapWidget,
    answer_browser,
    heatmap_numbers,
    still,
)
from sentiment_kit.looking.kept_states import LIVE, KeptStates
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.looking.marks import marks_of
from sentiment_kit.looking.page_parts import MODULES, SCRIPT, STATIC, STYLE_SHEET, static_text
from sentiment_kit.looking.panes import pane_of, star_correlation, top_units
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.transfer.features import as_source, record_states

TEXTS = [
    "It broke after a week.",
    "",
    "Cafe\u0301 nai\u0308ve 👩‍🚀👨‍👩‍👧‍👦🇩🇪👍🏽 ❤️",
    "この商品はとても良いです。한국어",
    "هذا المنتج رائع. מוצר",
    "<script>alert(1)</script><img src=x onerror=alert(2)> &lt;b&gt; "
    "\"a\" 'b' </span></div> <!-- ]]>",
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
        self.pieces.append(
            (data, ground, next((a["title"] for a in reversed(self.stack) if "title" in a), None))
        )


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
    marks = marks_of(encode("a b\tc\x07\u202e", "raw")[:-1] + b"\xff ")
    assert [m.shown for m in marks] == [
        "↵",
        "␣",
        "a",
        " ",
        "b",
        "⇥",
        "c",
        "^G",
        "U+202E",
        "\ufffd",
        "␣",
    ]
    assert [m.faint for m in marks] == [
        True,
        True,
        *[False] * 3,
        True,
        False,
        True,
        True,
        True,
        True,
    ]
    assert not any(m.breaks for m in marks) and marks[-2].piece == b"\xff"
    assert [m.shown for m in marks_of(b" a ")] == [" ", "a", "␣"]  # no front pad, no mark
    assert marks_of(b"\xcc\x81")[0].shown == "◌\u0301"


def test_lines_keep_their_layout():
    marks = marks_of(encode("one\n  two\r\n\nthree", "raw"))
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
    assert "−0.5 " in heatmap_html(encoded, [0.5, -0.25]) and " +0.5" in heatmap_html(
        encoded, [0.5, -0.25]
    )
    assert "clipped" not in heatmap_html(encoded, [0.5, -0.25])
    assert "(values up to ±4 are clipped)" in heatmap_html(encoded, [0.5, -4], scale=1)
    grounds = [
        ground for _, ground, _ in Painted(heatmap_html(encoded, [0.3, -0.3], legend=False)).pieces
    ]
    assert (
        grounds[0][-2:] == grounds[1][-2:] and grounds[0] != grounds[1]
    )  # same strength, other hue
    assert heatmap_html(encoded, [0, 0], legend=False).count("background") == 0


def test_a_page_is_whole_and_on_one_scale():
    items = [
        (encode(t), 10.0**i * np.ones(len(encode(t))), f"<{i}>") for i, t in enumerate(TEXTS[:3])
    ]
    page = heatmap_page(items, title="A & B", note="1 < 2")
    assert (
        page.startswith("<!doctype html>")
        and '<meta charset="utf-8">' in page
        and page.isascii() is False
    )
    assert (
        "default-src 'none'" in page
        and "<script" not in page
        and "A &amp; B" in page
        and "1 &lt; 2" in page
    )
    assert (
        "+100" in page
        and shade(LEVELS) in page
        and shade(LEVELS // 10) in page
        and page.count("&lt;0&gt;") == 1
    )
    assert "</html>" in heatmap_page([], title="none")


@pytest.mark.parametrize("text", TEXTS)
def test_figure_holds_the_text(text):
    encoded = encode(text, "raw")
    values = values_for(encoded)
    figure = heatmap_figure(encoded, values, columns=7)
    (trace,) = figure.data
    assert (
        type(figure) is go.Figure
        and trace.zmin == -trace.zmax
        and {len(row) for row in trace.z} == {7}
    )
    shown = [z for row in trace.z for z in row if z is not None]
    np.testing.assert_array_equal(shown, [values[s.stop - 1] for s in graphemes(encoded)])
    assert not any("<s" in t.replace("<span", "") for row in trace.text for t in row)


def test_rows_break_at_spaces():
    marks = marks_of(b"one two three abcdefghijkl m")
    rows = ["".join(m.shown for m in marks[r]) for r in wrap_marks(marks, 8)]
    assert rows == ["one two ", "three ", "abcdefgh", "ijkl m"]
    assert wrap_marks([], 8) == []


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4))


def rows_of(widget, pane=0):
    return np.frombuffer(widget.picture["panes"][pane]["values"], "<f4").reshape(
        len(widget.picture["units"]), -1
    )


@pytest.mark.parametrize(
    "text", [*TEXTS, *(text for name, text in HOSTILE.items() if name != "a long line")]
)
def test_a_pane_holds_every_mark(text):
    encoded = encode(text, "raw") + b"\xff\xcc\x81"
    pane = pane_of("<b>\ud800", encoded, np.ones((2, len(encoded))))
    stops, marks = np.frombuffer(pane["stops"], "<u4").tolist(), marks_of(encoded)
    assert (
        pane["bytes"] == encoded
        and stops == [m.stop for m in marks]
        and pane["title"] == "<b>\ufffd"
    )
    assert pane["breaks"] == [g for g, m in enumerate(marks) if m.breaks]
    special = {g: (shown, faint) for g, shown, faint in pane["special"]}
    for g, mark in enumerate(marks):
        told = special.get(g, (mark.piece.decode("utf-8", "replace"), False))
        assert told == (mark.shown, mark.faint)


def test_bad_panes_are_refused():
    with pytest.raises(KitError, match=r"values of shape \(2,\) do not fit 2 bytes"):
        pane_of("", b"ab", np.zeros(2))
    with pytest.raises(KitError, match="mine has values that are not finite"):
        pane_of("mine", b"ab", [[0, np.nan]])
    assert pane_of("", b"", np.zeros((1, 0)))["values"] == b""


@pytest.mark.parametrize("n_layers", [1, 2])
def test_states_that_were_kept_give_the_values_of_a_fresh_reading(n_layers):
    torch.manual_seed(n_layers)
    model = LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4, n_layers=n_layers))
    reader, rng, read = KeptStates(as_source(model)), np.random.default_rng(0), []
    states = reader.source.read
    reader.source.read = lambda ids, state: read.append(ids.shape[1]) or states(ids, state)
    text = bytearray(encode("word after word " * 12))
    for _ in range(12):  # letters changed, added and taken away anywhere
        at, kind = int(rng.integers(len(text) + 1)), rng.integers(4)
        text[at : at + int(kind > 1)] = b"xyz" if kind == 3 else b"x" if kind else b""
        encoded, before = bytes(text), reader.encoded
        read.clear()
        np.testing.assert_allclose(
            reader.read(encoded, [3, 1]), record_states(model, encoded, [3, 1]), atol=1e-5
        )
        same = next(
            (t for t, (a, b) in enumerate(zip(before, encoded, strict=False)) if a != b),
            min(len(before), len(encoded)),
        )
        assert sum(read) <= len(encoded) - same + 31
        start, stop = sorted(rng.choice(len(encoded) + 1, 2, replace=False).tolist())
        c_TU = record_states(model, encoded)
        for got, wanted in zip(
            reader.around(start, stop),
            (c_TU[start - 1] if start else 0 * c_TU[0], c_TU[stop - 1]),
            strict=True,
        ):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
    long = b"x" * (LIVE + 1)
    reader.read(long, [3, 1])
    assert len(reader.kept) == LIVE // 512 and reader.read(b"", [3]).shape == (0, 1)
    np.testing.assert_allclose(
        reader.read(long[:700], [0])[:, 0], record_states(model, long[:700], [0])[:, 0], atol=1e-5
    )


@pytest.mark.parametrize("text", TEXTS)
def test_the_picture_is_what_the_model_says(model, text):
    widget = HeatmapWidget(model, text, [3, 1])
    c_TU = record_states(model, encode(text), [3, 1])
    np.testing.assert_allclose(rows_of(widget), c_TU.T, atol=1e-6)
    last = [m.stop - 1 for m in marks_of(encode(text))]
    assert widget.picture["scales"] == pytest.approx(
        {k: np.abs(c_TU[last, n]).max() for n, k in enumerate("31")}
    )
    told = json.loads(json.dumps(heatmap_numbers(widget.picture)))
    np.testing.assert_allclose(told["panes"][0]["values"], c_TU.T, rtol=1e-5, atol=1e-7)
    assert told["units"] == [3, 1] and bytes.fromhex(told["panes"][0]["bytes"]) == encode(text)


def test_widget_recolours(model):
    widget = HeatmapWidget(model, ["good", "bad"], [2, 5])
    assert (widget.texts, widget.units, widget.shown) == (["good", "bad"], [2, 5], [2])
    strongest = widget.picture["scales"]
    widget.texts = ["x", "bad"]
    assert widget.picture["panes"][0]["bytes"] == b"\n x "
    assert all(
        widget.picture["scales"][k] >= strongest[k] for k in "25"
    )  # colours do not jump while typing
    widget.units = [7]
    assert (widget.shown, rows_of(widget).shape) == ([7], (1, 4))
    widget.units = [7, 99]
    assert (
        "99" in widget.error
        and "\n" not in widget.error
        and widget.units == widget.picture["units"] == [7]
    )
    widget.units, widget.shown = [7, 8], [8, 7]
    assert widget.error == "" and widget.shown == [8, 7]
    widget.texts = ["\ud800", ""]
    assert widget.texts == ["\ufffd", ""] and widget.picture["panes"][0]["bytes"] == encode(
        "\ud800"
    )
    for bad in ([99], [-1]):
        with pytest.raises(KitError, match="not all in 0 … 15"):
            HeatmapWidget(model, "x", bad)


def test_units_to_begin_with(model):
    moving = np.argsort(-record_states(model, "It broke.").std(0), kind="stable")[:8].tolist()
    assert HeatmapWidget(model, "It broke.").units == ["surprise", *moving]
    weight_U = np.arange(16) - 9.0
    widget = HeatmapWidget(model, "It broke.", weight_U=weight_U)
    assert widget.units[:2] == [0, 1] and widget.choices["n_units"] == 16
    np.testing.assert_array_equal(np.frombuffer(widget.choices["weight"], "<f4"), weight_U)
    X_NU = np.random.default_rng(0).normal(size=(9, 3)) * [1, 0, 2]
    r_U = star_correlation(X_NU, range(9))
    assert r_U[1] == 0 and r_U[2] == pytest.approx(np.corrcoef(X_NU[:, 2], range(9))[0, 1])


def test_models_side_by_side(model):
    torch.manual_seed(1)
    other = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4, preset="raw"))
    widget = HeatmapWidget(
        [model, ModelStates(other)], ["a b", "c"], [[15, 2], 7], names=["one", "two"]
    )
    assert [pane["title"] for pane in widget.picture["panes"]] == ["one", "two", "one", "two"]
    for n, (source, units) in enumerate([(model, [15, 7]), (other, [2, 7])] * 2):
        np.testing.assert_allclose(
            rows_of(widget, n), record_states(source, ["a b", "c"][n // 2], units).T, atol=1e-6
        )
    assert widget.choices["n_units"] == 8 and set(widget.picture["scales"]) == {"15, 2", "7"}
    widget.view = "ledger"
    wanted = write_ledger(other, "c", 2)
    np.testing.assert_allclose(
        np.frombuffer(widget.ledgers["15, 2"][3]["write"], "<f4"), wanted.write_T, atol=1e-6
    )


def test_ledger_and_top_units_are_answers_about_the_present_text(model):
    widget = HeatmapWidget(model, "It broke.", [2, 5])
    assert widget.ledgers == {} and widget.top == {}
    widget.shown, widget.view = [5, 2], "ledger"
    for text in ("It broke.", "It never broke."):
        widget.texts = [text]
        for unit in (5, 2):
            wanted, got = write_ledger(model, text, unit), widget.ledgers[str(unit)][0]
            np.testing.assert_allclose(
                np.frombuffer(got["survive"], "<f4"), wanted.survive_T, atol=1e-6
            )
            assert got["total"] == pytest.approx(wanted.total)
    widget.picked = dict(pane=0, start=4, stop=6)
    c_TU = record_states(model, widget.texts[0])
    readings = widget.top["readings"]
    wanted = dict(pane=0, start=4, stop=6) | top_units(c_TU[3], c_TU[5])
    assert widget.top == wanted | dict(readings=readings)
    assert set(readings) == {str(u) for u, *_ in wanted["moved"] + wanted["largest"]}
    unit, value, change = widget.top["moved"][0]
    assert abs(change) == pytest.approx(np.abs(c_TU[5] - c_TU[3]).max()) and value == pytest.approx(
        c_TU[5, unit]
    )
    widget.texts = ["x"]
    assert widget.top == {}
    widget.picked = dict(pane=0, start=14, stop=16)  # of the text before: it comes too late
    assert widget.top == {}
    widget.view = "state"
    assert widget.ledgers == {}


def test_top_units_are_told_with_the_sign_in_which_they_are_drawn(model):
    weight_U = np.resize([1.0, -1.0], model.config.hidden_size)
    widget = HeatmapWidget([model, model], "It broke.", [2], weight_U=weight_U)
    widget.picked = dict(pane=1, start=4, stop=5)
    for unit, *_ in widget.top["moved"]:
        assert widget.top["readings"][str(unit)]["turns"] == 2 * [[weight_U[unit], 0]]


class Letters:
    "A source with nothing but `trace`."

    n_units, preset, digest = 2, "raw", "letters"

    def trace(self, encoded, units=None):
        table_TU = np.stack([np.frombuffer(encoded, np.uint8), np.arange(len(encoded))], 1).astype(
            np.float32
        )
        return table_TU if units is None else table_TU[:, units]


def test_a_source_without_a_model_has_all_but_the_ledger():
    widget = HeatmapWidget(Letters(), "abc", [1])
    widget.picked, widget.view = dict(pane=0, start=3, stop=4), "ledger"
    assert rows_of(widget).tolist() == [[0, 1, 2, 3, 4, 5]] and widget.ledgers == {}
    assert widget.top["moved"] == [[0, 98, 1], [1, 3, 1]] and not widget.picture["ledger"]


def test_values_from_elsewhere(model):
    view = HeatmapView()
    view.show([("one", b"ab", [[1.0, -3.0]]), ("two", b"", np.zeros((1, 0)))], units=["bits"])
    assert (view.units, view.shown, view.picture["scales"]) == (["bits"], ["bits"], {"bits": 3.0})
    view.show([("one", b"abc", [[1.0, 2.0, 2.0]])])
    assert view.picture["scales"] == {"bits": 3.0} and "bits" in still(view.picture, view.shown)
    widget = HeatmapWidget(model, "x", [1])
    widget.show([("", b"ab", [[1.0, -3.0]] * 2)], units=[4, 5])
    assert rows_of(widget).tolist() == [[1, -3]] * 2 and widget.shown == [4]
    HeatmapWidget().show([("", b"ab", [[1.0, -3.0]])], units=[0])


def test_saved_files(model, tmp_path):
    widget = HeatmapWidget(model, ["</script><script>alert(1)</script>", "é"], [2, 5])
    widget.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == heatmap_numbers(widget.picture)
    widget.save(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text("utf-8")
    assert page == widget.html() and page.count("</script") == 2 and "default-src 'none'" in page
    sent = []
    widget.send = lambda message, buffers=None: sent.append((message, buffers))
    widget.save(tmp_path / "a.png")
    answer_browser(widget, dict(kind="png"), [memoryview(b"png")])
    assert (tmp_path / "a.png").read_bytes() == b"png"
    answer_browser(widget, dict(kind="html"), [])
    assert sent == [(dict(kind="png"), None), (dict(kind="html"), [page.encode()])]
    with pytest.raises(KitError, match=".html, .json or .png"):
        widget.save("a.pdf")


def test_without_a_browser_there_is_plain_html(model):
    widget = HeatmapWidget(model, ["<b>It broke.", "x" * 2_999], [2, 5], names=["short", "long"])
    shown = widget._repr_mimebundle_()[0]["text/html"]
    assert (
        "<b>" not in shown
        and "&lt;" in shown
        and "short · unit 2" in shown
        and "the first 2,000 of 3,002 bytes" in shown
    )


def test_widget_files_are_local_and_safe():
    script, sheet = SCRIPT, STYLE_SHEET
    addresses = set(re.findall(r"https?://[^\s\"]+", script + sheet))
    assert addresses == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xhtml",
    }  # names, not places
    assert not re.search(
        r"\bimport\b|@import|url\(|fetch\(|XMLHttp", script + sheet
    )  # nothing from any network
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|</script", script
    )


def test_the_modules_can_be_joined():
    "Each file imports what an earlier one exports, and no name is declared twice."
    exported, declared = {}, []
    here = {f"heatmap/{path.stem}" for path in (STATIC / "heatmap").iterdir()}
    assert {*here, "saved"} == set(MODULES)
    for module in MODULES:
        source, name = static_text(f"{module}.js"), module.removeprefix("heatmap/")
        assert source.startswith("// ") and max(map(len, source.splitlines())) <= 100
        for names, home in re.findall(r'^import \{([^}]*)\} from "\./(\w+)\.js";$', source, re.M):
            assert set(re.findall(r"\w+", names)) <= exported[home]
        found = re.findall(
            r"^(export )?(?:async )?(?:const|let|function|class) (\w+)", source, re.M
        )
        exported[name] = {declaration for export, declaration in found if export}
        declared += [declaration for _, declaration in found]
    assert len(declared) == len(set(declared))
    assert not re.search(r"^(import|export (?!default))", SCRIPT, re.M)
