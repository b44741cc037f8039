"The account of a cell adds up: every kind of model, layer, reset and start, and any text."

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from sentiment_kit.data.files import KitError
from sentiment_kit.data.text import encode
from sentiment_kit.looking.ledger import ledger_figure, words_of, write_ledger
from sentiment_kit.model.gates import record_gates
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reference import step

TEXT = encode(
    "It broke. The seller — très gentil 👩‍🚀 — sent a new one, and <b>that</b> works. " * 3
)  # two pieces


def make(seed=0, precision="fp32", **config):
    torch.manual_seed(seed)
    config = dict(hidden_size=24, embed_size=8, forget_bias=2.0) | config
    model = LanguageModel(LanguageModelConfig(**config), precision)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)  # gates that do something
    return model


@torch.no_grad()
def oracle(model, encoded, unit, layer, state, reset_T):
    "Entries of the account by the paper's equations, byte by byte: write, survive, c_0, c_T."
    ws = [layer.effective() for layer in model.rnn.layers]
    h, c = ([s.clone() for s in states] for states in state)
    write, forget, first = [], [], c[layer][0, unit].item()
    for byte, reset in zip(encoded, reset_T, strict=True):
        x = model.embed.weight[[byte]]
        for k, w in enumerate(ws):
            if reset:
                h[k], c[k] = torch.zeros_like(h[k]), torch.zeros_like(c[k])
            if k == layer:
                m = (x @ w["w_mx"]) * (h[k] @ w["w_mh"]) if "w_mx" in w else h[k]
                i, f, _, u = (x @ w["w_x"] + m @ w["w_h"] + w["b"]).view(4, -1)[:, unit]
                write.append((i.sigmoid() * u.tanh()).item())
                forget.append(0.0 if reset else f.sigmoid().item())
            h[k], c[k] = step(x, h[k], c[k], w)
            x = h[k]
    survive = [np.prod(forget[t + 1 :]) for t in range(len(encoded))]
    return np.array(write), np.array(survive), first * np.prod(forget), c[layer][0, unit].item()


def a_state(model):
    state = model.rnn.initial_state(1)
    return type(state)(torch.randn_like(state.h_LBH) / 3, torch.randn_like(state.c_LBH))


@pytest.mark.parametrize("resets", [(), (0,), (130, 260)], ids=str)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
def test_the_account_is_exact_in_double_precision(cell, layer, resets):
    model = make(cell=cell, n_layers=2, weight_norm=resets == ()).double()
    state, reset_T = a_state(model), np.isin(np.arange(len(TEXT)), resets)
    ledger = write_ledger(model, TEXT, 7, layer, state, reset_T)
    write_T, survive_T, carried, total = oracle(model, TEXT, 7, layer, state, reset_T)
    assert abs(ledger.carried + ledger.contribution_T.sum() - ledger.total) < 1e-12
    assert abs(ledger.total - total) < 1e-12 and abs(ledger.carried - carried) < 1e-12
    np.testing.assert_allclose(ledger.write_T, write_T, atol=1e-12)
    np.testing.assert_allclose(ledger.survive_T, survive_T, atol=1e-12)
    if resets:
        assert ledger.carried == 0 and not ledger.contribution_T[: max(resets)].any()


@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
@pytest.mark.parametrize("precision, bound", [("fp32", 1e-5), ("bf16", 1e-4), ("fp16", 1e-4)])
def test_the_account_adds_up_in_the_precision_of_the_reading(cell, precision, bound):
    model = make(cell=cell, n_layers=2, precision=precision)
    for unit in (0, 23):
        ledger = write_ledger(model, TEXT, unit)
        assert abs(ledger.contribution_T.sum() - ledger.total) < bound
    h_BTH, c_BTH, _ = model.prepare(1).states(torch.tensor([list(TEXT)]))
    assert abs(ledger.total - c_BTH[0, -1, unit].item()) < 1e-6, "the total is the model's own cell"


def test_recorded_gates_are_those_that_moved_the_cell():
    model, units = make(n_layers=2), [0, 5, 23]
    gates = record_gates(model, TEXT, units)
    before_TU = np.vstack([gates.c_U, gates.c_TU[:-1]])
    np.testing.assert_allclose(
        gates.f_TU * before_TU + gates.i_TU * gates.u_TU, gates.c_TU, atol=2e-6
    )
    h_BTH, _, _ = model.prepare(1).states(torch.tensor([list(TEXT)]))
    np.testing.assert_allclose(gates.o_TU * np.tanh(gates.c_TU), h_BTH[0][:, units], atol=2e-6)


def test_survival_of_a_long_text_neither_overflows_nor_turns_into_nan():
    model = make(hidden_size=8, embed_size=4)
    with torch.no_grad():
        model.rnn.layers[0].b[8:16] = -3.0  # forgets fast
    ledger = write_ledger(model, b"a" * 1500, 3)
    assert np.isfinite(ledger.contribution_T).all() and ledger.survive_T[0] < 1e-300
    assert abs(ledger.contribution_T.sum() - ledger.total) < 1e-5


@pytest.mark.slow
def test_a_text_of_100_kb():
    ledger = write_ledger(make(hidden_size=64), encode("so far, so good, " * 6000), 3)
    assert abs(ledger.contribution_T.sum() - ledger.total) < 1e-5


def test_words_add_up_and_are_the_text():
    ledger = write_ledger(make(), TEXT, 3)
    words, values = zip(*words_of(ledger), strict=True)
    assert "".join(words) == TEXT.decode() and abs(sum(values) - ledger.contribution_T.sum()) < 1e-9
    assert words[:2] == ("\n It ", "broke. ")
    assert [word for word, _ in words_of(write_ledger(make(), "", 3))] == ["\n  "]


@pytest.mark.parametrize(
    "text",
    [TEXT, b"x", "", "👩‍🚀" * 3, b"\xff\x00<i>", encode("word " * 200), b"y" * 500],
    ids=range(7),
)
def test_the_figure_draws_every_character_and_loses_nothing(text):
    ledger = write_ledger(make(), text, 3, state=a_state(make()))
    figure = ledger_figure(ledger, last=10**6)
    assert isinstance(figure, go.Figure)
    wrote, left = ([bar for bar in figure.data if bar.x[0] is not None][k::2] for k in (0, 1))
    for bars, values in ((wrote, ledger.write_T), (left, ledger.contribution_T)):
        assert abs(sum(sum(bar.y) for bar in bars) - values.sum()) < 1e-6
    assert "<" not in "".join(tick for bar in wrote for tick in bar.customdata)


def test_what_is_not_drawn_is_in_the_title():
    ledger = write_ledger(make(), encode("word " * 200), 3)
    figure = ledger_figure(ledger, last=100)
    earlier = ledger.contribution_T[:-100].sum()
    assert f"{earlier:.3f} of it from before" in figure.layout.title.text
    assert sum(len(bar.x) for bar in figure.data if bar.x[0] is not None) == 200


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(text=b"", unit=3), "nothing was written"),
        (dict(text="fun", unit=24), "24 of 0 … 23"),
        (dict(text="fun", unit=-1), "24 of 0 … 23"),
        (dict(text="fun", unit=3, layer=1), "this model has 1 of 0 … 0"),
        (dict(text="fun", unit=3, reset_T=[True]), "reset_T has 1 entries for 6 bytes"),
        (dict(text=3.5, unit=3), "not a str"),
    ],
)
def test_bad_requests_are_one_sentence(arguments, sentence):
    with pytest.raises(KitError, match=sentence):
        write_ledger(make(), **arguments)
