"""The live page: its engine reads as Python does, and its file asks nobody and lets nobody in."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hostile import HOSTILE

from sentiment_kit.cli import main
from sentiment_kit.data.files import KitError, write_json
from sentiment_kit.data.text import PRESETS, encode
from sentiment_kit.looking.heatmap_widget import HeatmapView, HeatmapWidget, answer_browser
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.looking.live_page import found_neuron, live_page, save_live_page
from sentiment_kit.looking.live_weights import (
    coded_loss,
    coded_model,
    live_weights,
    rounded_model,
    to_bytes,
    to_halves,
)
from sentiment_kit.looking.next_byte import surprise
from sentiment_kit.looking.page_parts import ENGINE, STATIC, page_policy, script_of
from sentiment_kit.looking.page_told import neuron_told
from sentiment_kit.looking.panes import pane_of, well_formed
from sentiment_kit.looking.play import Play
from sentiment_kit.looking.table_view import TableView, table_of
from sentiment_kit.model.generate import encode_prompt, stream
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.transfer.features import record_states
from sentiment_kit.transfer.neuron_file import StatedNeuron
from sentiment_kit.transfer.unit_notes import name_unit

SHORT = [text for name, text in HOSTILE.items() if name != "a long line"]
KERNELS = STATIC / "engine" / "kernels.wasm"
KINDS = {
    "mlstm, odd width": dict(hidden_size=33, embed_size=7),
    "three layers": dict(hidden_size=20, embed_size=8, n_layers=3),
    "lstm": dict(cell="lstm", hidden_size=40, embed_size=40, n_layers=2, weight_norm=False),
}
TEXT = "It broke after a week. Café 👩‍🚀 ünd «so» \u202eweiter\u202c; 这个商品很好! " * 3


def fresh(seed=0, **sizes):
    torch.manual_seed(seed)
    model = LanguageModel(LanguageModelConfig(**sizes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)  # so that states move
    return model.eval()


def parts(document):
    "Text of every script element by its id; the one that runs has none."
    found = re.findall(r'<script type="[^"]*"(?: id="(\w+)")?>(.*?)</script>', document, re.S)
    return dict(found)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    "A function: what these lines of JavaScript print, given the engine's modules and some values."
    if not (command := shutil.which("node")):
        pytest.skip("node is missing: the browser's tests check the engine too")
    folder = tmp_path_factory.mktemp("node")
    names = [name for name in ENGINE if not name.endswith(("live", "page"))]
    script = script_of(["saved", "heatmap/basics", "heatmap/layout", "heatmap/input", *names])

    def run(lines, data=b"", **values):
        (folder / "run.mjs").write_text(
            "import fs from 'node:fs';\n"
            f"const given = {json.dumps(values)};\n"
            "const kernels = fs.readFileSync(given.wasm);\n"
            f"const data = fs.readFileSync('{folder}/data');\n"
            f"const say = (value) => console.log(JSON.stringify(value));\n{script}\n{lines}"
        )
        (folder / "data").write_bytes(data)
        done = subprocess.run([command, folder / "run.mjs"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def engine(lines, model, bits=16, **values):
        weights = live_weights(model, bits)
        values |= dict(told=weights.told, wasm=str(values.get("wasm", KERNELS)))
        make = "const engines = [simdKernels, (code, size) => plainKernels(size)].map((kind) =>\n"
        make += "  new Engine(given.told, new Uint8Array(data), kernels, kind));\n"
        make += "const all = (map) => Promise.all(engines.map(map)).then(say);\n"
        return run(make + lines, weights.data, **values)

    run.engine = engine
    return run


READ = """
const bytes = Uint8Array.from(given.bytes);
all(async (engine) => {
  const reader = new Reader(engine);
  await reader.read(bytes.subarray(0, 40), () => {});
  await reader.read(bytes, () => {}); // goes on where it was
  const states = reader.states.map(({ h, c }) => [h, c].map((rows) => rows.map((row) => [...row])));
  const ledger = Object.values(reader.ledger(3)).map((row) => row.length ? [...row] : row);
  return { states, bits: reader.bits, ledger, guesses: reader.guesses(5) };
});
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [16, 8])
def test_the_engine_reads_as_python_does(node, kind, bits):
    model, encoded = fresh(**KINDS[kind]), encode(TEXT)
    read = rounded_model(model, bits)
    want_T = record_states(read, encoded)
    account = write_ledger(read, encoded, 3)
    for got in node.engine(READ, model, bits, bytes=list(encoded)):  # WebAssembly, JavaScript
        c_TLH = np.array([c for _, c in got["states"]])
        np.testing.assert_allclose(c_TLH[:, -1], want_T, atol=1e-4)
        for layer in range(model.config.n_layers):
            last = record_states(ModelStates(read, "cell", layer), encoded)[-1]
            np.testing.assert_allclose(c_TLH[-1, layer], last, atol=1e-4)
        np.testing.assert_allclose(got["bits"], surprise(read, encoded), atol=1e-3)
        write_T, survive_T, total = got["ledger"]
        np.testing.assert_allclose(write_T, account.write_T, atol=1e-4)
        np.testing.assert_allclose(survive_T, account.survive_T, atol=1e-4)
        np.testing.assert_allclose(total, account.total, atol=1e-4)
        with torch.no_grad():
            ids = torch.tensor([list(encoded[:5])])
            p_V = torch.softmax(read(ids)[0][0, -1], -1)
        byte, share = zip(*got["guesses"], strict=True)
        np.testing.assert_allclose(share, p_V[list(byte)], atol=1e-4)
        assert list(byte) == p_V.topk(5).indices.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clamp", [None, {5: 2.5}])
