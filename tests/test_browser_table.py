"""The table of texts in Chromium: alone with 100,000 rows, and in JupyterLab beside its heatmap."""

import csv

import numpy as np
import pytest
from browser import open_lab, open_tab
from hostile import HOSTILE

from sentiment_kit.data.datasets import load_dataset
from sentiment_kit.looking.table_view import (
    TableView,
    count_column,
    number_column,
    table_of,
    word_column,
)
from sentiment_kit.transfer.text_scores import ScoreColumn

pytestmark = pytest.mark.slow
N = 100_000
POLES = ["negative", "positive"]

# What a step takes: the change itself, and until the browser has drawn it.
TIMED = """async act => {
    const app = document.querySelector('.skt-view');
    const start = performance.now();
    new Function('view', act)(app);
    const script = performance.now() - start;
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return [script, performance.now() - start];
}"""
SCROLL = """async () => {
    const view = document.querySelector('.skt-view');
    const frames = [];
    let before = performance.now();
    for (let n = 0; n < 90; n++) {
        view.scrollTop += n < 60 ? 240 : 30000;
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        frames.push(now - before);
        before = now;
        const rows = [...view.querySelectorAll('.skt-sheet .skt-row')];
        const top = view.getBoundingClientRect();
        const seen = rows.filter(row => {
            const box = row.getBoundingClientRect();
            return box.bottom > top.top + 45 && box.top < top.bottom;
        });
        if (seen.length < 10) throw new Error(`only ${seen.length} rows in sight`);
    }
    return frames;
}"""


def texts_of(page):
    return page.locator(".skt-sheet .skt-text").all_inner_texts()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "A page of 100,000 texts with made-up scores; its columns as arrays."
    rng = np.random.default_rng(0)
    samples = [text for part in load_dataset("samples").values() for text in part.texts]
    texts = [f"{n}. {samples[n % len(samples)]}" for n in range(N)]
    x_N = rng.normal(size=N).astype(np.float32)
    x_N[rng.choice(N, 50)] = np.nan
    label_N, answer_N = rng.integers(-1, 2, N), rng.integers(0, 2, N)
    columns = [
        word_column("label", "label", label_N, POLES),
        word_column("answer", "answer", answer_N, POLES),
        *(
            number_column(ScoreColumn(f"unit_{k}", f"unit {k}", "below 0", "above 0", 0.0, 2.0), x)
            for k, x in enumerate([x_N, rng.normal(size=N), rng.normal(size=N)])
        ),
        count_column("characters", "characters", [len(text) for text in texts]),
    ]
    judged = dict(label="label", answer="answer", places=[0, 1], names=POLES, classes=POLES)
    view = TableView(table=table_of(texts, columns, judged=judged, said="Made up."))
    path = tmp_path_factory.mktemp("large") / "table.html"
    path.write_text(view.html(), "utf-8")
    return path, texts, x_N, label_N, answer_N


def test_a_hundred_thousand_texts_stay_fluid(large):
    path, texts, x_N, label_N, answer_N = large
    with open_tab() as tab:
        page = tab.page
        page.goto(path.as_uri())
        grid = page.get_by_role("grid")
        page.locator(".skt-sheet .skt-row").first.wait_for()
        assert grid.get_attribute("aria-rowcount") == str(N + 1)
        assert page.locator(".skt-row").count() < 60, "only rows in sight are elements"
        took = {"first rows": page.evaluate("performance.now()")}
        head = "view.querySelectorAll('.skt-head .skt-cell')[{}].click()"
        took["sort by number"] = page.evaluate(TIMED, head.format(4))
        largest = np.argsort(-np.where(np.isnan(x_N), -np.inf, x_N), kind="stable")
        assert texts_of(page)[:5] == [texts[n] for n in largest[:5]]
        took["the other way"] = page.evaluate(TIMED, head.format(4))
        smallest = np.argsort(np.where(np.isnan(x_N), np.inf, x_N), kind="stable")
        assert texts_of(page)[:5] == [texts[n] for n in smallest[:5]]
        sorts = page.locator("[role=columnheader]").nth(4)
        assert sorts.get_attribute("aria-sort") == "ascending"
        took["sort by text"] = page.evaluate(TIMED, head.format(1))
        frames = page.evaluate(SCROLL)
        took["frame while scrolling"] = [float(np.median(frames)), max(frames)]
        find = "document.querySelector('.skt-search').value = 'mandoline';"
        find += "document.querySelector('.skt-search').dispatchEvent(new Event('input'))"
        page.evaluate(TIMED, find)
        count = sum("mandoline" in text.lower() for text in texts)
        told = page.locator(".skt-told")
        told.filter(has_text=" of 100,000 texts").wait_for()
        assert told.inner_text().startswith(f"{count:,} of {N:,} texts")
        page.get_by_role("button", name="take away: contains").click()
        keep = "[...document.querySelectorAll('.skt-count')][1].click()"
        took["filter by label and answer"] = page.evaluate(TIMED, keep)
        kept = int(((label_N == 0) & (answer_N == 1)).sum())
        assert told.inner_text().startswith(f"{kept:,} of {N:,} texts · 0.0% [0.0, 0.0]")
        assert grid.get_attribute("aria-rowcount") == str(kept + 1)
        assert tab.errors == [] and tab.outside == []
        print({name: np.round(value, 1).tolist() for name, value in took.items()})
        assert max(took["sort by number"][1], took["filter by label and answer"][1]) < 2_000
        assert np.median(frames) < 100


