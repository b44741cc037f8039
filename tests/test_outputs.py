"""What is written: never over an input, never by two at once, whole, and on any system."""

import contextlib
import gzip
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sync import ROOT, SCRIPTS, modules

from sentiment_kit import standard_input, terminal
from sentiment_kit.cli import COMMANDS, main
from sentiment_kit.data import files
from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.downloads import download
from sentiment_kit.data.files import KitError, publish_folder, read_json, write_atomic, write_json
from sentiment_kit.data.locks import hold_folder, hold_output
from sentiment_kit.data.outputs import check_outputs, same_place
from sentiment_kit.data.quarantine import Quarantine
from sentiment_kit.data.reviews import read_reviews
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.stopping import stop_as_interrupt

FORKS = multiprocessing.get_context("fork")
ROWS = "".join(f'{{"text": "Review number {n}."}}\n' for n in range(40))
BAD = '{"stars": 1}\n'
ONE = "--counts 1 1 1".split()


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A working folder with reviews in it, one row of which is bad."
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(ROWS + BAD)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "The folder of a small classifier."
    import torch

    from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
    from sentiment_kit.transfer.classifier import TextClassifier
    from sentiment_kit.transfer.finetune import FinetuneConfig

    torch.manual_seed(0)
    reader = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4))
    texts = [f"{word} number {n}" for n in range(10) for word in ("good", "bad")]
    classifier = TextClassifier(reader, FinetuneConfig(mode="frozen"))
    classifier.fit(texts, ["pos", "neg"] * 10)
    return str(classifier.save_pretrained(tmp_path_factory.mktemp("small") / "model"))


def content(folder):
    "Every file below a folder, with what is in it."
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def refused(capsys, *words):
    "The one line on stderr of a command that must not succeed."
    capsys.readouterr()
    with contextlib.redirect_stderr(io.StringIO()) as shown:  # odd bytes stay surrogates
        assert main([str(word) for word in words]) == 2
    error = shown.getvalue()
    assert error.count("\n") == 1 and error.startswith("sentiment-kit: ")
    assert "Traceback" not in error and "fault of the kit" not in error
    return error


# ── an output is no input


def names_of(path):
    "The same file under other names."
    os.symlink(path, "link.jsonl")
    os.link(path, "hard.jsonl")
    Path("sub").mkdir()
    os.symlink("..", "sub/up")
    os.symlink("link.jsonl", "link2.jsonl")
    return [path, "./" + path, os.path.abspath(path), "link.jsonl", "link2.jsonl", "hard.jsonl"] + [
        f"sub/../{path}",
        f"sub/up/{path}",
        f"/proc/self/cwd/{path}",
    ]


@pytest.mark.parametrize("command", ["classify", "features"])
def test_a_file_that_is_read_is_not_written(here, model, capsys, command):
    suffix = "jsonl" if command == "classify" else "npz"
    for name in names_of("in.jsonl"):
        before = content(here)
        for words in (["--quarantine", name, "--out", f"o.{suffix}"], ["--out", name]):
            said = refused(capsys, command, model, "in.jsonl", *words)
            if command == "classify" or "--quarantine" in words:
                assert f"{Path(name)} is one of the inputs" in said
        assert content(here) == before


@pytest.mark.parametrize(
    ("out", "quarantine", "said"),
    [
        ("o.csv", "o.csv", "is also the output"),
        ("o.csv", "./O.csv", "is also the output"),
        ("o.csv", "o.csv/bad.jsonl", "is also the output, or lies in it"),
        ("s3://shop/o.csv", None, "is no name of a file on this machine"),
        ("o.csv", "https://example.org/bad.jsonl", "is no name of a file on this machine"),
        ("o.csv", "-", "is no name of a file on this machine"),
        ("dir.csv", None, "dir.csv is a folder"),
        ("in.jsonl/o.csv", None, "in.jsonl is a file"),
        ("o.csv", "dir.csv", "dir.csv is a folder"),
        ("{model}/metrics.jsonl", None, "which is read"),
        ("o.csv", "{model}/config.json", "which is read"),
        ("o.csv", "{model}/neuron.json", "which is read"),
    ],
)
def test_outputs_that_cannot_be_meant(here, model, capsys, out, quarantine, said):
    Path("dir.csv").mkdir()
    before = content(here), content(model)
    words = ["--out", out.format(model=model)]
    words += ["--quarantine", quarantine.format(model=model)] if quarantine else []
    assert said in refused(capsys, "classify", model, "in.jsonl", *words)
    assert (content(here), content(model)) == before


