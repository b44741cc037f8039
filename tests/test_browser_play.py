"""`sk.play()` in a real JupyterLab: from the notebook that `make lab` opens to the last colour."""

import re
import shutil

import numpy as np
import pytest
import torch
from browser import ROOT, WAITS, Lab, offline, open_lab, open_tab, serve

from sentiment_kit.data.text import encode
from sentiment_kit.looking.edits import SUGGESTIONS
from sentiment_kit.looking.next_byte import next_bytes
from sentiment_kit.looking.play import PLAY_TEXT, Play
from sentiment_kit.model.language_model import LanguageModel
from sentiment_kit.model.reading import ModelStates

pytestmark = pytest.mark.slow

MAKE = "import sentiment_kit as sk\nwidget = sk.play()\nwidget"
COLOURED = """() => [...document.querySelectorAll('.skp .skh-mark')].some(
    span => span.style.backgroundColor)"""
READY = """() => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    return context?.isReady && context.session?.kernel?.status === 'idle';
}"""
AGAIN = """async () => {
    const { shell, commands } = window.jupyterapp;
    await shell.currentWidget.sessionContext.restartKernel();
    await commands.execute('notebook:clear-all-cell-outputs');
}"""
SIZES = {600: 1, 1280: 2, 1920: 2}  # width of the window and columns of views


@pytest.fixture(scope="module", params=["light", "dark"])
def lab(request, tmp_path_factory):
    with open_lab(tmp_path_factory.mktemp(request.param), dark=request.param == "dark") as lab:
        lab.theme = request.param
        yield lab


def card(lab, name):
    return lab.page.locator(".skp-card", has=lab.page.locator(".skp-name", has_text=name))


def suggest(lab, n=0):
    "Click a suggestion, wait for what it changes."
    turn = lab.page.locator(".skp").get_attribute("data-drawn")
    lab.page.locator(f"[data-try='{n}']").click()
    lab.page.wait_for_function(f"document.querySelector('.skp').dataset.drawn !== '{turn}'")


def shown(lab, name):
    "The first number of a view, as it stands on the page."
    return card(lab, name).locator(".skp-value").first.inner_text()


def test_from_make_lab_to_a_wow(tmp_path):
    "The place that the Makefile names is opened; two clicks lead to colours, a third to a change."
    found = re.search(r"root_dir=(\S+) --LabApp.default_url=(\S+)", (ROOT / "Makefile").read_text())
    shutil.copytree(ROOT / found[1] / "tour", tmp_path / "tour")
    shutil.copytree(ROOT / found[1] / "images", tmp_path / "images")
    with serve(tmp_path, dark=False) as (own, token), open_tab(False, own, (1280, 900)) as tab:
        lab, page = Lab(tab.page, own, tmp_path), tab.page
        page.goto(f"http://{own}{found[2]}?token={token}")
        cell = page.locator(".jp-NotebookPanel .jp-CodeCell")
        cell.wait_for(timeout=90_000)
        assert cell.count() == 1
        page.wait_for_function(READY, timeout=60_000)
        for left in (2, 1, 0):  # tries: other work on the machine only adds
            cell.locator(".cm-content").click()
            page.evaluate("window.start = performance.now()")
            page.keyboard.press("Shift+Enter")
            page.wait_for_function(COLOURED, timeout=90_000)
            first = page.evaluate("performance.now() - start") / 1000
            before = shown(lab, "Sentiment")
            suggest(lab)
            wow = page.evaluate("performance.now() - start") / 1000
            print(f"first click to first colour {first:.1f} s, to the change {wow:.1f} s")
            if wow < 15 or not left:
                break
            page.evaluate(AGAIN)
            page.wait_for_function(f"({READY})() && !({COLOURED})()", timeout=60_000)
        assert card(lab, "Sentiment").locator(".skp-down").count() == 2
        assert before.startswith("+") and shown(lab, "Sentiment").startswith("−")
        assert wow < 15
        tab.screenshot("play_make_lab")
        assert lab.outside == []


