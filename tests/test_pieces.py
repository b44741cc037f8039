"""A piece of text in one compiled call: products, steps and the way back beside the plain loop."""

import pytest
import torch

from sentiment_kit.evidence.bare_products import step_products
from sentiment_kit.model import kernel_loops, panels, recurrence
from sentiment_kit.model.cpu_kernels import Product, storage_dtype
from sentiment_kit.model.kernel_loops import torch_pool
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.mlstm import LSTM, MLSTM
from sentiment_kit.model.panels import SLOTS, Panels, lane_ranges, panels_pay, panels_work
from sentiment_kit.model.pieces import in_one_call
from sentiment_kit.model.products import (
    LONG,
    kernel_products,
    lie_well,
    linear,
    linears,
    transposed_product,
)
from sentiment_kit.model.programs import Program
from sentiment_kit.model.reader import Reader
from sentiment_kit.model.reference import run_steps
from sentiment_kit.model.tape import Inputs

LOW = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CAN = [p for p in LOW if panels_work(LOW[p], 2)]
pytestmark = pytest.mark.skipif(not CAN, reason="no LLVM, or no AVX-512, here")
CLOSE = {
    "fp32": 2e-6,
    "bf16": 1e-2,
    "fp16": 1e-3,
}  # of the largest: a sum in another order, rounded
NAMES = ("h", "c", "d_zx", "d_mx", "d_w_h", "d_w_mh", "d_h", "d_c")


def layer(B, H, T, precision="fp32", multiplicative=True, by_bytes=True, resets=True):
    torch.manual_seed(B * H + T)
    rows = (9,) if by_bytes else (T, B)
    zx, mx = torch.randn(*rows, 4 * H) / 2, torch.randn(*rows, H)
    w_h, w_mh = torch.randn(H, 4 * H) / H**0.5, torch.randn(H, H) / H**0.5
    ids_TB = torch.randint(9, (T, B)) if by_bytes else None
    reset_TB = torch.rand(T, B) < 0.3 if resets else None
    if not multiplicative:
        mx = w_mh = None
    return Inputs(zx, mx, w_h, w_mh, *torch.randn(2, B, H), ids_TB, reset_TB, precision)


def there_and_back(given):
    "States and gradients, by name."
    torch.manual_seed(0)
    B, H = given.h_BH.shape
    dh_TBH, dc_BH = torch.randn(given.n_steps, B, H), torch.randn(B, H)
    tape = recurrence.run_forward(*given, keep=True)
    h_TBH, c_TBH = tape.h.clone(), tape.c.clone()
    found = (h_TBH, c_TBH, *recurrence.run_backward(tape, dh_TBH, dc_BH))
    return {name: x for name, x in zip(NAMES, found, strict=True) if x is not None}


def plain_loop(given):
    "The same by autograd through `reference.run_steps`, in fp64."
    torch.manual_seed(0)
    B, H = given.h_BH.shape
    dh_TBH, dc_BH = torch.randn(given.n_steps, B, H).double(), torch.randn(B, H).double()
    leaves = [None if x is None else x.double().requires_grad_() for x in given[:6]]
    zx, mx, w_h, w_mh, h_BH, c_BH = leaves
    rows = [x if x is None or given.ids_TB is None else x[given.ids_TB] for x in (zx, mx)]
    x_TBD = torch.cat([x for x in rows if x is not None], -1)  # the products of x are made
    eye = torch.eye(5 * H, dtype=torch.double)
    w = {"w_x": eye[: x_TBD.shape[-1], : 4 * H], "w_h": w_h, "b": torch.zeros(4 * H).double()}
    if mx is not None:
        w |= {"w_mx": eye[:, 4 * H :], "w_mh": w_mh}
    reset_BT = None if given.reset_TB is None else given.reset_TB.T
    h_BTH, c_BTH = run_steps(x_TBD.transpose(0, 1), w, h_BH, c_BH, reset_BT)
    loss = (h_BTH.transpose(0, 1) * dh_TBH).sum() + (c_BTH[:, -1] * dc_BH).sum()
    d = torch.autograd.grad(loss, [x for x in leaves if x is not None])
    names = [name for name, x in zip(NAMES[2:], leaves, strict=True) if x is not None]
    h_TBH, c_TBH = h_BTH.transpose(0, 1), c_BTH.transpose(0, 1)
    return {"h": h_TBH, "c": c_TBH} | dict(zip(names, d, strict=True))


