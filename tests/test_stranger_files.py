"""Files from strangers: crafted or damaged, each ends in one sentence, quickly, in little memory.

Every case runs in a fork of its own. `--n 2000` sets the number of the long test.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from sentiment_kit.cli import main
from sentiment_kit.data.checksums import manifest_text
from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.datasets import SAMPLES
from sentiment_kit.data.files import KitError, digest, sha256_file
from sentiment_kit.data.shards import make_shards
from sentiment_kit.evidence.gap_losses import find_moments, unseen_at
from sentiment_kit.looking.gap_bar import gap_html
from sentiment_kit.model.convert import load_nvidia, load_openai, save_openai
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.recipes import read_recipe, summarise
from sentiment_kit.training.checkpoint import load_checkpoint
from sentiment_kit.training.config import TrainConfig, read_train_config
from sentiment_kit.training.metrics import read_metrics
from sentiment_kit.training.saved_arrays import read_numbers
from sentiment_kit.training.step import make_optimizer
from sentiment_kit.training.trainer import train
from sentiment_kit.transfer.classifier import TextClassifier
from sentiment_kit.transfer.finetune import FinetuneConfig

TINY = LanguageModelConfig(hidden_size=8, embed_size=4)
SECONDS, MEGABYTES = 10, 500
TRANSFER = {
    "checkpoint": "checkpoints/step-000000004",
    "labels": {"given": "samples", "text_key": None, "label_key": None},
    "features": {"state": "cell", "pool": "last", "layer": -1, "n_units": 8},
    **{
        name: {"test": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}}
        for name in ("all_units", "ngrams")
    },
    "neuron": {"unit": 3, "rule": "auc", "test": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}},
}
GAP = {
    "version": 1,
    "level": 0.95,
    "gap": {"bits": -0.02, "low": -0.03, "high": -0.01},
    "terms": [{"name": "moving weights", "bits": -0.02, "low": -0.03, "high": -0.01}],
    "words": "The weights moved.",
}
NEURON = {"unit": 3, "sign": -1, "threshold": 0.1, "state": "cell", "layer": -1, "rule": "auc"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    "One of everything that the kit reads, small."
    here = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    model = LanguageModel(TINY)
    words = ["good", "bad", "great", "poor", "fine", "awful", "nice", "dull"]
    fitted = TextClassifier(model, FinetuneConfig(mode="frozen")).fit(
        words, [1, 0] * 4, words, [1, 0] * 4
    )
    fitted.save_pretrained(here / "model")
    (here / "model" / "neuron.json").write_text(json.dumps(NEURON))
    (here / "texts.csv").write_text("text\ngood\nbad\nso so\n")
    make_shards(SAMPLES, here / "corpus", (1, 1, 1), text_key="text", stars_key=None)
    sizes = dict(global_batch=8, seq_len=64, save_every=40)
    config = TrainConfig(str(here / "corpus"), str(here / "run"), TINY, **sizes)
    config.log_every, config.progress, config.keep = 5, "none", 9
    train(config)
    for name, said in (("transfer", TRANSFER), ("gap", GAP)):
        (here / "run" / f"{name}.json").write_text(json.dumps(said))
    for name, said in (("train", {"bits_before": 8.0, "bits_after": 4.0}),):
        (here / "run" / f"{name}.json").write_text(json.dumps(said))
    save_openai(model, here / "openai")
    torch.save(nvidia_tensors(model), here / "nvidia.pt")
    (here / "recipe.yaml").write_text("chain: [61_train]\nlr: 0.02\nlabels: [a.csv, b.csv]\n")
    return here


def nvidia_tensors(model):
    "The arrays of a model as NVIDIA's file has them."
    t = {name: p.detach() for name, p in model.state_dict().items()}
    layer = "rnn.layers.0."
    names = {"w_x": "w_ih", "w_h": "w_hh", "w_mx": "w_mih", "w_mh": "w_mhh"}
    found = {f"rnn.rnns.0.{v}_v": t[layer + k].t().contiguous() for k, v in names.items()}
    norms = {k: "g" + k[1:] for k in names}
    found |= {f"rnn.rnns.0.{names[k]}_g": t[layer + g].reshape(-1, 1) for k, g in norms.items()}
    found |= {"rnn.rnns.0.b_ih": t[layer + "b"], "encoder.weight": t["embed.weight"]}
    return found | {"decoder.weight": t["head.weight"], "decoder.bias": t["head.bias"]}


# What reads a file, in words of the command line or as a function of the folder


def steps(here):
    return sorted((here / "run" / "checkpoints").iterdir())


def resume(here):
    "What a run that goes on reads of a checkpoint."
    folder = steps(here)[-1]
    read_numbers(folder / "trainer.json")
    model = LanguageModel(TINY)
    config = TrainConfig("c", "o", TINY)
    state = load_checkpoint(folder, model, make_optimizer(model, config), range(8)).state
    return digest([t.tolist() for t in (*state, *model.state_dict().values())])


def read_corpus(here):
    "Everything in a corpus, as readers of it use it."
    found = []
    for split, shards in open_corpus(here / "corpus").shards.items():
        for shard in shards:
            parts = (shard.data, shard.starts, shard.meta)
            found.append(
                [split, *(hashlib.sha256(np.array(p).tobytes()).hexdigest() for p in parts)]
            )
            found.append(sum(map(len, shard.encoded_reviews())))
    return digest(found)


def spoken(here):
    read = read_train_config(here / "run")
    return digest([read.lr, read.seed])


READERS = {
    "generate": lambda h: main(["generate", str(h / "model"), "--n-bytes", "5"]),
    "heatmap": lambda h: main(["heatmap", str(h / "model"), "Fine.", "--out", str(h / "h.html")]),
    "classify": lambda h: main(
        ["classify", str(h / "model"), str(h / "texts.csv"), "--text-key", "text"]
        + ["--out", str(h / "said.jsonl")]
    ),
    "evaluate": lambda h: main(
        ["evaluate", str(h / "model"), str(h / "corpus"), "--reset", "review", "--lanes", "64"]
    ),
    "checkpoint": lambda h: main(["generate", str(steps(h)[-1]), "--n-bytes", "5"]),
    "resume": resume,
    "corpus": read_corpus,
    "openai": lambda h: digest(
        [t.tolist() for t in load_openai(h / "openai").state_dict().values()]
    ),
    "nvidia": lambda h: digest(
        [t.tolist() for t in load_nvidia(h / "nvidia.pt", "ifgo").state_dict().values()]
    ),
    "summary": lambda h: summarise(h / "run"),
    "gap": lambda h: gap_html(h / "run"),
    "metrics": lambda h: digest([c.tolist() for c in read_metrics(h / "run").values()]),
    "settings": spoken,
    "moments": lambda h: digest(
        unseen_at(h / "run", find_moments(h / "run", 0.5)[0], open_corpus(h / "corpus")).tolist()
    ),
    "recipe": lambda h: json.dumps(read_recipe(str(h / "recipe.yaml"))),
}
FILES = {
    "model/config.json": ("generate", "classify", "evaluate"),
    "model/model.safetensors": ("generate", "classify", "evaluate"),
    "model/classifier.json": ("classify",),
    "model/head.safetensors": ("classify",),
    "model/neuron.json": ("heatmap",),
    "corpus/manifest.json": ("evaluate", "corpus"),
    "corpus/train/00000.bin": ("corpus",),
    "corpus/valid/00000.bin": ("evaluate",),
    "corpus/valid/00000.idx.npy": ("evaluate", "corpus"),
    "corpus/train/00000.meta.npy": ("corpus",),
    "STEP/config.json": ("checkpoint", "resume"),
    "STEP/model.safetensors": ("checkpoint", "resume"),
    "STEP/optimizer.safetensors": ("resume",),
    "STEP/state.safetensors": ("resume",),
    "STEP/trainer.json": ("resume", "moments"),
    "STEP/manifest.json": ("checkpoint", "resume"),
    "run/train.json": ("summary",),
    "run/transfer.json": ("summary",),
    "run/gap.json": ("gap",),
    "run/metrics.jsonl": ("metrics",),
    "run/train_config.json": ("settings", "moments"),
    "openai/0.npy": ("openai",),
    "openai/7.npy": ("openai",),
    "nvidia.pt": ("nvidia",),
    "recipe.yaml": ("recipe",),
}
VOUCHED = ("model/config", "model/model", "model/head", "model/classifier", "corpus", "STEP")


def place(here, name):
    return here / name.replace("STEP", str(steps(here)[-1].relative_to(here)))


# A case: a fork that reads, with its time and memory


def say(read, here):
    "What the command line would print and return; functions speak as commands do."
    try:
        told = read(here)
    except (KitError, OSError) as error:
        print("sentiment-kit: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    if isinstance(told, str):
        print(told)
    return told if isinstance(told, int) else 0


def in_a_fork(read, here):
    "Status, what was said, seconds, MB more than this process holds already."
    out, start = here.parent / f"{here.name}.said", time.monotonic()
    held = psutil.Process().memory_info().rss / 2**20
    pid = os.fork()
    if pid == 0:
        status = 98
        with open(out, "w", errors="backslashreplace") as f, contextlib.redirect_stderr(f):
            printed = io.StringIO()
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(SECONDS + 5)
                with contextlib.redirect_stdout(printed):
                    status = say(read, here)
                f.write(printed.getvalue() if status == 0 else "")
            except BaseException:
                traceback.print_exc(file=f)
            f.flush()
        os._exit(status)
    _, ended, used = os.wait4(pid, 0)
    said = out.read_text(errors="replace").replace(str(here), "HERE")
    megabytes = used.ru_maxrss / 1024 - held
    return os.waitstatus_to_exitcode(ended), said, time.monotonic() - start, megabytes


def check_case(label, read, here, before=None):
    "One sentence and status 2, or the same result as before where that is known."
    status, said, seconds, megabytes = in_a_fork(read, here)
    about = (label, status, said[-2000:], round(seconds, 1), round(megabytes))
    assert status in (0, 2) and "Traceback" not in said, about
    assert seconds < SECONDS and megabytes < MEGABYTES, about
    if status == 2:
        lines = said.splitlines()
        assert len(lines) == 1 and lines[0].startswith("sentiment-kit: ") and len(said) < 2000, (
            about
        )
    elif before is not None:
        assert said == before, about
    return status


# Damage


def flip(data, rng):
    "A few bits turned, bytes replaced, the file cut, or grown."
    data = bytearray(data)
    kind = rng.randrange(6)
    at = rng.randrange(len(data)) if data else 0
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        return bytes(data[:at]) + rng.randbytes(rng.randrange(1, 40)) + bytes(data[at:])
    if kind == 2:
        data[at : at + rng.randrange(1, 64)] = bytes(rng.randrange(1, 64))
        return bytes(data)
    for _ in range(1 if kind < 5 else 4):
        at = rng.randrange(min(len(data), 400 if rng.random() < 0.5 else len(data)))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


NASTY = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    10**12,
    2**63,
    10**400,
    -0.5,
    1e308,
    1e-320,
    "",
    "x",
    "<b>",
]
NASTY += ["\ud800", "x" * 100_000, "../../etc/passwd", "/dev/zero", [], {}, [1], ["x"], {"x": 1}]
NASTY += [float("nan"), float("inf"), [[[[]]]], "1", "nan", {"train": []}, [None]]


def places(tree, at=()):
    "All places in a JSON tree."
    yield at
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in list(pairs)[:60]:
        yield from places(value, (*at, key))


def craft_json(said, rng):
    "A tree with one value replaced, taken out, added or moved."
    said = json.loads(json.dumps(said))
    at = rng.choice(list(places(said)))
    if not at:
        return rng.choice([*NASTY, [said], {"x": said}])
    parent = said
    for key in at[:-1]:
        parent = parent[key]
    kind = rng.randrange(5)
    if kind == 0 and isinstance(parent, dict):
        del parent[at[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["x", "", "sha256", "\ud800", "version"])] = rng.choice(NASTY)
    else:
        parent[at[-1]] = rng.choice(NASTY)
    return said


def craft_text(data, rng, lines):
    "JSON of another content; now and then, JSON of another form."
    if rng.random() < 0.1:
        return rng.choice([b"[" * 100_000, b"", b"null", b"\xff\xfe", b"{}" * 2, b'{"a":' * 9999])
    rows = data.decode().splitlines() if lines else [data.decode()]
    n = rng.randrange(len(rows))
    rows[n] = json.dumps(craft_json(json.loads(rows[n]), rng))
    return ("\n".join(rows) + "\n").encode()


def craft_arrays(path, rng):
    "Weights of another kind, shape or content, in a file that is whole."
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    t = tensors[name].clone()
    kind = rng.randrange(9)
    if kind == 0:
        t = t.to(
            rng.choice([torch.int8, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn])
        )
    elif kind == 1:
        t = t.flatten()[:-1]
    elif kind == 2:
        t = t.new_zeros(rng.choice([(0,), (0, 10**9), (3, 3, 3), ()]))
    elif kind == 3 and t.is_floating_point():
        t.view(-1)[rng.randrange(t.numel())] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind == 4:
        tensors["extra"] = torch.zeros(4)
    elif kind == 5:
        del tensors[name]
    elif kind == 6 and t.is_floating_point():
        t = t.to(rng.choice([torch.float64, torch.bfloat16]))
    elif kind == 7:
        t = t.double() * 1e300 if t.is_floating_point() else t[:0]
    if kind != 5:
        tensors[name] = t.contiguous()
    save_file(tensors, path)
    if kind == 8:
        header = json.dumps({name: {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
        length = rng.choice([len(header), 2**62, 2**31, 10**7])
        path.write_bytes(length.to_bytes(8, "little") + header.encode())


def craft_npy(path, rng):
    "An array of another type, shape or content, or with an odd header."
    a = np.load(path)
    kind = rng.randrange(8)
    if kind < 6:
        rows = a[: rng.randrange(len(a))]
        changed = [rows, a[::-1], np.array([print]), a.tobytes(), a.reshape(1, -1), a]
        if kind == 5 and a.dtype.kind == "f":
            a[..., 0] = np.nan
        np.save(path, changed[kind], allow_pickle=True)
        return
    shape = rng.choice([(2**62,), (-1,), (2**40, 2**40), ("x",)])
    kind_of = rng.choice(["<f4", "O", "q"])
    header = repr({"descr": kind_of, "fortran_order": False, "shape": shape}).encode() + b"\n"
    if rng.random() < 0.3:
        header = rng.choice([b"(" * 5000, b"{'descr': ", b"9" * 9000, b"\xff" * 50])
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))


def vouch(here, name):
    "Write the checksums anew, as a stranger would."
    folder = place(here, name).parent
    with contextlib.suppress(Exception):
        if name.startswith("STEP") and "manifest" not in name:
            files = {
                p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)}
                for p in sorted(folder.iterdir())
                if p.name != "manifest.json"
            }
            (folder / "manifest.json").write_text(manifest_text(files))
        elif name.startswith("STEP"):
            said = json.loads((folder / "manifest.json").read_text())
            (folder / "manifest.json").write_text(manifest_text(said["files"]))
        elif name.startswith("corpus"):
            path = here / "corpus" / "manifest.json"
            said = json.loads(path.read_text())
            for shards in said["splits"].values() if "manifest" not in name else ():
                for shard in shards:
                    for part in shard["sha256"]:
                        shard["sha256"][part] = sha256_file(here / f"corpus/{shard['name']}.{part}")
            said.pop("digest", None)
            path.write_text(json.dumps(said | {"digest": digest(said)}))
        elif name.startswith("model"):
            path = folder / "config.json"
            said = json.loads(path.read_text())
            if "config" not in name and "sha256" in said:
                said["sha256"]["model.safetensors"] = sha256_file(folder / "model.safetensors")
                path.write_text(json.dumps(said))
            path = folder / "classifier.json"
            said = json.loads(path.read_text())
            if "classifier" not in name:
                for file in said["sha256"]:
                    said["sha256"][file] = sha256_file(folder / file)
                path.write_text(json.dumps(said))


YAML = ["a: &a [*a]", "[" * 3000, "a: 2020-01-01", "? [a]\n: 1", "a: !!python/name:os.system x"]
YAML += [
    "a: !!binary x",
    "<<: {a: 1}",
    "lr: 1\nlr: 2",
    "\x00",
    "- a",
    "chain: 3",
    "a: .nan",
    "9" * 5000,
]
YAML += ["".join(f"k{n}: &k{n} [{','.join([f'*k{n - 1}' if n else 'x'] * 9)}]\n" for n in range(9))]


def craft(here, name, rng):
    "A whole file of a stranger's; whoever vouches for it vouches for this one."
    path = place(here, name)
    if name.endswith(".safetensors"):
        craft_arrays(path, rng)
    elif name.endswith(".npy"):
        craft_npy(path, rng)
    elif name.endswith(".json") or name.endswith(".jsonl"):
        path.write_bytes(craft_text(path.read_bytes(), rng, name.endswith("jsonl")))
    elif name.endswith(".yaml"):
        path.write_text(rng.choice(YAML))
    elif name.endswith(".pt"):
        tensors = torch.load(path, weights_only=True)
        at = rng.choice(sorted(tensors))
        wrong = [torch.zeros(1).expand(10**10), torch.zeros(3), tensors[at].int(), 3, "x", {}]
        wrong += [torch.full_like(tensors[at], np.nan), torch.zeros(0, 10**9), tensors[at][:, None]]
        torch.save(tensors | {rng.choice([at, 7, "x.y"]): rng.choice(wrong)}, path)
    else:
        path.write_bytes(flip(path.read_bytes(), rng))
    vouch(here, name)


def copy_case(good, tmp_path, number):
    here = tmp_path / str(number)
    shutil.copytree(good, here, copy_function=os.link)
    return here


def own_copies(here, name):
    "Files that the case may write are no links any more."
    for path in {
        place(here, name),
        *(here / "model").glob("*.json"),
        *(here / "corpus").glob("*.json"),
    }:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    path = steps(here)[-1] / "manifest.json"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def run_case(good, tmp_path, number, baseline):
    "One random case; what it was, and how it ended."
    rng = random.Random(number)
    name = list(FILES)[number % len(FILES)]
    reader = rng.choice(FILES[name])
    here = copy_case(good, tmp_path, number)
    own_copies(here, name)
    crafted = rng.random() < 0.5
    if crafted:
        craft(here, name, rng)
    else:
        path = place(here, name)
        path.write_bytes(flip(path.read_bytes(), rng))
    before = baseline[reader] if not crafted and name.startswith(VOUCHED) else None
    status = check_case((number, name, reader, crafted), READERS[reader], here, before)
    shutil.rmtree(here)
    return status


@pytest.fixture(scope="module")
def baseline(good, tmp_path_factory):
    "What every reader says of good files."
    said = {}
    for name, read in READERS.items():
        here = copy_case(good, tmp_path_factory.mktemp("before"), 0)
        status, said[name], seconds, megabytes = in_a_fork(read, here)
        assert status == 0, (name, said[name])
    return said


@pytest.mark.slow
def test_two_thousand_files_of_strangers(good, baseline, tmp_path, request, capsys):
    n = request.config.getoption("--n", default=None) or 2000
    torch.set_num_threads(1)
    failed, refused = [], 0
    for number in range(n):
        try:
            refused += run_case(good, tmp_path, number, baseline) == 2
        except AssertionError as error:
            failed.append(str(error).split("\nassert")[0])
            shutil.rmtree(tmp_path / str(number), ignore_errors=True)
    with capsys.disabled():
        print(f" [{n} files, {refused} refused, {len(failed)} wrong]", end="")
    assert not failed, "\n\n".join(failed[:40])
