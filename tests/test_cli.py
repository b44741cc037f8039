"""The contract of the command line: 0, or one line on stderr that names file and remedy, and 2."""

import inspect
import json
import re
import subprocess
import sys
import time
from dataclasses import MISSING
from importlib import import_module

import numpy as np
import pytest
import torch
from shadows import shadow_folder
from sync import ROOT, SCRIPTS

from sentiment_kit.cli import COMMANDS, known_options, main
from sentiment_kit.data.datasets import SAMPLES
from sentiment_kit.data.files import KitError
from sentiment_kit.options import arguments
from sentiment_kit.recipes import as_default, plan_run, read_recipe

SAMPLE_OPTIONS = "--counts 1 1 1 --text-key text --stars-key stars --split-key split".split()
SMALL = "--hidden-size 8 --embed-size 4 --global-batch 16 --seq-len 256 --progress none".split()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder with a corpus and a trained run in it, both made by the commands."
    folder = tmp_path_factory.mktemp("cli")
    assert main(["shards", str(SAMPLES), "--out", f"{folder}/corpus", *SAMPLE_OPTIONS]) == 0
    assert main(["train", "--corpus", f"{folder}/corpus", "--out", f"{folder}/run", *SMALL]) == 0
    return folder


def refused(capsys, *args):
    "The one line on stderr of a command that must not succeed."
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and error.startswith("sentiment-kit: ") and "Traceback" not in error
    )
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command, capsys):
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"usage: sentiment-kit {command}" in said and COMMANDS[command].__doc__.split(";")[
        0
    ] in " ".join(said.split())
    assert main(["--help"]) == 0
    assert command in capsys.readouterr().out


def test_help_does_not_wait_for_torch():
    configs = ("train", "finetune")  # their options are a config of the library
    words = [[command, "--help"] for command in COMMANDS if command not in configs]
    lines = [
        "import sys",
        "from sentiment_kit.cli import main",
        f"[main(words) for words in {words}]",
    ]
    lines += ["sys.exit('torch' in sys.modules)"]
    assert (
        subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True).returncode
        == 0
    )


def test_an_option_read_from_the_source_is_the_one_that_python_knows():
    "Default for default, every option that `options_of` takes from the library."
    calls = []
    for module in ("model_commands", "text_commands"):
        source = (ROOT / "sentiment_kit" / f"{module}.py").read_text(encoding="utf-8")
        calls += re.findall(r'options_of\("([\w.]+)", "([\w ]+)"\)', source)
    assert len(calls) >= 8
    for function, names in calls:
        module, _, name = function.rpartition(".")
        signature = inspect.signature(getattr(import_module(f"sentiment_kit.{module}"), name))
        for wanted, argument in arguments(function, names).items():
            default = signature.parameters[wanted].default
            absent = default is inspect.Parameter.empty
            assert argument.default is MISSING if absent else argument.default == default


