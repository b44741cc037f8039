"""Plans: counts against real models, floors against published figures, what fits."""

import json
import math
import time
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from sentiment_kit.data.files import KitError
from sentiment_kit.model import pieces
from sentiment_kit.model.cpu_kernels import PRECISIONS
from sentiment_kit.model.gpu_buffers import Shape, buffer_sizes
from sentiment_kit.model.kernel_loops import torch_pool
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import cross_entropy
from sentiment_kit.model.pieces import own_rows
from sentiment_kit.model.recurrence import run_forward
from sentiment_kit.recipes import read_recipe, runs_folder
from sentiment_kit.training import budget, counts
from sentiment_kit.training.budget import (
    data_parallel,
    floor_seconds,
    largest_batch,
    plan,
)
from sentiment_kit.training.ceilings import CARDS, Ceilings, card_ceilings, measure_ceilings
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.counts import count_flops, count_memory, count_parameters

CONFIGS = [
    LanguageModelConfig(),
    LanguageModelConfig(hidden_size=8192),
    LanguageModelConfig(cell="lstm", hidden_size=512, n_layers=2),
    LanguageModelConfig(hidden_size=100, embed_size=7, weight_norm=False),
    LanguageModelConfig(cell="lstm", hidden_size=33, weight_norm=False, n_layers=3),
    LanguageModelConfig(vocab_size=26, embed_size=10, hidden_size=1900, n_layers=4),
]
HERE = Ceilings("desk", "cpu", "fp32", 1e11, 1e10, 8 << 30, 0)
H100 = card_ceilings("H100 80GB SXM", "bf16")

configs = st.builds(
    LanguageModelConfig,
    cell=st.sampled_from(["mlstm", "lstm"]),
    vocab_size=st.integers(2, 300),
    embed_size=st.integers(1, 80),
    hidden_size=st.integers(8, 9000),
    n_layers=st.integers(1, 4),
    weight_norm=st.booleans(),
)
halves = st.sampled_from(
    [(name, precision) for name, card in CARDS.items() for precision in card.tflops]
)


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_equal_a_real_model_array_by_array(config):
    with torch.device("meta"):
        real = {name: p.numel() for name, p in LanguageModel(config).named_parameters()}
    assert count_parameters(config) == real


@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_flops_equal_those_torch_counts(cell, n_layers, weight_norm):
    "In float64: there no product is packed, so torch sees every one."
    config = LanguageModelConfig(cell, 26, 6, 20, n_layers, weight_norm)
    model, (B, T) = LanguageModel(config).double(), (3, 11)
    ids_BT = torch.randint(26, (B, T + 1))
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(ids_BT[:, :-1])[0], ids_BT[:, 1:]).backward()
    assert counter.get_total_flops() == round(3 * sum(count_flops(config, B * T).values()) * B * T)


def test_training_costs_30_hidden_squared_and_an_lstm_24():
    for cell, factor in (("mlstm", 30), ("lstm", 24)):
        config = LanguageModelConfig(cell, hidden_size=4096)
        assert 3 * count_flops(config, 128 * 256)["recurrence"] == factor * 4096**2
        assert plan(config, HERE).flops_per_byte == pytest.approx(factor * 4096**2, rel=0.02)


@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_hold_what_the_tape_really_holds(cell, precision):
    "Bytes of a real tape, its T + 1st row apart; the plan adds the gradient of h and the logits."
    H, B, T, V = 16, 3, 40, 10
    layer = LanguageModel(LanguageModelConfig(cell, V, 4, H)).rnn.layers[0]
    zx, mx, w_h, w_mh = (None if t is None else t.detach() for t in layer.inputs(torch.randn(V, 4)))
    zero_BH, ids_TB = torch.zeros(B, H), torch.randint(V, (T, B))
    tape = run_forward(zx, mx, w_h, w_mh, zero_BH, zero_BH, ids_TB, None, precision, keep=True)
    kept = {id(t): t for t in vars(tape).values() if isinstance(t, torch.Tensor)}.values()
    held = sum(t[:T].numel() * t.element_size() for t in kept)
    planned = count_memory(LanguageModelConfig(cell, V, 4, H), B, T, precision, "cpu")[
        "activations"
    ]
    assert planned == held + T * B * (4 * V + max(4 * H, 8 * V))


