"""Both panels in a real JupyterLab: clicked, typed into, stopped; page and kernel agree."""

import numpy as np
import pytest
from browser import open_lab

pytestmark = pytest.mark.slow

HOSTILE = [
    "<script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 2">',
    "\u202eabc\u2066 \x07 👩‍🚀 e\u0301 商品",
]
MODEL = """
import numpy as np, torch
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.data.datasets import Texts, load_dataset
torch.manual_seed(0)
model = LanguageModel(LanguageModelConfig(hidden_size=64, embed_size=16)).eval()
data = load_dataset("samples")
"""
MAP = f"""
from sentiment_kit.looking.neuron_map import NeuronMap
test = data["test"]
data["test"] = Texts({HOSTILE!r} + test.texts[3:], test.labels)
panel = NeuronMap(model, data, k=3)
panel
"""
STEERING = """
from sentiment_kit.looking.steering import SteeringPanel
panel = SteeringPanel(model, 3, data["valid"].texts[:10], "The", n_bytes=5000)
panel
"""

BUSY = """() => {
    window.done = null;
    kernel.requestExecute({ code: 'while True: pass' }).done.then(reply => {
        window.done = reply.content;
    });
}"""


@pytest.fixture(scope="module", params=["light", "dark"])
def lab(request, tmp_path_factory):
    with open_lab(tmp_path_factory.mktemp(request.param), dark=request.param == "dark") as lab:
        lab.theme = request.param
        yield lab


def quiet(lab):
    assert lab.errors == [] and lab.outside == []
    assert not lab.page.evaluate("window.hacked")


def test_neuron_map(lab):
    page = lab.run([MODEL, MAP])
    shown = lab.output(1)
    shown.locator(".js-plotly-plot .bars").first.wait_for()
    unit = lab.python("panel.unit")
    shown.get_by_role("button", name="next").click()
    lab.wait(f"panel.unit != {unit}")
    box = shown.get_by_label("unit", exact=True)
    box.fill("7")
    box.press("Enter")
    lab.wait("panel.unit == 7")
    find = shown.get_by_label("search")
    find.fill("12")
    find.press("Enter")
    lab.wait("panel.unit == 12")
    page.wait_for_timeout(500)
    assert "12" in shown.locator("table td").first.inner_text()
    assert shown.locator("table td").nth(1).inner_text() in lab.python("panel.numbers.value")
    bars = """el => [...el.querySelectorAll('.js-plotly-plot')].map(p => p.data.filter(
        d => d.type === 'bar').map(d => d.y.reduce((a, b) => a + b)))"""
    of_map, of_histogram = shown.evaluate(bars)  # the map above has dots, no bars
    counts = np.bincount(lab.python("panel.y[panel.judged].tolist()"))
    assert of_map == [] and of_histogram == counts.tolist()
    lines = shown.locator(".gridlayer path")
    strokes = lines.evaluate_all("all => all.map(line => getComputedStyle(line).stroke)")
    assert len(strokes) > 8 and set(strokes) == {"rgb(136, 136, 136)"}  # on any ground
    shown.get_by_label("in order of").select_option("number")
    shown.get_by_role("button", name="previous").click()
    lab.wait("panel.unit == 11")
    quiet(lab)
    assert lab.axe(".jp-OutputArea") == []
    lab.screenshot(f"neuron_map_{lab.theme}", shown)


def test_steering_while_cells_run_and_stop(lab):
    page = lab.run([MODEL, STEERING])
    shown = lab.output(1)
    written = "len(panel.pair.encoded[0]) if panel.pair else 0"
    shown.get_by_role("button", name="write").click()
    lab.wait(f"({written}) > 50")  # a request that the kernel answers while it writes
    page.wait_for_timeout(300)
    assert "bits per byte" in shown.inner_text()
    shown.get_by_role("button", name="stop").click()
    lab.wait("panel._turn is None")
    n = lab.python(written)
    page.wait_for_timeout(500)
    assert 50 < n < 5000 and lab.python(written) == n
    text = lab.python("panel.pair.encoded[1].decode('utf-8', 'replace')")
    assert (
        f"{n - lab.python('panel.pair.start'):,} bytes written" in shown.inner_text()
        and text.startswith("\n The")
    )
    shown.get_by_text("bought").or_(shown.locator("[class*=skh] span")).first.click()  # a character
    quiet(lab)
    assert lab.axe(".jp-OutputArea") == []
    lab.screenshot(f"steering_{lab.theme}", shown)


def test_the_kernels_own_stop_still_stops_a_cell(lab):
    page = lab.run([MODEL, STEERING])
    shown = lab.output(1)
    shown.get_by_role("button", name="write").click()
    lab.wait("panel.pair is not None")
    page.evaluate(BUSY)
    page.wait_for_timeout(1000)
    page.evaluate("kernel.interrupt()")
    page.wait_for_function("window.done", timeout=10_000)
    assert page.evaluate("window.done.ename") == "KeyboardInterrupt"
    n = lab.python("len(panel.pair.encoded[0])")
    lab.wait(f"len(panel.pair.encoded[0]) > {n} or panel._task.done()")  # the panel goes on
    shown.get_by_role("button", name="stop").click()
    lab.wait("panel._turn is None")
    quiet(lab)


def test_a_mistake_and_hostile_prompts(lab):
    lab.run([MODEL, STEERING])
    shown = lab.output(1)
    shown.get_by_label("bytes", exact=True).fill("60")
    shown.get_by_label("units held").fill("900")
    shown.get_by_role("button", name="write").click()
    lab.wait("'type numbers' in panel.said.value")
    assert "type numbers from 0 to 63" in shown.inner_text()
    shown.get_by_label("units held").fill("3, -5")
    for text in HOSTILE:
        shown.get_by_label("prompt").fill(text)
        shown.get_by_label("prompt").press("Tab")
        shown.get_by_role("button", name="write").click()
        lab.wait(
            f"panel.pair and panel.pair.start > 3 and {text[:5]!r} in "
            "panel.pair.encoded[0].decode('utf-8', 'replace')"
        )
        lab.wait("panel._turn is None")
    quiet(lab)