@pytest.mark.parametrize(
    "command, words",
    [
        ("evaluate", ["run", "corpus"]),
        ("transfer", ["run"]),
        ("generate", ["run"]),
        ("heatmap", ["run", "Fine.", "--unit", "1"]),
        ("finetune", ["run", SAMPLES, "--text-key", "text", "--out", "head"]),
        ("classify", ["reviews-small", SAMPLES, "--text-key", "text", "--out", "out.csv"]),
        ("features", ["run", SAMPLES, "--text-key", "text", "--out", "out.npz"]),
    ],
)
def test_every_command_that_reads_with_a_model_takes_a_device(
    here, monkeypatch, capsys, command, words
):
    monkeypatch.chdir(here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = refused(capsys, command, *words, "--device", "cuda")
    assert "device is 'cuda', but torch finds no GPU of that kind here" in error
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    if command in ("finetune", "classify"):
        assert "Tesla T4" in refused(capsys, command, *words, "--precision", "bf16")
    assert not {"head", "out.csv", "out.npz"} & {path.name for path in here.iterdir()}


def test_tables_are_declared_in_every_command_that_reads_them():
    wanted = {"--header", "--quoting"}
    for command in ("shards", "transfer", "finetune", "classify", "features"):
        assert wanted <= known_options(command), command
    assert "--max-ratio" in known_options("shards")


def test_console_script():
    start = time.monotonic()
    done = subprocess.run([SCRIPTS / "sentiment-kit", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sentiment-kit: no command 'trian': did you mean 'train'?\n"
    assert time.monotonic() - start < 5


def test_training_that_is_asked_to_stop_saves_and_exits_0(here, tmp_path):
    words = [
        "train",
        "--corpus",
        f"{here}/corpus",
        "--out",
        f"{tmp_path}/run",
        *SMALL,
        "--epochs",
        "1000",
    ]
    process = subprocess.Popen(
        [SCRIPTS / "sentiment-kit", *words], stdout=subprocess.PIPE, text=True
    )
    while (
        not (tmp_path / "run/metrics.jsonl").exists()
        or (tmp_path / "run/metrics.jsonl").read_text().count("\n") < 3
    ):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert "stopped by SIGTERM at step" in process.communicate()[0]
    assert process.returncode == 0 and list((tmp_path / "run/checkpoints").glob("step-*"))


def test_commands_work_together(here, capsys):
    capsys.readouterr()
    assert main(["evaluate", f"{here}/run", f"{here}/corpus"]) == 0
    assert "bits_per_byte=" in capsys.readouterr().out
    assert main(["verify", f"{here}/run"]) == main(["verify", f"{here}/corpus"]) == 0
    assert main(["transfer", f"{here}/run"]) == 0
    assert "| 8 units |" in capsys.readouterr().out
    texts = ["It broke. <b>Twice</b>.", "Lovely 🙂"]
    assert main(["heatmap", f"{here}/run", *texts, "--unit", "3", "--out", f"{here}/map.html"]) == 0
    page = (here / "map.html").read_text(encoding="utf-8")
    assert "🙂" in page and "<b>" not in page and "cell 3" in page
    for sign in (
        1,
        -1,
    ):  # of a threshold beyond every value of the cell: all votes are for the second label
        (here / "run" / "neuron.json").write_text(
            json.dumps({"unit": 5, "sign": sign, "threshold": -100.0 * sign})
        )
        assert main(["heatmap", f"{here}/run", "Fine.", "--out", f"{here}/found.html"]) == 0
        page = (here / "found.html").read_text(encoding="utf-8")
        votes = [float(v) for v in re.findall(r'· \+([\d.]+)"', page)]
        assert "votes of unit 5" in page and len(votes) == 8 and min(votes) > 90


def test_generated_text_is_the_library_s_and_streams(here, capsys):
    from sentiment_kit.model.generate import generate
    from sentiment_kit.model.language_model import LanguageModel
    from sentiment_kit.training.checkpoint import find_model

    model = LanguageModel.from_pretrained(find_model(here / "run"))
    command = [
        "generate",
        f"{here}/run",
        "--prompt",
        "Zoë 🙂",
        "--n-bytes",
        "40",
        "--temperature",
        "0.5",
    ]
    texts = [generate(model, "Zoë 🙂", 40, 0.5, seed=seed) for seed in (7, 8)]
    shown = [
        "".join("\ufffd" if c < " " and c != "\n" or "\x7f" <= c < "\xa0" else c for c in text)
        for text in texts
    ]
    capsys.readouterr()
    assert main([*command, "--seed", "7"]) == 0
    assert capsys.readouterr().out == f"Zoë 🙂{shown[0]}\n"
    assert main([*command, "--seed", "7", "--n", "2"]) == 0
    assert capsys.readouterr().out == f"── seed 7\nZoë 🙂{shown[0]}\n── seed 8\nZoë 🙂{shown[1]}\n"


def test_an_untrained_model_cannot_command_the_terminal(tmp_path, capsys):
    import torch

    from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig

    torch.manual_seed(0)
    folder = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4)).save_pretrained(
        tmp_path / "model"
    )
    capsys.readouterr()
    assert main(["generate", str(folder), "--n-bytes", "2000"]) == 0
    text = capsys.readouterr().out
    assert len(text) > 1000 and not set(text) & {
        chr(c) for c in (*range(10), *range(11, 32), *range(127, 160))
    }


def test_bad_wishes_for_text_are_refused(here, capsys):
    for words, expected in (
        (["--temperature", "-1"], "temperature"),
        (["--n-bytes", "0"], "--n-bytes is 0"),
        (["--n", "0"], "--n is 0"),
        (["--seed", "x"], "--seed"),
    ):
        assert expected in refused(capsys, "generate", here / "run", *words)
    assert "nowhere" in refused(capsys, "generate", here / "nowhere")


def test_a_plan_for_a_card_needs_no_card(capsys):
    size = "--hidden-size 8192 --precision bf16 --global-batch 1024 --corpus-gb 38".split()
    assert main(["plan", "--device", "H100", "--n-gpus", "8", *size]) == 0
    said = capsys.readouterr().out
    assert "H = 8192" in said and "8 x H100" in said and "epoch" in said
    assert "H100 80GB SXM" in refused(capsys, "plan", "--device", "abacus")
    assert "multiple" in refused(capsys, "plan", "--device", "H100", "--n-gpus", "3")
    assert "cell" in refused(capsys, "plan", "--device", "H100", "--cell", "gru")
    assert "--corpus-gb" in refused(capsys, "plan", "--device", "H100", "--corpus-gb", "nan")


def test_a_mistyped_option_is_one_line(capsys):
    assert "--size" in refused(capsys, "evaluate", "run", "corpus", "--size", "3")
    assert "--out" in refused(capsys, "shards", "reviews.csv")
    assert "--counts" in refused(
        capsys, "shards", "reviews.csv", "--out", "corpus", "--counts", "1", "2"
    )
    assert "'--help'" not in refused(capsys, "evaluate")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "column.csv",
            b"label,words\n1,good\n0,bad\n",
            "no column 'reviewText'; set --text-key to one of: label, words",
        ),
        ("empty.csv", b"", "is empty"),
        ("binary.csv", bytes(range(256)) * 20, "binary"),
        ("broken.jsonl.gz", b"\x1f\x8b\x08\x00 not really gzip", "gzip"),
    ],
)
def test_bad_input_names_the_file_and_the_remedy(tmp_path, capsys, name, content, expected):
    (tmp_path / name).write_bytes(content)
    error = refused(
        capsys, "shards", tmp_path / name, "--out", tmp_path / "corpus", "--counts", "1", "1", "1"
    )
    assert name in error and expected in error
    assert not (tmp_path / "corpus").exists()


