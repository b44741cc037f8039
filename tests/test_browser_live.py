"""The live page in Chromium, opened from the disk with the network off: every control used."""

import base64
import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest
from browser import open_tab, report, shot_path, time_keys
from hostile import HOSTILE

from sentiment_kit.data.text import encode
from sentiment_kit.figures import number
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.looking.live_page import save_live_page
from sentiment_kit.looking.next_byte import surprise
from sentiment_kit.model.language_model import LanguageModel
from sentiment_kit.transfer.features import record_states

pytestmark = pytest.mark.slow
TEXT = "My aunt was happy with it. Café 👩‍🚀 and nobody answers; what a waste of money! " * 12
ROWS = "view => [...view.querySelectorAll('.skh-mark')].map(mark => mark.textContent).join('')"
STATES = """() => {
    const { engine, reader } = livePage.model;
    return [reader.states.map(({ c }) => [...c.at(-1)]), reader.bits, engine.kernels.name];
}"""
SPEED = """() => {
    const { engine } = livePage.model;
    const bytes = new TextEncoder().encode('It was fine, and it broke after a week. '.repeat(10));
    return Array.from({ length: 7 }, () => {
        engine.reset();
        const start = performance.now();
        for (const byte of bytes) { engine.logits(); engine.read(byte); }
        return 1000 * bytes.length / (performance.now() - start);
    });
}"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save_live_page("reviews-small", tmp_path_factory.mktemp("live") / "page.html")


def alive(tab, file):
    tab.page.goto(file.as_uri())
    tab.page.locator("html[data-live]").wait_for(state="attached", timeout=60_000)
    return tab.page


def type_text(page, text):
    page.locator("#live textarea").fill(text)
    page.locator("#live textarea").press("Control+Enter")
    end = time.monotonic() + 60
    while not page.evaluate(
        "() => { const { pane, reader } = livePage.model;"
        "return reader.states.length === pane.bytes.length; }"
    ):
        assert time.monotonic() < end
        page.wait_for_timeout(50)


@pytest.mark.parametrize("without", ["", "delete window.WebAssembly"], ids=["wasm", "plain"])
def test_the_page_reads_as_python_does(file, without):
    encoded = encode(TEXT)[:1000]
    text = encoded.decode("utf-8", "ignore").strip()
    model = LanguageModel.from_pretrained("reviews-small")
    with open_tab() as tab:
        tab.page.add_init_script(without or ";")
        page = alive(tab, file)
        type_text(page, text)
        states_TU, bits_T, name = page.evaluate(STATES)
        assert name == ("plain JavaScript" if without else "WebAssembly with SIMD")
        np.testing.assert_allclose(states_TU, record_states(model, encode(text)), atol=1e-4)
        np.testing.assert_allclose(bits_T, surprise(model, encode(text)), atol=1e-3)
        speeds = page.evaluate(SPEED)
        paint = page.evaluate(PAINT)
        print(f"{name}: {sorted(map(round, speeds))} bytes/s, first paint {paint:.0f} ms")
        assert paint < 2000 and (without or max(speeds) > 1000)
        assert tab.errors == tab.outside == []


def test_a_key_is_answered_at_once(file):
    with open_tab() as tab:
        page = alive(tab, file)
        type_text(page, ("It broke after a week, but he was kind. " * 13)[:500])
        page.wait_for_timeout(500)
        took = time_keys(page, "#live textarea", "main .skh-view", "notgoodatall,noo!!!")
        report("keystroke to recolour, 500 characters, H = 768, no kernel", took, 150)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_control(file, dark):
    model = LanguageModel.from_pretrained("reviews-small")
    with open_tab(dark) as tab:
        page = alive(tab, file)
        view, box = page.locator("#live .skh-view"), page.locator("#live textarea")
        verdict = page.locator(".skl-verdict")

        def press(name):
            page.get_by_role("button", name=name, exact=True).click()

        assert "bits a character" in verdict.inner_text()
        assert tab.axe() == []

        type_text(page, "It was good.")
        assert "It was good." in view.evaluate(ROWS)
        told = json.loads(page.locator("#told").inner_text())
        neuron = told["neuron"]
        c_T = record_states(model, encode("It was good."), [neuron["unit"]])[:, 0]
        vote = neuron["sign"] * (c_T[-1] - neuron["threshold"])
        press("Sentiment")
        assert number(vote) in verdict.inner_text()
        assert ("votes good" if vote > 0 else "votes bad") in verdict.inner_text()
        legend = page.locator(".skh-legend").inner_text()
        assert "blue: votes bad −" in legend and re.search(r"\+\S+ orange: votes good", legend)
        press("Put a “not” in")
        page.locator(".skl-verdict", has_text="Before:").wait_for()
        assert box.input_value() == "It was not good." and "not" in view.evaluate(ROWS)
        press("Shout it")
        press("Drop the last mark")
        assert box.input_value() == "IT WAS NOT GOOD"
        press("Start again")
        assert box.input_value() == told["texts"][0]
        page.locator(".skl-verdict", has_text="At the end").wait_for()

        view.locator(".skh-mark").nth(12).hover()  # five guesses, the best first
        shares = page.locator(".skh-guess .skh-note").all_inner_texts()
        shares = [float(share.rstrip("%")) for share in shares]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True)
        view.locator(".skh-mark").nth(12).click()
        assert page.locator(".skh-tops button").count() == 12

        press("Any unit")
        page.get_by_role("button", name=f"unit {told['unit']}: choose another").click()
        page.get_by_role("combobox", name="search units").fill("17")
        page.get_by_role("combobox", name="search units").press("Enter")
        assert "unit 17" in page.locator(".skh-legend").inner_text()
        press("Account")
        assert "keeps the most" in verdict.inner_text()
        unit = page.evaluate("() => livePage.model.get('shown')[0]")
        assert f"Of all {model.config.hidden_size} units, {unit} keeps" in verdict.inner_text()
        account = page.locator(".skh-account").inner_text()
        total = re.search(r"all together (\S+)", account)[1].replace("−", "-")
        wanted = write_ledger(model, told["texts"][0], unit).total
        assert float(total) == pytest.approx(wanted, abs=2e-3 + 5e-3 * abs(wanted))  # three digits
        assert tab.axe() == []

        page.get_by_role("slider", name="temperature").fill("0")
        press("Write")
        page.get_by_role("button", name="Read this above").nth(1).wait_for(timeout=60_000)
        free, held = page.locator(".skl-written").all_inner_texts()
        assert len(free) > 50 and len(held) > 50
        page.get_by_role("button", name="Read this above").first.click()
        assert free.split("\n")[0] in box.input_value()
        assert tab.axe() == [] and tab.errors == tab.outside == []
        tab.screenshot(f"live_page_{'dark' if dark else 'light'}")


def test_keys_are_enough(file):
    with open_tab() as tab:
        page = alive(tab, file)
        for _ in range(40):  # from the top of the page to the text
            page.keyboard.press("Tab")
            if page.evaluate("() => document.activeElement.classList.contains('skh-view')"):
                break
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.locator(".skh-guess").count() == 5
        page.locator(".skh-tops button").first.wait_for()
        page.get_by_role("button", name="Sentiment", exact=True).focus()
        page.keyboard.press("Enter")
        assert "votes" in page.locator(".skl-verdict").inner_text()


@pytest.mark.parametrize("wide", [600, 1024, 1920])
def test_every_width(file, wide):
    with open_tab(size=(wide, 900)) as tab:
        page = alive(tab, file)
        for name in ("Surprise", "Sentiment", "Any unit", "Account"):
            page.get_by_role("button", name=name, exact=True).click()
            over = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, name
        tab.screenshot(f"live_page_{wide}")


def test_hostile_text_stays_text(file):
    with open_tab() as tab:
        page = alive(tab, file)
        for name, text in HOSTILE.items():
            text = text.encode("utf-8", "replace").decode()  # the driver sends no half characters
            page.locator("#live textarea").fill(text)
            if name == "a long line":
                page.locator("#live textarea").press("Control+Enter")
                page.locator(".skh-error", has_text="reads up to 8,000").wait_for()
            assert page.evaluate("() => window.hacked") is None, name
            assert page.locator("h1").inner_text().startswith("A machine"), name
        page.locator("#live textarea").fill("Amp &amp; &eacute;.")
        page.locator("#live .skh-view", has_text="é").wait_for()
        assert tab.errors == tab.outside == []


def test_without_a_model_the_picture_stays(file, tmp_path):
    broken = tmp_path / "page.html"
    document = file.read_text("utf-8")
    start = document.index('id="weights">') + 13
    broken.write_text(document[:start] + "AAAA" + document[document.index("</script>", start) :])
    with open_tab() as tab:
        page = alive(tab, broken)
        assert "could not start the model" in page.locator("#said").inner_text()
        assert "My mother" in page.locator("#live").inner_text()


@contextmanager
def firefox(folder):
    "A function that asks a fresh Firefox over WebDriver BiDi, without a network."
    websocket = pytest.importorskip("websocket", reason="pip install websocket-client")
    if not (command := shutil.which("firefox-esr") or shutil.which("firefox")):
        pytest.skip("Firefox is missing: apt-get install firefox-esr")
    (folder / "user.js").write_text(
        'user_pref("network.proxy.type", 1);\nuser_pref("network.proxy.http", "127.0.0.1");\n'
        'user_pref("network.proxy.http_port", 9);\nuser_pref("network.proxy.ssl", "127.0.0.1");\n'
        'user_pref("network.proxy.ssl_port", 9);\n'  # nobody listens there
    )
    flags = ["--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0"]
    process = subprocess.Popen(
        [command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        lines = (re.search(r"listening on (ws://\S+)", line) for line in process.stderr)
        address = next(found[1] for found in lines if found)
        line = websocket.create_connection(f"{address}/session", timeout=120, suppress_origin=True)

        def ask(method, **params):
            line.send(json.dumps(dict(id=1, method=method, params=params)))
            while (answer := json.loads(line.recv())).get("id") != 1:
                pass
            assert answer["type"] == "success", answer
            return answer["result"]

        ask("session.new", capabilities={})
        yield ask
    finally:
        process.terminate()
        process.wait()


def test_firefox_reads_too(file, tmp_path):
    model = LanguageModel.from_pretrained("reviews-small")
    with firefox(tmp_path) as ask:
        context = ask("browsingContext.getTree")["contexts"][0]["context"]
        ask("browsingContext.navigate", context=context, url=file.as_uri(), wait="complete")

        def evaluate(expression):
            there = dict(context=context)
            found = ask("script.evaluate", expression=expression, target=there, awaitPromise=True)
            assert found["type"] == "success", found
            return json.loads(found["result"]["value"])

        end = time.monotonic() + 60
        while not (name := evaluate("JSON.stringify(document.documentElement.dataset.live ?? 0)")):
            assert time.monotonic() < end
        assert name == "WebAssembly with SIMD"
        text = encode(TEXT)[:1000].decode("utf-8", "ignore").strip()
        got = evaluate(
            "(async () => { const { model } = livePage;"
            f"model.set('texts', [{json.dumps(text)}]); await model.read();"
            f"return JSON.stringify(({STATES})()); }})()"
        )
        np.testing.assert_allclose(got[0], record_states(model, encode(text)), atol=1e-4)
        speeds = evaluate(f"JSON.stringify(({SPEED})())")
        print(f"Firefox, {name}: {sorted(map(round, speeds))} bytes/s")
        shot = ask("browsingContext.captureScreenshot", context=context)["data"]
        shot_path("live_page_firefox").write_bytes(base64.b64decode(shot))