def compare(ours, expected, close):
    assert ours.keys() == expected.keys()
    for name, x in expected.items():
        mine = ours[name][1:] if len(ours[name]) == len(x) + 1 else ours[name]
        torch.testing.assert_close(
            mine.double(),
            x.double(),
            rtol=0,
            atol=close * max(0.1, float(x.detach().nan_to_num(0, 0, 0).abs().max())),
            equal_nan=True,
            msg=lambda said, name=name: f"{name}: {said}",
        )


SHAPES = [(1, 1, 3), (3, 6, 5), (17, 37, 4), (16, 64, 6), (9, 100, 2)]


@pytest.mark.parametrize("by_bytes", [True, False])
@pytest.mark.parametrize("multiplicative", [True, False])
@pytest.mark.parametrize(("B", "H", "T"), SHAPES)
def test_a_piece_equals_the_plain_loop(B, H, T, multiplicative, by_bytes):
    given = layer(B, H, T, multiplicative=multiplicative, by_bytes=by_bytes)
    assert in_one_call(given)
    compare(there_and_back(given), plain_loop(given), 1e-5)


@pytest.mark.parametrize("multiplicative", [True, False])
@pytest.mark.parametrize("precision", [p for p in CAN if p != "fp32"])
@pytest.mark.parametrize(("B", "H", "T"), [(3, 6, 5), (17, 38, 4), (16, 64, 6)])
def test_in_half_precision_it_equals_torch(B, H, T, precision, multiplicative, monkeypatch):
    given = layer(B, H, T, precision, multiplicative)
    assert in_one_call(
        given._replace(mx=given.mx if given.mx is None else given.mx.to(LOW[precision]))
    )
    ours = there_and_back(given)
    monkeypatch.setenv("SENTIMENT_KIT_KERNELS", "torch")
    assert not in_one_call(given)
    compare(ours, there_and_back(given), CLOSE[precision])


@pytest.mark.parametrize("precision", CAN)
def test_what_is_not_a_number_stays_in_its_lane_and_a_reset_forgets_it(precision, monkeypatch):
    given = layer(11, 10, 4, precision, resets=False)
    given.h_BH[2, 3] = float("nan")
    given.h_BH[5, 4] = float("inf")
    given.c_BH[7] = -float("inf")
    given = given._replace(reset_TB=torch.zeros(4, 11, dtype=torch.bool))
    given.reset_TB[1, 2] = True
    ours = there_and_back(given)
    assert ours["h"][2:, 2].isfinite().all() and ours["h"][1, 2].isnan().all()
    assert ours["h"][:, [0, 1, 3, 4, 6, 8, 9, 10]].isfinite().all()
    assert ours["d_h"][[0, 1, 3, 4, 6, 8, 9, 10]].isfinite().all()
    monkeypatch.setenv("SENTIMENT_KIT_KERNELS", "torch")
    expected = there_and_back(given)
    compare(
        {n: ours[n] for n in ("h", "c")}, {n: expected[n] for n in ("h", "c")}, CLOSE[precision]
    )


def test_no_bytes_and_no_lanes():
    for B, T in ((3, 0), (0, 2)):
        given = layer(B, 6, T, by_bytes=T > 0)
        found = there_and_back(given)
        assert found["h"].shape == (T + 1, B, 6)
        assert not found["d_w_h"].any() and found["d_w_h"].shape == (6, 24)


