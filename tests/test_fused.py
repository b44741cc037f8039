"""The compiled kernels: rounding, what is not a number, threads, and torch in their place."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from sentiment_kit.data.files import NOTED
from sentiment_kit.model import fused_gates, kernel_loops
from sentiment_kit.model.cpu_kernels import gates_forward
from sentiment_kit.model.kernel_loops import Call, Kernel
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.mlstm import MLSTM
from sentiment_kit.model.pointwise import FusedForward, TorchForward, forward_parts, fused
from sentiment_kit.model.reader import Reader
from sentiment_kit.model.recurrence import run_backward, run_forward
from sentiment_kit.model.tape import Inputs, Tape
from sentiment_kit.model.vectors import Stream

LOW = [torch.bfloat16, torch.float16]


def copy(s):
    s.y[0] = s.x[0]


@pytest.mark.parametrize("low", [low for low in LOW if kernel_loops.kernels_usable(low)])
def test_numbers_are_rounded_as_torch_rounds_them(low):
    "Ties to even, what is too large, infinities, what is not a number, and there and back."
    torch.manual_seed(0)
    ties = torch.tensor([1.00390625, 1.01171875, 1.00048828125, 1.00146484375, 65519.0, 65520.0])
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 3.4e38, 0.0, -0.0])
    bits = torch.tensor([0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
    x_BH = torch.cat((ties, -ties, odd, bits, torch.randn(1000) * 100))[None]
    y_BH, back_BH = torch.empty(x_BH.shape, dtype=low), torch.empty_like(x_BH)
    shape = (1, x_BH.shape[1])
    Call(Kernel(copy, {"x": Stream(), "y": Stream(low)}), shape, None, None, y=y_BH)(0, x_BH)
    torch.testing.assert_close(y_BH, x_BH.to(low), rtol=0, atol=0, equal_nan=True)
    Call(Kernel(copy, {"x": Stream(low), "y": Stream()}), shape, None, None, y=back_BH)(0, y_BH)
    torch.testing.assert_close(back_BH, y_BH.float(), rtol=0, atol=0, equal_nan=True)


def inputs(B=3, H=37, T=4, precision="fp32", ids=None):
    torch.manual_seed(1)
    zx, mx, w_h, w_mh = (torch.randn(n) / 4 for n in ((5, 4 * H), (5, H), (H, 4 * H), (H, H)))
    ids_TB = torch.randint(5, (T, B)) if ids is None else ids
    return Inputs(zx, mx, w_h, w_mh, *torch.randn(2, B, H), ids_TB, None, precision)


def test_what_is_not_a_number_stays_so_and_stays_in_its_place():
    given = inputs()
    y_BG = torch.randn(3, 4 * 37)
    y_BG[0, :4] = y_BG[1, 37 + 9] = y_BG[2, 3 * 37 + 36] = float("nan")
    seen = []
    for way in (TorchForward, FusedForward):
        tape = Tape(given)
        way(given, tape).gates(0, y_BG.clone())
        seen.append((tape.h[1], tape.c[1], tape.g[0].clone()))
    assert [x.isnan().sum() for x in seen[0][:2]] == [6, 6]
    torch.testing.assert_close(*seen, equal_nan=True)


def test_extreme_gates_are_within_their_bounds():
    z_BG = torch.tensor([0.0, 1e-8, -30, 30, 88, -88, 1e4, -1e30, 3e38, float("inf")]).repeat(4)
    kernel = fused_gates.gates_kernel(torch.float32, True)
    g_BG, (c_BH, h_BH, tanh_BH) = torch.empty(1, 40), torch.empty(3, 1, 10)
    arrays = dict(zx=torch.zeros(1, 40), c=torch.linspace(-1e30, 1e30, 10)[None], c_next=c_BH)
    ids_TB = torch.zeros(1, 1, dtype=torch.long)
    arrays |= dict(h_next=h_BH, g=g_BG, tanh_c=tanh_BH)
    Call(kernel, (1, 10), ids_TB, None, **arrays)(0, z_BG[None])
    plain = [torch.empty(1, 10) for _ in range(3)]
    gates_forward(z_BG := z_BG[None].clone(), arrays["c"], *plain)
    torch.testing.assert_close(g_BG, z_BG, rtol=1e-6, atol=2e-7)
    assert g_BG.abs().max() <= 1 and tanh_BH.abs().max() <= 1 and g_BG[0, 0] == 0.5
    assert abs(g_BG[0, 31] / 1e-8 - 1) < 1e-6, "tanh x is x for a small x"


def test_a_row_that_no_table_has_is_refused():
    with pytest.raises(IndexError, match=r"ids 0 … 5 are not all rows of a table of 5"):
        forward_parts(given := inputs(ids=torch.tensor([[0, 5, 1]])), Tape(given))


@pytest.mark.parametrize("keep", [True, False])
def test_threads_share_the_units_and_change_no_bit(keep):
    if kernel_loops.torch_pool() is None:
        pytest.skip("torch's threads are not to be found here")
    B, H = 16, 1030
    y_BG, zx, c_BH = torch.randn(B, 4 * H), torch.randn(256, 4 * H), torch.randn(B, H)
    ids_TB, seen = torch.randint(256, (1, B)), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = dict(c_next=torch.zeros(B, H), h_next=torch.zeros(B, H))
            if keep:
                out |= dict(g=torch.zeros(B, 4 * H), tanh_c=torch.zeros(B, H))
            kernel = fused_gates.gates_kernel(torch.float32, keep)
            call = Call(kernel, (B, H), ids_TB, None, zx=zx, c=c_BH, **out)
            assert call.block[3] == threads
            call(0, y_BG)
            seen.append(out)
    finally:
        torch.set_num_threads(1)
    assert seen[0]["h_next"].ne(0).all()
    for other in seen[1:]:
        assert all(torch.equal(seen[0][name], other[name]) for name in other)


def test_reading_and_training_give_the_same_bits():
    torch.manual_seed(0)
    for precision in ("fp32", "bf16", "fp16"):
        rnn, embed_VE = MLSTM(8, 21, 2, precision=precision), torch.randn(256, 8)
        ids_BT, reset_BT = torch.randint(256, (3, 11)), torch.rand(3, 11) < 0.2
        h_BTH, state = rnn(ids_BT, None, reset_BT, embed_VE)
        read_BTH, _, end = Reader(rnn, 3, embed_VE).states(ids_BT, None, reset_BT)
        assert torch.equal(read_BTH, h_BTH) and torch.equal(end.c_LBH, state.c_LBH)


@pytest.fixture
def no_llvm(monkeypatch):
    kernel_loops.find_compiler.cache_clear()
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    NOTED.discard(kernel_loops.NO_COMPILER)
    yield
    monkeypatch.undo()
    kernel_loops.find_compiler.cache_clear()


def test_without_llvm_torch_does_it_and_says_so_once(no_llvm, capsys):
    for _ in range(2):
        model = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4))
        model(torch.zeros(1, 3, dtype=torch.long))[0].sum().backward()
    assert capsys.readouterr().err.count("sentiment_kit[fast]") == 1
    given = inputs()
    assert isinstance(forward_parts(given, Tape(given)), TorchForward)


def test_the_kernels_can_be_turned_off(monkeypatch):
    given = inputs()
    assert isinstance(forward_parts(given, Tape(given)), FusedForward)
    monkeypatch.setenv("SENTIMENT_KIT_KERNELS", "torch")
    assert isinstance(forward_parts(given, Tape(given)), TorchForward)


def test_llvm_is_not_loaded_before_it_is_needed():
    code = "import sys, sentiment_kit.transfer.features; print('llvmlite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_arrays_may_lie_in_memory_as_they_like(precision):
    "States, tables, ids and resets that are transposed or expanded give the bits of plain copies."
    plain = inputs(precision=precision)
    plain = plain._replace(ids_TB=plain.ids_TB[:, :1].repeat(1, 3), reset_TB=torch.rand(4, 3) < 0.3)
    for name in ("zx", "mx", "h_BH", "c_BH", "reset_TB"):
        turned = getattr(plain, name).t().contiguous().t()
        for keep in (True, False):
            seen = [run_forward(*x, keep=keep) for x in (plain, plain._replace(**{name: turned}))]
            assert torch.equal(seen[0].h, seen[1].h) and torch.equal(seen[0].c, seen[1].c), name
    for ids_TB in (plain.ids_TB[:, :1].expand(4, 3), plain.ids_TB.int()):
        other = run_forward(*plain._replace(ids_TB=ids_TB), keep=True)
        assert torch.equal(run_forward(*plain).h, other.h), "also ids of 32 bits"


def test_what_does_not_fit_never_reaches_a_kernel():
    "A kernel would read past the end: torch says what is wrong."
    plain = inputs()
    reset_TB = torch.zeros(4, 3, dtype=torch.bool)
    wrong = [dict(mx=plain.mx[:3]), dict(zx=plain.zx[:, :-1]), dict(mx=plain.mx[:, :-1])]
    wrong += [dict(c_BH=plain.c_BH[:, :-1]), dict(h_BH=plain.h_BH[:2])]
    wrong += [dict(ids_TB=plain.ids_TB.to(torch.uint8)), dict(ids_TB=plain.ids_TB[:, :2])]
    wrong += [dict(reset_TB=reset_TB[:2]), dict(reset_TB=reset_TB.long())]
    wrong[-1]["reset_TB"][0] = 1
    for change in wrong:
        with pytest.raises((IndexError, RuntimeError)):
            run_forward(*plain._replace(**change), keep=True)
    with pytest.raises(ValueError, match="without gaps"):
        Call(
            Kernel(copy, {"x": Stream(), "y": Stream()}),
            (3, 5),
            None,
            None,
            y=torch.empty(5, 3).t(),
        )


def test_no_bytes_have_a_way_back():
    given = inputs(ids=torch.empty(0, 3, dtype=torch.long))
    for reset_TB in (None, torch.empty(0, 3, dtype=torch.bool)):
        tape = run_forward(*given._replace(reset_TB=reset_TB), keep=True)
        *_, d_h, d_c = run_backward(tape, torch.empty(0, 3, 37), torch.ones(3, 37))
        assert not d_h.any() and d_c.eq(1).all()


@pytest.mark.parametrize("setting", ["OMP_THREAD_LIMIT=1", "OMP_DYNAMIC=true"])
def test_fewer_threads_than_asked_for_do_all_of_the_work(setting):
    code = """if True:
        import torch
        from sentiment_kit.model.mlstm import MLSTM
        torch.set_num_threads(4)
        rnn, x = MLSTM(1, 128), torch.randn(256, 1, 1)
        many = rnn(x)[0]
        torch.set_num_threads(1)
        print(torch.equal(many, rnn(x)[0]))"""
    name, value = setting.split("=")
    environment = os.environ | {name: value, "OMP_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "True", done.stderr


def test_threads_that_another_library_numbers_are_not_used():
    now = SimpleNamespace(me=0)

    def run(work, block, n_threads, flags):
        for now.me in range(n_threads):
            work(block)

    own = dict(omp_get_thread_num=lambda: now.me, omp_get_num_threads=lambda: 2)
    others = dict(omp_get_thread_num=lambda: 0, omp_get_num_threads=lambda: 1)
    assert kernel_loops.numbers_threads(SimpleNamespace(GOMP_parallel=run, **own))
    assert not kernel_loops.numbers_threads(SimpleNamespace(GOMP_parallel=run, **others))


@pytest.mark.parametrize("low", LOW)
def test_a_processor_that_does_not_round_leaves_it_to_torch(low, monkeypatch):
    "A call of a function that is not there would end the process."
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}[low]
    assert kernel_loops.kernels_usable(low) == kernel_loops.rounds(low)
    monkeypatch.setattr(kernel_loops, "host_features", lambda: {"avx2": True})
    assert not fused(inputs(precision=precision)) and fused(inputs())


def test_an_llvm_that_is_too_old_is_as_good_as_none(monkeypatch, capsys):
    kernel_loops.find_compiler.cache_clear()
    NOTED.discard(kernel_loops.NO_COMPILER)
    monkeypatch.setattr(kernel_loops, "PROBE", "@a = global <2 x i32> no_such_word")
    try:
        assert not kernel_loops.kernels_usable()
        assert "0.45" in capsys.readouterr().err
    finally:
        kernel_loops.find_compiler.cache_clear()


def test_kernels_compiled_at_the_same_time_are_not_exchanged():
    texts = [
        kernel_loops.assembler("kernel", copy, {"x": Stream(), "y": Stream(low)}) for low in LOW
    ]
    with ThreadPoolExecutor(8) as pool:
        addresses = list(pool.map(lambda text: kernel_loops.compiled(text, "kernel"), texts * 8))
    assert len(set(addresses)) == len(addresses)
