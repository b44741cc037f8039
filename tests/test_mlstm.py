"""The fast recurrence and the modules on it, against the step-by-step oracle in float64."""

import itertools

import pytest
import torch

from sentiment_kit.data.files import KitError
from sentiment_kit.model import language_model
from sentiment_kit.model.cpu_kernels import Product, packing_works
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.mlstm import LSTM, MLSTM, MLSTMState
from sentiment_kit.model.norms import weight_norm, weight_norms
from sentiment_kit.model.reader import Reader
from sentiment_kit.model.recurrence import recurrence
from sentiment_kit.model.reference import run_steps

KINDS = {"mlstm": MLSTM, "lstm": LSTM}


def oracle(rnn, x_BTD, state, reset_BT=None):
    "The stack by `run_steps`, layer by layer: h_BTH of the top, final state."
    last = []
    for layer, h_BH, c_BH in zip(rnn.layers, *state, strict=True):
        x_BTD, c_BTH = run_steps(x_BTD, layer.effective(), h_BH, c_BH, reset_BT)
        last.append((x_BTD[:, -1], c_BTH[:, -1]))
    return x_BTD, MLSTMState(*(torch.stack(s) for s in zip(*last, strict=True)))


def random_state(rnn, n_lanes):
    shape = (rnn.n_layers, n_lanes, rnn.hidden_size)
    dtype = rnn.layers[0].b.dtype
    return MLSTMState(*(torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(2)))


def loss_of(h_BTH, state):
    weights_TH = torch.linspace(-1, 1, h_BTH[0].numel(), dtype=h_BTH.dtype).view(h_BTH.shape[1:])
    return (
        (h_BTH * weights_TH).sum() + (state.h_LBH * state.c_LBH).sum() + state.c_LBH.square().sum()
    )


