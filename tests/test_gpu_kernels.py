"""The loops of the GPU against the oracle: in Triton's interpreter, on a GPU also as CUDA
graphs."""

import gc
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gpu import BOUNDS, CASES, Case, compare, floor_seconds, make_problem, results_of, run_ours
from triton_copies import compiled, interpreted, private_copy

from sentiment_kit.data.files import KitError
from sentiment_kit.model import gpu_graphs, gpu_kernels, gpu_pool, gpu_products, gpu_steps
from sentiment_kit.model.gpu_buffers import Shape, count_bytes

triton = pytest.importorskip("triton")
KINDS = ("mlstm", "lstm")


@pytest.fixture(scope="module", params=["triton", "torch"])
def fast(request):
    "`gpu_graphs`, with kernels of Triton that are interpreted, or with those of torch."
    _, steps, pool, module = interpreted(gpu_kernels, gpu_steps, gpu_pool, gpu_graphs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "available", lambda device, dtype: request.param == "triton")
        patch.setattr(
            "triton.runtime.interpreter._convert_float", rounded(triton.runtime.interpreter)
        )
        module.loop_pool.use_graphs = False
        module.pool_module = pool
        yield module


def rounded(interpreter):
    "The interpreter cuts fp32 off to bf16; a GPU rounds to nearest, ties to even."
    cut_off = interpreter._convert_float

    def convert(values, source, target, mode):
        if source.name == "fp32" and target.name == "bf16":
            return torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view("uint16")
        return cut_off(values, source, target, mode)

    return convert


@pytest.fixture
def run(fast):
    return as_recurrence(fast)


def as_recurrence(module):
    "What `recurrence` does with a kernel set."

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            ctx.tape = module.graph_forward(*args, keep=True)
            return ctx.tape.h[1:], ctx.tape.c[-1].clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dh_TBH, dc_BH):
            return *module.graph_backward(ctx.tape, dh_TBH, dc_BH), None, None, None

    return Function.apply


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_states_and_gradients_equal_the_oracle(run, case, kind, precision):
    errors, _ = compare(run, case, kind, precision, "cpu")
    assert max(errors.values()) < BOUNDS[precision], errors


SMALL = Case("small", T=2, B=2, H=8, V=4, resets=True)


def inputs(kind, case=SMALL):
    "Arguments of `graph_forward` for a table of bytes, without gradients."
    leaves, ids_TB, reset_TB, above_TBH = make_problem(case, kind, "cpu")
    w = {name: t.detach() for name, t in leaves.items()}
    zx, mx = w["x"] @ w["w_x0"] + w["b0"], w["x"] @ w["w_mx0"] if kind == "mlstm" else None
    return [zx, mx, w["w_h0"], w.get("w_mh0"), w["h0"], w["c0"], ids_TB, reset_TB], above_TBH


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", BOUNDS)
def test_inference_gives_all_states_of_training_and_keeps_no_gates(fast, kind, precision):
    args, _ = inputs(kind)
    kept, seen = (
        fast.graph_forward(*args, precision, keep=True),
        fast.graph_forward(*args, precision),
    )
    assert seen.h.dtype == seen.c.dtype == torch.float32
    assert torch.equal(kept.h, seen.h) and torch.equal(kept.c[-1], seen.c[-1])
    assert torch.equal(seen.c, kept.loops.buffers.c_TBH) and seen.loops is None
    shape = kept.loops.shape._replace(keep=False)
    assert fast.Loops(shape).buffers.g_KBG.shape[0] == 1
    with pytest.raises(KitError):
        fast.graph_backward(seen, seen.h[1:], seen.c[-1])


def test_a_second_way_back_is_refused(fast):
    args, above_TBH = inputs("mlstm")
    tape = fast.graph_forward(*args, keep=True)
    fast.graph_backward(tape, above_TBH, above_TBH[0])
    with pytest.raises(KitError, match="forward"):
        fast.graph_backward(tape, above_TBH, above_TBH[0])