def test_threads_share_the_lanes_and_change_no_state():
    if torch_pool() is None:
        pytest.skip("torch's threads are not to be found here")
    seen = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert len(lane_ranges(37)) == threads
            seen.append(there_and_back(layer(37, 20, 5)))
    finally:
        torch.set_num_threads(1)
    for other in seen[1:]:
        assert all(torch.equal(seen[0][name], other[name]) for name in ("h", "c", "d_h", "d_c"))
        compare(other, seen[0], CLOSE["fp32"])


def test_a_lane_does_not_depend_on_the_lanes_beside_it():
    given = layer(19, 24, 6, resets=False)
    some = slice(4, 7)
    alone = given._replace(
        ids_TB=given.ids_TB[:, some], h_BH=given.h_BH[some], c_BH=given.c_BH[some]
    )
    whole, part = (recurrence.run_forward(*x) for x in (given, alone))
    assert torch.equal(whole.h[:, some], part.h) and torch.equal(whole.c[:, some], part.c)


@pytest.mark.parametrize("precision", CAN)
@pytest.mark.parametrize("kind", [MLSTM, LSTM])
def test_training_reading_and_bytes_one_by_one_give_the_same_bits(kind, precision):
    torch.manual_seed(0)
    rnn, embed_VE = kind(8, 22, precision=precision), torch.randn(256, 8)
    ids_BT = torch.randint(256, (3, 7))
    h_BTH, state = rnn(ids_BT, None, None, embed_VE)
    reader = Reader(rnn, 3, embed_VE)
    assert isinstance(reader.layers[0].products[0], Panels)
    assert torch.equal(reader.states(ids_BT)[0], h_BTH)
    now = None
    for t in range(7):
        now = reader.states(ids_BT[:, t : t + 1], now)[2]
    assert torch.equal(now.h_LBH, state.h_LBH) and torch.equal(now.c_LBH, state.c_LBH)


def test_a_way_back_over_a_tape_of_the_steps(monkeypatch):
    "Both ways fill the same memory: threads or the environment may change in between."
    given = layer(5, 12, 4)
    expected = there_and_back(given)
    monkeypatch.setattr(recurrence, "in_one_call", lambda given: False)
    tape = recurrence.run_forward(*given, keep=True)
    monkeypatch.undo()
    torch.manual_seed(0)
    d = recurrence.run_backward(tape, torch.randn(4, 5, 12), torch.randn(5, 12))
    compare({"d_w_h": d[2]}, {"d_w_h": expected["d_w_h"]}, CLOSE["fp32"])


@pytest.mark.parametrize("precision", CAN)
@pytest.mark.parametrize("shape", [(1, 2, 1), (8, 64, 32), (9, 66, 33), (23, 10, 100), (3, 0, 5)])
def test_a_product_by_panels(shape, precision):
    B, I, O = shape
    torch.manual_seed(0)
    x_BI, w_IO = torch.randn(B, I).to(LOW[precision]), torch.randn(I, O)
    y_BO = Panels(w_IO, LOW[precision])(x_BI)
    exact_BO = x_BI.double() @ w_IO.to(LOW[precision]).double()
    assert y_BO.dtype == LOW[precision] and y_BO.shape == (B, O)
    torch.testing.assert_close(
        y_BO.double(), exact_BO, rtol=CLOSE[precision], atol=1e-5 + CLOSE[precision]
    )


@pytest.mark.parametrize("precision", CAN)
def test_panels_do_not_follow_the_matrix_that_they_were_made_of(precision):
    "Not even where a single panel lies in memory as the matrix does."
    w_IO = torch.ones(2, 32, dtype=LOW[precision])
    by_w = Panels(w_IO, LOW[precision])
    w_IO.zero_()
    assert by_w(torch.ones(1, 2)).eq(2).all()


