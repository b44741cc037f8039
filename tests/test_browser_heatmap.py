"""The heatmap in a real JupyterLab: every control used, then both the page and Python are asked."""

import json

import numpy as np
import pytest
from browser import offline, open_lab, report, shot_path, time_keys
from hostile import HOSTILE

from sentiment_kit.data.text import encode
from sentiment_kit.figures import number
from sentiment_kit.looking.heatmap_widget import HeatmapView
from sentiment_kit.looking.marks import marks_of
from sentiment_kit.looking.readings import SCORES, colour_words, end_words

pytestmark = pytest.mark.slow

START = """
import time, torch, numpy as np
from IPython.display import display
from sentiment_kit.transfer.features import record_states
from sentiment_kit.looking.heatmap_widget import HeatmapView, HeatmapWidget, heatmap_numbers
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.looking.ledger import write_ledger
def fresh(seed, hidden_size=48):
    torch.manual_seed(seed)
    return LanguageModel(LanguageModelConfig(hidden_size=hidden_size, embed_size=8))
model, rng = fresh(0), np.random.default_rng(0)
"""
ROWS = "view => [...view.querySelectorAll('.skh-row')].map(row => row.textContent).join('')"
MORE = "view => view.scrollHeight > view.clientHeight + 100"
TINTS = """view => [...view.querySelectorAll('.skh-mark')].map(span =>
    Number(span.style.backgroundColor.match(/([\\d.]+)\\)$/)?.[1] ?? 0))"""


@pytest.fixture(scope="module", params=["light", "dark"])
def lab(request, tmp_path_factory):
    with open_lab(tmp_path_factory.mktemp(request.param), dark=request.param == "dark") as lab:
        lab.theme = request.param
        yield lab


def heatmap(page, n=0):
    return page.locator(".jp-OutputArea .skh").nth(n)


def told(widget):
    "The table under the text: unit → the other cells."
    rows = [
        row.locator("th, td").all_inner_texts()
        for row in widget.locator(".skh-table tbody tr").all()
    ]
    return {row[0]: row[1:] for row in rows}


def pick_unit(widget, opener, word):
    widget.get_by_role("button", name=opener, exact=True).click()
    widget.get_by_role("combobox", name="search units").fill(word)
    widget.get_by_role("combobox", name="search units").press("Enter")


def states(lab, text, unit):
    "As they are drawn: turned by the sign of the unit's weight in the probe, where there is one."
    sign = lab.python(
        f"1 if widget._weight_U is None else float(np.sign(widget._weight_U[{unit}]))"
    )
    c_T = lab.python(f"record_states(model, {text!r}, [{unit}])[:, 0].tolist()")
    return sign * np.array(c_T)


def ends_of(widget):
    "What stands at both ends of the first scale."
    swatches = widget.locator(".skh-swatches").first.locator("> span")
    return [swatches.first.inner_text(), swatches.last.inner_text()]


def ends_told(scale, ends=None):
    "What should stand there, from `scale`, the largest value."
    low, high = end_words(ends)
    return [f"{low} {number(-scale)}", f"{number(scale)} {high}"]