@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
def test_tables_that_each_thread_keeps_for_itself_are_counted(cell, monkeypatch):
    "As many bytes as a real way back makes room for, and none where the threads share one."
    config = LanguageModelConfig(cell, 100, 4, 16)
    count = partial(count_memory, config, 24, 5, "fp32", "cpu")
    held = []

    def watched(given, n_parts):
        rows = own_rows(given, n_parts)
        held.append(sum(d.numel() * d.element_size() for d in rows if d is not None))
        return rows

    monkeypatch.setattr(pieces, "own_rows", watched)
    ids_BT = torch.randint(100, (24, 5))
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            LanguageModel(config)(ids_BT)[0].sum().backward()
    finally:
        torch.set_num_threads(1)
    if len(held) < 2 or torch_pool() is None:
        pytest.skip("no LLVM, no AVX-512 or no threads to be shared here")
    one, three = (sum(count(threads=threads).values()) for threads in (1, 3))
    assert three - one == held[1] - held[0] > 0
    assert count(threads=3)["thread tables"] == three - one
    assert count_memory(config, 24, 5, "fp32", threads=3)["thread tables"] == 0, "a GPU has none"
    monkeypatch.setattr(counts, "OWN_TABLES", 3 * 4 * 100 * 16 - 1)
    assert count(threads=3)["thread tables"] == 0


def test_a_plan_for_a_processor_counts_its_threads():
    alone, many = (plan(CONFIGS[0], replace(HERE, threads=threads)) for threads in (1, 16))
    assert many.memory_bytes - alone.memory_bytes == 15 * 4 * 256 * 5 * 4096
    assert "thread tables" in str(many) and "thread tables" not in str(alone)
    roomy = replace(HERE, threads=16, memory_bytes=16 << 30)
    most = largest_batch(CONFIGS[0], roomy)
    assert plan(CONFIGS[0], roomy, most).fits and not plan(CONFIGS[0], roomy, most + 8).fits


def test_memory_of_parameters_is_16_bytes_each_with_adam_and_4_with_masters_on_the_cpu():
    config = replace(CONFIGS[0], weight_norm=False)
    P = sum(count_parameters(config).values())
    fp32, half = (
        count_memory(config, 128, 256, "fp32"),
        count_memory(config, 128, 256, "fp16", masters="cpu"),
    )
    assert (
        fp32["parameters"] + fp32["gradients"] + fp32["optimizer"] == 16 * P
        and fp32["host"] == 12 * P
    )
    assert (
        half["parameters"] + half["gradients"] == 4 * P
        and half["optimizer"] == 0
        and half["host"] == 28 * P
    )
    assert fp32["effective weights"] == half["effective weights"] == 0, (
        "the parameters themselves multiply"
    )
    many, here = (
        count_memory(config, 128, 256, "fp32", n_gpus=8),
        count_memory(config, 128, 256, "fp32", "cpu"),
    )
    assert fp32["gradient sum"] == 0 and many == fp32 | {"gradient sum": 4 * P}
    assert here["snapshot"] == 12 * P and here["host"] == fp32["snapshot"] == 0, (
        "a CPU has one memory"
    )


@pytest.mark.parametrize(("lanes", "million"), [(128, 0.88), (256, 1.47), (512, 1.54)])
def test_h100_floors_of_the_design(lanes, million):
    "At 800 TFLOP/s and 3.0 TB/s."
    ceilings = replace(H100, flop_per_s=800e12, bytes_per_s=3.0e12)
    assert plan(CONFIGS[0], ceilings, lanes, precision="bf16").floor_bytes_per_s == pytest.approx(
        million * 1e6, rel=0.01
    )
    assert plan(CONFIGS[0], "H100", lanes, precision="bf16").floor_bytes_per_s == pytest.approx(
        million * 1e6, rel=0.01
    )


