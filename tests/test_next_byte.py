"""The next byte: surprise, guesses and pushes are those of the model, also after edits."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hostile import HOSTILE

from sentiment_kit.data.text import encode
from sentiment_kit.looking.heatmap_widget import HeatmapWidget
from sentiment_kit.looking.kept_states import KeptStates
from sentiment_kit.looking.next_byte import SURPRISE, by_character, next_bytes, surprise
from sentiment_kit.looking.page_parts import join_modules, static_text
from sentiment_kit.looking.panes import PaneReader, mark_ends
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.transfer.features import as_source

TEXTS = [
    "It broke after a week.",
    "",
    "Café 👩‍🚀👍🏽 한국어",
    "هذا المنتج رائع. מוצר",
    "a\r\n\x00 b",
]


def fresh(seed=0, **config):
    torch.manual_seed(seed)
    model = LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4, **config))
    torch.nn.init.normal_(model.head.bias)
    torch.nn.init.normal_(model.head.weight)
    return model


def hidden_before(model, encoded):
    "h before every byte, from a whole forward pass."
    h_TH = torch.from_numpy(ModelStates(model, "hidden").trace(encoded))
    return torch.cat([torch.zeros(1, h_TH.shape[1]), h_TH])[: len(encoded)]


def logits_before(model, encoded):
    "Logits before every byte, as the model itself gives them."
    with torch.no_grad():
        logits_TV = model(torch.tensor([list(encoded)]))[0][0]
    return torch.cat([model.head.bias[None].detach(), logits_TV[:-1]]).double()


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("text", TEXTS)
def test_bias_and_units_are_the_logit_exactly(text, n_layers):
    model, encoded = fresh(n_layers=n_layers), encode(text)
    h_TH = hidden_before(model, encoded)
    ahead = next_bytes(model, h_TH, encoded)
    ids_T = np.frombuffer(encoded, np.uint8).astype(int)
    logits_TV = logits_before(model, encoded).numpy()
    exact_T = logits_TV[np.arange(len(ids_T)), ids_T]
    np.testing.assert_allclose(ahead.bias_T + ahead.units_T, exact_T, atol=1e-4)
    push_TH = h_TH.numpy() * model.head.weight.detach().numpy()[ids_T]
    np.testing.assert_allclose(ahead.units_T, push_TH.sum(1), atol=1e-5)
    listed = np.take_along_axis(push_TH, ahead.unit_TP.astype(int), 1)
    np.testing.assert_allclose(ahead.push_TP, listed, atol=1e-6)
    largest = -np.sort(-np.abs(push_TH), axis=1)[:, : ahead.push_TP.shape[1]]
    np.testing.assert_allclose(np.abs(ahead.push_TP), largest, atol=1e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_guesses_and_surprise_are_the_softmax(text):
    model, encoded = fresh(), encode(text)
    ahead = next_bytes(model, hidden_before(model, encoded), encoded)
    p_TV = logits_before(model, encoded).softmax(1).numpy()
    best_TK = np.argsort(-p_TV, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(ahead.guess_TK, best_TK)
    np.testing.assert_allclose(ahead.share_TK, np.take_along_axis(p_TV, best_TK, 1), atol=1e-5)
    np.testing.assert_allclose(ahead.bits_T, surprise(model, encoded), atol=1e-4)
    came = p_TV[np.arange(len(encoded)), list(encoded)]
    np.testing.assert_allclose(ahead.bits_T, -np.log2(came), atol=1e-4)


@pytest.mark.parametrize("text", [*TEXTS, *(text[:500] for text in HOSTILE.values())])
def test_a_character_costs_what_its_bytes_cost(text):
    model, encoded = fresh(), encode(text)
    [pane] = PaneReader([model]).panes([text], [3, SURPRISE, 1])
    rows_UT = np.frombuffer(pane["values"], "<f4").reshape(3, -1)
    bits_T, stop = surprise(model, encoded), np.frombuffer(pane["stops"], "<u4").astype(int)
    start = np.append(0, stop[:-1])
    sums = [bits_T[a:b].sum() for a, b in zip(start, stop, strict=True)]
    np.testing.assert_allclose(rows_UT[1][stop - 1], sums, rtol=1e-3, atol=1e-3)
    assert np.count_nonzero(rows_UT[1]) <= len(stop)
    both = ModelStates(model).trace(encoded, [3, 1])
    np.testing.assert_allclose(rows_UT[[0, 2]], both.T, atol=1e-5)


def test_a_text_of_no_bytes_has_nothing_ahead():
    reader = KeptStates(as_source(fresh(preset="raw")))
    assert reader.read(b"", [3], look=True).shape == (0, 1) and len(reader.ahead.bits_T) == 0
    assert by_character(np.zeros(0), mark_ends(b"")).shape == (0,)
    assert reader.read(b"a", [], look=True).shape == (1, 0)
    assert reader.ahead.bits_T[0] == pytest.approx(surprise(reader.source.model, b"a")[0])


@pytest.mark.parametrize("n_layers", [1, 2])
def test_after_edits_all_is_as_in_a_fresh_reading(n_layers):
    model = fresh(n_layers=n_layers)
    reader, rng = KeptStates(as_source(model)), np.random.default_rng(0)
    text = bytearray(encode("word after word " * 40))
    for n in range(12):
        at = int(rng.integers(len(text)))
        text[at : at + int(rng.integers(2))] = b"x" * int(rng.integers(3))
        reader.read(bytes(text), [3, 1], look=n != 5)  # asked for, not asked for, and again
        if n == 5:
            assert reader.ahead is None
            continue
        whole = next_bytes(model, hidden_before(model, bytes(text)), bytes(text))
        for name, got in reader.ahead._asdict().items():
            if name not in ("guess_TK", "unit_TP"):
                np.testing.assert_allclose(got, getattr(whole, name), atol=1e-4, err_msg=name)
        assert (reader.ahead.guess_TK[:, 0] == whole.guess_TK[:, 0]).mean() > 0.99


def test_the_widget_offers_and_accounts_for_surprise():
    model = fresh()
    widget = HeatmapWidget(model, "It broke.", [3])
    assert widget.choices["named"] == [SURPRISE] and "ahead" not in widget.picture["panes"][0]
    widget.units, widget.shown = [3, SURPRISE], [SURPRISE]
    assert widget.picture["counts"] == {SURPRISE: 8} and widget.picture["panes"][0]["ahead"]
    widget.view = "ledger"
    assert widget.ledgers[SURPRISE][0]["total"] == pytest.approx(
        surprise(model, encode("It broke.")).sum(), rel=1e-5
    )
    with widget.hold_trait_notifications():  # shown before it is recorded, as a browser may ask
        widget.shown, widget.units = [SURPRISE], [3]
    plain, _ = widget._repr_mimebundle_()
    assert "text/html" in plain
    other = HeatmapWidget(ModelStates(model, "hidden"), "It broke.", [SURPRISE])
    assert other.error == "" and other.picture["panes"][0]["ahead"]


def test_a_source_without_a_head_says_so():
    class Length:
        n_units, preset, digest = 1, "openai", "x"

        def trace(self, encoded, units=None):
            return np.arange(len(encoded), dtype=np.float32)[:, None]

    widget = HeatmapWidget(Length(), "abc", [0])
    assert widget.choices["named"] == []
    widget.units = [0, SURPRISE]
    assert "known of a LanguageModel" in widget.error and widget.units == [0]


@pytest.mark.skipif(not shutil.which("node"), reason="node is missing")
def test_the_browser_reads_what_python_packed(tmp_path):
    "Guesses and pushes of one place, by node from the bytes of a pane."
    model, encoded = fresh(), encode("Café, it broke.")
    [pane] = PaneReader([model]).panes(["Café, it broke."], [SURPRISE])
    names = ("basics", "ahead")
    script = join_modules([static_text(f"heatmap/{name}.js") for name in names])
    packed = {
        name: value if isinstance(value, int) else list(value)
        for name, value in pane["ahead"].items()
    }
    script += f"""
    const packed = {json.dumps(packed)};
    const view = (x) => Array.isArray(x) ? new DataView(Uint8Array.from(x).buffer) : x;
    const rows = Object.entries(packed).map(([name, x]) => [name, view(x)]);
    const ahead = unpacked(Object.fromEntries(rows));
    const told = [ahead.guesses(7), ahead.pushes(7), ahead.guesses(9999), byteName(32)];
    console.log(JSON.stringify(told));
    """
    (tmp_path / "a.mjs").write_text(script)
    done = subprocess.run(["node", tmp_path / "a.mjs"], check=True, capture_output=True, text=True)
    guesses, pushes, beyond, space = json.loads(done.stdout)
    whole = next_bytes(model, hidden_before(model, encoded), encoded)
    assert [byte for byte, _ in guesses] == whole.guess_TK[7].tolist()
    np.testing.assert_allclose([p for _, p in guesses], whole.share_TK[7], rtol=1e-5)
    assert [unit for unit, _ in pushes["rows"]] == whole.unit_TP[7].tolist()
    exact = logits_before(model, encoded)[7, encoded[7]].item()
    assert pushes["bias"] + pushes["units"] == pytest.approx(exact, abs=1e-4)
    assert (beyond, space) == ([], "␣")