def test_every_control(lab):
    text = "It broke. Café 👩‍🚀!"
    known = "weight_U=rng.normal(size=48), stars_U=rng.uniform(-1, 1, 48)"
    make = "widget = HeatmapWidget(model, {!r}, [3, 17], " + known + ")"
    page = lab.run([START, make.format(text), "widget"])
    widget, encoded = heatmap(page), encode(text)
    view, marks = widget.locator(".skh-view"), marks_of(encoded)
    assert view.evaluate(ROWS) == "".join(mark.shown for mark in marks)

    c_T = states(lab, text, 3)
    values, scale = c_T[[m.stop - 1 for m in marks]], np.abs(c_T[[m.stop - 1 for m in marks]]).max()
    tints = np.array(view.evaluate(TINTS)) / 0.62
    np.testing.assert_allclose(tints, np.abs(values) / scale, atol=0.02)  # forty steps
    assert ends_of(widget) == ends_told(scale, SCORES)
    assert widget.locator(".skh-title").inner_text() == f"unit 3 {colour_words(SCORES)}"

    g = next(
        g for g, mark in enumerate(marks) if "👩" in mark.shown
    )  # hover: one character of eleven bytes
    view.locator(f"[data-g='{g}']").hover()
    assert widget.locator(".skh-glyph").inner_text() == "👩‍🚀"
    assert widget.locator("code").inner_text() == "f0 9f 91 a9 e2 80 8d f0 9f 9a 80"
    value, percentile, change = told(widget)["unit 3"]
    assert (value, change) == (number(values[g]), number(values[g] - values[g - 1]))
    rank = 100 * (np.sum(values < values[g]) + np.sum(values <= values[g])) / 2 / len(values)
    assert percentile == f"{rank:.0f}%"
    assert view.locator(".skh-at").count() == 1

    pick_unit(
        widget, "unit 3: choose another", "17"
    )  # recorded: the page does it alone, Python is told
    assert lab.python("[widget.units, widget.shown]") == [[3, 17], [17]]
    assert "unit 17" in told(widget)
    pick_unit(widget, "unit 17: choose another", "45")  # not recorded: Python reads
    assert lab.wait("45 in widget.picture['units'] and widget.shown == [45]")
    widget.locator(".skh-scale", has_text="unit 45").wait_for()
    view.locator(f"[data-g='{g}']").hover()
    assert told(widget)["unit 45"][0] == number(states(lab, text, 45)[marks[g].stop - 1])

    for unit in ("3", "17", "9"):  # up to four at once
        pick_unit(widget, "add a unit beside these", unit)
    assert lab.wait("widget.shown == [45, 3, 17, 9]")
    page.wait_for_function("document.querySelectorAll('.skh-scale').length === 4")
    assert widget.get_by_role("button", name="add a unit beside these").count() == 0
    assert len(told(widget)) == 4
    lab.screenshot(f"heatmap_units_{lab.theme}", widget)
    for unit in (9, 45, 17):
        widget.get_by_role("button", name=f"take unit {unit} away").click()
    assert lab.python("widget.shown") == [3]

    before = told(widget)["unit 3"][0]
    flip = widget.get_by_role("button", name="flip the sign of unit 3")
    flip.click()
    assert lab.python("widget.flipped") == [3] and flip.get_attribute("aria-pressed") == "true"
    opposite = str.maketrans("+−", "−+")
    assert told(widget)["unit 3 (flipped)"][0] == before.translate(opposite)
    flip.click()
    assert lab.python("widget.flipped") == [] and told(widget)["unit 3"][0] == before

    widget.get_by_role(
        "button", name="unit 3: choose another"
    ).click()  # the list, by weight and by stars
    options = widget.locator(".skh-option")
    assert options.first.inner_text() == "surprise in bits"  # what is no unit stands before them
    facts = options.nth(1).inner_text()
    best = lab.python("int(np.argmax(np.abs(np.frombuffer(widget.choices['weight'], '<f4'))))")
    assert f"unit {best}" in facts and "weight" in facts and "r ★" in facts
    widget.get_by_role("combobox", name="order of the list").select_option("r with stars")
    best = lab.python("int(np.argmax(np.abs(np.frombuffer(widget.choices['stars'], '<f4'))))")
    assert f"unit {best}" in options.nth(1).inner_text()
    lab.screenshot(f"heatmap_picker_{lab.theme}", widget)
    search = widget.get_by_role("combobox", name="search units")
    search.fill("99")
    assert "0 … 47" in widget.locator(".skh-picker").inner_text()
    search.press("Escape")
    assert (
        search.is_hidden() and page.evaluate("document.activeElement.dataset.control") == "unit 0"
    )

    view.locator(f"[data-g='{g}']").click()  # top units of a character
    assert lab.wait("widget.top.get('stop')") == marks[g].stop
    change_U = lab.python(
        f"(lambda c: (c[{marks[g].stop - 1}] - c[{marks[g - 1].stop - 1}]).tolist())"
        f"(record_states(model, {text!r}))"
    )
    moved = int(np.argmax(np.abs(change_U)))
    button = widget.locator(".skh-tops button").first
    sign = lab.python(f"float(np.sign(widget._weight_U[{moved}]))")
    assert button.inner_text() == f"{moved}  {number(sign * change_U[moved])}"
    button.click()
    assert lab.wait(f"widget.shown == [{moved}] and {moved} in widget.picture['units']")
    widget.locator(".skh-scale", has_text=f"unit {moved}").wait_for()
    view.locator(f"[data-g='{g}']").hover()  # the same change as the list has told
    assert told(widget)[f"unit {moved}"][2] == number(sign * change_U[moved])

    widget.get_by_role("button", name="Ledger").click()
    assert lab.wait(f"'{moved}' in widget.ledgers")
    account = widget.locator(".skh-account", has_text="all together")
    account.wait_for()
    total = sign * lab.python(f"write_ledger(model, {text!r}, {moved}).total")
    assert f"all together {number(total)}" in account.inner_text()
    view.locator(f"[data-g='{g}']").hover()
    wrote, survives, left = told(widget)[f"unit {moved}"]
    entries = lab.python(
        "(lambda l: [l.write_T.tolist(), l.contribution_T.tolist()])"
        f"(write_ledger(model, {text!r}, {moved}))"
    )
    written, kept = [sign * sum(entry[marks[g - 1].stop : marks[g].stop]) for entry in entries]
    assert (wrote, left) == (
        number(written),
        number(kept),
    ) and survives == f"{100 * kept / written:.1f}%"
    lab.screenshot(f"heatmap_ledger_{lab.theme}", widget)
    widget.get_by_role("button", name="Ledger").click()
    assert lab.python("[widget.view, widget.ledgers]") == ["state", {}]

    box = widget.get_by_role("textbox")
    box.focus()
    page.keyboard.press("Control+End")
    page.keyboard.type(" Not good")
    assert lab.wait(f"widget.texts == [{text + ' Not good'!r}]")
    page.wait_for_function("document.querySelector('.skh-view').textContent.endsWith('Not good␣')")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    lab.python("setattr(widget, 'texts', ['From Python.'])")
    page.wait_for_function(
        "document.querySelector('.skh-view').textContent.includes('From Python.')"
    )
    assert lab.python("setattr(widget, 'units', [3, 99])") is None
    widget.get_by_role("alert").get_by_text("not all in 0 … 47").wait_for()
    assert lab.python("widget.units == widget.picture['units']")
    assert lab.errors == [] and lab.outside == []