def test_the_engine_writes_as_python_does(node, kind, clamp):
    model = fresh(**KINDS[kind])
    held = clamp and dict(unit=5, value=2.5)
    lines = """
    const how = { count: 60, temperature: 0, seed: 0, held: given.held };
    all((engine) => [...write(engine, Uint8Array.from(given.bytes), how)]);
    """
    for prompt in ("It broke", "It broke "):
        told = encode_prompt(prompt, "openai")
        want = b"".join(stream(rounded_model(model), prompt, 60, 0, clamp=clamp))
        for got in node.engine(lines, model, bytes=list(told), held=held):
            assert bytes(got) == want


def test_chance_is_chance(node):
    lines = """
    const counts = new Array(4).fill(0);
    const random = chance(1);
    const logits = Float32Array.from([0, 1, 2, -1000]);
    for (let n = 0; n < 20000; n++) counts[pick(logits, 1, random)]++;
    const others = [chance(1)() === chance(1)(), chance(1)() !== chance(2)()];
    say([counts, pick(logits, 0, random), ...others]);
    """
    counts, best, same, other = node(lines, wasm=str(KERNELS))
    share = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    np.testing.assert_allclose(np.array(counts[:3]) / 20_000, share, atol=0.015)
    assert counts[3] == 0 and best == 2 and same and other


def test_text_becomes_bytes_and_marks_as_in_python(node):
    texts = [
        TEXT,
        "",
        "  a\u0085\u2003",
        "\ufeffx\ufeff",
        "a\nb\r\nc\td",
        "&#8364;&#x80;&#0;&#xd800;&#x1F600;z",
    ]
    texts += [
        "&#1;&#11;&#65534;&#128;&#129;",
        "<b>bold</b> < c",
        "\x00\x07\x1b[31m\x7f\u200b\u2028",
        "\u0301e\u0301",
    ]
    texts += ["🇩🇪👍🏽", *(text.replace("&", "") for text in SHORT)]
    presets = [dict(steps=list(p.steps), front=p.front, back=p.back) for p in PRESETS.values()]
    lines = """
    const list = (row) => [...row];
    say(given.presets.map((preset) => given.texts.map((text) => {
      const bytes = encode(text, preset);
      const pane = paneOf(bytes);
      const prompt = encodePrompt(text, preset);
      return [list(bytes), list(pane.stops), pane.special, pane.breaks, list(prompt)];
    })));
    """
    found = node(lines, presets=presets, texts=texts, wasm=str(KERNELS))
    for preset, rows in zip(PRESETS, found, strict=True):
        for text, (encoded, stops, special, breaks, prompt) in zip(texts, rows, strict=True):
            assert bytes(encoded) == encode(text, preset), (preset, text)
            assert bytes(prompt) == encode_prompt(text, preset), (preset, text)
            pane = pane_of("", bytes(encoded), np.zeros((1, len(encoded))))
            assert stops == np.frombuffer(pane["stops"], "<u4").tolist(), text
            assert [special, breaks] == [pane["special"], pane["breaks"]], text