def test_infinities_in_products_are_those_of_torch():
    x_BI, w_IO = torch.ones(10, 8), torch.ones(8, 40)
    x_BI[3, 1], x_BI[4, 2], w_IO[5, 39], w_IO[2, 0] = float("inf"), float("nan"), -float("inf"), 0
    torch.testing.assert_close(Panels(w_IO, torch.float32)(x_BI), x_BI @ w_IO, equal_nan=True)


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match=r"\(3, 4\) @ \(5, 7\) is not \(3, 7\)"):
        Panels(torch.ones(5, 7), torch.float32)(torch.ones(3, 4))
    with pytest.raises(RuntimeError, match="must fit"):
        linear(torch.ones(300, 4), torch.ones(7, 5))


@pytest.mark.parametrize(("N", "O"), [(5, 40), (300, 40), (4200, 3)])
def test_a_linear_layer_and_its_gradients(N, O):
    torch.manual_seed(0)
    leaves = [torch.randn(n, requires_grad=True) for n in ((N, 34), (O, 34), (O,))]
    for given in (leaves, leaves[:2]):
        seen = []
        for function in (linear, torch.nn.functional.linear):
            y_NO = function(*given)
            seen.append((y_NO, *torch.autograd.grad(y_NO.sin().sum(), given)))
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)
    assert torch.equal(linear(leaves[0][:1], leaves[1]), leaves[0][:1] @ leaves[1].T)


def test_a_weight_gradient_of_rows_that_lie_anyhow():
    a_NI, d_NO = torch.randn(64, 5000).t(), torch.randn(1, 48).expand(5000, 48)
    exact_IO = a_NI.double().t() @ d_NO.double()
    error = (transposed_product(a_NI, d_NO) - exact_IO).norm() / exact_IO.norm()
    assert error < 1e-6


@pytest.mark.parametrize(("I", "O"), [(1, 32), (37, 64), (64, 512), (40, 33), (40, 544)])
def test_products_read_in_place_have_the_bits_of_those_of_panels(I, O):
    "Turned round or not, of one thread or three; what does not lie well is laid out."
    torch.manual_seed(0)
    x_BI, w_IO = torch.randn(50, I), torch.randn(I, O)
    turned = x_BI.t().contiguous().t()
    assert lie_well(x_BI, w_IO) == lie_well(turned, w_IO) == (O in (32, 64, 512))
    expected = Panels(w_IO, torch.float32)(x_BI)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for x in (x_BI, turned):
                assert all(torch.equal(y, expected) for y in kernel_products((x, w_IO), (x, w_IO)))
    finally:
        torch.set_num_threads(1)
    assert not lie_well(x_BI, torch.randn(I, O + 32)[:, :O]) or I == 1  # a row alone has no gap


def test_what_is_too_large_to_be_read_in_place_is_laid_out(monkeypatch):
    a_NI, d_NO = torch.randn(70, LONG + 8), torch.randn(70, 64)
    assert not lie_well(a_NI.t(), d_NO) and lie_well(a_NI[:, :LONG].contiguous().t(), d_NO)
    torch.testing.assert_close(transposed_product(a_NI, d_NO), a_NI.t() @ d_NO)
    assert lie_well(a_NI[:, :70].contiguous(), d_NO)
    monkeypatch.setattr("sentiment_kit.model.products.LARGE", 70 * 64 - 1)
    assert not lie_well(a_NI[:, :70].contiguous(), d_NO)


@pytest.mark.parametrize("wanted", [(1, 1, 1, 1), (0, 1, 0, 1), (1, 0, 1, 0), (0, 0, 0, 1)])
def test_layers_of_one_input_are_as_good_as_alone(wanted):
    "To the bit, whichever of them learn; a gradient lies as its weights do, so nobody copies it."
    torch.manual_seed(0)
    made = torch.randn(300, 24), torch.randn(64, 24), torch.randn(64), torch.randn(24, 32)
    leaves = [x.requires_grad_(bool(yes)) for x, yes in zip(made, wanted, strict=True)]
    x_NI, w_OI, b_O, turned_IO = leaves
    learnt = [x for x in leaves if x.requires_grad]
    together = linears(x_NI, [(w_OI, b_O), (turned_IO.t(), None)])
    alone = linear(x_NI, w_OI, b_O), linear(x_NI, turned_IO.t())
    seen = []
    for y in (together, alone):
        total = sum(y_NO.sin().sum() for y_NO in y)
        seen.append((*y, *torch.autograd.grad(total, learnt, retain_graph=True)))
    assert all(map(torch.equal, *seen))
    for x, d in zip(learnt, seen[0][2:], strict=True):
        assert d.stride() == x.stride()