def test_four_views_are_what_python_says(lab):
    page = lab.run([MAKE])
    page.locator(".skp .skh-row").first.wait_for()
    names = page.locator(".skp-name").all_inner_texts()
    assert names == ["Surprise", "Sentiment", "Counting", "Ledger"]
    assert page.locator(".skp textarea").input_value() == PLAY_TEXT
    told = lab.python("[[f['shown'] for f in v['facts']] for v in widget.picture['views']]")
    for name, wanted in zip(names, told, strict=True):
        assert card(lab, name).locator(".skp-value").all_inner_texts() == wanted
        rows = card(lab, name).locator(".skh-row").all_inner_texts()
        assert "The colour is lovely" in "".join(rows).replace("\n", "")
    unit = lab.python("widget.player.neuron.unit")
    assert f"unit {unit}" in card(lab, "Sentiment").inner_text()
    assert "classifier" in card(lab, "Sentiment").inner_text()

    for n, change in enumerate(SUGGESTIONS.values()):
        suggest(lab, n)
        assert lab.python("[widget.before, widget.text]") == [PLAY_TEXT, change(PLAY_TEXT)]
        assert page.locator(".skp textarea").input_value() == change(PLAY_TEXT)
        for name in names:
            assert card(lab, name).locator(".skp-before").count() >= 1
            assert card(lab, name).locator(".skp-change").count() >= 1
            assert "±" in card(lab, name).locator(".skh-gutter").all_inner_texts()[-1]
        if n == 0:
            lab.screenshot(f"play_not_{lab.theme}", page.locator(".skp"))
        page.locator(".skp-tries button", has_text="back").click()
        lab.wait(f"widget.text == {PLAY_TEXT!r} and not widget.before")
        page.wait_for_function("!document.querySelector('.skp-before')")
    assert lab.errors == [] and lab.outside == [] and lab.axe(".skp") == []


def test_pointing_tells_the_guesses_and_the_pushes(lab):
    page = lab.run([MAKE])
    page.locator(".skp .skh-row").first.wait_for()
    assert page.locator(".skp .skh-guess").count() == 5  # what comes next
    model, encoded = LanguageModel.from_pretrained("reviews-stars"), encode(PLAY_TEXT)
    states = ModelStates(model, "hidden").trace(encoded)
    before = np.concatenate([0 * states[:1], states[:-1]])
    ahead = next_bytes(model, torch.from_numpy(before), encoded)
    t = encoded.index(b"buy")
    card(lab, "Ledger").locator(f"[data-g='{t}']").hover()
    assert page.locator(".skp .skh-at").count() == 4  # in every view
    first = page.locator(".skp .skh-guess bdi").first.inner_text()
    assert first == chr(ahead.guess_TK[t, 0])
    pushes = page.locator(".skp .skh-push").all_inner_texts()
    assert [int(line.split()[0]) for line in pushes] == ahead.unit_TP[t].tolist()
    logit = f"{ahead.bias_T[t] + ahead.units_T[t]:+.3g}"[:4]
    assert logit in page.locator(".skp .skh-pushes").inner_text()
    view = card(lab, "Surprise").locator(".skh-view")
    view.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".skp .skh-at").count() == 4
    assert lab.errors == [] and lab.axe(".skp") == []


@pytest.mark.parametrize("width", SIZES)
def test_it_fits_every_window(lab, width):
    page = lab.run([MAKE])
    size = dict(width=1400, height=1000)
    try:
        page.set_viewport_size(dict(width=width, height=900))
        page.locator(".skp .skh-row").first.wait_for()
        suggest(lab)
        page.wait_for_timeout(300)
        wide = page.evaluate("""() => [...document.querySelectorAll('.skp, .skp *')].filter(
            node => node.scrollWidth > node.clientWidth + 1 && node.clientWidth
                && getComputedStyle(node).overflowX === 'visible'
                && getComputedStyle(node).display !== 'inline').map(node => node.className)""")
        assert wide == []
        tops = [box.bounding_box()["y"] for box in page.locator(".skp-card").all()]
        if width != 600:
            assert len(set(tops)) == 4 / SIZES[width]
        lab.screenshot(f"play_{width}_{lab.theme}", page.locator(".skp"))
    finally:
        page.set_viewport_size(size)