def test_by_keyboard_alone(large):
    with open_tab() as tab:
        page = tab.page
        page.goto(large[0].as_uri())
        page.locator(".skt-sheet .skt-row").first.wait_for()
        grid = page.get_by_role("grid")
        for _ in range(12):
            page.keyboard.press("Tab")
            if grid.evaluate("view => view === document.activeElement"):
                break
        meant = (
            "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
        )
        row = f"{meant}.parentElement.getAttribute('aria-rowindex')"
        for key, index in dict(ArrowDown=3, PageDown=None, End=None).items():
            page.keyboard.press(key)
            assert index is None or page.evaluate(row) == str(index)
        page.keyboard.press("Control+End")
        assert page.evaluate(row) == str(N + 1)
        page.keyboard.press("Enter")
        assert page.locator(".skt-text-whole").inner_text() == large[1][-1]
        page.keyboard.press("Control+Home")
        page.keyboard.press("ArrowUp")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        assert page.evaluate(f"{meant}.getAttribute('role')") == "columnheader"
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        sorts = page.locator("[role=columnheader][aria-sort=ascending]")
        assert sorts.inner_text().startswith("unit 0")
        assert tab.axe("body") == [] and tab.errors == []


def test_hostile_texts_in_every_cell(tmp_path):
    texts = [text[:20_000] for text in HOSTILE.values()]
    words = [text[:200] for text in HOSTILE.values()]
    columns = [word_column("label", words[0], range(len(words)), words)]
    judged = dict(label="label", answer="label", places=[*range(20)], names=words, classes=words)
    wrong = dict(column=words[1], name=words[2], n=3, right=[0.5, 0.1, 0.9])
    slices = [wrong | dict(where={"column": "label", "is": 0})]
    table = table_of(texts, columns, judged=judged, slices=slices, said=words[3])
    (tmp_path / "table.html").write_text(TableView(table=table, row=2).html(), "utf-8")
    with open_tab() as tab:
        tab.page.goto((tmp_path / "table.html").as_uri())
        tab.page.locator(".skt-sheet .skt-row").nth(5).wait_for()
        tab.page.locator(".skt-count").nth(3).click()
        tab.page.wait_for_timeout(200)
        assert not tab.page.evaluate("window.hacked") and tab.outside == []
        assert tab.errors == [], "the rules of the page were never needed"


MAKE = """
import os, tempfile
folder = tempfile.mkdtemp()
os.environ["SENTIMENT_KIT_NOTES"] = folder
import sentiment_kit as sk
from sentiment_kit.data.datasets import load_dataset
sk.name_unit("reviews-stars", 3, "<b>my unit")
part = load_dataset("samples")["test"]
table = sk.look(part, "reviews-stars", cache=folder)
table
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_look_in_jupyterlab(theme, tmp_path):
    with open_lab(tmp_path, dark=theme == "dark") as lab:
        page = lab.run([MAKE])
        grid = page.get_by_role("grid")
        grid.locator(".skt-sheet .skt-row").first.wait_for(timeout=60_000)
        texts = lab.python("table.given.texts")
        shown = page.locator(".jp-OutputArea .skh-view").first
        shown.wait_for()
        grid.locator(".skt-sheet .skt-row").nth(4).locator(".skt-text").click()
        lab.wait("table.view.row == 4")
        page.wait_for_function(
            "text => document.querySelector('.skh-view').innerText.includes(text)",
            arg=texts[4][:20],
        )
        page.get_by_label("unit to add, by number or name").fill("<b>my unit")
        page.get_by_label("unit to add, by number or name").press("Enter")
        lab.wait("'unit_3' in table.frame()")
        page.get_by_role("columnheader", name="unit 3").wait_for()
        page.locator(".skt-head .skt-number").first.click()
        lab.wait("table.view.sort == ['p_positive', -1]")
        page.get_by_text("Where is it right?").click()
        page.locator(".skt-count").nth(1).click()
        wrong = "[n for n in range(len(table.given)) if table.given.label_N[n] == 0"
        wrong += " and table.scores.answer_N[n] == 1]"
        rows = sorted(
            lab.python(wrong), key=lambda n: -lab.python("table.frame()['p_positive']")[n]
        )
        with page.expect_download() as caught:
            page.get_by_role("button", name="CSV", exact=True).click()
        with open(caught.value.path(), newline="", encoding="utf-8") as f:
            assert [row["text"] for row in csv.DictReader(f)] == [texts[n] for n in rows]
        page.wait_for_timeout(300)
        page.get_by_text("Where is it right?").click()
        lab.screenshot(f"table_{theme}", lab.output(0).last)
        page.get_by_role("button", name="choose another").first.click()
        page.get_by_role("combobox", name="search units").fill("my unit")
        offered = page.locator(".skh-picker [role=option]")
        assert "unit 3 · <b>my unit" in offered.first.inner_text()
        assert lab.errors == [] and lab.outside == [] and lab.axe(".jp-OutputArea") == []
        saved = lab.save()
        kept = [
            o["data"]["text/html"]
            for o in saved.cells[0].outputs
            if "text/html" in o.get("data", {})
        ]
        assert any(texts[0][:20] in plain and "background:#" in plain for plain in kept)