def test_what_a_thread_writes_shares_no_line_of_the_cache_with_another():
    ranges = [slice(k, k + 1) for k in range(40)]
    x_BN = torch.zeros(40, 16)
    program = Program([Panels(torch.ones(16, 16), torch.float32).bound(x_BN, x_BN)], ranges, 1)
    lines = []
    for block in program.kept[1]:
        start = block.buffer_info()[0]
        lines.append(set(range(start // 64, (start + 8 * len(SLOTS) - 1) // 64 + 1)))
    assert len(lines) == 40 == len({min(line) for line in lines})
    assert sum(map(len, lines)) == len(set().union(*lines))


def test_where_panels_are_not_the_best_way(monkeypatch):
    "Odd inputs of pairs; a processor without AVX-512; with AMX; more threads than eights of lanes."
    assert not panels_work(torch.bfloat16, 37) and panels_work(torch.float32, 37)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(panels, "kernels_usable", lambda low: True)
    for name, can in (("avx512f", True), ("avx512bf16", True), ("amx-bf16", True)):
        known = dict.fromkeys(("avx512f", "avx512bf16", name), can)
        monkeypatch.setattr(panels, "host_features", lambda known=known: known)
        amx = name.startswith("amx")
        assert panels_pay(torch.float32, 64, 512)
        assert panels_pay(torch.bfloat16, 64, 512) != amx and panels_pay(torch.bfloat16, 64, 64)
    assert not panels_pay(torch.float32, 24, 512) and panels_pay(torch.float32, 24, 64)
    monkeypatch.setattr(panels, "host_features", lambda: {"avx2": True})
    assert not panels_pay(torch.float32, 64, 64)


def test_without_avx512_the_steps_go_as_before(monkeypatch):
    given = layer(4, 10, 3)
    expected = there_and_back(given)
    monkeypatch.setattr(panels, "host_features", lambda: {"avx2": True})
    assert not in_one_call(given)
    compare(there_and_back(given), expected, CLOSE["fp32"])
    rnn = MLSTM(4, 10)
    assert isinstance(Reader(rnn, 3).layers[0].products[0], Product)


def test_tables_of_all_threads_stay_small(monkeypatch):
    given = layer(4, 10, 3)
    monkeypatch.setattr("sentiment_kit.model.pieces.OWN_TABLES", 9 * 40 - 1)
    assert not in_one_call(given) and in_one_call(layer(4, 10, 3, by_bytes=False))


def test_a_model_learns_the_same_as_before(monkeypatch):
    "Ten steps: the loss of the fused call beside that of torch alone."
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = LanguageModel(LanguageModelConfig(hidden_size=32, embed_size=8))
        ids_BT = torch.randint(97, 123, (8, 24))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(10):
            logits_BTV, _ = model(ids_BT)
            loss = torch.nn.functional.cross_entropy(
                logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        monkeypatch.setenv("SENTIMENT_KIT_KERNELS", "torch")
    assert losses[0] < 5 and abs(losses[0] - losses[1]) < 1e-4, losses


def test_the_floor_multiplies_what_it_says():
    for precision in CAN:
        y = step_products([(16, 16), (16, 64)], 5, precision, 3)()
        assert [x.shape for x in y] == [(5, 16), (5, 64)]
        assert all(x.dtype == storage_dtype(precision, torch.zeros(())) and x.any() for x in y)


def test_kernels_are_asked_for_at_every_call(monkeypatch):
    monkeypatch.setattr(kernel_loops, "find_compiler", lambda: None)
    assert not panels_work(torch.float32, 8)
    assert linear(torch.ones(300, 4), torch.ones(2, 4)).eq(4).all()