def test_keys_move_in_the_text_and_stay_in_the_widget(lab):
    page = lab.run(
        [START, "widget = HeatmapWidget(model, 'one two three ' * 30, [1, 2])", "widget"]
    )
    widget = heatmap(page)
    view = widget.locator(".skh-view")
    view.focus()
    for key, place in (
        ("ArrowRight", 1),
        ("End", None),
        ("Home", 0),
        ("Control+End", 421),
        ("ArrowLeft", 420),
        ("ArrowUp", None),
    ):
        page.keyboard.press(key)
        at = int(view.locator(".skh-at").get_attribute("data-g"))
        assert place in (None, at), key
    assert 0 < at < 420
    page.keyboard.press("Enter")
    assert lab.wait("widget.picked.get('stop')") == at + 1
    for place in (".skh-view", ".skh-slot button", "textarea"):
        widget.locator(place).first.focus()
        for key in (
            "a",
            "b",
            "d",
            "d",
            "x",
            "m",
            "Shift+M",
            "0",
            "0",
            "Delete",
            "z",
        ):  # the notebook has commands there
            page.keyboard.press(key)
            assert (
                page.evaluate("panel.content.widgets.map(cell => cell.model.type)") == ["code"] * 3
            ), (place, key)
        assert page.locator(".jp-Dialog").count() == 0
    view.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.querySelector('.skh-view')"), (
        "no trap"
    )
    controls = (
        "[...document.querySelectorAll('.skh button, .skh textarea, .skh summary, .skh-view')]"
    )
    assert (
        page.evaluate(f"{controls}.every(control => control.tabIndex === 0)") and lab.errors == []
    )