SHAPES = [
    (3, 9, 4, 5, 1),
    (1, 1, 2, 3, 1),
    (2, 17, 3, 7, 2),
    (1, 8, 5, 4, 3),
    (5, 1, 3, 6, 2),
]  # B, T, D, H, L


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
def test_values_and_gradients_equal_the_oracle(kind, shape, with_resets, with_norm):
    torch.manual_seed(1)
    B, T, D, H, L = shape
    rnn = KINDS[kind](D, H, L, weight_norm=with_norm).double()
    x_BTD, state = (
        torch.randn(B, T, D, dtype=torch.float64, requires_grad=True),
        random_state(rnn, B),
    )
    reset_BT = torch.rand(B, T) < 0.3 if with_resets else None
    ours, theirs = rnn(x_BTD, state, reset_BT), oracle(rnn, x_BTD, state, reset_BT)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    leaves = [x_BTD, *state, *rnn.parameters()]
    grads = [torch.autograd.grad(loss_of(*result), leaves) for result in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    torch.manual_seed(2)
    T, B, H, V = 4, 2, 3, 5
    n = [(V, 4 * H), (V, H), (H, 4 * H), (H, H), (B, H), (B, H)]
    tensors = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in n]
    if kind == "lstm":
        tensors[1] = tensors[3] = None
    ids_TB, reset_TB = torch.randint(V, (T, B)), torch.rand(T, B) < 0.3
    assert torch.autograd.gradcheck(lambda *t: recurrence(*t, ids_TB, reset_TB), tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_when_only_the_last_state_or_only_h_is_used(kind):
    torch.manual_seed(3)
    rnn = KINDS[kind](3, 4).double()
    x_BTD, state = torch.randn(2, 6, 3, dtype=torch.float64), random_state(rnn, 2)
    for pick in (
        lambda h, s: h[:, 2].sum(),
        lambda h, s: s.c_LBH.sum(),
        lambda h, s: s.h_LBH.sin().sum(),
    ):
        grads = [
            torch.autograd.grad(pick(*r), state.h_LBH)
            for r in (rnn(x_BTD, state), oracle(rnn, x_BTD, state))
        ]
        torch.testing.assert_close(*grads)


BOUNDS = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}
CASES = {  # B, T, H, L, resets inside, what the loss looks at
    "many bytes": (16, 40, 64, 1, True, "all"),
    "one byte": (8, 1, 48, 1, False, "all"),
    "one lane": (1, 24, 48, 1, True, "all"),
    "odd shapes": (3, 17, 37, 1, True, "all"),
    "two layers": (6, 20, 48, 2, True, "all"),
    "only the last state": (6, 20, 48, 1, False, "last"),
    "cell not used": (6, 20, 48, 1, True, "h"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernels", ["fused", "torch"])
def test_relative_gradient_error(kind, precision, case, kernels, monkeypatch):
    "Windows with a carried state, bytes through a table: every gradient against float64."
    monkeypatch.setenv("SENTIMENT_KIT_KERNELS", kernels)
    torch.manual_seed(4)
    B, T, H, L, with_resets, looks_at = CASES[case]
    low = KINDS[kind](24, H, L, precision=precision)
    exact = KINDS[kind](24, H, L).double()
    exact.load_state_dict({name: t.double() for name, t in low.state_dict().items()})
    ids_BT, embed_VE = torch.randint(50, (B, 2 * T)), torch.randn(50, 24)
    reset_BT = torch.rand(B, 2 * T) < 0.08 if with_resets else None
    first = [torch.randn(L, B, H) / 2 for _ in range(2)]
    grads, leaves = [], []
    for rnn, dtype in ((low, torch.float32), (exact, torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in (embed_VE, *first)] + list(rnn.parameters())
        state, seen = MLSTMState(*leaves[1:3]), []
        for now in (slice(0, T), slice(T, 2 * T)):
            resets = None if reset_BT is None else reset_BT[:, now]
            if rnn is low:
                h_BTH, state = rnn(ids_BT[:, now], state, resets, leaves[0])
            else:
                h_BTH, state = oracle(
                    rnn, torch.embedding(leaves[0], ids_BT[:, now]), state, resets
                )
            seen.append(h_BTH)
        h_BTH = torch.cat(seen, 1)
        losses = {
            "all": loss_of(h_BTH, state),
            "last": state.c_LBH.square().sum(),
            "h": h_BTH.sin().sum(),
        }
        scale = 256 if precision == "fp16" else 1  # without it small gradients are 0 in fp16
        grads.append([d / scale for d in torch.autograd.grad(losses[looks_at] * scale, leaves)])
    names = ["embed", "h", "c"] + [n for n, _ in exact.named_parameters()]
    for name, ours, theirs in zip(names, *grads, strict=True):
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert error < BOUNDS[precision], f"{name}: {error:.1e}"


def test_walking_back_twice_gives_the_same():
    torch.manual_seed(10)
    rnn, x_BTD = MLSTM(4, 6), torch.randn(3, 11, 4)
    loss = loss_of(*rnn(x_BTD))
    first, second = (
        torch.autograd.grad(loss, list(rnn.parameters()), retain_graph=True) for _ in range(2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_reader_reads_what_the_stack_reads_piece_by_piece(precision):
    torch.manual_seed(11)
    rnn, ids_BT, embed_VE = (
        MLSTM(4, 6, n_layers=2, precision=precision),
        torch.randint(26, (3, 30)),
        torch.randn(26, 4),
    )
    reset_BT = torch.rand(3, 30) < 0.1
    whole_BTH, end = rnn(ids_BT, None, reset_BT, embed_VE)
    reader, state, pieces = Reader(rnn, 3, embed_VE), None, []
    for a, b in itertools.pairwise([0, 8, 16, 17, 24, 30]):
        h_BTH, _, state = reader.states(ids_BT[:, a:b], state, reset_BT[:, a:b])
        pieces.append(h_BTH.clone())
    tolerance = dict(rtol=1e-5, atol=1e-6) if precision == "fp32" else dict(rtol=0, atol=2e-2)
    torch.testing.assert_close(torch.cat(pieces, 1), whole_BTH, **tolerance)
    torch.testing.assert_close(state, end, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_with_carried_state_equal_one_long_run(kind):
    torch.manual_seed(5)
    model = LanguageModel(
        LanguageModelConfig(cell=kind, hidden_size=12, embed_size=4, n_layers=2)
    ).double()
    ids_BT, reset_BT = torch.randint(256, (3, 40)), torch.rand(3, 40) < 0.1
    whole, end = model(ids_BT, None, reset_BT)
    state, pieces = None, []
    for a, b in itertools.pairwise([0, 1, 2, 13, 40]):
        logits, state = model(ids_BT[:, a:b], state, reset_BT[:, a:b])
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_in_mid_window_equals_separate_runs(kind):
    torch.manual_seed(6)
    model = LanguageModel(LanguageModelConfig(cell=kind, hidden_size=12, embed_size=4)).double()
    ids_BT, reset_BT = torch.randint(256, (2, 20)), torch.zeros(2, 20, dtype=torch.bool)
    reset_BT[0, 7] = reset_BT[1, 0] = reset_BT[1, 19] = True
    state = random_state(model.rnn, 2)
    logits, _ = model(ids_BT, state, reset_BT)
    torch.testing.assert_close(logits[0, 7:], model(ids_BT[:1, 7:])[0][0])
    torch.testing.assert_close(logits[1, :19], model(ids_BT[1:, :19])[0][0])
    torch.testing.assert_close(logits[1, 19:], model(ids_BT[1:, 19:])[0][0])
    before, _ = model(ids_BT, state)
    torch.testing.assert_close(logits[0, :7], before[0, :7])


def test_a_reset_forgets_even_a_state_that_is_not_a_number():
    rnn = MLSTM(3, 4)
    x_BTD, bad = torch.randn(1, 5, 3), torch.full((1, 1, 4), float("nan"))
    reset_BT = torch.zeros(1, 5, dtype=torch.bool)
    reset_BT[0, 0] = True
    torch.testing.assert_close(rnn(x_BTD, MLSTMState(bad, bad), reset_BT), rnn(x_BTD))


def test_table_path_equals_float_path_and_trains_the_embedding():
    torch.manual_seed(7)
    rnn, embed_VE = (
        MLSTM(4, 6).double(),
        torch.randn(26, 4, dtype=torch.float64, requires_grad=True),
    )
    ids_BT = torch.randint(26, (3, 11))
    results = [rnn(ids_BT, embed_VE=embed_VE), rnn(embed_VE[ids_BT])]
    torch.testing.assert_close(*results)
    grads = [torch.autograd.grad(loss_of(*r), [embed_VE, *rnn.parameters()]) for r in results]
    torch.testing.assert_close(*grads)


def test_states_are_those_of_forward_in_every_layer():
    torch.manual_seed(8)
    rnn, x_BTD = MLSTM(4, 6, n_layers=2), torch.randn(3, 11, 4)
    h_BTH, end = rnn(x_BTD)
    reader = Reader(rnn, 3)
    top_h, top_c, end_again = reader.states(x_BTD)
    torch.testing.assert_close((top_h, end_again), (h_BTH, end))
    torch.testing.assert_close(top_c[:, -1], end.c_LBH[1])
    torch.testing.assert_close(reader.states(x_BTD, layer=0)[1][:, -1], end.c_LBH[0])


def test_a_batch_before_does_not_leak_through_used_buffers():
    torch.manual_seed(9)
    rnn, x_BTD = MLSTM(4, 6), torch.randn(3, 11, 4)
    first, _ = rnn(x_BTD)
    kept = first.detach().clone()
    second, _ = rnn(x_BTD)  # before the first was walked back: needs buffers of its own
    first.sum().backward()
    want = [p.grad.clone() for p in rnn.parameters()]
    rnn.zero_grad()
    second.sum().backward()
    torch.testing.assert_close([p.grad for p in rnn.parameters()], want)
    rnn(torch.randn(3, 11, 4))[0].sum().backward()
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    with pytest.raises(RuntimeError):
        first.sum().backward()


def test_forget_bias_start_and_weight_norm_start():
    rnn = MLSTM(4, 6, forget_bias=2.0)
    layer = rnn.layers[0]
    assert layer.b.view(4, 6)[1].eq(2).all() and layer.b.sum() == 12
    torch.testing.assert_close(layer.effective()["w_h"], layer.w_h)
    torch.testing.assert_close(layer.g_mh, layer.w_mh.norm(dim=0))
    assert sorted(n for n, _ in LSTM(4, 6, weight_norm=False).named_parameters()) == [
        "layers.0.b",
        "layers.0.w_h",
        "layers.0.w_x",
    ]


def test_weight_norm_equals_its_formula():
    v_IO = torch.randn(6, 5, dtype=torch.float64)
    v_IO[:, 3] = 0
    v_IO.requires_grad_()
    g_O = torch.rand(5, dtype=torch.float64, requires_grad=True)
    plain_IO = g_O * v_IO / (v_IO**2).sum(0).clamp_min(1e-12).sqrt()
    torch.testing.assert_close(weight_norm(v_IO, g_O), plain_IO)
    d_IO = torch.randn(6, 5, dtype=torch.float64)
    grads = [
        torch.autograd.grad(w_IO, (v_IO, g_O), d_IO) for w_IO in (weight_norm(v_IO, g_O), plain_IO)
    ]
    torch.testing.assert_close(*grads)
    free = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        weight_norm, (free, torch.rand(3, dtype=torch.float64, requires_grad=True))
    )


def test_weight_norm_of_a_layer_is_that_of_each_matrix_to_the_bit():
    "More rows than are summed at once, a matrix that nobody used, and a bound that holds."
    torch.manual_seed(0)
    v = [torch.randn(n, o, requires_grad=True) for n, o in ((7, 12), (150, 12), (150, 3), (3, 3))]
    g = [torch.rand(v_IO.shape[1], requires_grad=True) for v_IO in v]
    with torch.no_grad():
        v[0][:, 5] = 0
    together, alone = weight_norms(v, g), tuple(map(weight_norm, v, g))
    assert all(map(torch.equal, together, alone))
    seen = []
    for w in (together, alone):
        loss = sum(w_IO.sin().sum() for w_IO in w[:3])
        seen.append(torch.autograd.grad(loss, [*v[:3], *g[:3]]))
    assert all(map(torch.equal, *seen)) and seen[0][3][5] == 0
    assert not torch.autograd.grad(weight_norms(v, g)[0].sum(), v[3])[0].any()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_product_without_packing_gives_the_same(monkeypatch, precision):
    torch.manual_seed(10)
    x_BI, w_IO = torch.randn(8, 32), torch.randn(32, 48)
    packed = Product(w_IO, 8, precision)(x_BI)
    monkeypatch.setattr("sentiment_kit.model.cpu_kernels.packing_works", lambda dtype: False)
    plain = Product(w_IO, 8, precision)
    assert plain.packed is None
    torch.testing.assert_close(
        plain(x_BI), packed, rtol=1e-2 if precision == "bf16" else 1e-5, atol=1e-4
    )


def test_probe_refuses_an_inexact_product(monkeypatch):
    monkeypatch.setattr(
        "sentiment_kit.model.cpu_kernels._linear", lambda x, w: torch.zeros(64, 160)
    )
    assert not packing_works.__wrapped__(torch.float32)


def test_misfits_are_one_sentence():
    model = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4))
    with pytest.raises(KitError, match="the state has 3 lanes"):
        model(torch.zeros(2, 3, dtype=torch.long), model.rnn.initial_state(3))
    with pytest.raises(KitError, match="expected float inputs"):
        model.rnn(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(KitError, match="hidden_size is 0"):
        LanguageModelConfig(hidden_size=0)


def test_save_and_load_are_equal_and_the_names_are_the_contract(tmp_path):
    torch.manual_seed(11)
    model = LanguageModel(
        LanguageModelConfig(hidden_size=8, embed_size=4, n_layers=2, preset="raw")
    )
    again = LanguageModel.from_pretrained(model.save_pretrained(tmp_path))
    assert again.config == model.config
    names = {"w_x": (4, 32), "w_h": (8, 32), "w_mx": (4, 8), "w_mh": (8, 8)}
    names |= {"g_x": (32,), "g_h": (32,), "g_mx": (8,), "g_mh": (8,), "b": (32,)}
    shapes = {name: tuple(t.shape) for name, t in again.state_dict().items()}
    for name, shape in names.items():
        assert shapes.pop(f"rnn.layers.0.{name}") == shape
        assert shapes.pop(f"rnn.layers.1.{name}") == (
            8 if name in ("w_x", "w_mx") else shape[0],
            *shape[1:],
        )
    assert shapes == {"embed.weight": (256, 4), "head.weight": (256, 8), "head.bias": (256,)}
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_halves_the_file_and_rounds_each_weight(tmp_path):
    torch.manual_seed(12)
    model = LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=8))
    whole, half = (
        model.save_pretrained(tmp_path / "whole"),
        model.save_pretrained(tmp_path / "half", torch.float16),
    )
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    for a, b in zip(
        model.parameters(), LanguageModel.from_pretrained(half).parameters(), strict=True
    ):
        assert b.dtype == torch.float32 and torch.equal(b, a.half().float())


def test_a_name_is_a_folder_or_a_bundled_model(tmp_path, monkeypatch):
    bundled = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4))
    bundled.save_pretrained(tmp_path / "weights" / "tiny")
    monkeypatch.setattr(language_model, "BUNDLED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    assert LanguageModel.from_pretrained("tiny").config.hidden_size == 8
    LanguageModel(LanguageModelConfig(hidden_size=12, embed_size=4)).save_pretrained("tiny")
    assert (
        LanguageModel.from_pretrained("tiny").config.hidden_size == 12
    )  # what lies here goes before
    with pytest.raises(
        KitError, match="tinny is no folder, nor a model that comes with the kit: tiny"
    ):
        LanguageModel.from_pretrained("tinny")


def test_reading_draws_no_random_numbers():
    "Else what a run draws later would depend on which process looked first."
    packing_works.cache_clear()
    model, before = (
        LanguageModel(LanguageModelConfig(hidden_size=32, embed_size=8)),
        torch.get_rng_state(),
    )
    model(torch.arange(64).view(2, 32))[0].sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