@pytest.mark.parametrize("kind", KINDS)
def test_two_tapes_alive_do_not_disturb_each_other(fast, kind, graphs):
    args, above_TBH = inputs(kind)
    others = [t if t is None or not t.is_floating_point() else t + 0.1 for t in args]
    alone = [
        fast.graph_backward(fast.graph_forward(*a, keep=True), above_TBH, above_TBH[0])
        for a in (args, others)
    ]
    tapes = [fast.graph_forward(*a, keep=True) for a in (args, others)]
    assert tapes[0].loops is not tapes[1].loops
    together = [fast.graph_backward(tape, above_TBH, above_TBH[0]) for tape in tapes]
    for a, b in zip(alone, together, strict=True):
        assert all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_reset_forgets_even_a_state_that_is_not_a_number(fast):
    for kind in KINDS:
        args, above_TBH = inputs(kind)
        args[7] = torch.zeros_like(args[6], dtype=torch.bool)
        args[7][0] = True
        clean = args[:4] + [torch.zeros_like(args[4])] * 2 + args[6:]
        args[4] = args[5] = torch.full_like(args[4], float("nan"))
        tapes = [fast.graph_forward(*a, keep=True) for a in (args, clean)]
        assert torch.equal(tapes[0].h[1:], tapes[1].h[1:])
        for a, b in zip(
            *(fast.graph_backward(t, above_TBH, above_TBH[0]) for t in tapes), strict=True
        ):
            assert a is b is None or torch.equal(a, b)


def test_an_id_outside_the_table_gives_nan_in_its_lane_only(fast):
    args, _ = inputs("mlstm", CASES[0])
    args[6] = args[6].clone()
    args[6][0, 1] = len(args[0])
    h_BH = fast.graph_forward(*args).h[-1]
    assert h_BH[1].isnan().all() and h_BH[0].isfinite().all()


def test_table_gradient_does_not_depend_on_the_pieces(monkeypatch):
    d_NO, ids_N = torch.randn(50, 3).bfloat16(), torch.randint(7, (50,))
    want = torch.zeros(7, 3).index_add_(0, ids_N, d_NO.float())
    for elements in (1, 40, 2**20):
        monkeypatch.setattr(gpu_products, "ONE_HOT", elements)
        torch.testing.assert_close(gpu_products.table_gradient(d_NO, ids_N, 7), want)


def test_trained_under_inference_mode_before(fast, graphs):
    "A recording made under inference_mode is replayed outside of it."
    args, above_TBH = inputs("mlstm")
    with torch.inference_mode():
        fast.graph_forward(*args)
        fast.graph_forward(*args)
    fast.graph_forward(*args)
    assert graphs == ["forward_loop"] and len(fast.loop_pool.idle) == 1
    tape = fast.graph_forward(*args, keep=True)
    assert torch.isfinite(fast.graph_backward(tape, above_TBH, above_TBH[0])[0]).all()


@pytest.fixture
def graphs(fast, monkeypatch):
    """Recording, played by a stand-in: it lists the loops that were recorded and runs them
    when replayed."""
    recorded = []

    def capture(loop):
        loop()
        recorded.append(loop.__name__)
        return SimpleNamespace(replay=loop)

    monkeypatch.setattr(fast.pool_module, "capture", capture)
    monkeypatch.setattr(fast, "loop_pool", fast.LoopPool())
    return recorded


def test_a_shape_met_twice_is_recorded_once_and_replayed(fast, graphs):
    args, above_TBH = inputs("mlstm")
    results = []
    for _ in range(4):
        tape = fast.graph_forward(*args, keep=True)
        results.append((tape.h, *fast.graph_backward(tape, above_TBH, above_TBH[0])))
    assert graphs == ["forward_loop", "backward_loop"]
    assert len(fast.loop_pool.idle) == 1
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_loops_are_busy_until_walked_back_or_forgotten(fast, graphs):
    args, above_TBH = inputs("lstm")
    fast.graph_forward(*args, keep=True)
    first, second = (fast.graph_forward(*args, keep=True) for _ in range(2))
    both = {id(first.loops), id(second.loops)}
    assert len(both) == 2 and not fast.loop_pool.idle
    fast.graph_backward(first, above_TBH, above_TBH[0])
    assert len(fast.loop_pool.idle) == 1  # though `first` is alive
    del second
    gc.collect()
    assert {id(loops) for loops in fast.loop_pool.idle} == both
    assert id(fast.graph_forward(*args, keep=True).loops) in both


def test_results_do_not_change_when_their_loops_are_used_again(fast, graphs):
    args, above_TBH = inputs("mlstm")
    tape = [fast.graph_forward(*args, keep=True) for _ in range(2)][1]
    results = tape.h, tape.c, *fast.graph_backward(tape, above_TBH, above_TBH[0])
    before = [t.clone() for t in results]
    others = [t if t is None or not t.is_floating_point() else t + 0.1 for t in args]
    again = fast.graph_forward(*others, keep=True)
    fast.graph_backward(again, above_TBH + 1, above_TBH[1])
    assert all(torch.equal(a, b) for a, b in zip(before, results, strict=True))


def named(name):
    "A shape for each name."
    device = torch.device("meta")
    return Shape(device, torch.float32, sum(name.encode()), 1, 8, 4, True, True)