def test_models_and_texts_side_by_side_and_several_widgets(lab):
    cells = [
        START,
        "two = HeatmapWidget([model, fresh(1)], 'The same words.', [[3, 5], 7], "
        "names=['first', 'second'])\ntwo",
        "texts = HeatmapWidget(model, ['It works.', 'It never worked, sadly.'], [3], "
        "names=['good', 'bad'])\ntexts",
        "view = HeatmapView()\n"
        "view.show([('live', b'so', np.array([[1.0, -2.0]]))], units=['surprise'])\nview",
    ]
    page = lab.run(cells)
    two, texts, view = (heatmap(page, n) for n in range(3))
    titles = [f"{name} · unit 3 / 5 {colour_words()}" for name in ("first", "second")]
    assert two.locator(".skh-title").all_inner_texts() == titles
    two.locator(".skh-view").first.locator("[data-g='5']").hover()
    assert list(told(two)) == ["unit 3 / 5, first", "unit 3 / 5, second"]
    values = lab.python(
        "[np.frombuffer(p['values'], '<f4').reshape(2, -1)[0].tolist() "
        "for p in two.picture['panes']]"
    )
    assert [cells[0] for cells in told(two).values()] == [number(v[5]) for v in values]
    scale = max(np.abs(v).max() for v in values)  # one for both
    assert ends_of(two) == ends_told(scale)
    x = [
        pane.bounding_box()["x"]
        for pane in (*two.locator(".skh-view").all(), *texts.locator(".skh-view").all())
    ]
    assert x[1] > x[0] + 300 and x[3] > x[2] + 300, "side by side"
    texts.get_by_role("textbox", name="text 2").fill("It works now.")
    assert lab.wait("texts.texts == ['It works.', 'It works now.']")
    page.wait_for_function(
        "document.querySelectorAll('.skh-view')[3].textContent.includes('works now')"
    )
    assert two.get_by_role("textbox").input_value() == "The same words.", (
        "the other widget is left alone"
    )

    for n in range(1, 30):
        lab.python(f"view.show([('live', {b'so good' * n!r}, np.ones((1, {7 * n})))])")
    page.wait_for_function("document.querySelectorAll('.skh-view')[4].textContent.length === 203")
    assert view.locator(".skh-name").inner_text() == "surprise"
    lab.screenshot(f"heatmap_side_by_side_{lab.theme}")
    ids = page.evaluate("[...document.querySelectorAll('.skh [id]')].map(x => x.id)")
    assert len(ids) == len(set(ids)) and lab.errors == [] and lab.outside == []


def test_a_long_text_is_read_when_asked(lab):
    page = lab.run(
        [START, "widget = HeatmapWidget(model, 'word after word ' * 400, [1])", "widget"]
    )
    widget = heatmap(page)
    widget.get_by_text("Type", exact=True).click()  # closed at first
    box = widget.get_by_role("textbox")
    box.press("Control+End")
    page.keyboard.type("so far")
    assert "Ctrl+Enter" in widget.locator(".skh-fold").inner_text()
    assert lab.python("'so far' in widget.texts[0]") is False
    page.keyboard.press("Control+Enter")
    assert lab.wait("'so far' in widget.texts[0]")
    view = widget.locator(".skh-view")
    assert view.locator(".skh-mark").count() < 6_000
    view.evaluate("view => { view.scrollTop = view.scrollHeight }")
    page.wait_for_function("document.querySelector('.skh-view').textContent.endsWith('so far␣')")
    assert lab.errors == []


def test_accessibility(lab):
    page = lab.run(
        [
            START,
            "widget = HeatmapWidget(model, ['It broke. ' * 40, 'Fine.'], [3, 17], "
            "weight_U=np.arange(48))",
            "widget",
        ]
    )
    widget = heatmap(page)
    page.wait_for_selector(".skh-row")
    assert lab.axe(".jp-OutputArea .skh") == []
    widget.locator("[data-g='7']").first.click()
    widget.locator(".skh-tops button").first.wait_for()
    widget.get_by_role("button", name="Ledger").click()
    widget.locator(".skh-account", has_text="all together").first.wait_for()
    widget.get_by_role("button", name="add a unit beside these").click()
    assert lab.axe(".jp-OutputArea .skh") == []


def drawn(text):
    return "".join(mark.shown for mark in marks_of(encode(text)))


def check_innocent(page, view, text, skeleton):
    rows = view.evaluate(ROWS)
    assert rows == drawn(text) or (drawn(text).startswith(rows) and view.evaluate(MORE))
    assert page.evaluate("window.hacked") is None and page.evaluate("({}).hacked") is None
    tags = page.evaluate(
        "[...new Set([...document.querySelectorAll('.skh-view *')].map(x => x.tagName))].sort()"
    )
    assert tags == ["DIV", "SPAN", "path", "svg"] and page.evaluate(skeleton[0]) == skeleton[1]


