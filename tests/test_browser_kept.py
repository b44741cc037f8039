"""What answers where no kernel does: a page kept in a notebook; and a widget left alone."""

import json
import time

import pytest
import torch
from browser import open_tab

from sentiment_kit.looking.heatmap_widget import SAVED, HeatmapWidget
from sentiment_kit.looking.page_parts import SCRIPT, STYLE_SHEET, state_json
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.transfer.unit_notes import name_unit

pytestmark = pytest.mark.slow
HOSTILE = "</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=8))
    folder = model.save_pretrained(tmp_path_factory.mktemp("kept") / "model")
    name_unit(folder, 11, HOSTILE)
    return folder


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_kept_in_a_notebook_answers_and_shows_the_names_of_units(folder, dark):
    shown = HeatmapWidget(folder, "It broke.", [3]).live()._repr_html_()
    with open_tab(dark) as tab:
        tab.page.set_content(f"<h1>A notebook, saved</h1>{shown}")
        page = tab.page.frame_locator("iframe")
        page.locator("html[data-live]").wait_for(state="attached", timeout=60_000)
        page.locator("#live textarea").fill("It never broke!")
        page.locator("#live .skh-view", has_text="never broke!").wait_for()
        page.get_by_role("button", name="Any unit", exact=True).click()
        page.get_by_role("button", name="unit 3: choose another").click()
        page.get_by_role("combobox", name="search units").fill("onerror")
        option = page.get_by_role("option").first
        assert option.inner_text().strip() == f"unit 11 · {HOSTILE}"
        option.click()
        assert HOSTILE in page.locator(".skh-legend").inner_text()
        assert page.locator("main img").count() == 0
        assert all(frame.evaluate("() => window.hacked") is None for frame in tab.page.frames)
        assert tab.errors == tab.outside == []
        tab.screenshot(f"kept_page_{'dark' if dark else 'light'}")


STUB = """
const text = document.getElementById("state").textContent;
const state = { ...JSON.parse(text, reviveBytes), texts: ["It broke."] };
const heard = {};
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  on: (name, listener) => (heard[name] ??= []).push(listener),
  off() {}, send() {}, save_changes() {},
};
window.answer = () => heard["change:picture"].forEach((listener) => listener());
render({ model, el: document.querySelector("main") });
"""


def test_a_widget_says_that_nobody_answers_and_takes_it_back(folder):
    widget = HeatmapWidget(folder, "It broke.", [3])
    state = {name: getattr(widget, name) for name in SAVED}
    with open_tab() as tab:
        tab.page.set_content(
            f"<style>{STYLE_SHEET}</style><main></main>"
            f'<script type="application/json" id="state">{state_json(state)}</script>'
            f'<script type="module">{SCRIPT}{STUB}</script>'
        )
        said = tab.page.locator(".skh-error")
        tab.page.locator("textarea").fill("It broke!")
        start = time.monotonic()
        assert said.inner_text() == ""
        said.filter(has_text="Python has not answered").wait_for(timeout=20_000)
        assert time.monotonic() - start > 4
        tab.page.evaluate("() => answer()")
        assert said.inner_text() == ""
        assert json.dumps(tab.errors + tab.outside) == "[]"
