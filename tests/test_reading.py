"""Bytes read one at a time by kernels bound once; all readers walk over lanes in the same way."""

import numpy as np
import pytest
import torch

from sentiment_kit.evidence.bare_products import writing_products
from sentiment_kit.model.cpu_kernels import Product, packing_works
from sentiment_kit.model.lanes import lay_out
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.products import transposed_product
from sentiment_kit.model.reading import ModelStates, state_chunks


def make_model(precision="fp32", **changes):
    torch.manual_seed(0)
    size = dict(hidden_size=20, embed_size=4) | changes
    return LanguageModel(LanguageModelConfig(**size), precision).eval()


@pytest.mark.parametrize("kernels", ["", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("changes", [{}, dict(cell="lstm"), dict(n_layers=2)], ids=str)
def test_single_bytes_give_the_bits_of_a_long_run(changes, precision, kernels, monkeypatch):
    monkeypatch.setenv("SENTIMENT_KIT_KERNELS", kernels)
    model = make_model(precision, **changes)
    ids_BT = torch.randint(256, (3, 9))
    whole_BTH, _, end = model.prepare(3).states(ids_BT)
    whole_BTH = whole_BTH.clone()
    reader = model.prepare(3)
    state = None
    for t in range(9):
        h_BTH, _, state = reader.states(ids_BT[:, t : t + 1], state)
        close = torch.testing.assert_close if "n_layers" in changes else torch.equal
        assert close(h_BTH[:, 0], whole_BTH[:, t]) is not False
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_state_that_was_changed_between_bytes_is_the_one_that_is_read(precision):
    model = make_model(precision)
    reader = model.prepare(1)
    ids_B1 = torch.tensor([[65]])
    _, _, state = reader.states(ids_B1)
    other = state._replace(h_LBH=state.h_LBH * -2, c_LBH=state.c_LBH + 1)
    expected = model.prepare(1).states(ids_B1, other)[2]
    reader.states(ids_B1, state)
    assert all(map(torch.equal, reader.states(ids_B1, other)[2], expected))


def test_pieces_resets_and_other_lanes_between_single_bytes():
    model = make_model()
    reader = model.prepare(2)
    ids_BT = torch.randint(256, (2, 6))
    reset_BT = torch.zeros(2, 6, dtype=torch.bool)
    reset_BT[1, 3] = True
    state = None
    for now in (slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 5), slice(5, 6)):
        _, _, state = reader.states(ids_BT[:, now], state, reset_BT[:, now])
    torch.testing.assert_close(state, model.prepare(2).states(ids_BT, None, reset_BT)[2])
    alone = reader.states(ids_BT[:1, :1])[2]
    torch.testing.assert_close(alone, model.prepare(1).states(ids_BT[:1, :1])[2])


def test_a_byte_that_is_none_is_refused_at_every_byte():
    reader = make_model().prepare(1)
    reader.states(torch.tensor([[65]]))
    with pytest.raises(IndexError):
        reader.states(torch.tensor([[256]]))


def test_one_row_is_not_packed_in_fp32():
    w_IO = torch.randn(8, 4)
    assert Product(w_IO, 1).packed is None
    assert (Product(w_IO, 2).packed is not None) == packing_works(torch.float32)
    assert writing_products(16, "fp32")()[1].shape == (1, 256)


def test_chunks_are_the_lanes_in_order():
    source = ModelStates(make_model(hidden_size=12))
    laid = lay_out([b"x" * 700, b"y" * 300, b"z" * 300], 2)
    places = []
    values_BTU = np.empty((*laid.ids_BT.shape, 12), np.float32)
    for now, piece_BTU in state_chunks(source, laid):
        places += range(now.start, now.stop)
        values_BTU[:, now] = piece_BTU
    assert places == list(range(700))
    for n, text in enumerate((b"x" * 700, b"y" * 300, b"z" * 300)):
        trace_TU = values_BTU[laid.lane_N[n], laid.start_N[n] : laid.stop_N[n]]
        np.testing.assert_allclose(trace_TU, source.trace(text), atol=1e-6)


@pytest.mark.parametrize("columns", [64, 256])
def test_a_weight_gradient_is_the_same_packed_and_plain(columns):
    a_NI = torch.randn(300, columns)
    d_NO = torch.randn(300, 32)
    exact_IO = a_NI.double().t() @ d_NO.double()
    error = (transposed_product(a_NI, d_NO) - exact_IO).norm() / exact_IO.norm()
    assert error < 1e-6