def test_the_bundled_model_arrives_bit_for_bit(node):
    model = LanguageModel.from_pretrained("reviews-small")
    for name, array in coded_model(model).items():
        if name.endswith((".h", ".mh", ".x", ".mx")):
            layer, _, matrix = name.partition(".")
            stored = getattr(model.rnn.layers[int(layer)], f"w_{matrix}").detach().numpy()
            factors = to_halves(stored)
            np.testing.assert_array_equal(factors.decoded(), stored)
            np.testing.assert_array_equal(array.codes_IO, factors.codes_IO)
    encoded = (TEXT * 5).encode()[:1000]
    lines = """
    const engine = new Engine(given.told, new Uint8Array(data), kernels);
    const rows = given.bytes.map((byte) => { engine.read(byte); return [...engine.state().c[0]]; });
    say([engine.kernels.name, rows]);
    """
    weights = live_weights(model)
    values = dict(told=weights.told, bytes=list(encoded), wasm=str(KERNELS))
    name, rows = node(lines, weights.data, **values)
    assert name == "WebAssembly with SIMD"
    np.testing.assert_allclose(rows, record_states(model, encoded), atol=1e-4)


def test_codes_are_as_good_as_their_bits():
    rng = np.random.default_rng(0)
    w_IO = rng.normal(size=(50, 40)).astype(np.float32) * np.logspace(-8, 8, 40, dtype=np.float32)
    w_IO[:, 7] = 0
    most_O = np.abs(w_IO).max(0)
    halves, whole = to_halves(w_IO), to_bytes(w_IO)
    assert (np.abs(halves.decoded() - w_IO) <= np.abs(w_IO) * 2.0**-11 + 1e-7 * most_O).all()
    assert (np.abs(whole.decoded() - w_IO) <= most_O / 127 * 0.5001).all()
    half = w_IO[:, 5:25].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(to_halves(half).decoded(), half)


def test_the_loss_is_measured_not_assumed():
    model = fresh(hidden_size=24, embed_size=8)
    texts = ["It broke after a week.", "", "Good."]
    loss = coded_loss(model, texts, 8)
    nats = [
        surprise(m, encode(t))[1:].sum() for m in (model, rounded_model(model, 8)) for t in texts
    ]
    n = sum(len(encode(t)) - 1 for t in texts)
    assert loss.n_bytes == n
    np.testing.assert_allclose(loss[:2], [sum(nats[:3]) / n, sum(nats[3:]) / n], rtol=1e-5)
    assert loss.coded != loss.exact
    with pytest.raises(KitError, match="no text to measure"):
        coded_loss(model, [""][:0])


def test_the_file_asks_nobody_and_runs_one_script():
    document = live_page(fresh(hidden_size=16, embed_size=4), "Fine.", name="x")
    policy = html.unescape(re.search(r'Policy" content="([^"]*)"', document)[1])
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    script = parts(document)[""]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}' 'wasm-unsafe-eval'"
    assert set(rules) == {
        "default-src",
        "script-src",
        "style-src",
        "img-src",
        "base-uri",
        "form-action",
    }
    outside = set(
        re.findall(r"(?:https?:)?//[\w.]+\.\w+", document.replace("http://www.w3.org", ""))
    )
    assert not [found for found in outside if found.startswith("http")]
    assert not re.search(
        r"<(link|img|iframe|object|embed|base|form)\b|\bsrc=|\bfetch\(|url\(", document
    )
    assert base64.b64decode(parts(document)["kernels"]) == KERNELS.read_bytes()