def test_a_folder_that_holds_an_input_is_not_replaced(here, model, capsys):
    Path("deep/er").mkdir(parents=True)
    for name in ("deep/in.csv", "deep/er/in.csv"):
        Path(name).write_text("text,label\ngood,1\nbad,0\n")
    before = content(here), content(model)
    for out in ("deep", "deep/er", ".", "deep/er/.."):
        said = refused(capsys, "shards", "deep/er/in.csv", "--out", out, *ONE)
        assert "holds deep/er/in.csv" in said
    for out in (model, Path(model).parent, "deep"):
        words = ["deep/er/in.csv", "--text-key", "text", "--out", out]
        assert "read" in refused(capsys, "finetune", model, *words) or "inputs"
        assert "inputs" in refused(capsys, "convert", model, "--out", model)
    assert "inputs" in refused(capsys, "train", "--corpus", "deep", "--out", "deep/er/..")
    assert "which is read" in refused(
        capsys, "heatmap", model, "Fine.", "--unit", "1", "--out", f"{model}/model.safetensors"
    )
    assert (content(here), content(model)) == before
    assert main(["heatmap", model, "Fine.", "--unit", "1", "--out", f"{model}/page.html"]) == 0
    os.remove(f"{model}/page.html")


def test_a_model_is_not_half_replaced_by_another(here, model, capsys):
    assert main(["convert", model, "--out", "copy"]) == 0
    before = content("copy")
    for to in ("kit", "openai"):
        assert "exists already" in refused(capsys, "convert", model, "--out", "copy", "--to", to)
    assert content("copy") == before


def test_a_run_does_not_write_over_its_data(here, capsys):
    Path("out/smoke").mkdir(parents=True)
    os.rename("in.jsonl", "out/smoke/train.json")
    said = refused(capsys, "run", "smoke", "--data", "out/smoke/train.json")
    assert "lies where this run writes" in said and os.listdir("out/smoke") == ["train.json"]


