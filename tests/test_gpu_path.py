"""The whole path through a GPU, on one that is not there (`fake_cuda`): how many launches, in which
order, on which device, and what waits for it. The numbers are real, so they are compared too."""

import os
import re
import subprocess
import sys

import gpu
import numpy as np
import pytest
import torch
from fake_cuda import FakeGpu

from sentiment_kit.model import gpu_graphs, gpu_pool, gpu_products, norms, triton_support
from sentiment_kit.model.generate import generate
from sentiment_kit.model.gpu_pool import LoopPool
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import cross_entropy
from sentiment_kit.model.norms import fused_norm, weight_norm
from sentiment_kit.model.reading import ModelStates, text_bits
from sentiment_kit.training.fp16 import scaler_for
from sentiment_kit.transfer.features import ByteFeaturizer, pooled_states

CUDA = "cuda:0"


@pytest.fixture(autouse=True)
def own_pool(monkeypatch):
    "No test meets the recordings of another."
    pool = LoopPool()
    for module in (gpu_graphs, gpu_pool):
        monkeypatch.setattr(module, "loop_pool", pool)
    return pool


def make_model(precision="fp32", hidden=8, layers=1, **options):
    torch.manual_seed(0)
    config = LanguageModelConfig(hidden_size=hidden, embed_size=4, n_layers=layers, **options)
    return LanguageModel(config, precision)


def batch(step, device, B=2, T=3):
    draw = torch.Generator().manual_seed(step)
    ids_BT = torch.randint(256, (B, T + 1), generator=draw)
    reset_BT = torch.rand(B, T, generator=draw) < 0.2
    return [x.to(device) for x in (ids_BT[:, :-1], ids_BT[:, 1:], reset_BT)]