def test_hostile_text_and_names_stay_text():
    name = "".join(SHORT) + "</script><img src=x onerror=alert(1)>"
    neuron = StatedNeuron(unit=3, sign=-1, threshold=0.25)
    model = fresh(hidden_size=16, embed_size=4)
    texts = [name, "</script><script>alert(2)</script>", "\ud800<!--"]
    accuracy = dict(test=dict(value="<b>"), valid=3)
    document = live_page(model, texts, name=name, neuron=neuron, accuracy=accuracy)
    plain = live_page(model, "x", name="x")
    tags = [re.findall(r"<(/?\w+)", d) for d in (document, plain)]
    kinds = [sorted({tag for tag in found if tag.isalpha() or tag[0] == "/"}) for found in tags]
    assert kinds[0] == kinds[1]
    assert document.count("<script") == document.count("</script") == 4
    told = json.loads(parts(document)["told"])
    assert told["texts"] == [well_formed(text) for text in texts]
    assert told["units"][:2] == ["surprise", 3] and told["neuron"]["sign"] == -1
    assert told["words"]["readings"]["3"] == dict(
        turns=[[-1, 0.25]], ends=["votes bad", "votes good"]
    )
    assert "<b>" not in told["neuron"]["said"] and "Alone" not in told["neuron"]["said"]


def test_the_bundled_page_says_how_far_its_unit_can_be_trusted():
    found = found_neuron("reviews-small")
    said = neuron_told(found["neuron"], 768, found["accuracy"])["said"]
    assert said.startswith("Unit 217, one of 768")
    assert "right on 66% of reviews that did not choose it" in said


@pytest.mark.parametrize("accuracy", [None, [], {"test": None}, {"test": {"value": 7.0}}])
def test_a_unit_that_the_page_cannot_show_is_left_out(accuracy):
    model = fresh(hidden_size=16, embed_size=4, n_layers=2)
    cannot = [dict(unit=16), dict(unit=1, state="hidden"), dict(unit=1, layer=0)]
    for fields in cannot:
        document = live_page(model, "x", neuron=StatedNeuron(**fields), accuracy=accuracy)
        told = json.loads(parts(document)["told"])
        assert "neuron" not in told and list(told["words"]["readings"]) == ["surprise"]
    document = live_page(model, "x", neuron=StatedNeuron(unit=1, layer=1), accuracy=accuracy)
    assert "Alone" not in json.loads(parts(document)["told"])["neuron"]["said"]


def test_what_cannot_be_a_page_is_a_sentence(tmp_path):
    model = fresh(hidden_size=16, embed_size=4)
    with pytest.raises(KitError, match="16 or 8 bits"):
        live_page(model, "x", bits=4)
    with pytest.raises(KitError, match="alphabet has 26 symbols"):
        live_page(fresh(hidden_size=16, embed_size=4, vocab_size=26), "x")
    with pytest.raises(KitError, match="text 2 has 8,003 bytes"):
        live_page(model, ["x", "é" * 4000])
    model.rnn.layers[0].w_h.data[2, 3] = torch.nan
    with pytest.raises(KitError, match=r"the weights 0\.h are not all finite"):
        live_page(model, "x")
    with pytest.raises(KitError, match=r"ends in \.html"):
        save_live_page("reviews-small", tmp_path / "page.png")
    view = HeatmapView()
    view.show([("a", b"ab", np.ones((1, 2)))], ["x"])
    with pytest.raises(KitError, match="only values are known"):
        view.save(tmp_path / "a.html", live=True)
    with pytest.raises(KitError, match=r"saved as \.html"):
        view.save(tmp_path / "a.json", live=True)
    models = [fresh(hidden_size=16, embed_size=4), fresh(1, hidden_size=16, embed_size=4)]
    with pytest.raises(KitError, match="give the widget one"):
        HeatmapWidget(models, "x", [0]).save(tmp_path / "a.html", live=True)
    assert not list(tmp_path.iterdir())


