"""What colours mean, in a browser: where a widget opens, titles, words, the account, contrast."""

import re

import numpy as np
import pytest
from browser import open_lab, open_tab
from contrast import contrasts

from sentiment_kit.data.text import encode
from sentiment_kit.figures import number
from sentiment_kit.looking.account import account_line
from sentiment_kit.looking.heatmap_widget import HeatmapWidget
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.looking.readings import reading_of, standing
from sentiment_kit.model.language_model import LanguageModel
from sentiment_kit.transfer.classifier import TextClassifier
from sentiment_kit.transfer.directions import DirectedStates, Direction
from sentiment_kit.transfer.features import record_states
from sentiment_kit.transfer.neuron_file import neuron_of

pytestmark = pytest.mark.slow
TEXT = "I wanted to love it. But it broke on the second day, and nobody answers. A waste."
TINTS = """view => [...view.querySelectorAll('.skh-mark')].map(span => {
    const rgb = span.style.backgroundColor.match(/[\\d.]+/g);
    return rgb ? Number(rgb[3] ?? 1) * (Number(rgb[0]) > 200 ? 1 : -1) : 0; })"""


# Which parts of a scale lie on each other, and which names of strips are cut off.
CLUTTER = """() => {
    const meet = (a, b) => a.left < b.right - 0.5 && b.left < a.right - 0.5
        && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5;
    const found = [];
    for (const scale of document.querySelectorAll('.skh-scale')) {
        const [low, , high] = scale.querySelector('.skh-swatches').children;
        const words = [scale.querySelector('.skh-name'), low, high];
        const drawn = [...scale.querySelectorAll('.skh-swatch, .skh-steps')];
        const boxes = [...words, ...drawn].map(node => node.getBoundingClientRect());
        boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b, j) => {
            if (meet(a, b)) found.push([scale.innerText, i, i + 1 + j]);
        }));
    }
    for (const name of document.querySelectorAll('.skh-gutter')) {
        if (name.scrollWidth > name.clientWidth) found.push(name.textContent);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def model():
    return LanguageModel.from_pretrained("reviews-small")


def show(tab, widget, folder):
    widget.save(folder / "page.html")
    tab.page.goto((folder / "page.html").as_uri())
    tab.page.locator(".skh-mark").first.wait_for()
    return tab.page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_unit_opens_as_its_file_says(model, tmp_path, dark):
    widget = HeatmapWidget(model, TEXT)
    neuron = neuron_of(widget._reader.sources[0])
    reading = reading_of(neuron.unit, neuron)
    with open_tab(dark) as tab:
        tab.page.set_default_timeout(10_000)
        page = show(tab, widget, tmp_path)
        assert f"Opens on unit {neuron.unit}" in page.locator(".skh-why").inner_text()
        title = page.locator(".skh-title").inner_text()
        assert f"unit {neuron.unit}" in title and "orange: votes good, blue: votes bad" in title
        legend = page.locator(".skh-legend").inner_text()
        assert "orange: votes good" in legend and "neutral:" in legend
        vote_T = reading.drawn(record_states(model, TEXT, [neuron.unit])[:, 0])
        tints = np.array(page.locator(".skh-view").evaluate(TINTS)) / 0.62
        np.testing.assert_allclose(tints, vote_T / np.abs(vote_T).max(), atol=0.03)
        g = encode(TEXT).index(b"waste") + 4
        page.locator(f"[data-g='{g}']").hover()
        raw = float(record_states(model, TEXT, [neuron.unit])[g, 0])
        assert standing(reading, raw) in page.locator(".skh-told").inner_text()
        assert number(vote_T[g]) in page.locator(".skh-table").inner_text()
        assert contrasts(page.locator("main"))[0][0] >= 4.5, contrasts(page.locator("main"))[:5]
        assert tab.axe() == [] and tab.errors == []
        tab.screenshot(f"colour_unit_{'dark' if dark else 'light'}")


@pytest.mark.parametrize("wide", [600, 1920])
def test_nothing_overlaps_where_scales_have_long_words(tmp_path, wide):
    weight_U = np.random.default_rng(0).normal(size=768)
    model = LanguageModel.from_pretrained("reviews-stars")  # its units have long names
    widget = HeatmapWidget(model, TEXT, [217, 3, 564, 17], weight_U=weight_U)
    widget.shown = widget.units
    with open_tab(size=(wide, 1000)) as tab:
        page = show(tab, widget, tmp_path)
        assert "217 · " in page.locator(".skh-legend").inner_text()
        names = ["217", "3", "564", "17"]
        assert page.locator(".skh-gutter").all_inner_texts()[:4] == names
        assert page.evaluate(CLUTTER) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.screenshot(f"colour_units_{wide}")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_account_stands_above_the_text(model, tmp_path, dark):
    widget = HeatmapWidget(model, [TEXT, "Great!"], names=["a complaint", "praise"])
    neuron = neuron_of(widget._reader.sources[0])
    reading = reading_of(neuron.unit, neuron)
    widget.view = "ledger"
    with open_tab(dark) as tab:
        tab.page.set_default_timeout(10_000)
        page = show(tab, widget, tmp_path)
        titles = page.locator(".skh-title").all_inner_texts()
        assert titles[0].startswith("a complaint · unit") and titles[1].startswith("praise · unit")
        pane = page.locator(".skh-pane").first
        for by in ("word", "character"):
            pane.get_by_role("button", name=by, exact=True).click()
            ledger = write_ledger(model, TEXT, neuron.unit)
            entries, _, rest = account_line(ledger, by, reading).partition(" · all together ")
            assert " · ".join(pane.locator(".skh-entry").all_inner_texts()) == entries
            assert f"all together {rest.split(' ')[0]}" in pane.locator(".skh-account").inner_text()
        dim, bright = pane.locator(".skh-dim"), pane.locator(".skh-mark:not(.skh-dim)")
        assert dim.count() > 20 and 0 < bright.count() < 20
        assert all(
            not style for style in dim.evaluate_all("all => all.map(d => d.style.backgroundColor)")
        )
        pane.get_by_role("button", name="word", exact=True).click()
        pane.locator(".skh-entry").first.click()
        assert pane.locator(".skh-at").count() == 1
        assert contrasts(page.locator("main"))[0][0] >= 4.5, contrasts(page.locator("main"))[:5]
        assert tab.axe() == [] and tab.errors == []
        tab.screenshot(f"colour_account_{'dark' if dark else 'light'}")


def test_what_was_given_is_called_by_its_name(model, tmp_path):
    classifier = TextClassifier.from_pretrained("reviews-small")
    words = Direction("a direction", np.linspace(-1, 1, model.config.hidden_size), 0.1)
    with open_tab() as tab:
        tab.page.set_default_timeout(10_000)
        page = show(tab, HeatmapWidget(classifier, "Fine. Great!"), tmp_path)
        title = page.locator(".skh-title").inner_text()
        assert title.startswith("positive") and "orange: positive, blue: negative" in title
        assert "unit 0" not in page.locator("main").inner_text()
        page = show(tab, HeatmapWidget(DirectedStates(model, words), "Fine. Great!"), tmp_path)
        assert page.locator(".skh-title").inner_text().startswith("a direction")
        assert "Opens on a direction" in page.locator(".skh-why").inner_text()
        tab.screenshot("colour_direction")
        fresh = LanguageModel(model.config)
        page = show(tab, HeatmapWidget(fresh, "Fine. Great!"), tmp_path)
        assert "Opens on surprise" in page.locator(".skh-why").inner_text()
        assert "orange: not expected" in page.locator(".skh-title").inner_text()
        assert "blue" not in page.locator(".skh-legend").inner_text()
        assert tab.errors == []


def test_short_texts_in_the_dark_lab(tmp_path):
    with open_lab(tmp_path, dark=True) as lab:
        page = lab.run(
            [
                "from sentiment_kit import HeatmapWidget\n"
                "widget = HeatmapWidget('reviews-small', ['No.', 'Great!', ''])\nwidget",
                "widget.view = 'ledger'",
            ]
        )
        widget = page.locator(".jp-OutputArea .skh").first
        widget.locator(".skh-entry").first.wait_for()
        worst = contrasts(widget)[:5]
        lab.screenshot("colour_short_dark_ledger", widget)
        widget.get_by_role("button", name="Ledger", exact=True).click()
        widget.locator(".skh-entry").first.wait_for(state="detached")
        worst = sorted([*worst, *contrasts(widget)[:5]])
        lab.screenshot("colour_short_dark", widget)
        assert worst[0][0] >= 4.5, worst
        assert re.search(r"text 1 · unit \d+", widget.inner_text())
        assert lab.errors == []