def stub(shape, graphed):
    return SimpleNamespace(shape=shape, graphed=graphed, failed=False)


def test_layers_that_take_turns_get_graphs_and_a_lone_odd_shape_does_not():
    the_pool = gpu_pool.LoopPool(stub)
    for step in range(3):
        held = [the_pool.take(named(name)) for name in ("bytes", "floats", "floats")]
        assert [loops.graphed for loops in held] == [step > 0, step > 0, True]
        for loops in held:
            the_pool.give(loops)
    assert not the_pool.take(named("odd")).graphed
    for _ in range(8):
        the_pool.give(the_pool.take(named("bytes")))
    assert not the_pool.take(named("odd")).graphed


def test_an_idle_recording_is_used_again_after_a_long_time():
    the_pool = gpu_pool.LoopPool(stub)
    for name in ("train", "train", *["valid"] * 20):
        the_pool.give(the_pool.take(named(name)))
    assert the_pool.take(named("train")).graphed
    the_pool.use_graphs = False
    assert not the_pool.take(named("valid")).graphed


def test_the_pool_keeps_the_last_used():
    the_pool = gpu_pool.LoopPool(stub, limit=2)
    for name in "aabbccbb":
        the_pool.give(the_pool.take(named(name)))
    assert [loops.shape for loops in the_pool.idle] == [named("c"), named("b")]


def test_idle_loops_hold_at_most_a_quarter_of_the_card(monkeypatch):
    """Those of shapes that were not met lately are let go of; what is in use at every step
    stays, however large."""
    train, valid, odd = named("a"), named("b"), named("c")
    room = count_bytes(train) + count_bytes(valid)
    monkeypatch.setattr(gpu_pool, "idle_bytes", lambda device: room - 1)
    the_pool = gpu_pool.LoopPool(stub)
    for shape in (train, train, valid, valid, train, valid):
        the_pool.give(the_pool.take(shape))
    assert [loops.shape for loops in the_pool.idle] == [train, valid]
    for _ in range(9):
        the_pool.give(the_pool.take(valid))
    assert [loops.shape for loops in the_pool.idle] == [valid]
    assert not the_pool.take(odd).graphed


def test_buffers_of_a_failed_try_are_gone_before_the_next(monkeypatch):
    "Memory ends in the middle of the buffers: those made so far give way to the second try."
    alive, held, real = [], [], torch.empty

    def empty(*size, **options):
        if len(alive) == 3 and len(held) == 1:
            raise torch.OutOfMemoryError("full")
        made = real(*size, **options)
        alive.append(weakref.ref(made))
        return made

    def make(shape, graphed):
        held.append(sum(one() is not None for one in alive))
        return gpu_pool.Loops(shape, graphed)

    the_pool = gpu_pool.LoopPool(make)
    the_pool.idle.append("waits for later")
    monkeypatch.setattr(torch, "empty", empty)
    the_pool.find = lambda shape: (None, False)
    the_pool.take(Shape(torch.device("cpu"), torch.bfloat16, 4, 2, 8, 4, True, True))
    assert held == [0, 0] and not the_pool.idle


def test_threads_never_share_loops():
    "Three threads take and give loops of one shape; nobody gets what another holds."
    the_pool, wrong = gpu_pool.LoopPool(stub), []

    class Slow(tuple):  # comparing takes Python code, so that threads change places there
        __hash__ = tuple.__hash__

        def __eq__(self, other):
            return tuple.__eq__(self, other)

    fields = tuple(named("a"))
    shape = type("SlowShape", (Shape,), dict(__eq__=Slow.__eq__, __hash__=Slow.__hash__))(*fields)

    def work():
        try:
            for _ in range(1500):
                loops = the_pool.take(shape)
                wrong.extend(["shared"] * getattr(loops, "busy", False))
                loops.busy = True
                loops.busy = False
                the_pool.give(loops)
        except Exception as e:
            wrong.append(repr(e))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


