"""One text read by its own kernel; weights made ready once; the recurrence under torch.compile."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

from sentiment_kit.model import kernel_loops, ready_weights, single_lane
from sentiment_kit.model.generate import generate, stream
from sentiment_kit.model.kernel_loops import kernels_usable
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.norms import weight_norm
from sentiment_kit.model.ready_weights import ready_reader
from sentiment_kit.model.recurrence import run_forward
from sentiment_kit.model.single_lane import LaneWeights, Walk, filled, filled_rows
from sentiment_kit.training import machine

needs_kernels = pytest.mark.skipif(not kernels_usable(), reason="no LLVM here")
LOW = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CLOSE = {"fp32": 2e-6, "bf16": 5e-3, "fp16": 5e-4}  # a sum in another order, rounded


def make_model(H=20, precision="fp32", **changes):
    torch.manual_seed(0)
    size = dict(hidden_size=H, embed_size=4) | changes
    return LanguageModel(LanguageModelConfig(**size), precision).eval()


def arrays(H, T, precision):
    torch.manual_seed(1)
    zx, mx, w_h, w_mh = (torch.randn(n) / 4 for n in ((9, 4 * H), (9, H), (H, 4 * H), (H, H)))
    return zx, mx.to(LOW[precision]), w_h, w_mh, *torch.randn(2, 1, H), torch.randint(9, (T, 1))


def walk(zx, mx, w_h, w_mh, h_BH, c_BH, ids_TB, reset_TB, precision):
    H, T = len(w_mh), len(ids_TB)
    h_TU, c_TU = torch.zeros(2, T + 1, filled(H))
    h_TU[0, :H], c_TU[0, :H] = h_BH[0], c_BH[0]
    rows = (filled_rows(zx, 4), filled_rows(mx, 1))
    reset_T = None if reset_TB is None else reset_TB[:, 0]
    Walk(LaneWeights(w_h, w_mh, precision), *rows, ids_TB[:, 0], reset_T, h_TU, c_TU).run()
    if h_BH.isfinite().all():
        assert not h_TU[:, H:].any() and not c_TU[:, H:].any()
    return h_TU[:, :H], c_TU[:, :H]


@needs_kernels
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("precision", [p for p in LOW if kernels_usable(LOW[p])])
@pytest.mark.parametrize(("H", "T"), [(1, 3), (16, 0), (37, 11), (64, 5)])
def test_a_walk_equals_the_lanes(H, T, precision, with_resets):
    given = arrays(H, T, precision)
    reset_TB = torch.rand(T, 1) < 0.4 if with_resets else None
    expected = run_forward(*given, reset_TB, precision)
    h_TH, c_TH = walk(*given, reset_TB, precision)
    close = dict(atol=CLOSE[precision], rtol=CLOSE[precision])
    torch.testing.assert_close(h_TH, expected.h[:, 0], **close)
    torch.testing.assert_close(c_TH, expected.c[:, 0], **close)


@needs_kernels
def test_threads_share_the_tiles_and_change_no_bit(monkeypatch):
    monkeypatch.setattr(single_lane, "SHARE_PAYS", 1000)
    if kernel_loops.torch_pool() is None:
        pytest.skip("torch's threads are not to be found here")
    given, seen = arrays(200, 4, "fp32"), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(walk(*given, None, "fp32"))
    finally:
        torch.set_num_threads(1)
    for other in seen[1:]:
        assert all(map(torch.equal, seen[0], other))


@needs_kernels
def test_what_is_no_number_reaches_every_unit_and_a_reset_forgets_it():
    given = list(arrays(20, 3, "fp32"))
    given[4] = given[4] * float("nan")
    assert walk(*given, None, "fp32")[1][-1].isnan().all()
    reset_TB = torch.tensor([[True], [False], [False]])
    assert walk(*given, reset_TB, "fp32")[1][1:].isfinite().all()


@needs_kernels
@pytest.mark.parametrize("precision", [p for p in LOW if kernels_usable(LOW[p])])
@pytest.mark.parametrize("H", [16, 20, 37])
def test_infinity_stays_where_it_is_whatever_the_width(H, precision):
    "Units that only fill up a vector of 16 once made it no number, and then all others."
    given = list(arrays(H, 6, precision))
    given[1][3, 0] = float("inf")  # of byte 3: there m of one unit is infinite
    given[-1][:] = torch.tensor([[1], [3], [2], [3], [3], [0]])
    expected = run_forward(*given, None, precision)
    h_TH, c_TH = walk(*given, None, precision)
    assert expected.h.isfinite().all()
    close = dict(atol=CLOSE[precision], rtol=CLOSE[precision])
    torch.testing.assert_close(h_TH, expected.h[:, 0], **close)
    torch.testing.assert_close(c_TH, expected.c[:, 0], **close)


def test_a_fresh_text_after_one_that_was_no_number():
    reader = make_model().prepare(1)
    byte_B1 = torch.tensor([[65]])
    state = reader.states(byte_B1)[2]
    expected = reader.states(byte_B1, state)[2]
    broken = state._replace(h_LBH=state.h_LBH * float("nan"))
    reader.next_state(byte_B1, reader.next_state(byte_B1, broken))
    assert all(map(torch.equal, reader.next_state(byte_B1, state), expected))


def plain(model):
    return generate(copy.deepcopy(model), "Well", 12, seed=3)


def swap_rows(model):
    w_h = model.rnn.layers[0].w_h.data
    w_h[[2, 7]] = w_h[[7, 2]]


def learn(model):
    model(torch.tensor([list(b"good")]))[0].sum().backward()
    torch.optim.AdamW(model.parameters(), lr=0.3, fused=True).step()


CHANGES = {
    "by data": lambda model: model.rnn.layers[0].b.data.add_(torch.arange(80.0)),
    "through numpy": lambda model: model.head.bias.detach().numpy().__setitem__(65, 40.0),
    "a single weight": lambda model: model.embed.weight.data[10].fill_(9.0),
    "rows swapped": swap_rows,
    "loaded": lambda model: model.load_state_dict(make_model(forget_bias=5.0).state_dict()),
    "learnt": learn,
    "precision": lambda model: setattr(model.rnn, "precision", "bf16"),
    "another tensor": lambda model: setattr(model.rnn.layers[0].g_h, "data", torch.ones(80) * 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_changed_are_made_ready_anew(change):
    model = make_model()
    generate(model, "Well", 12, seed=3)
    layers = ready_reader(model, 1).layers
    assert ready_reader(model, 1).layers is layers, "made once"
    CHANGES[change](model)
    if change != "through numpy":  # the head is no part of what is made ready
        assert ready_reader(model, 1).layers is not layers
    assert generate(model, "Well", 12, seed=3) == plain(model)


def test_a_model_that_has_written_dies_copies_and_pickles():
    model = make_model()
    text = generate(model, "Well", 5)
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert generate(again, "Well", 5) == text
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert all(kept is not None for kept in ready_weights.KEPT)


def test_texts_written_at_the_same_time_do_not_mix():
    model = make_model(48)
    alone = [b"".join(stream(model, "I", 20, seeds=seed)) for seed in (1, 2)]
    mixed = zip(*(stream(model, "I", 20, seeds=seed) for seed in (1, 2)), strict=True)
    assert [b"".join(parts) for parts in zip(*mixed, strict=True)] == alone


def test_a_byte_that_no_table_has_is_refused_while_writing():
    reader = make_model().prepare(1)
    state = reader.states(torch.tensor([[65]]))[2]
    with pytest.raises(IndexError):
        reader.next_state(torch.tensor([[256]]), state)


def test_a_state_that_is_handed_in_is_the_one_that_goes_on():
    reader = make_model().prepare(1)
    byte_B1 = torch.tensor([[65]])
    state = reader.states(byte_B1)[2]
    reader.next_state(byte_B1, state)
    other = state._replace(c_LBH=state.c_LBH + 1)
    expected = reader.states(byte_B1, other)[2]
    assert all(map(torch.equal, reader.next_state(byte_B1, other), expected))


def test_a_compiled_model_learns_what_the_plain_one_learns():
    seen = []
    for compiled in (False, True):
        model = make_model()
        run = torch.compile(model, backend="eager") if compiled else model
        logits_BTV = run(torch.tensor([list(b"rather good")]))[0]
        logits_BTV.square().sum().backward()
        with torch.no_grad():
            read_BTV = run(torch.tensor([list(b"rather good")]))[0]
        seen.append((logits_BTV, read_BTV, model.rnn.layers[0].w_h.grad))
    torch.testing.assert_close(seen[1], seen[0])


def test_a_gradient_of_the_gradient_is_refused_not_wrong():
    v_IO, g_O = torch.randn(5, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    (dv_IO,) = torch.autograd.grad(weight_norm(v_IO, g_O).square().sum(), v_IO, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dv_IO.sum().backward()


def test_a_system_without_glibc_keeps_no_memory(monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: object())
    assert machine.keep_freed_memory.__wrapped__(torch.device("cpu")) is False