def test_hostile_texts_change_nothing_but_the_picture(lab, tmp_path):
    page = lab.run([START, "widget = HeatmapWidget(model, '', [3, 17])", "widget"])
    view, count = (
        heatmap(page).locator(".skh-view"),
        "document.querySelectorAll('.jp-OutputArea *:not(.skh *)').length",
    )
    page.wait_for_selector(".skh-row")
    skeleton = (count, page.evaluate(count))
    for name, text in HOSTILE.items():
        encoded, short = encode(text), len(text) < 10_000
        if short:
            lab.python(f"setattr(widget, 'texts', [{text!r}])")
        else:  # a megabyte: values as if recorded
            lab.python(f"widget.show([('', {encoded!r}, np.ones((2, {len(encoded)})))])")
        page.wait_for_function(
            f"document.querySelector('.skh-view').textContent.startsWith({json.dumps(drawn(text)[:40])})"
        )
        check_innocent(page, view, text, skeleton)
        view.locator(".skh-mark").last.hover()
        assert lab.python("widget.error") == "", name
    lab.python(
        f"widget.show([({HOSTILE['script']!r}, b'x', np.ones((1, 1)))], "
        f"units=[{HOSTILE['image']!r}])"
    )
    page.wait_for_function("document.querySelector('.skh-title')")
    title = f"{HOSTILE['script']} · {HOSTILE['image']} {colour_words()}"
    assert heatmap(page).locator(".skh-title").inner_text() == title
    assert (
        page.evaluate("window.hacked") is None
        and page.locator(".skh img, .skh script").count() == 0
    )
    assert heatmap(page).get_by_role("textbox").count() == 0
    assert lab.errors == [] and lab.outside == []


def test_saved_notebook_has_no_state(lab):
    lab.run([START, "HeatmapWidget(model, 'It broke.', [3])"])
    saved = lab.save()
    assert "widgets" not in saved.metadata
    data = saved.cells[1].outputs[0].data
    assert "It broke" not in json.dumps(data["application/vnd.jupyter.widget-view+json"])
    assert "background:#" in data["text/html"] and "<script" not in data["text/html"]