@pytest.mark.parametrize("name", ["h100_1x", "h100_8x"])
def test_recipes_for_an_h100_take_the_lanes_that_the_budget_finds(name):
    "At 256 lanes a GPU the floor is within 5% of that at 512; what the recipe says is the plan's."
    recipe = read_recipe(name)
    n = recipe.get("nproc", 1)
    how = dict(precision=recipe["precision"], n_gpus=n)
    config = LanguageModelConfig(hidden_size=recipe["hidden_size"])
    floors = [plan(config, "H100", lanes * n, **how).floor_bytes_per_s for lanes in (128, 256, 512)]
    ours = plan(config, "H100", recipe["global_batch"], **how)
    assert ours.fits and ours.floor_bytes_per_s == floors[1] > 1.6 * floors[0]
    one = plan(config, "H100", recipe["global_batch"] // n, precision=recipe["precision"])
    most = plan(config, "H100", 512, precision=recipe["precision"])
    assert one.floor_bytes_per_s > 0.95 * most.floor_bytes_per_s
    said = (runs_folder() / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    said = " ".join(said.replace("\n# ", " ").split())
    digits = 2 if n == 1 else 1
    assert f"a floor of {ours.floor_bytes_per_s / 1e6:.{digits}f} million bytes a second" in said
    assert f"({floors[0] / 1e6:.{digits}f} at" in said and "not measured" in said


def test_reading_weights_bounds_few_lanes_and_arithmetic_many():
    loop = {
        B: floor_seconds(CONFIGS[0], B, 256, H100)["loop forward"] for B in (1, 128, 256, 512, 1024)
    }
    assert loop[1] == loop[128] == loop[256] and loop[1024] == 2 * loop[512] > 2 * loop[256] * 0.9
    read = 256 * 5 * 4096**2 * 2 / H100.bytes_per_s
    assert loop[1] == pytest.approx(read)
    cached = replace(H100, cache_bytes=5 * 4096**2 * 2)
    assert floor_seconds(CONFIGS[0], 1, 256, cached)["loop forward"] < read / 100, (
        "weights in the cache are not read again"
    )


@settings(deadline=None, max_examples=60)
@given(
    configs, halves, st.integers(1, 600), st.integers(1, 300), st.sampled_from(["device", "cpu"])
)
def test_largest_batch_fits_and_one_more_block_does_not(config, card, lanes, seq_len, masters):
    name, precision = card
    masters = masters if precision != "fp32" else "device"
    ceilings = card_ceilings(name, precision)
    most = largest_batch(config, ceilings, seq_len, masters)
    fits = lambda n: plan(config, name, n, seq_len, precision, masters).fits
    assert most % 8 == 0 and most >= 0
    assert most == 0 or fits(most)
    assert not fits(most + 8)
    assert fits(lanes) or lanes > most, "whatever is below the largest fits"


@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_window_that_waits_beside_the_step_is_counted(cell, precision):
    "As large as the buffers that `gpu_buffers` allocates for a whole window of that many lanes."
    config = LanguageModelConfig(cell=cell, hidden_size=512, n_layers=2)
    count = count_memory(config, 64, 128, precision)
    dtype = PRECISIONS[precision] or torch.float32
    shape = Shape(torch.device("cuda"), dtype, 128, 64, 512, 256, cell == "mlstm", True)
    sizes = buffer_sizes(shape)
    kept = [sizes[name] for name in sizes if name.endswith(("TBH", "KBG", "KBH"))]
    real = 2 * sum(math.prod(size) * kind.itemsize for size, kind in kept)
    assert count["other windows"] == pytest.approx(real, rel=0.02)
    assert count_memory(config, 64, 128, precision, "cpu")["other windows"] == 0


@settings(deadline=None, max_examples=60)
@given(configs, halves, st.integers(1, 600), st.integers(1, 300))
def test_more_never_needs_less(config, card, lanes, seq_len):
    name, precision = card
    base = plan(config, name, lanes, seq_len, precision)
    for larger in (
        replace(config, hidden_size=config.hidden_size + 1),
        replace(config, n_layers=config.n_layers + 1),
    ):
        more = plan(larger, name, lanes, seq_len, precision)
        assert more.memory_bytes > base.memory_bytes and more.flops_per_byte > base.flops_per_byte
    for more in (
        plan(config, name, lanes + 1, seq_len, precision),
        plan(config, name, lanes, seq_len + 1, precision),
    ):
        assert more.memory_bytes > base.memory_bytes
        assert sum(more.seconds.values()) >= sum(base.seconds.values())
        assert more.floor_bytes_per_s >= base.floor_bytes_per_s * (1 - 1e-9), (
            "larger steps are never slower by the byte"
        )
    assert (
        base.memory_bytes == sum(base.memory.values()) - base.memory["host"]
        and min(base.seconds.values()) >= 0
    )
    if precision != "fp32" and config.weight_norm:
        assert plan(config, name, lanes, seq_len, precision, "cpu").memory_bytes < base.memory_bytes


def test_h_8192_fits_a_16_gb_card_only_at_modest_batches():
    big = CONFIGS[1]
    assert plan(big, "H100", 512, precision="bf16").fits
    assert not plan(big, "V100 16GB", 256, precision="fp16").fits
    assert plan(big, "V100 16GB", 56, precision="fp16").fits
    assert plan(big, "V100 16GB", 120, precision="fp16", masters="cpu").fits
    too_large = plan(replace(big, hidden_size=20000), "V100 16GB", 8, precision="fp16")
    assert too_large.largest_batch == 0 and "masters='cpu'" in too_large.sentence()


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-3, 10), st.integers(10**3, 10**9), st.integers(1, 512), st.floats(1, 900))
def test_data_parallel_is_a_ring(seconds, n_parameters, n_gpus, link):
    alone = data_parallel(seconds, 32768, n_parameters, 1)
    assert alone == (pytest.approx(32768 / seconds), 1.0, 0.0)
    together = data_parallel(seconds, 32768, n_parameters, n_gpus, link)
    assert 0 < together.efficiency <= 1
    assert together.bytes_per_s == pytest.approx(n_gpus * alone.bytes_per_s * together.efficiency)
    assert (
        data_parallel(seconds, 32768, n_parameters, n_gpus + 1, link).efficiency
        < together.efficiency
    )
    assert (
        data_parallel(seconds, 32768, n_parameters, n_gpus, 2 * link).efficiency
        >= together.efficiency
    )
    free = data_parallel(seconds, 32768, n_parameters, 2, link, latency_s=0.0)
    assert free.reduce_seconds == pytest.approx(n_parameters * 4 / (link * 1e9)), (
        "two devices: each sends P numbers"
    )