def test_a_widget_saves_itself_alive(tmp_path):
    model = fresh(hidden_size=16, embed_size=4)
    widget = HeatmapWidget(model, ["One.", "Two."], [3, 7])
    widget.save(tmp_path / "page.html", live=True)
    told = json.loads(parts((tmp_path / "page.html").read_text("utf-8"))["told"])
    assert (told["texts"], told["units"]) == (["One.", "Two."], ["surprise", 3, 7])
    model.save_pretrained(tmp_path / "model")
    write_json(tmp_path / "model" / "neuron.json", dict(unit=2, sign=-1, threshold=0.5))
    HeatmapWidget(tmp_path / "model", "x", [3]).save(tmp_path / "page.html", live=True)
    told = json.loads(parts((tmp_path / "page.html").read_text("utf-8"))["told"])
    assert told["units"] == ["surprise", 2, 3] and told["neuron"]["threshold"] == 0.5


def test_the_browser_may_ask_for_a_live_page():
    widget = HeatmapWidget(fresh(hidden_size=16, embed_size=4), "One.", [3])
    sent = []
    widget.send = lambda message, buffers: sent.append((message, buffers[0].decode()))
    answer_browser(widget, dict(kind="live"), [])
    assert sent == [(dict(kind="html"), widget.live_html())]
    view = HeatmapView()
    view.send = widget.send
    answer_browser(view, dict(kind="live"), [])
    assert "only values are known" in view.error and len(sent) == 1