def png_size(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_saving(lab, tmp_path):
    make = (
        "widget = HeatmapWidget(model, ['It broke. Café ﷽ 👩‍🚀', 'Fine </script>\\ufffe'], [3, 17])"
    )
    page = lab.run([START, make, "widget"])
    widget = heatmap(page)
    page.wait_for_selector(".skh-row")
    widget.get_by_role("button", name="Ledger").click()
    assert lab.wait("'3' in widget.ledgers")
    files = {}
    for kind in ("HTML", "PNG", "JSON"):
        with page.expect_download() as waiting:
            widget.get_by_role("button", name=kind, exact=True).click()
        files[kind] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(files[kind])
    assert json.loads(files["JSON"].read_text()) == lab.python("heatmap_numbers(widget.picture)")
    assert files["HTML"].read_text("utf-8") == lab.python("widget.html()")
    with page.expect_download() as waiting:
        widget.get_by_role("button", name="Live", exact=True).click()
    waiting.value.save_as(tmp_path / "live.html")
    assert 'id="weights"' in (tmp_path / "live.html").read_text("utf-8")
    wide, high = png_size(files["PNG"].read_bytes())
    assert wide > 1000 and high > 200
    lab.python("widget.save('asked.png')")
    assert lab.wait("__import__('pathlib').Path('asked.png').exists()")
    assert png_size((lab.folder / "asked.png").read_bytes()) == (wide, high)
    shot_path(f"heatmap_png_{lab.theme}").write_bytes(files["PNG"].read_bytes())

    with offline(lab) as tab:
        tab.page.goto(files["HTML"].as_uri())
        file = tab.page.locator(".skh")
        tab.page.wait_for_selector(".skh-row")
        assert (
            file.locator(".skh-row").first.inner_text()
            == widget.locator(".skh-row").first.inner_text()
        )
        assert tab.page.locator("textarea").count() == 0
        file.get_by_role("button", name="Ledger").click()
        pick_unit(file, "unit 3: choose another", "17")
        file.locator("[data-g='4']").first.hover()
        assert told(file)["unit 17"][0] == number(
            lab.python("record_states(model, widget.texts[0], [17])[4, 0].item()")
        )
        with tab.page.expect_download() as waiting:
            file.get_by_role("button", name="JSON", exact=True).click()
        waiting.value.save_as(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_text() == files["JSON"].read_text()
        assert tab.axe() == [] and tab.errors == [] and tab.outside == []
        tab.screenshot(f"heatmap_file_{lab.theme}")
    assert lab.errors == [] and lab.outside == []


def test_hostile_texts_in_a_saved_file(lab, tmp_path):
    view = HeatmapView()
    panes = [
        (text[:200], encode(text), np.ones((1, len(encode(text))))) for text in HOSTILE.values()
    ]
    view.show(
        [(title.encode("utf-8", "replace").decode(), *rest) for title, *rest in panes],
        units=[HOSTILE["end of a script"]],
    )
    view.save(tmp_path / "hostile.html")
    with offline(lab) as tab:
        tab.page.goto((tmp_path / "hostile.html").as_uri())
        tab.page.wait_for_selector(".skh-row")
        assert (
            tab.page.locator(".skh-view").count() == 20
            and tab.page.evaluate("window.hacked") is None
        )
        for shown, text in zip(tab.page.locator(".skh-view").all(), HOSTILE.values(), strict=True):
            rows = shown.evaluate(ROWS)
            assert rows == drawn(text) or (drawn(text).startswith(rows) and shown.evaluate(MORE))
        assert tab.page.locator("h1, img, iframe, link").count() == 0
        assert tab.errors == [] and tab.outside == []


STAMP = """
window.painted = () => new Promise(done =>
    requestAnimationFrame(() => setTimeout(() => done(performance.now()))));
"""
SWITCH = """async ([opener, unit]) => {
    const root = document.querySelector('.jp-OutputArea .skh');
    root.querySelector(`[data-control="${opener}"]`).click();
    const options = [...root.querySelectorAll('[role=option]')];
    const option = options.find(x => x.textContent.startsWith(`unit ${unit}`));
    const marks = [...root.querySelectorAll('.skh-mark')];
    const colours = () => marks.map(span => span.style.backgroundColor).join();
    const before = colours(), start = performance.now();
    option.click();
    const end = await painted();
    return [end - start, colours() !== before];
}"""


FIRST = """() => {
    window.firsts = [];
    const seen = new Set();
    window.watching?.disconnect();
    window.watching = new MutationObserver(() => {
        for (const root of document.querySelectorAll('.jp-OutputArea .skh')) {
            if (seen.has(root) || !root.querySelector('.skh-row')) continue;
            seen.add(root);
            painted().then(() => firsts.push(Date.now()));
        }
    });
    watching.observe(document.body, { childList: true, subtree: true });
}"""


@pytest.mark.parametrize("size", [2_000, 100_000])
def test_unit_switch_and_first_paint(lab, size):
    show = "view = HeatmapView()\nasked.append(time.time())\n"
    show += "view.show([('', text, values)], units=range(8))\nview"
    sentence = "It broke after a week, but the seller was kind. "
    cells = [
        START,
        f"asked, text = [], b'\\n ' + (b'{sentence}' * {size // 40})[:{size - 2}]",
        f"values = rng.normal(size=(8, {size})).cumsum(1).astype('f4')",
        *["time.sleep(3)", show] * 4,
    ]
    lab.run(["'no heatmap is on the page'"])
    lab.page.evaluate(STAMP)
    lab.page.evaluate(FIRST)
    page = lab.run(cells)
    page.wait_for_function("firsts.length === 4", timeout=90_000)
    times = np.array(page.evaluate("firsts")) - 1000 * np.array(lab.python("asked"))
    assert page.evaluate("document.querySelector('.skh-sheet').scrollHeight") > size / 10
    assert heatmap(page).locator(".skh-mark").count() < 6_000, "only rows in sight exist"
    report(f"first paint of {size} recorded characters", times, 1_000)
    clicks = [page.evaluate(SWITCH, ["unit 0", unit]) for unit in (1, 5, 2, 7, 3, 0, 6, 4)]
    assert all(changed for _, changed in clicks)
    report(
        f"unit switch on {size} characters",
        [time for time, _ in clicks],
        100 if size < 10_000 else 300,
    )
    page.locator(".skh-view").first.evaluate("view => { view.scrollTop = view.scrollHeight }")
    page.wait_for_function(f"document.querySelector('.skh-view [data-g=\"{size - 1}\"]')")
    assert lab.errors == []


def test_keystroke_to_recolour(lab):
    text = "('It broke after a week, but he was kind. ' * 13)[:500]"
    make = f"widget = HeatmapWidget(fresh(0, 768), {text}, range(8))"
    page = lab.run([START, make, "widget"])
    page.wait_for_selector(".skh-row")
    took = time_keys(page, ".jp-OutputArea textarea", ".skh-view", "notgoodatall,noo!!!")
    assert "notgoodatall,noo!!!" in lab.python("widget.texts[0]")
    report("keystroke to recolour, 500 characters, H = 768", took, 150)
    page.keyboard.type("as fast as it goes, without waiting")
    assert lab.wait("'without waiting' in widget.texts[0]")
    page.wait_for_function(
        "document.querySelector('.skh-view').textContent.includes('without waiting')"
    )
    assert lab.errors == []