def test_unknown_precision_and_devices_without_kernels(fast):
    args, _ = inputs("mlstm")
    with pytest.raises(KitError, match="fp64"):
        fast.graph_forward(*args, "fp64")
    assert not gpu_kernels.available("cpu") and not gpu_kernels.available(torch.device("meta"))


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="Triton was imported as an interpreter"
)
@pytest.mark.parametrize(
    "name", ["multiply", "gates_forward_kernel", "gates_backward_kernel", "multiply_backward"]
)
def test_kernels_compile_for_a_gpu_with_wide_loads(name, tmp_path, monkeypatch):
    """The compiler needs no GPU: each kernel becomes code for compute capability 9, whose
    block loads are 16 bytes wide."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    fn = getattr(private_copy(gpu_kernels), name)
    wide, ids = (
        ("c_BH", "c_out_BH", "dc_BH", "zx_VG", "mx_VH"),
        ("ids_B", "reset_B", "reset_next_B"),
    )
    types = {"V": "i32", "H": "constexpr", "BLOCK": "constexpr"}
    types |= dict.fromkeys(wide, "*fp32") | dict.fromkeys(ids, "*i64")
    types = {arg: types.get(arg, "*bf16") for arg in fn.arg_names}
    aligned = [k for k, arg in enumerate(types) if types[arg].startswith("*")]
    code = compiled(fn, types, {"H": 4096, "BLOCK": 1024}, aligned)
    loads = re.findall(r"\bld\.global\S*", code)
    narrow = [load for load in loads if ".v4" not in load]
    assert len(narrow) == len(set(ids) & set(types)), loads  # one number for each lane


def test_the_module_can_be_read_without_triton():
    code = "import sys; sys.modules['triton'] = None\n"
    code += "from sentiment_kit.model.gpu_graphs import graph_forward\n"
    code += "from sentiment_kit.model.gpu_kernels import available; print(available('cuda'))"
    root = Path(gpu_kernels.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "False", done.stderr


def test_the_floors_of_the_paper_card():
    """H100 on paper: 800 TFLOP/s, 3.0 TB/s. 256 lanes are bound by bytes in the loop, 512 by
    arithmetic."""
    rates = {B: B / floor_seconds(4096, B, 1, 8e14, 3e12) / 1e6 for B in (128, 256, 512)}
    assert {B: round(rate, 2) for B, rate in rates.items()} == {128: 0.92, 256: 1.55, 512: 1.59}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_make_gpu_says_so_without_cuda(tmp_path):
    script = Path(__file__).with_name("gpu.py")
    done = subprocess.run(
        [sys.executable, script, "--out", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "CUDA" in done.stderr


LEG = """
import sys
from types import SimpleNamespace
from pathlib import Path
absent = "orjson plotly filelock pooch tyro regex zstandard fsspec ipywidgets anywidget yaml "
absent += "pandas huggingface_hub pytest triton"
sys.modules.update(dict.fromkeys(absent.split()))
sys.path.insert(0, sys.argv[1])
import gpu
gpu.DEVICE = "cpu"
out = Path(sys.argv[2])
for make in (gpu.make_step, gpu.make_naive):
    make(8, 2, 3, "bf16")()
args = SimpleNamespace(corpus=None, lanes=4, hidden=8, minutes=0.05, lr=0.01, out=out)
args.corpus = gpu.leg_corpus(args).folder
assert gpu.section_leg({}, lambda: None, args, None)
"""


@pytest.mark.slow
def test_make_gpu_needs_no_more_than_it_says(tmp_path):
    "Its steps and its leg run, on a CPU, where all but torch, numpy and the like is missing."
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", LEG, here, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]


@pytest.mark.cuda
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_graphs_and_launches_agree_with_the_oracle_and_bit_for_bit(
    case, kind, precision, monkeypatch
):
    monkeypatch.setattr(gpu_graphs, "loop_pool", gpu_graphs.LoopPool())
    run = as_recurrence(gpu_graphs)
    errors, replays = compare(run, case, kind, precision, "cuda", again=4)
    assert max(errors.values()) < BOUNDS[precision], errors
    assert (
        all(len(loops.graphs) == 2 for loops in gpu_graphs.loop_pool.idle)
        and gpu_graphs.loop_pool.idle
    )
    gpu_graphs.loop_pool.use_graphs = False
    _, launches = compare(run, case, kind, precision, "cuda", again=2)
    for other in (*replays, *launches):
        assert all(torch.equal(other[name], t) for name, t in launches[0].items())


@pytest.mark.cuda
def test_nothing_waits_for_the_device(monkeypatch):
    monkeypatch.setattr(gpu_graphs, "loop_pool", gpu_graphs.LoopPool())
    case = Case("no waiting", T=4, resets=True)
    leaves, ids_TB, reset_TB, above_TBH = make_problem(case, "mlstm", "cuda")
    run = as_recurrence(gpu_graphs)
    for step in range(4):
        torch.cuda.set_sync_debug_mode("error" if step == 3 else "default")
        try:
            results_of(
                case, leaves, above_TBH, run_ours(run, case, leaves, ids_TB, reset_TB, "bf16")
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.slow
def test_make_gpu_checks_itself(tmp_path):
    script = Path(__file__).with_name("gpu.py")
    done = subprocess.run(
        [sys.executable, script, "--check", "--out", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads((tmp_path / "gpu.json").read_text())["check_failed"] == []