def train(model, device, steps=4, card=None, **sizes):
    "Losses and gradient norms of some steps, and on a GPU the launches of the last."
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    parameters, state, figures = list(model.parameters()), None, []
    for step in range(steps):
        input_BT, target_BT, reset_BT = batch(step, device, **sizes)
        if card is not None:
            card.clear()
        logits_BTV, state = model(input_BT, state, reset_BT)
        loss = cross_entropy(logits_BTV, target_BT)
        loss.backward()
        norm = fused_norm([p.grad for p in parameters])
        optimizer.step()
        optimizer.zero_grad()
        state = state.detach()
        figures.append((loss.detach(), norm))
    launched = None if card is None else (card.count(), list(card.waits), list(card.order))
    return [(loss.item(), norm.item()) for loss, norm in figures], launched


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("options", [dict(layers=2), dict(cell="lstm")], ids=["mlstm", "lstm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_what_a_cpu_learns(precision, options):
    "Four steps: launch by launch, recorded, and twice replayed; nothing waits for the device."
    want, _ = train(make_model(precision, **options), "cpu")
    with FakeGpu() as card:
        ours, (_, waits, order) = train(make_model(precision, **options).to(CUDA), CUDA, card=card)
    bound = dict(fp32=1e-6, bf16=2e-3, fp16=5e-4)[precision]
    np.testing.assert_allclose(ours, want, rtol=bound)
    assert waits == []
    assert order == [("replay", "main")] * (4 if options.get("layers") else 2)


def test_a_replayed_step_at_the_papers_size_is_few_launches():
    """At H = 4096 weight norm alone was 3,158 of 3,257 when its pieces had 16 rows. The two
    replays hold the loops."""
    with FakeGpu(near="meta") as card:
        with torch.device(CUDA):
            config = LanguageModelConfig(hidden_size=4096)
            model = LanguageModel(config, "bf16")
        _, (count, waits, order) = train(model, CUDA, steps=3, card=card, B=128, T=3)
    assert order == [("replay", "main")] * 2 and waits == []
    assert sum(count.values()) < 170, count
    assert card.memory > 3 * max(launch.n_bytes for launch in card.launches)


@pytest.mark.parametrize("O", [3, 16384])
def test_pieces_of_weight_norm_on_a_gpu(O, monkeypatch):
    "Values do not depend on the pieces; a matrix of the paper's size is one piece."
    v_IO, g_O = torch.randn(40, O), torch.rand(O)
    want = weight_norm(v_IO, g_O)
    monkeypatch.setattr(norms, "GPU_PIECE", 7 * O)
    with FakeGpu() as card:
        got = weight_norm(v_IO.to(CUDA), g_O.to(CUDA)).cpu()
        torch.testing.assert_close(got, want)
        assert card.count()["sum"] == 6
    monkeypatch.undo()
    with FakeGpu(near="meta") as card:
        norms.column_dot(*(torch.empty(4096, 16384, device=CUDA) for _ in range(2)))
        assert card.count()["sum"] == 1


def test_streams_wait_for_each_other_around_a_recording():
    "The side stream waits for the batch, the batch for the first run; then it is recorded."
    with FakeGpu() as card:
        train(make_model().to(CUDA), CUDA, steps=2, card=card)
        handed = [("side", "waits for", "main"), ("main", "waits for", "side")]
        assert card.order == [*handed, ("record", "side", False)] * 2
        loop = [launch for launch in card.launches if launch.name == "mm"]
        ran = [launch.stream for launch in loop if not launch.recorded]
        assert {launch.stream for launch in loop if launch.recorded} == {"side"}
        assert ran.count("side") == sum(launch.recorded for launch in loop)
        assert card.launches[-1].stream == "main"


def test_nothing_is_recorded_in_inference_mode():
    """torch keeps the state of its random numbers with the first recording; made in that mode it
    spoils all later ones outside of it, up to torch 2.10."""
    with FakeGpu() as card:
        x = torch.ones(1, device=CUDA)
        with torch.inference_mode():
            graph = gpu_pool.capture(lambda: x.add_(1))
        graph.replay()
        assert ("record", "side", False) in card.order and x.cpu() == 3


def test_what_cannot_be_recorded_goes_on_launch_by_launch(own_pool, capsys):
    "The stream comes back, the reason is told, the results of the first run are used."
    want, _ = train(make_model(), "cpu")
    with FakeGpu(refuse_recording="operation not permitted\nwhen stream is capturing") as card:
        model = make_model().to(CUDA)
        ours, (_, _, order) = train(model, CUDA, card=card)
        assert re.search("graphs are off.*not permitted$", capsys.readouterr().err.strip())
        assert card.stream is card.main
        card.clear()
        source = ModelStates(model)  # made later, it does not try again
        for _ in range(3):
            source.read(np.zeros((1, 3), np.uint8))
        assert card.order == []
    np.testing.assert_allclose(ours, want, rtol=1e-6)
    assert order == [] and not own_pool.use_graphs and not own_pool.idle


def test_a_wait_inside_a_recording_is_noticed():
    "The fake GPU itself: CUDA refuses this, so it does."
    with FakeGpu(), pytest.raises(AssertionError, match="waits"):
        x = torch.ones(1, device=CUDA)
        gpu_pool.capture(lambda: x.cpu())
    with FakeGpu(), pytest.raises(AssertionError, match="mixes devices"):
        torch.ones(2, device=CUDA) + torch.ones(2)


def test_make_gpu_checks_what_it_would_check_on_a_card(monkeypatch, capsys):
    "Its first section, launch by launch and as graphs, against the oracle and to the last bit."
    monkeypatch.setattr(gpu, "DEVICE", CUDA)
    monkeypatch.setattr(gpu, "CASES", [gpu.Case("resets inside", T=2, resets=True)])
    monkeypatch.setattr(gpu, "LARGE", [])
    report = {}
    with FakeGpu():
        assert gpu.section_check(report, lambda: None)
    assert [row["same_bits"] for row in report["check"]] == [True, True]


# ------------------------------------------------------------------ precision


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_products_of_bf16_have_fp32_sums_on_every_card(capability):
    "An old card cannot multiply bf16 into fp32; the operands are widened there."
    a, b = torch.randn(4, 30).bfloat16(), torch.randn(30, 5).bfloat16()
    with FakeGpu(capability=capability):
        got = gpu_products.fp32_product(a.to(CUDA), b.to(CUDA)).cpu()
    torch.testing.assert_close(got, a.float() @ b.float())


def test_older_torch_multiplies_halves_as_tf32_and_only_those(monkeypatch):
    "Before 2.8 there is no product into fp32; without TF32 the tensor cores would be idle."
    monkeypatch.setattr(gpu_products, "TO_FP32", False)
    switches, seen = torch.backends.cuda.matmul, []
    with FakeGpu() as card:
        run = card.run
        card.run = lambda func, *rest: (
            seen.append((str(func), switches.allow_tf32)) or run(func, *rest)
        )
        for dtype in (torch.float16, torch.float32):
            a = torch.ones(2, 2, device=CUDA, dtype=dtype)
            with gpu_products.full_sums():
                gpu_products.fp32_product(a, a)
    assert [allowed for name, allowed in seen if name == "aten.mm.default"] == [True, False]
    assert not switches.allow_tf32


def test_full_sums_turn_off_every_switch_that_shortens_them():
    """Containers for GPUs set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1: fp32 must stay fp32 in our
    products, and the switches are put back."""
    code = (
        "import torch; from sentiment_kit.model.gpu_products import full_sums\n"
        "m = torch.backends.cuda.matmul\n"
        "names = [n for n in ('allow_tf32', 'allow_fp16_accumulation',"
        " 'allow_bf16_reduced_precision_reduction') if hasattr(m, n)]\n"
        "for n in names: setattr(m, n, True)\n"
        "with full_sums(): print([getattr(m, n) for n in names])\n"
        "print(all(getattr(m, n) for n in names))\n"
        "m.allow_tf32 = False\n"
        "if hasattr(m, 'fp32_precision'):\n"
        "    m.fp32_precision = 'tf32'\n"  # the new switch alone: the old one cannot be read
        "    with full_sums(): print(m.fp32_precision)\n"
        "    print(m.fp32_precision)\n"
    )
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    told = done.stdout.split("\n")
    assert set(told[0].strip("[]").split(", ")) == {"False"}, done.stderr
    assert told[1] == "True" and told[2:4] in (["", ""], ["ieee", "tf32"], [""])


# ------------------------------------------------------------------ without Triton


@pytest.fixture
def untried():
    triton_support._trouble_of.cache_clear()
    yield
    triton_support._trouble_of.cache_clear()


def trial(monkeypatch, capability=(8, 0), error=None):
    "What a trial on a fake GPU says whose kernels are launched by a stand-in."

    class Kernel:
        def __getitem__(self, grid):
            def launch(x_N, N):
                if error is not None:
                    raise error
                x_N.mul_(2)

            return launch

    trouble = triton_support._trouble_of
    monkeypatch.setattr(triton_support, "double", Kernel())
    with FakeGpu(capability=capability) as card:
        card.patch.setattr(triton_support, "_trouble_of", trouble)
        return [triton_support.triton_trouble(CUDA) for _ in range(2)]


def test_triton_without_a_compiler_is_told_once_and_not_used(monkeypatch, untried, capsys):
    error = RuntimeError("Failed to find C compiler.\nPlease specify via CC")
    assert trial(monkeypatch, error=error) == ["RuntimeError: Failed to find C compiler."] * 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "C compiler" in told[0]


def test_triton_on_old_and_new_cards(monkeypatch, untried, capsys):
    assert trial(monkeypatch, (7, 0)) == [None, None]
    assert capsys.readouterr().err == ""
    triton_support._trouble_of.cache_clear()
    assert trial(monkeypatch, (6, 1))[0]
    assert "older" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("capability", "dtype", "usable"),
    [
        ((7, 5), torch.float16, True),
        ((7, 0), torch.float32, True),
        ((7, 5), torch.bfloat16, False),
        ((8, 0), torch.bfloat16, True),
    ],
)
def test_kernels_by_card_and_precision(capability, dtype, usable):
    with FakeGpu(capability=capability, triton=None):
        assert gpu_pool.kernels_for.__globals__["available"](CUDA, dtype) == usable


def test_the_norm_without_triton_is_one_call_for_all_tensors():
    tensors = [torch.randn(70_000), torch.randn(3).half()]
    want = fused_norm(tensors)
    with FakeGpu() as card:
        torch.testing.assert_close(fused_norm([t.to(CUDA) for t in tensors]).cpu(), want)
    assert card.count()["_foreach_norm"] == 1 and card.count()["linalg_vector_norm"] == 1


# ------------------------------------------------------------------ reading


TEXTS = [b"good", b"a film that is " * 3, b"", b"x", b"not bad at all "]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_reading_copies_no_weights(precision, layers):
    "Only states, ids and, above the first layer, the rows that go in."
    model = make_model(precision, hidden=64, layers=layers)
    ids_BT = np.zeros((2, 4), np.uint8)
    with FakeGpu() as card:
        source = ModelStates(model.to(CUDA))
        _, state = source.read(ids_BT)  # lays the weights ready
        for _ in range(3):
            card.clear()
            _, state = source.read(ids_BT, state)
            copied = [x.n_bytes for x in card.launches if x.name in ("copy_", "_to_copy", "clone")]
            largest = 5 * 2 * 64 * 4 if layers == 1 else 8 * 4 * 64 * 4  # states, or rows
            assert max(copied) <= largest, copied
        assert card.order == [("replay", "main")] * layers


def test_weights_that_change_later_are_not_seen_by_a_reader():
    model = make_model(weight_norm=False)
    ids_BT = np.arange(6, dtype=np.uint8)[None]
    want = ModelStates(model).read(ids_BT)[0].clone()
    with FakeGpu():
        model = model.to(CUDA)
        source = ModelStates(model)
        source.read(ids_BT)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        for _ in range(3):
            torch.testing.assert_close(source.read(ids_BT)[0].cpu(), want)


@pytest.mark.parametrize("pool", ["last", "mean", "max", "min"])
def test_features_are_pooled_on_the_device(pool):
    "What leaves it is one row a text, not a row a byte."
    model = make_model(hidden=16)
    want = pooled_states(ModelStates(model), TEXTS, pool, lanes=2)
    with FakeGpu() as card:
        source = ModelStates(model.to(CUDA))
        card.clear()
        got = pooled_states(source, TEXTS, pool, lanes=2)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    chunks = -(-sum(map(len, TEXTS)) // 2 // 256) + 1
    assert len(card.waits) <= chunks


def test_a_gpu_reads_and_writes_what_a_cpu_does():
    model = make_model(hidden=16)
    texts = [text for text in TEXTS if len(text) > 1]
    want = text_bits(model, texts), generate(model, "The ", 6)
    with FakeGpu():
        model = model.to(CUDA)
        ours = text_bits(model, texts), generate(model, "The ", 6)
    np.testing.assert_allclose(ours[0], want[0], rtol=1e-5)
    assert ours[1] == want[1]


def test_a_float64_model_reads_without_the_kernels():
    model = make_model().double()
    want = ModelStates(model).read(np.arange(6, dtype=np.uint8)[None])[0].clone()
    with FakeGpu():
        got = ModelStates(model.to(CUDA)).read(np.arange(6, dtype=np.uint8)[None])[0].cpu()
    torch.testing.assert_close(got, want)


# ------------------------------------------------------------------ Apple's GPUs


def mps():
    return FakeGpu("mps:0", forbidden=(torch.float64,))


def test_an_apple_gpu_has_no_float64_and_the_kit_asks_for_none():
    "Training with all that belongs to a step, reading, features and writing."
    model = make_model(layers=2)
    texts = [text for text in TEXTS if len(text) > 1]
    want = train(make_model(layers=2), "cpu")[0], text_bits(model, texts), generate(model, "A", 4)
    X_NU = ByteFeaturizer(model, pool="mean").transform(texts)
    with mps(), pytest.raises(TypeError, match="float64"):
        torch.ones(2, device="mps:0").double()
    with mps() as card:
        ours, (_, _, order) = train(make_model(layers=2).to("mps:0"), "mps:0", card=card)
        model = model.to("mps:0")
        scaler_for("fp16").unscale([torch.ones(3, device="mps:0")])
        bits, written = text_bits(model, texts), generate(model, "A", 4)
        features = ByteFeaturizer(model, pool="mean").transform(texts)
    assert order == []
    np.testing.assert_allclose(ours, want[0], rtol=1e-6)
    np.testing.assert_allclose(bits, want[1], rtol=1e-6)
    np.testing.assert_allclose(features, X_NU, rtol=1e-5, atol=1e-7)
    assert written == want[2]