def test_the_command_writes_a_page_that_can_be_sent(tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["page", "reviews-small", "It broke.", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    document = out.read_text("utf-8")
    assert len(out.read_bytes()) < 12_000_000
    assert (
        document.index("<h1>") < document.index('id="weights"') < document.index("openLivePage();")
    )
    found = parts(document)
    assert (
        base64.b64decode(found["weights"])
        == live_weights(LanguageModel.from_pretrained("reviews-small")).data
    )
    told = json.loads(found["told"])
    assert told["texts"] == ["It broke."] and told["neuron"]["unit"] in told["units"]
    assert re.search(
        r"half precision: \d\.\d{4} bits a byte on [\d,]+ bytes .* bits are lost", document
    )
    assert main(["page", "reviews-small", "--bits", "4"]) == 2
    assert main(["page", "nobody", "--out", str(out)]) == 2
    assert out.read_text("utf-8") == document


def test_the_kernels_are_what_their_source_says(node, tmp_path):
    if not (shutil.which("clang") and shutil.which("wasm-ld")):
        pytest.skip("clang or lld is missing: apt-get install clang lld")
    made = tmp_path / "kernels.wasm"
    subprocess.run(["sh", STATIC / "engine" / "build", made], check=True)
    model = fresh(hidden_size=33, embed_size=7)
    rows = [
        node.engine(READ, model, bytes=list(encode("It broke.")), wasm=wasm)[0]
        for wasm in (made, KERNELS)
    ]
    np.testing.assert_allclose(rows[0]["bits"], rows[1]["bits"], atol=1e-5)
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True)
    if "clang version 14." in version.stdout:  # the one that made the committed file
        assert made.read_bytes() == KERNELS.read_bytes()


def test_a_run_folder_is_a_page_of_its_newest_checkpoint(tmp_path, monkeypatch):
    model = LanguageModel(LanguageModelConfig(hidden_size=2, embed_size=2))
    monkeypatch.setattr("sentiment_kit.training.checkpoint.latest_checkpoint", lambda run: saved)
    saved = model.save_pretrained(tmp_path / "run" / "checkpoints" / "step-000000001")
    main(["page", str(tmp_path / "run"), "--out", str(out := tmp_path / "page.html")])
    assert "step-000000001" in out.read_text("utf-8")


def test_names_of_units_go_with_the_page_and_stay_text(tmp_path):
    hostile = "</script><img src=x onerror=alert(1)> <b>&amp;"
    model = fresh(hidden_size=16, embed_size=4)
    folder = model.save_pretrained(tmp_path / "model")
    name_unit(folder, 5, hostile)
    name_unit(folder, 11, "shouting")
    save_live_page(folder, saved := tmp_path / "page.html")
    HeatmapWidget(folder, "x", [3]).save(typed := tmp_path / "widget.html", live=True)
    for document in (path.read_text("utf-8") for path in (saved, typed)):
        assert hostile not in document and "<img" not in document
        assert document.count("<script") == document.count("</script") == 4
        names = json.loads(parts(document)["told"])["words"]["names"]
        assert names["5"] == f"unit 5 · {hostile}" and names["11"] == "unit 11 · shouting"
        assert set(names) == {"surprise", "5", "11"}


def test_a_live_page_stands_in_a_notebook_behind_a_fence():
    widget = HeatmapWidget(fresh(hidden_size=16, embed_size=4), "</iframe>\"'&quot;<b>", [3])
    output = widget.live()
    assert output.page == widget.live_html(bits=8)
    assert json.loads(parts(output.page)["told"])["sizes"]["bits"] == 8
    shown = output._repr_html_()
    [held] = re.findall(r' srcdoc="([^"]*)"', shown)
    assert html.unescape(held) == output.page
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    rest = shown.replace(held, "")
    assert set(re.findall(r"<(\w+)", rest)) == {"iframe", "div"}
    assert repr(output) == f"LiveOutput({len(output.page) / 1e6:.1f} MB)"


def test_a_still_picture_says_how_to_get_one_that_answers():
    model = fresh(hidden_size=200, embed_size=4)
    widget = HeatmapWidget(model, "It broke.", [3])
    said = widget._repr_mimebundle_()[0]["text/html"]
    told = float(re.search(r"stays in the notebook \((.*) MB\)", said)[1])
    assert abs(told - len(widget.live().page) / 1e6) < 0.1
    assert ".live()" in said and ".save(&quot;page.html&quot;, live=True)" in said
    two = HeatmapWidget([model, fresh(1, hidden_size=200, embed_size=4)], "It broke.", [3])
    view = HeatmapView()
    view.show([("a", b"ab", np.ones((1, 2)))], ["x"])
    for plain in (shown._repr_mimebundle_()[0]["text/html"] for shown in (two, view)):
        assert "A still picture: run the cell" in plain and "live" not in plain


def test_every_saved_page_has_one_frame():
    view = HeatmapView()
    view.show([("a", b"ab", np.ones((1, 2)))], ["x"])
    drawn = dict(render=view, renderTable=TableView(table=table_of(["a"], [])))
    drawn["renderPlay"] = Play(fresh(hidden_size=16, embed_size=4), "It broke.")
    for render, widget in drawn.items():
        found = parts(page := widget.html())
        assert found[""].endswith(f"\nopenSaved({render});") and f" {render}(" in found[""]
        assert f'content="{page_policy(found[""])}"' in page
        assert json.loads(found["state"])


def test_a_silent_python_is_told_once_and_taken_back(node):
    lines = """
    const said = [];
    const timers = new Map();
    globalThis.setTimeout = (act, ms) => (timers.set(timers.size + 1, [act, ms]), timers.size);
    globalThis.clearTimeout = (n) => timers.delete(n);
    const run = () => { for (const [n, [act]] of [...timers]) { timers.delete(n); act(); } };
    const silence = new Silence((word) => said.push(word));
    silence.asked();
    silence.asked(); // the first question counts
    const waits = [...timers.values()].map(([, ms]) => ms);
    silence.answered();
    run();
    const early = said.length;
    silence.asked();
    run();
    say([waits, early, said]);
    """
    waits, early, said = node(lines, wasm=str(KERNELS))
    assert waits == [5000] and early == 0
    assert len(said) == 1 and said[0].startswith("Python has not answered for 5 seconds")


def test_bytes_of_a_saved_page_come_back_and_other_objects_stay(node):
    state = dict(a=dict(base64="AAECqP8="), b=dict(base64="AAAA", more=1), c=dict(base64=3))
    lines = "const found = JSON.parse(given.text, reviveBytes);"
    lines += "say([[...new Uint8Array(found.a.buffer)], found.b, found.c]);"
    assert node(lines, wasm=str(KERNELS), text=json.dumps(state)) == [
        [0, 1, 2, 0xA8, 0xFF],
        state["b"],
        state["c"],
    ]
