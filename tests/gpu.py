"""What `make gpu` runs: the GPU kernels against the oracle, the speed of a whole training step
beside the roofline and a naive loop, training after a recording under inference_mode, and one
training leg.

It needs a CUDA device and the host's own Python with torch, triton, numpy, safetensors,
scikit-learn and tqdm; no pytest, no plotly, no orjson.

    python3 tests/gpu.py                     # all sections, under 8 minutes
    python3 tests/gpu.py --check --speed     # only these
    python3 tests/gpu.py --leg --corpus out/corpus --hidden 2048 --minutes 6

Every section prints a table and adds to OUT/gpu.json as it goes, so that being cut off loses
nothing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sentiment_kit.model import gpu_graphs, gpu_kernels
from sentiment_kit.model.cpu_kernels import storage_dtype
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import cross_entropy
from sentiment_kit.model.norms import fused_norm, weight_norm
from sentiment_kit.model.recurrence import recurrence
from sentiment_kit.model.reference import gates, run_steps

DEVICE = "cuda"
BOUNDS = {
    "fp32": 1e-5,
    "bf16": 2e-2,
    "fp16": 2e-2,
}  # on ‖ours − oracle‖ / ‖oracle‖, of states and gradients


class Case(NamedTuple):
    "One comparison with the oracle."

    name: str
    T: int = 3
    B: int = 2
    H: int = 24
    V: int = 11
    layers: int = 1
    resets: bool = False
    windows: tuple = ()  # lengths of the pieces when the state is carried; () is one piece
    floats: bool = False  # float inputs in place of ids
    loss: str = (
        "all"  # "all" states and the last cell; "last" state only; "h": the cell is not used
    )


CASES = [  # small: a program of Triton's interpreter takes some 5 ms
    Case("plain"),
    Case("resets inside", T=5, B=3, resets=True),
    Case("state carried over windows", T=5, windows=(2, 1, 2), resets=True),
    Case("T = 1", T=1),
    Case("B = 1", B=1),
    Case("odd shapes", T=3, B=3, H=37, V=7, resets=True),
    Case("more than one block", T=2, H=1030),
    Case("two layers", layers=2, T=3, resets=True),
    Case("float inputs", floats=True, resets=True),
    Case("only the last state", loss="last"),
    Case("cell not used", loss="h", resets=True),
]
LARGE = [
    Case("many steps", T=200, B=3, resets=True),
    Case("larger", T=64, B=64, H=512, V=256, resets=True),
    Case("larger, two layers", T=24, B=130, H=640, V=256, layers=2, resets=True, windows=(16, 8)),
]


def make_problem(case, kind, device):
    """Leaves in fp32 (weights, inputs, first states), ids, resets and the gradient that comes
    from above."""
    torch.manual_seed(sum(case.name.encode()))
    T, B, H, D = case.T, case.B, case.H, 5
    names = ("w_x", "w_h", "w_mx", "w_mh") if kind == "mlstm" else ("w_x", "w_h")
    leaves = {"x": torch.randn(*((T, B) if case.floats else (case.V,)), D)}
    for k in range(case.layers):
        for name in names:
            fan_in = H if name[2:] in ("h", "mh") or k else D
            leaves[f"{name}{k}"] = (
                torch.randn(fan_in, 4 * H if name in ("w_x", "w_h") else H) / fan_in**0.5
            )
        leaves |= {
            f"b{k}": torch.randn(4 * H) / 2,
            f"h{k}": torch.randn(B, H) / 2,
            f"c{k}": torch.randn(B, H),
        }
    leaves = {name: t.to(device).requires_grad_() for name, t in leaves.items()}
    ids_TB = None if case.floats else torch.randint(case.V, (T, B)).to(device)
    reset_TB = (torch.rand(T, B) < 0.25).to(device) if case.resets else None
    return leaves, ids_TB, reset_TB, torch.randn(T, B, H).to(device)


def loss_of(case, h_TBH, c_BH, above_TBH):
    last = (h_TBH[-1] * c_BH).sum() + c_BH.square().sum() / 2
    return {"all": (h_TBH * above_TBH).sum() + last, "last": last, "h": (h_TBH * above_TBH).sum()}[
        case.loss
    ]


def run_ours(run, case, leaves, ids_TB, reset_TB, precision):
    """Windows one after the other, layer by layer, by `run` (a `recurrence`): h_TBH of the
    top, its last c_BH."""
    multiplicative = "w_mx0" in leaves
    states = [(leaves[f"h{k}"], leaves[f"c{k}"]) for k in range(case.layers)]
    pieces, start = [], 0
    for length in case.windows or (case.T,):
        now, ids = slice(start, start + length), None
        x, start = leaves["x"][now] if ids_TB is None else leaves["x"], start + length
        if ids_TB is not None:
            ids = ids_TB[now]
        for k in range(case.layers):
            zx = x @ leaves[f"w_x{k}"] + leaves[f"b{k}"]
            mx, w_mh = (
                (x @ leaves[f"w_mx{k}"], leaves[f"w_mh{k}"]) if multiplicative else (None, None)
            )
            resets = None if reset_TB is None else reset_TB[now]
            x, c_BH = run(zx, mx, leaves[f"w_h{k}"], w_mh, *states[k], ids, resets, precision)
            states[k], ids = (x[-1], c_BH), None
        pieces.append(x)
    return torch.cat(pieces), states[-1][1]


def run_oracle(case, leaves, ids_TB, reset_TB):
    x_TBD = leaves["x"] if ids_TB is None else torch.nn.functional.embedding(ids_TB, leaves["x"])
    x_BTD, reset_BT = x_TBD.transpose(0, 1), None if reset_TB is None else reset_TB.t()
    for k in range(case.layers):
        w = {
            name: leaves[f"{name}{k}"]
            for name in ("w_x", "w_h", "w_mx", "w_mh", "b")
            if f"{name}{k}" in leaves
        }
        x_BTD, c_BTH = run_steps(x_BTD, w, leaves[f"h{k}"], leaves[f"c{k}"], reset_BT)
    return x_BTD.transpose(0, 1), c_BTH[:, -1]


def results_of(case, leaves, above_TBH, states):
    "The states, and every gradient, by name."
    gradients = torch.autograd.grad(
        loss_of(case, *states, above_TBH), leaves.values(), allow_unused=True
    )
    named = {f"d_{name}": d for name, d in zip(leaves, gradients, strict=True) if d is not None}
    return {"h": states[0].detach(), "c": states[1].detach()} | named


def compare(run, case, kind, precision, device, again=1):
    """Relative error of every state and gradient against float64, and what each of the
    `again` runs gave."""
    leaves, ids_TB, reset_TB, above_TBH = make_problem(case, kind, device)
    ours = []
    for _ in range(again):
        states = run_ours(run, case, leaves, ids_TB, reset_TB, precision)
        ours.append(results_of(case, leaves, above_TBH.to(states[0].dtype), states))
        del states
    exact = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
    want = results_of(case, exact, above_TBH.double(), run_oracle(case, exact, ids_TB, reset_TB))
    assert set(want) == set(ours[-1])
    errors = {name: ((ours[-1][name] - t).norm() / t.norm()).item() for name, t in want.items()}
    return errors, ours


def section_check(report, save):
    """Every case, kind and precision, launch by launch and as graphs; the two must agree to
    the last bit."""
    print(
        f"\nCorrectness: worst relative error of states and gradients against the float64 "
        f"oracle (bounds {BOUNDS})\n"
    )
    print(
        f"{'case':28} {'cell':6} "
        + " ".join(f"{p:>8} {'graphs':>8}" for p in BOUNDS)
        + "  same bits"
    )
    failed, rows = [], []
    report["check"] = rows
    pool = gpu_graphs.loop_pool
    for case in CASES + LARGE:
        for kind in ("mlstm", "lstm"):
            row, same = {"case": case.name, "cell": kind}, True
            for precision, bound in BOUNDS.items():
                pool.idle.clear()
                pool.recent.clear()
                pool.use_graphs = False
                eager, (plain, twice) = compare(recurrence, case, kind, precision, DEVICE, again=2)
                assert pool.recent, "recurrence did not use gpu_graphs"
                pool.use_graphs = True
                graphed, replays = compare(recurrence, case, kind, precision, DEVICE, again=4)
                recorded = sum(len(loops.graphs) for loops in pool.idle)
                same &= all(torch.equal(plain[n], r[n]) for r in (twice, *replays) for n in plain)
                row[precision], row[precision + " graphs"] = (
                    max(eager.values()),
                    max(graphed.values()),
                )
                for how, errors in (("eager", eager), ("graphs", graphed)):
                    worst = max(
                        errors,
                        key=lambda name: (
                            errors[name] if errors[name] == errors[name] else float("inf")
                        ),
                    )
                    if not errors[worst] < bound:
                        failed.append(
                            f"{case.name}, {kind}, {precision}, {how}: {worst} is off by "
                            f"{errors[worst]:.1e}"
                        )
                if recorded < 2:
                    failed.append(
                        f"{case.name}, {kind}, {precision}: {recorded} graphs were recorded, "
                        f"not 2 or more"
                    )
            if not same:
                failed.append(f"{case.name}, {kind}: runs differ in their bits")
            figures = " ".join(f"{row[p]:8.0e} {row[p + ' graphs']:8.0e}" for p in BOUNDS)
            print(f"{case.name:28} {kind:6} {figures}  {'yes' if same else 'NO'}", flush=True)
            rows.append(row | {"same_bits": same})
    pool.idle.clear()
    report["check_failed"] = failed
    save()
    for line in failed:
        print("FAILED", line)
    print("\nall within bounds" if not failed else f"\n{len(failed)} failed", flush=True)
    return not failed


def seconds(run, repeat=1):
    "Time on the device of `repeat` calls, one after the other, per call."
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeat):
        run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3 / repeat


def ceilings():
    """What this card really gives: bytes/s of a large copy (read plus written), FLOP/s of a
    large product by precision."""
    n = 8192
    a, b = torch.randn(2**28, device=DEVICE), torch.empty(2**28, device=DEVICE)
    found = {
        "copy_bytes_per_s": 2
        * a.nbytes
        / statistics.median([seconds(lambda: b.copy_(a)) for _ in range(12)])
    }
    for precision in ("bf16", "fp16"):
        x, y = (
            torch.randn(n, n, device=DEVICE).to(storage_dtype(precision, torch.zeros(())))
            for _ in range(2)
        )
        out = torch.empty_like(x)
        times = [seconds(lambda x=x, y=y, out=out: torch.mm(x, y, out=out), 3) for _ in range(8)]
        found[f"{precision}_flop_per_s"] = 2 * n**3 / statistics.median(times[2:])
    return found


def floor_seconds(H, B, T, flop_per_s, bytes_per_s):
    """Least time of a training pass: twice the longer of 10 H² FLOP a byte and 5 H² weights;
    then the weight gradients."""
    step = max(10 * H**2 * B / flop_per_s, 2 * 5 * H**2 / bytes_per_s)
    return T * (2 * step + 10 * H**2 * B / flop_per_s)


def make_step(H, B, T, precision):
    """A whole training step: weight norm, tables, the recurrence, head, loss, all gradients,
    clipping, AdamW. Nothing in it waits for the device."""
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(hidden_size=H), precision).to(DEVICE)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    state = model.rnn.initial_state(B)
    ids_BT = torch.randint(256, (B, T), device=DEVICE)

    def once(use_graphs=True):
        gpu_graphs.loop_pool.use_graphs = use_graphs
        logits_BTV, _ = model(ids_BT, state)
        cross_entropy(logits_BTV, ids_BT).backward()
        gradients = [p.grad for p in parameters]
        factor = (1.0 / fused_norm(gradients)).clamp_max(1.0)
        torch._foreach_mul_(gradients, factor)
        optimizer.step()
        optimizer.zero_grad()

    return once


def make_naive(H, B, T, precision):
    """The same step as the archived projects write it: autograd over every operation of a plain
    loop in half precision."""
    dtype, E = storage_dtype(precision, torch.zeros(())), 64
    torch.manual_seed(0)
    sizes = dict(w_x=(E, 4 * H), w_h=(H, 4 * H), w_mx=(E, H), w_mh=(H, H))
    sizes |= dict(embed=(256, E), head=(H, 256), b=(1, 4 * H))
    w = {
        name: (torch.randn(size, device=DEVICE) / size[0] ** 0.5).requires_grad_()
        for name, size in sizes.items()
    }
    g = {name: torch.ones(sizes[name][1], device=DEVICE) for name in ("w_x", "w_h", "w_mx", "w_mh")}
    optimizer = torch.optim.AdamW(w.values(), lr=1e-4, fused=True)
    ids_TB = torch.randint(256, (T, B), device=DEVICE)

    def once():
        low = {n: (weight_norm(v, g[n]) if n in g else v).to(dtype) for n, v in w.items()}
        h_BH = c_BH = torch.zeros(B, H, device=DEVICE, dtype=dtype)
        hs = []
        for x_BE in low["embed"][ids_TB].unbind():
            m_BH = (x_BE @ low["w_mx"]) * (h_BH @ low["w_mh"])
            z_BG = x_BE @ low["w_x"] + m_BH @ low["w_h"] + low["b"]
            h_BH, c_BH = gates(z_BG, c_BH)
            hs.append(h_BH)
        cross_entropy(torch.stack(hs) @ low["head"], ids_TB).backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return once


def measure_size(H, B, T, precision, ceiling, rounds):
    "Interleaved: as graphs, launch by launch, and the naive loop."
    ours, naive_T = make_step(H, B, T, precision), 32
    candidates = {
        "graphs": (ours, T),
        "eager": (lambda: ours(False), T),
        "naive": (make_naive(H, B, naive_T, precision), naive_T),
    }
    torch.cuda.reset_peak_memory_stats()
    for name, (run, _) in candidates.items():
        for _ in range(3):  # the second makes the graphs
            run()
        if name == "graphs":
            peak = torch.cuda.max_memory_allocated()
    torch.cuda.synchronize()
    if not any(loops.graphs for loops in gpu_graphs.loop_pool.idle):
        raise RuntimeError("no graph was recorded")
    times = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (run, _) in candidates.items():
            times[name].append(seconds(run))
    figures = ceiling[f"{precision}_flop_per_s"], ceiling["copy_bytes_per_s"]
    floor = B * T / floor_seconds(H, B, T, *figures)
    row = {"H": H, "B": B, "T": T, "precision": precision, "floor": floor}
    for name, (_, length) in candidates.items():
        rates = sorted(B * length / t for t in times[name])
        row[name] = {"median": statistics.median(rates), "low": rates[0], "high": rates[-1]}
    return row | {"share": row["graphs"]["median"] / floor, "peak_GB": peak / 1e9}


def section_speed(report, save, sizes, precisions, T, rounds):
    """Bytes a second of whole training steps, beside the floor of their recurrence from
    ceilings measured here."""
    ceiling = report["ceilings"] = ceilings()
    save()
    print(f"\nCeilings: {ceiling['copy_bytes_per_s'] / 1e12:.2f} TB/s copied", end="")
    print(
        "".join(f", {p} {ceiling[p + '_flop_per_s'] / 1e12:.0f} TFLOP/s" for p in ("bf16", "fp16"))
    )
    print(
        f"\nWhole training steps, from weight norm to AdamW: thousand bytes/s, T = {T}, "
        f"median of {rounds}"
    )
    print(
        "(floor: of the recurrence's products; naive: the same step as a plain autograd loop in "
        "half precision, T = 32; GB: peak memory with graphs)\n"
    )
    print(
        f"{'H':>5} {'B':>4} {'':5} {'floor':>7} {'graphs':>7} {'share':>6} {'spread':>13} "
        f"{'eager':>7} {'naive':>7} {'GB':>6}"
    )
    rows = report["speed"] = []
    for H, precision, B in ((H, p, B) for H, Bs in sizes for p in precisions for B in Bs):
        try:
            row = measure_size(H, B, T, precision, ceiling, rounds)
        except torch.OutOfMemoryError:
            row = {"H": H, "B": B, "T": T, "precision": precision, "error": "out of memory"}
        except RuntimeError as e:
            row = {"H": H, "B": B, "T": T, "precision": precision, "error": str(e).splitlines()[0]}
        gpu_graphs.loop_pool.idle.clear()
        gpu_graphs.loop_pool.recent.clear()
        torch.cuda.empty_cache()
        rows.append(row)
        save()
        if "error" in row:
            print(f"{H:5} {B:4} {precision:5} {row['error']}", flush=True)
            continue
        k = {
            name: row[name]["median"] / 1e3 for name in ("graphs", "eager", "naive") if name in row
        }
        spread = f"{row['graphs']['low'] / 1e3:.0f} – {row['graphs']['high'] / 1e3:.0f}"
        naive = f"{k['naive']:7.0f}" if "naive" in k else f"{'':7}"
        print(
            f"{H:5} {B:4} {precision:5} {row['floor'] / 1e3:7.0f} {k['graphs']:7.0f} "
            f"{row['share']:6.2f} {spread:>13} "
            f"{k['eager']:7.0f} {naive} {row['peak_GB']:6.1f}",
            flush=True,
        )
    gpu_graphs.loop_pool.use_graphs = True
    return all("error" not in row or row["error"] == "out of memory" for row in rows)


def inference_then_train():
    "The first recording of a process is made under inference_mode, then the model trains."
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(hidden_size=256), "bf16").to(DEVICE)
    ids_BT = torch.randint(256, (8, 16), device=DEVICE)
    with torch.inference_mode():
        for _ in range(3):
            model(ids_BT)
        reader, state = model.prepare(8), None
        for _ in range(4):
            _, state = reader.logits(ids_BT, state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for _ in range(8):
        logits_BTV, _ = model(ids_BT)
        loss = cross_entropy(logits_BTV, ids_BT)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    recorded = sum(len(loops.graphs) for loops in gpu_graphs.loop_pool.idle)
    assert losses[-1] < losses[0] and recorded >= 3, (losses, recorded)
    print(f"loss {losses[0]:.3f} → {losses[-1]:.3f} nats in 8 steps, {recorded} graphs")


def section_inference(report, save):
    "`inference_then_train` in a process of its own, where nothing was recorded before."
    print("\nTraining after a first recording under inference_mode\n", flush=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import gpu; gpu.inference_then_train()"
    here = str(Path(__file__).resolve().parent)
    done = subprocess.run([sys.executable, "-c", code, here], capture_output=True, text=True)
    fine = done.returncode == 0
    print(done.stdout.strip() if fine else "FAILED " + done.stderr.strip()[-800:], flush=True)
    report["inference_then_train"] = fine
    save()
    return fine


def stand_in_for_orjson():
    "A GPU box need not have orjson: the few reviews of the leg's corpus are read by json."
    try:
        import orjson  # noqa: F401
    except ImportError:
        stand_in = ModuleType("orjson")
        stand_in.loads, stand_in.JSONDecodeError = json.loads, ValueError
        stand_in.dumps = lambda value, default=None: json.dumps(value, default=default).encode()
        stand_in.JSONEncodeError = TypeError
        sys.modules["orjson"] = stand_in


def leg_corpus(args):
    "The corpus of the leg: a folder that was named, or one made of the samples."
    stand_in_for_orjson()
    from sentiment_kit.data.corpus import open_corpus
    from sentiment_kit.data.datasets import SAMPLES
    from sentiment_kit.data.shards import make_shards

    if args.corpus:
        return open_corpus(args.corpus)
    columns = dict(text_key="text", stars_key="stars", split_key="split")
    return make_shards(SAMPLES, args.out / "samples", counts=(1, 1, 1), **columns)


def section_leg(report, save, args, ceiling):
    "The kit's own trainer in bf16 on a corpus, for so many minutes; run again it goes on."
    from sentiment_kit.data.loader import ShardLoader
    from sentiment_kit.training.callbacks import (
        Callback,
        LogMetrics,
        Progress,
        SaveCheckpoint,
        StopOnNonFinite,
        Validate,
    )
    from sentiment_kit.training.config import TrainConfig
    from sentiment_kit.training.step import take_step
    from sentiment_kit.training.trainer import Stopped, Trainer, train

    class StopAfter(Callback):
        "Ask to stop when the time is over; before SaveCheckpoint, so that this very step is saved."

        def on_start(self, trainer):
            self.end = time.monotonic() + 60 * args.minutes

        def on_step(self, trainer):
            if time.monotonic() > self.end:
                trainer.ask_to_stop(f"stopped after {args.minutes:g} minutes")

    out = args.out / "leg"
    corpus = leg_corpus(args)
    lanes = args.lanes or (128 if args.corpus else 64)
    model = LanguageModelConfig(hidden_size=args.hidden, preset=corpus.preset)
    config = TrainConfig(
        str(corpus.folder),
        str(out),
        model,
        global_batch=lanes,
        lr=args.lr,
        precision="bf16",
        device=DEVICE,
    )
    config.progress, config.save_every, config.log_every = "lines", 2000, 10
    stored = out / "train_config.json"
    if stored.exists():
        config.epochs = json.loads(stored.read_text(encoding="utf-8"))["epochs"]
    elif (
        not args.corpus
    ):  # a small text is read as often as the time allows: measure a few steps first
        trial = Trainer(config, callbacks=[])
        trial.loader = ShardLoader(corpus, "train", lanes, config.seq_len, config.reset)
        took = [take_step(trial, batch).seconds for _ in range(6) for batch in trial.loader]
        per_epoch = statistics.median(took[len(took) // 2 :]) * trial.loader.steps_per_epoch
        config.epochs = max(1, int(0.8 * 60 * args.minutes / per_epoch))
        del trial
        gpu_graphs.loop_pool.idle.clear()
    print(
        f"\nTraining leg: H = {args.hidden}, {lanes} lanes, bf16, {config.epochs} epochs, "
        f"at most {args.minutes:g} minutes\n"
    )
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    callbacks = [
        Validate(),
        StopOnNonFinite(),
        LogMetrics(),
        StopAfter(),
        SaveCheckpoint(),
        Progress(),
    ]
    try:
        train(config, callbacks)
        ended = "finished"
    except Stopped as e:
        ended = str(e)
    lines = [
        json.loads(line)
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    steps = [line for line in lines if "loss_bits" in line]
    valid = [line["valid_bits"] for line in lines if "valid_bits" in line]
    rate = statistics.median(line["bytes_per_s"] for line in steps[len(steps) // 4 :])
    leg = {
        "hidden": args.hidden,
        "lanes": lanes,
        "seq_len": config.seq_len,
        "epochs": config.epochs,
        "ended": ended,
    }
    leg |= {
        "steps": steps[-1]["step"],
        "bytes": steps[-1]["bytes"],
        "bytes_per_s": rate,
        "valid_bits": valid,
    }
    leg |= {"first_loss_bits": steps[0]["loss_bits"], "last_loss_bits": steps[-1]["loss_bits"]}
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    leg |= {"peak_GB": peak / 1e9, "run": out.name}
    if ceiling:
        T, figures = config.seq_len, (ceiling["bf16_flop_per_s"], ceiling["copy_bytes_per_s"])
        leg["share_of_floor"] = rate / (lanes * T / floor_seconds(args.hidden, lanes, T, *figures))
    report["leg"] = leg
    save()
    print(
        f"\n{leg['steps']} steps, {leg['bytes'] / 1e6:.1f} MB, {rate:,.0f} bytes/s of whole "
        f"training steps",
        end="",
    )
    print(
        f" ({leg['share_of_floor']:.2f} of the recurrence's floor)" if ceiling else "",
        f"{leg['peak_GB']:.1f} GB",
    )
    print(
        f"loss {leg['first_loss_bits']:.3f} → {leg['last_loss_bits']:.3f} bits/byte; validation",
        *(f"{b:.3f}" for b in valid),
    )
    print(ended, flush=True)
    return leg["last_loss_bits"] < leg["first_loss_bits"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("check", "speed", "inference", "leg"):
        parser.add_argument(
            f"--{name}", action="store_true", help="only this section (and the others named)"
        )
    parser.add_argument(
        "--out", type=Path, default=Path("out/gpu"), help="folder for gpu.json and the leg's run"
    )
    parser.add_argument("--hidden", type=int, default=2048, help="H of the training leg")
    parser.add_argument(
        "--lanes", type=int, default=0, help="lanes of the leg; 0: 128, or 64 on the samples"
    )
    parser.add_argument(
        "--lr", type=float, default=5e-4, help="learning rate of the leg for 128 lanes"
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="longest time of the leg")
    parser.add_argument(
        "--corpus", default=None, help="corpus folder of the leg; default: built from the samples"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[1024, 2048, 4096], help="H of the speed table"
    )
    parser.add_argument(
        "--precisions", nargs="*", default=["bf16"], help="of the speed table: bf16, fp16"
    )
    parser.add_argument(
        "--batches", type=int, nargs="*", default=[128, 256, 512], help="B of the speed table"
    )
    parser.add_argument("--rounds", type=int, default=5, help="repeats in the speed table")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "make gpu: this machine has no CUDA device, so nothing was measured.", file=sys.stderr
        )
        return 2
    every = not (args.check or args.speed or args.inference or args.leg)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    triton = gpu_kernels.triton.__version__ if gpu_kernels.available(DEVICE) else "not used"
    machine |= {"triton": triton, "python": platform.python_version()}
    path = args.out / "gpu.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if report.get("machine") != machine:  # else the sections that are not run again stay
        report = {"machine": machine}

    def save():
        report["seconds"] = round(time.monotonic() - started, 1)
        path.with_suffix(".writing").write_text(json.dumps(report, indent=1), encoding="utf-8")
        os.replace(path.with_suffix(".writing"), path)

    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    save()
    if (args.check or every) and not section_check(report, save):
        return 1
    fine = True
    if args.speed or every:
        fine = section_speed(
            report,
            save,
            [(H, args.batches) for H in args.sizes],
            args.precisions,
            256,
            args.rounds,
        )
    if args.inference or every:
        fine = section_inference(report, save) and fine
    if args.leg or every:
        fine = section_leg(report, save, args, report.get("ceilings")) and fine
    save()
    print(f"\n{report['seconds']:.0f} seconds in all; figures in gpu.json")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