def test_any_text_stays_text(lab):
    page = lab.run([MAKE])
    box = page.locator(".skp textarea")
    box.wait_for()
    texts = [
        "<img src=x onerror=window.hacked=1>",
        "👩‍🚀 Café 👍🏽",
        "هذا المنتج رائع. מוצר",
        "It broke. " * 1000,
        "",
    ]
    for text in texts:
        box.fill(text)
        box.press("Control+Enter")
        lab.wait(f"widget.text == {text!r} and widget.picture['turn']")
        start = text.strip()[:4]
        page.wait_for_function(
            "start => document.querySelector('.skp .skh-view').textContent.includes(start)",
            arg=start,
        )
    assert page.locator(".skp-tries button:not([disabled])").count() == 0
    box.fill("Typed after all that.")
    lab.wait("widget.text == 'Typed after all that.'")
    assert page.evaluate("window.hacked") is None and lab.errors == [] and lab.axe(".skp") == []


def test_a_key_and_a_suggestion_are_answered_at_once(lab):
    page = lab.run([MAKE])
    page.locator(".skp .skh-row").first.wait_for()
    page.evaluate(WAITS, [".skp", {"attributeFilter": ["data-drawn"]}])
    page.locator(".skp textarea").press("End")
    for letter in " It was not good at all.":
        n = page.evaluate("waits.length")
        page.keyboard.type(letter)
        page.wait_for_function(f"waits.length > {n}")
        page.wait_for_timeout(60)
    keys = page.evaluate("waits.splice(0)")
    for n in (0, 3) * 4:
        suggest(lab, n)
        page.wait_for_timeout(60)
    clicks = page.evaluate("waits")
    for name, times, limit in (("a key", keys, 250), ("a suggestion, and back", clicks, 300)):
        low, middle, high = np.quantile(times, [0.25, 0.5, 1])
        print(f"{name}: quarter {low:.0f} ms, median {middle:.0f} ms, longest {high:.0f} ms")
        assert low <= limit, name
    assert lab.errors == []


def test_a_saved_page_has_views_and_guesses(lab, tmp_path):
    widget = Play()
    widget.before, widget.text = PLAY_TEXT, SUGGESTIONS["shout it"](PLAY_TEXT)
    widget.save(tmp_path / "play.html")
    with offline(lab) as tab:
        tab.page.goto((tmp_path / "play.html").as_uri())
        tab.page.locator(".skp .skh-row").first.wait_for()
        tab.page.locator(".skp-card [data-g='9']").first.hover()
        assert tab.page.locator(".skh-push").count() == 6
        assert tab.page.locator("textarea").count() == 0
        assert tab.errors == [] and tab.outside == [] and tab.axe() == []


def test_the_heatmap_tells_the_next_byte(lab, tmp_path):
    "The button Surprise, guesses and pushes at a character, a unit drawn from there; also saved."
    make = (
        "import sentiment_kit as sk\nwidget = sk.HeatmapWidget('reviews-small', 'It broke.', [3])"
    )
    page = lab.run([make, "widget"])
    heatmap = page.locator(".jp-OutputArea .skh")
    heatmap.locator(".skh-row").first.wait_for()
    heatmap.get_by_role("button", name="Surprise", exact=True).click()
    lab.wait("widget.shown == ['surprise'] and 'ahead' in widget.picture['panes'][0]")
    page.wait_for_function("document.querySelector('.skh-legend').textContent.includes('surprise')")
    heatmap.locator("[data-g='5']").hover()
    assert heatmap.locator(".skh-guess").count() == 5
    widget = heatmap.locator(".skh-pushes .skh-button")
    assert widget.count() == 6
    lab.screenshot(f"next_byte_{lab.theme}", heatmap)
    assert lab.axe(".jp-OutputArea") == []
    unit = int(widget.first.inner_text().split()[0])
    widget.first.click()
    lab.wait(f"widget.shown == [{unit}]")
    lab.python("widget.save('saved.html')")
    with offline(lab) as tab:
        tab.page.goto((lab.folder / "saved.html").as_uri())
        tab.page.locator(".skh-row").first.wait_for()
        tab.page.locator("[data-g='5']").hover()
        assert tab.page.locator(".skh-guess").count() == 5
        assert tab.errors == [] and tab.outside == [] and tab.axe() == []
    assert lab.errors == [] and lab.outside == []