def test_missing_files_are_named(tmp_path, capsys):
    assert "nowhere.jsonl" in refused(
        capsys, "shards", tmp_path / "nowhere.jsonl", "--out", tmp_path / "corpus"
    )
    assert "nowhere" in refused(capsys, "evaluate", tmp_path / "nowhere", tmp_path)
    assert "nowhere" in refused(capsys, "verify", tmp_path / "nowhere")
    assert "neuron.json" in refused(capsys, "heatmap", tmp_path, "Some text.")
    assert "labels has 2 entries" in refused(
        capsys, "transfer", tmp_path, "--labels", "one.csv", "two.csv"
    )


def test_a_flipped_byte_is_found_and_named(here, tmp_path, capsys):
    assert main(["shards", str(SAMPLES), "--out", f"{tmp_path}/corpus", *SAMPLE_OPTIONS]) == 0
    body = tmp_path / "corpus" / "train" / "00000.bin"
    flipped = np.fromfile(body, np.uint8)
    flipped[1000] ^= 1
    flipped.tofile(body)
    assert "train/00000.bin" in refused(capsys, "verify", tmp_path / "corpus")
    flipped[0] ^= 1  # in the header: found as soon as it is opened
    flipped.tofile(body)
    assert "train/00000.bin" in refused(capsys, "evaluate", here / "run", tmp_path / "corpus")