def test_efficiency_does_not_depend_on_the_hidden_size():
    "Gradients and products both grow as H²: a ring costs large and small models the same share."
    shares = [
        plan(c, "A100 80GB", 1024, precision="bf16", n_gpus=8, link_gb_per_s=50).scaling.efficiency
        for c in CONFIGS[:2]
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.01) and 0.5 < shares[0] < 0.99


def test_plan_of_several_devices_and_an_epoch():
    one, eight = (
        plan(CONFIGS[0], "H100", 128, precision="bf16"),
        plan(CONFIGS[0], "H100", 1024, precision="bf16", n_gpus=8),
    )
    assert eight.memory | {"gradient sum": 0} == one.memory and eight.seconds == one.seconds
    assert 7 < eight.floor_bytes_per_s / one.floor_bytes_per_s < 8
    assert one.epoch_seconds is None
    epoch = plan(CONFIGS[0], "H100", 128, precision="bf16", corpus_bytes=10**9)
    assert epoch.epoch_seconds == pytest.approx(10**9 / epoch.floor_bytes_per_s)


def test_a_train_config_brings_its_own_batch_length_and_precision():
    config = TrainConfig("corpus", "out", CONFIGS[2], global_batch=64, seq_len=32, precision="bf16")
    ceilings = replace(HERE, precision="bf16")
    assert plan(config, ceilings) == plan(CONFIGS[2], ceilings, 64, 32, "bf16")
    assert plan(config, ceilings, global_batch=16).global_batch == 16
    default = plan(CONFIGS[2], HERE)
    assert (default.global_batch, default.seq_len, default.ceilings.precision) == (128, 256, "fp32")