def test_what_others_put_into_a_folder_is_not_replaced_with_it(here, model, capsys):
    made = make_shards("in.jsonl", "corpus", (1, 1, 1), max_bad=0.1)
    Path("corpus/.DS_Store").touch()
    make_shards("in.jsonl", "corpus", (2, 1, 1), max_bad=0.1, overwrite=True)
    Path("corpus/run").mkdir()
    with pytest.raises(KitError, match="holds run, which is not part of it"):
        make_shards("in.jsonl", "corpus", (1, 1, 1), max_bad=0.1, overwrite=True)
    assert open_corpus("corpus").digest != made.digest
    Path("l.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 10)
    words = ["finetune", model, "l.csv", "--text-key", "text", "--mode", "frozen", "--out"]
    for _ in range(2):
        assert main([*words, "folder"]) == 0
    Path("folder/answers.csv").touch()
    assert "holds answers.csv" in refused(capsys, *words, "folder")
    assert "not a classifier" in refused(capsys, *words, "corpus")
    assert Path("folder/answers.csv").exists() and Path("corpus/run").exists()


def test_the_library_checks_as_the_commands_do(here):
    before = content(here)
    with pytest.raises(KitError, match="is one of the inputs"):
        read_reviews("*.jsonl", "text", quarantine="in.jsonl")
    with pytest.raises(KitError, match="holds .*in.jsonl"):
        make_shards("in.jsonl", ".", overwrite=True, text_key="text")
    assert content(here) == before


def test_names_of_what_is_not_there_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    os.symlink("a", "b")
    for one, two in (("a/x", "b/x"), ("x", "X"), ("caf\u00e9", "cafe\u0301"), ("a/../x", "x")):
        assert same_place(one, two)
    Path("x").touch()
    assert not same_place("x", "y") and not same_place("a/x", "x")
    assert same_place("x", "X") == Path("X").exists(), "two files where the system says so"
    check_outputs(["x", "nowhere"], dict(page="y"), dict(folder="a"))
    check_outputs(["x"], runs=dict(run="."))


# ── whole or not at all


def test_the_old_file_stays_until_the_new_one_is_whole(here):
    Path("bad.jsonl").write_text("old")
    os.symlink("bad.jsonl", "link.jsonl")
    q = Quarantine("link.jsonl", 0.5)
    rows = read_reviews("in.jsonl", "text", quarantine=q)
    assert [next(rows).row for _ in range(3)] == [1, 2, 3]
    assert Path("bad.jsonl").read_text() == "old"
    assert len(list(rows)) == 37 and os.path.islink("link.jsonl")
    assert json.loads(Path("bad.jsonl").read_text())["row"] == 41
    with pytest.raises(KitError, match="1 of 41 rows are bad"):
        list(read_reviews("in.jsonl", "text", quarantine="refused.jsonl", max_bad=0))
    assert json.loads(Path("refused.jsonl").read_text())["row"] == 41
    assert not [name for name in os.listdir() if name.endswith(".tmp")]


def test_a_link_and_a_device_stay_what_they_are(here, model):
    Path("disk").mkdir()
    os.symlink("disk/o.csv", "o.csv")
    os.symlink("disk/corpus", "corpus")
    words = ["in.jsonl", "--out", "o.csv", "--quarantine", "/dev/null"]
    assert main(["classify", model, *words]) == 0
    assert main(["shards", "in.jsonl", "--out", "corpus", *ONE, "--max-bad", "0.1"]) == 0
    assert os.path.islink("o.csv") and os.path.islink("corpus")
    assert len(Path("disk/o.csv").read_text().splitlines()) == 41
    assert open_corpus("corpus").verify().split("train")
    assert Path("/dev/null").is_char_device() and sorted(os.listdir("disk")) == ["corpus", "o.csv"]


# ── one writer


def hold_for_ever(path, ready):
    with hold_output(path):
        ready.set()
        time.sleep(60)


def test_one_writer_until_it_dies(here, model, capsys):
    outs = {"classify": "o.csv", "features": "o.npz", "shards": "corpus", "finetune": "folder"}
    Path("labelled.csv").write_text("text,label\ngood,1\nbad,0\n")
    words = {
        "classify": [model, "in.jsonl"],
        "features": [model, "in.jsonl"],
        "shards": ["in.jsonl", *ONE, "--max-bad", "0.1"],
        "finetune": [model, "labelled.csv", "--text-key", "text"],
    }
    os.symlink(".", "again")
    for command, out in outs.items():
        ready = FORKS.Event()
        process = FORKS.Process(target=hold_for_ever, args=(out, ready))
        process.start()
        assert ready.wait(30)
        for name in (out, f"again/{out}"):
            said = refused(capsys, command, *words[command], "--out", name)
            assert f"another process is writing {name}" in said and not os.path.exists(out)
        process.kill()
        process.join()
        assert os.path.exists(f".{out}.lock"), "what a killed process leaves"
        Path(f".{out}.4711.tmp").mkdir()
        Path(f".{out}.4711.raw").touch()
        if command != "finetune":
            assert main([command, *words[command], "--out", out]) == 0
            assert os.path.exists(out)
            assert not [name for name in os.listdir() if name.startswith(f".{out}")]


def classify_slowly(model):
    from sentiment_kit.transfer import bulk

    answer = bulk.result_lines
    bulk.result_lines = lambda *args: time.sleep(1) or answer(*args)
    sys.exit(main(["classify", model, "in.jsonl", "--out", "o.csv"]))


def test_two_classify_at_once_write_every_row_once(here, model, capsys):
    with hold_output("bad.jsonl"):
        words = ["in.jsonl", "--out", "o.csv", "--quarantine", "bad.jsonl"]
        assert "writing bad.jsonl" in refused(capsys, "classify", model, *words)
    both = [FORKS.Process(target=classify_slowly, args=(model,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert sorted(process.exitcode for process in both) == [0, 2]
    assert len(Path("o.csv").read_text().splitlines()) == 41


def test_a_corpus_that_is_there_needs_no_lock(here):
    made = make_shards("in.jsonl", "corpus", (1, 1, 1), max_bad=0.1)
    with hold_output("corpus"):
        assert make_shards("in.jsonl", "corpus", (1, 1, 1), max_bad=0.1).digest == made.digest


def test_a_part_is_continued_for_the_same_content_only(here, model):
    from sentiment_kit.transfer.bulk import job_digest
    from sentiment_kit.transfer.classifier import TextClassifier

    classifier = TextClassifier.from_pretrained(model)
    before = os.stat("in.jsonl")
    first = job_digest(classifier, "in.jsonl", "text")
    Path("in.jsonl").write_text(ROWS.replace("Review", "Rewiev") + BAD)
    os.utime("in.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat("in.jsonl")
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert job_digest(classifier, "in.jsonl", "text") != first
    Path("in.jsonl").write_text(ROWS + BAD)
    assert job_digest(classifier, "in.jsonl", "text") == first, "whenever it was written"


# ── one sentence


def raising(error):
    def verify(args):
        raise error

    return verify


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "stopped"),
        (MemoryError(), "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError"),
        (KeyError("unit"), "KeyError: 'unit' (a fault"),
        (AssertionError(), "AssertionError"),
        ("\ud800".encode, "UnicodeEncodeError"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError"),
        (ModuleNotFoundError("x", name="kaleido"), "kaleido is missing"),
        (FileNotFoundError(2, "No such file", "a\x1b[2Jb"), "a\ufffd[2Jb: No such file"),
        (PermissionError(13, "Permission denied", b"a\xf1b"), "a\udcf1b: Permission denied"),
        (OSError("odd"), "odd"),
        (ConnectionResetError(104, "Connection reset"), "Connection reset"),
        (KitError("one\ntwo \x1b]0;x\x07 \u202e\udc9b"), "one two \ufffd]0;x\ufffd \ufffd\ufffd"),
        (ValueError("x" * 5000), "x (a fault"),
        (BaseException("of no kind"), "of no kind"),
    ],
)
def test_whatever_is_raised_is_one_sentence(monkeypatch, capfdbinary, error, said):
    if callable(error):
        with pytest.raises(UnicodeEncodeError) as caught:
            error("utf-8")
        error = caught.value
    console = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stderr", console)
    monkeypatch.setitem(COMMANDS, "verify", raising(error))
    assert main(["verify"]) == 2
    line = console.buffer.getvalue().decode("utf-8", "surrogateescape")
    assert said in line and line.count("\n") == 1 and len(line) < 600
    assert "Traceback" not in line and line.startswith("sentiment-kit: ")
    assert main(["verify", "--debug"]) == 2
    assert "Traceback" in console.buffer.getvalue().decode("utf-8", "replace")


def test_statuses_and_who_goes_on(monkeypatch, capsys):
    for code, status in ((None, 0), (0, 0), (3, 3), ("no", 2)):
        monkeypatch.setitem(COMMANDS, "verify", raising(SystemExit(code)))
        assert main(["verify"]) == status
    for command in ("classify", "verify"):
        monkeypatch.setitem(COMMANDS, command, raising(KeyboardInterrupt()))
        assert ("continues" in refused(capsys, command)) == (command == "classify")
    monkeypatch.setenv("SENTIMENT_KIT_DEBUG", "1")
    assert main(["verify"]) == 2 and "Traceback" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sentiment-kit 0.") and "Python 3." in said and "torch 2." in said
    assert main(["--help"]) == 0 and "--version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("cp1252", b"Caf\xe9 ?? \xf1 ?\n"),
        ("ascii", b"Caf? ?? \xf1 ?\n"),
        ("utf-8", "Café この".encode() + b" \xf1 ?\n"),
    ],
)
def test_a_console_prints_what_it_can(monkeypatch, encoding, printed):
    console = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setitem(COMMANDS, "verify", lambda args: terminal.say("Café この \udcf1 \ud800"))
    assert main(["verify"]) == 0
    assert console.buffer.getvalue() == printed


def test_a_reader_that_leaves_is_no_error():
    end, other = os.pipe()
    os.close(end)
    done = subprocess.run([SCRIPTS / "sentiment-kit", "--help"], stdout=other, stderr=-1)
    os.close(other)
    assert (done.returncode, done.stderr) == (141, b"")
    with open("/dev/full", "w") as full:
        done = subprocess.run([SCRIPTS / "sentiment-kit", "--help"], stdout=full, stderr=-1)
    assert (done.returncode, done.stderr) == (2, b"sentiment-kit: No space left on device\n")


def test_another_broken_pipe_is_an_error(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "verify", raising(BrokenPipeError(32, "Broken pipe")))
    assert "Broken pipe" in refused(capsys, "verify")


def test_no_data_commands_the_terminal(here, capsys):
    escape = "\x1b]0;owned\x07\u202e\x9b2J"
    Path(f"{escape}.csv").write_text(f"a{escape},b\n1,2\n")
    for words in ([f"{escape}.csv"], [f"{escape}.json"], ["in.jsonl", "--text-key", escape]):
        said = refused(capsys, "shards", *words, "--out", "corpus", *ONE)
        assert not set(said) & set(escape) - set("]0;owned2J")
    Path("splits.jsonl").write_text(json.dumps(dict(text="Fine.", split=escape)) + "\n")
    words = ["splits.jsonl", "--split-key", "split", "--out", escape]
    assert not set(refused(capsys, "shards", *words, *ONE)) & set("\x1b\x07\u202e\x9b")
    assert main(["shards", "in.jsonl", "--out", escape, *ONE, "--max-bad", "0.1"]) == 0
    assert not set(capsys.readouterr().out) & set("\x1b\x07\u202e\x9b")


def test_no_sentence_commands_the_terminal_of_a_notebook_or_a_script():
    error = KitError("row 3 has '\x1b]0;x\x07' \u202e\x9b\udc9b; é 🙂\nmend it")
    said = "row 3 has '\ufffd]0;x\ufffd' \ufffd\ufffd\ufffd; é 🙂\nmend it"
    assert str(error) == said and error._render_traceback_() == [f"KitError: {said}"]


def test_a_prompt_commands_no_terminal(model, capsys):
    assert main(["generate", model, "--prompt", "\x1b[2JFine.", "--n-bytes", "5"]) == 0
    assert capsys.readouterr().out.startswith("\ufffd[2JFine.")


def test_errors_name_options_of_the_command_in_hand(here, capsys):
    said = refused(capsys, "shards", "in.jsonl", "--out", "corpus", "--text-key", "words", *ONE)
    assert "set --text-key to one of: text, stars" in said
    said = refused(capsys, "shards", "in.jsonl", "--out", "corpus", "--max-bad", "0", *ONE)
    assert "raise --max-bad above 0" in said
    for line, options, expected in (
        ("set text_key", {"--text-key"}, "set --text-key"),
        ("set text_key", {"--label-key"}, "set text_key"),
        ("give n_bytes=5", {"--n-bytes"}, "give --n-bytes 5"),
        ("'text_key' and a/text_key.csv", {"--text-key"}, "'text_key' and a/text_key.csv"),
        ("text_key()", {"--text-key"}, "text_key()"),
        ("label_key", {"--label-keys"}, "--label-keys"),
        ('say header="no", or header="a,b"', {"--header"}, "say --header no, or --header a,b"),
        ("quoting='x' is unknown", {"--quoting"}, "--quoting 'x' is unknown"),
        ('say header="no"', {"--out"}, 'say header="no"'),
        ("the header, --set header=5 and a/header=5", {"--header"}, None),
    ):
        assert terminal.name_options(line, options) == (line if expected is None else expected)
    Path("bare.csv").write_text("2,Good,Great mug\n2,title,Fine\n")
    said = refused(capsys, "shards", "bare.csv", "--out", "corpus", *ONE)
    assert "say --header no (" in said and "or --header yes" in said


# ── names that are no UTF-8


def quiet(words):
    "`main`, its output dropped: a test's output is passed on in UTF-8, and these names are none."
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main(words)


def test_a_latin_1_name_goes_in_and_out(here, model):
    raw = b"rese\xf1as.jsonl"
    os.rename("in.jsonl", os.fsdecode(raw))
    words = ["classify", model, os.fsdecode(raw), "--out"]
    assert (
        quiet([*words, os.fsdecode(b"\xf1.csv"), "--quarantine", os.fsdecode(b"q\xf1.jsonl")]) == 0
    )
    lines = Path(os.fsdecode(b"\xf1.csv")).read_bytes().splitlines()
    assert len(lines) == 41 and lines[1].startswith(raw + b",1,")
    assert read_json(os.fsdecode(b"q\xf1.jsonl"))["file"] == os.fsdecode(raw)
    assert quiet([*words, "o.jsonl"]) == 0
    row = json.loads(Path("o.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert row["source"] == os.fsdecode(raw)
    assert quiet(["features", model, os.fsdecode(raw), "--out", "o.npz"]) == 0
    corpus = make_shards(os.fsdecode(raw), os.fsdecode(b"c\xf1"), (1, 1, 1), max_bad=0.1)
    assert open_corpus(corpus.folder).verify().manifest["sources"][0]["name"] == os.fsdecode(raw)


def test_a_model_is_not_written_where_it_cannot_be_read(here, model, capsys):
    odd = os.fsdecode(b"mod\xe8le")
    make_shards("in.jsonl", "corpus", (1, 1, 1), max_bad=0.1)
    Path("l.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 10)
    for words in (
        ["train", "--corpus", "corpus"],
        ["convert", model],
        ["finetune", model, "l.csv", "--text-key", "text"],
        ["run", "smoke", "--name", odd],
        ["run", "smoke", "--data", odd],
    ):
        assert "is no name in UTF-8" in refused(capsys, *words, "--out", odd)
    assert not os.path.exists(odd)


def test_lone_surrogates_in_names_of_categories(here):
    rows = [f'{{"text": "Number {n}.", "category": "Toys \\ud800"}}\n' for n in range(40)]
    Path("odd.jsonl").write_text("".join(rows))
    corpus = make_shards("odd.jsonl", "corpus", (1, 1, 1))
    assert open_corpus("corpus").manifest["categories"] == ["Toys \ufffd"]
    assert corpus.digest == open_corpus("corpus").digest
    assert read_json(write_json("odd.json", {"name": "\ud800é\udcf1"})) == {"name": "\ud800é\udcf1"}
    assert write_atomic("odd.html", "é\ud800").read_text(encoding="utf-8") == "é\\ud800"


# ── standard input and addresses


@pytest.mark.parametrize(
    ("suffix", "data"),
    [
        (".jsonl", ROWS.encode()),
        (".json", b" [" + ROWS.strip().replace("\n", ",").encode() + b"]"),
        (".csv", b"\xef\xbb\xbftext,n\n" + b"".join(b"Fine %d.,1\n" % n for n in range(40))),
        (".tsv", b"text\tn\n" + b"".join(b"Fine, %d.\t1\n" % n for n in range(40))),
        (".jsonl.gz", gzip.compress(ROWS.encode())),
    ],
)
def test_a_pipe_is_read_like_a_file(here, monkeypatch, suffix, data):
    Path("plain" + suffix).write_bytes(data)
    plain = make_shards("plain" + suffix, "plain", (1, 1, 1))
    for n, word in enumerate(["-", "/dev/stdin", "fifo"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        if word == "fifo":
            end, other = os.pipe()
            os.write(other, data)
            os.close(other)
            word = f"/dev/fd/{end}"
        assert main(["shards", word, "--out", f"corpus{n}", *ONE]) == 0
        corpus = open_corpus(f"corpus{n}")
        assert corpus.manifest["sources"][0]["name"] == ("pipe1" if n == 2 else "stdin") + suffix
        for split in ("train", "valid", "test"):
            assert [s.data.tobytes() for s in corpus.split(split)] == [
                s.data.tobytes() for s in plain.split(split)
            ]


def test_dashes(here, model, monkeypatch, capsys):
    def stdin(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    stdin(b"")
    assert "standard input is empty" in refused(capsys, "shards", "-", "--out", "corpus", *ONE)
    assert "named twice" in refused(capsys, "shards", "-", "/dev/stdin", "--out", "corpus", *ONE)
    stdin(b"\x1f\x8bno gzip")
    assert "whole compressed" in refused(capsys, "shards", "-", "--out", "corpus", *ONE)
    stdin(b"One text.\r\n\r\n Two\xf0 texts.\n")
    assert standard_input.texts_of(["-", "Three."]) == ["One text.", " Two\ufffd texts.", "Three."]
    stdin(b"Once\nupon\n")
    assert main(["generate", model, "--prompt", "-", "--n-bytes", "5"]) == 0
    assert capsys.readouterr().out.startswith("Once\nupon")
    stdin(b"One text.\nTwo texts.\n")
    assert main(["heatmap", model, "-", "--unit", "1"]) == 0
    stdin(b"text,label\n" + b"good,1\nbad,0\n" * 10)
    words = ["--text-key", "text", "--out", "folder", "--mode", "frozen"]
    assert main(["finetune", model, "-", *words]) == 0
    monkeypatch.setattr(sys, "stdin", None)
    assert "is closed" in refused(capsys, "shards", "-", "--out", "corpus", *ONE)


def test_addresses_of_other_kinds(here, monkeypatch, capsys):
    for url in ("file:///etc/passwd", "ftp://host/x", "data:,x", "body.bin", "//host/x"):
        start = time.monotonic()
        with pytest.raises(KitError, match="no address that can be fetched"):
            download(url, "x")
        assert time.monotonic() - start < 0.5 and not os.path.exists("x")
    said = refused(capsys, "shards", "gopher://host/x.jsonl", "--out", "corpus", *ONE)
    assert "gopher:// cannot be read" in said
    import fsspec

    def fails(*args, **how):
        raise TypeError("of a host's own")

    monkeypatch.setattr(fsspec, "open_files", fails)
    said = refused(capsys, "shards", "https://user:secret@host/*.csv", "--out", "corpus", *ONE)
    assert "https:// cannot be read (TypeError)" in said and "secret" not in said


# ── other systems


@pytest.fixture
def windows(monkeypatch):
    "A system that opens no folder, has no os.sync, no fcntl, no poll and no renameat2."
    real = os.open

    def refuses(path, *args, **how):
        if (
            os.path.isdir(path)
            and "dir_fd" not in how
            and sys._getframe(1).f_code.co_name != "_rmtree_safe_fd"
        ):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **how)

    monkeypatch.setattr(os, "open", refuses)
    monkeypatch.delattr(os, "sync")
    monkeypatch.delattr("select.poll")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)


def test_folders_are_published_where_they_cannot_be_synced(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # 1,002 of them take seconds
    for n in range(2):
        (tmp_path / "new").mkdir()
        for k in range(1002):
            (tmp_path / "new" / f"{k}").write_text(f"{n}")
        publish_folder(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final" / "7").read_text() == "1"
    assert write_atomic(tmp_path / "deep" / "x", "1").read_text() == "1"


def test_commands_work_where_little_exists(windows, here, model, capsys):
    from sentiment_kit.training.run_lock import claim_run

    assert main(["shards", "in.jsonl", "--out", "corpus", *ONE, "--max-bad", "0.1"]) == 0
    assert main(["classify", model, "in.jsonl", "--out", "o.csv"]) == 0
    assert main(["heatmap", model, "Fine.", "--unit", "1"]) == 0
    with claim_run("run"), claim_run("run"), hold_output("x"), hold_output("x"):
        pass
    assert terminal.nobody_reads(BrokenPipeError(32, "Broken pipe"))


def test_leftovers_go_where_no_folder_can_be_locked(windows, tmp_path, monkeypatch):
    from sentiment_kit.training.checkpoint import clear_leftovers

    monkeypatch.delitem(sys.modules, "fcntl")
    for name in (".step-1.dead", ".step-2.live"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    with hold_folder(tmp_path / ".step-2.live") as ours:
        assert ours
        clear_leftovers(tmp_path)
        assert (tmp_path / ".step-2.live/model.safetensors").exists()
        assert not (tmp_path / ".step-1.dead/model.safetensors").exists()


def test_windows_locks_a_byte(windows, here, monkeypatch):
    held = []

    class Windows:
        LK_NBLCK = 2

        @staticmethod
        def locking(fd, way, n):
            if held:
                raise PermissionError(13, "Permission denied")
            held.append(fd)

    monkeypatch.setitem(sys.modules, "msvcrt", Windows)
    with (
        hold_output("o.csv"),
        pytest.raises(KitError, match="another process"),
        hold_output("o.csv"),
    ):
        pass


def test_no_module_needs_what_only_one_system_has():
    "Modules of one system are imported where they are used, and signals asked for by name."
    import ast

    only_posix = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            assert not only_posix & {*names, getattr(node, "module", None)}, path.relative_to(ROOT)


def test_a_run_started_in_a_thread_takes_no_signals():
    import threading

    seen = []

    def work():
        with stop_as_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
    with stop_as_interrupt():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_to_a_file_of_the_model_is_no_place_for_a_page(tmp_path, link):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    getattr(page := tmp_path / "page.html", link)(model / "config.json")
    with pytest.raises(KitError, match="page.html could be a file of .*model"):
        check_outputs([model], dict(page=page))
    (blob := tmp_path / "blob").write_text("{}")
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(blob)
    with pytest.raises(KitError, match="blob could be a file of .*model"):
        check_outputs([model], dict(page=blob))
    (model / "old.html").write_text("")
    check_outputs([model], dict(page=model / "old.html"))