def test_a_checkpoint_of_another_architecture_is_refused(here, tmp_path, capsys):
    from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig

    folder = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4)).save_pretrained(
        tmp_path / "model"
    )
    config = json.loads((folder / "config.json").read_text())
    for change in ({"cell": "lstm"}, {"hidden_size": 16}, {"n_layers": 2}):
        (folder / "config.json").write_text(json.dumps(config | change))
        assert "model.safetensors" in refused(capsys, "evaluate", folder, here / "corpus")
    command = [
        "train",
        "--corpus",
        here / "corpus",
        "--out",
        here / "run",
        *SMALL,
        "--hidden-size",
        "16",
    ]
    assert "--hidden-size 8" in refused(capsys, *command)


def test_recipes_and_their_parameters(tmp_path, capsys):
    assert "did you mean 'smoke'" in refused(capsys, "run", "smok")
    assert "give --data" in refused(capsys, "run", "small_cpu", "--out", tmp_path)
    assert "did you mean 'hidden_size'" in refused(
        capsys, "run", "smoke", "--set", "hiden_size=8", "--out", tmp_path
    )
    assert "key=value" in refused(capsys, "run", "smoke", "--set", "epochs", "--out", tmp_path)
    assert "must be int" in refused(
        capsys, "run", "smoke", "--set", "epochs=many", "--out", tmp_path
    )
    own = tmp_path / "own.yaml"
    assert "not YAML" in refused(capsys, "run", "smoke", "--set", "epochs=[1", "--out", tmp_path)
    wrong = {
        "- a\n- b\n": "key: value",
        "1: 2\n": "key: value",
        "a: [1\n": "not YAML",
        "chain: [61_trian]\n": "61_train",
    }
    for text, expected in (
        wrong | {"chain:\n": "list of run notebooks", "chain: 61_train\n": "list"}
    ).items():
        own.write_text(text)
        assert expected in refused(capsys, "run", own, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"], (
        "nothing is made before all is checked"
    )


SIZES = {"smoke": 256, "small_cpu": 512, "gpu_1x": 2048, "paper_8gpu": 4096, "large_8k_8gpu": 8192}
SIZES |= {"h100_1x": 4096, "h100_8x": 4096}


@pytest.mark.parametrize("name", SIZES)
def test_shipped_recipes_fit_their_notebooks(name, tmp_path):
    plan = plan_run(read_recipe(name), {"data": "samples", "labels": "samples"}, tmp_path)
    assert list(plan) == ["60_make_shards", "61_train", "62_transfer", "63_map_the_neuron"]
    assert {values["run"] for values in plan.values()} == {str(tmp_path)}
    assert plan["61_train"]["hidden_size"] == SIZES[name]


def test_the_benchmark_is_a_recipe_of_one_notebook(tmp_path):
    plan = plan_run(read_recipe("bench"), {}, tmp_path)
    assert list(plan) == ["68_speed"] and [4096, 32, 64] in [
        size[:3] for size in plan["68_speed"]["training"]
    ]


def test_training_in_two_processes(here, tmp_path, monkeypatch):
    "In a folder whose files have names of the standard library's modules."
    monkeypatch.chdir(shadow_folder(tmp_path))
    command = [
        "train",
        "--corpus",
        str(here / "corpus"),
        "--out",
        str(here / "two"),
        *SMALL,
        "--nproc",
        "2",
    ]
    assert main([*command, "--device", "cpu", "--precision", "fp16"]) == 0
    assert json.loads((here / "two" / "environment.json").read_text())["processes"] == 2
    last = json.loads((here / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss_scale"] >= 1 and last["valid_bits"] < 8


def test_values_take_the_type_of_the_default():
    assert as_default("lr", "1e-3", 0.1) == 0.001 and isinstance(as_default("lr", 1, 0.1), float)
    assert as_default("epochs", 2.0, 1) == 2 and isinstance(as_default("epochs", 2.0, 1), int)
    assert (
        as_default("data", ["a", "b"], "samples") == ["a", "b"]
        and as_default("unit", None, 3) is None
    )
    for value, default in (
        ("yes", True),
        (1, True),
        (True, 1),
        (2.5, 1),
        ("many", 1),
        ([1], 0.5),
        (float("inf"), 1),
    ):
        with pytest.raises(KitError):
            as_default("it", value, default)