def test_a_plan_reads_well():
    p = plan(
        CONFIGS[0], "H100", 1024, precision="bf16", masters="cpu", n_gpus=8, corpus_bytes=38 * 10**9
    )
    text = str(p)
    for expected in (
        "8 x H100 80GB SXM",
        "published, not measured",
        "86.3 million",
        "bytes/s",
        "host memory",
        "efficiency",
    ):
        assert expected in text
    assert text.endswith(p.sentence()) and p.sentence().startswith(
        "H = 4096 with 128 lanes x 256 bytes fits"
    )
    assert max(map(len, text.splitlines())) < 200
    assert (
        p._repr_markdown_().startswith("| | |\n|---|---|\n| model |")
        and p.sentence() in p._repr_markdown_()
    )
    plain = str(plan(CONFIGS[0], HERE, 8))
    assert not any(word in plain for word in ("host memory", "all-reduce", "epoch", "None"))


def test_every_card_is_whole_and_says_where_it_comes_from():
    for name, card in CARDS.items():
        for precision in card.tflops:
            ceilings = card_ceilings(name, precision)
            assert (
                ceilings.device == name
                and ceilings.kind == "cuda"
                and card.source in ceilings.source
            )
            assert (
                ceilings.flop_per_s < card.tflops[precision] * 1e12
                and ceilings.bytes_per_s < card.gb_per_s * 1e9
            )
    assert H100.flop_per_s == pytest.approx(800e12, rel=0.01) and H100.bytes_per_s == pytest.approx(
        3e12, rel=0.01
    )
    assert card_ceilings("v100 32gb", "fp16").device == "V100 32GB SXM2"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measured_ceilings_are_sane_and_quick(precision):
    threads, start = torch.get_num_threads(), time.perf_counter()
    ceilings = measure_ceilings("cpu", precision)
    assert time.perf_counter() - start < 60
    assert torch.get_num_threads() == threads == ceilings.threads
    assert 1e9 < ceilings.flop_per_s < 1e15 and 1e8 < ceilings.bytes_per_s < 1e13
    assert ceilings.memory_bytes > 1 << 28 and ceilings.cache_bytes >= 0 and ceilings.spread >= 0
    assert ceilings.source == "measured" and ceilings.kind == "cpu"
    assert Ceilings(**json.loads(json.dumps(asdict(ceilings)))) == ceilings


def test_this_machine_is_measured_once(monkeypatch):
    calls = []
    monkeypatch.setattr(budget, "measure_ceilings", lambda *about: calls.append(about) or HERE)
    budget._measured.cache_clear()
    assert plan(CONFIGS[2]) == plan(CONFIGS[2], "cpu") and calls == [("cpu", "fp32")]
    budget._measured.cache_clear()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(device="H1000"), "V100 16GB SXM2"),
        (dict(device=""), "H100 80GB SXM"),
        (dict(device="A100"), "A100 40GB SXM"),
        (dict(device="V100 16GB", precision="bf16"), "use one of fp32, fp16"),
        (dict(device="H100", precision="fp8"), "use one of fp32, bf16, fp16"),
        (dict(device="cpu", precision="fp8"), "fp32, bf16, fp16"),
        (dict(precision="bf16"), "these ceilings of desk are for fp32"),
        (dict(masters="cpu"), "masters='device'"),
        (dict(device="H100", masters="cpu"), "bf16 or fp16"),
        (dict(masters="disk"), "'device' or 'cpu'"),
        (dict(n_gpus=3), "multiple"),
        (dict(n_gpus=0), "n_gpus is 0"),
        (dict(global_batch=-8), "global_batch is -8"),
        (dict(seq_len=0), "seq_len is 0"),
        (dict(link_gb_per_s=0.0), "link_gb_per_s"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong, says):
    with pytest.raises(KitError) as error:
        plan(CONFIGS[0], **{"device": HERE} | wrong)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_ceilings_refuse_nonsense():
    for wrong in (dict(precision="int8"), dict(flop_per_s=0.0), dict(memory_bytes=-1)):
        with pytest.raises(KitError):
            replace(HERE, **wrong)
    with pytest.raises(KitError, match="'cpu' or 'cuda'"):
        measure_ceilings("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(KitError, match="no CUDA device"):
            plan(CONFIGS[0], "cuda")


@pytest.mark.cuda
def test_measured_ceilings_of_a_card():
    ceilings = measure_ceilings("cuda", "fp16")
    assert ceilings.flop_per_s > 1e12 and ceilings.bytes_per_s > 1e11 and ceilings.kind == "cuda"
    assert plan(LanguageModelConfig(hidden_size=1024), ceilings, precision="fp16").fits
