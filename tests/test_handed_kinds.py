"""Whole commands on inputs of the kinds that people handed in; the readers have tests of their own.

Each function makes an input, runs the command as a user would, and looks at what is on disk after.
"""

import csv
import json
import re

import numpy as np
import pytest

from sentiment_kit.cli import main
from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.files import KitError
from sentiment_kit.data.starred import labelled_by_stars
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.transfer.classifier import TextClassifier
from sentiment_kit.transfer.finetune import FinetuneConfig

pytestmark = pytest.mark.slow
GOOD = ("I love it", "It works well", "A fine thing", "Bought it again")
BAD = ("It broke at once", "Never again", "A waste of money", "It smells")
ONE = ("--counts", "1", "1", "1")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "A small language model and a small classifier, in folders."
    folder = tmp_path_factory.mktemp("models")
    model = LanguageModel(LanguageModelConfig(embed_size=4, hidden_size=8))
    model.save_pretrained(folder / "lm")
    classifier = TextClassifier(model, FinetuneConfig(mode="frozen", epochs=1))
    texts = [f"{text} {i}." for i in range(10) for text in GOOD + BAD]
    classifier.fit(texts, (["good"] * 4 + ["awful"] * 4) * 10)
    classifier.save_pretrained(folder / "classifier")
    return folder


@pytest.fixture
def kit(tmp_path, monkeypatch, capsys):
    "A command in a folder of its own: (status, stdout, stderr); never a traceback."
    monkeypatch.chdir(tmp_path)

    def run(*args):
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return run


def reviews(n=12):
    "Texts and whether each is good, in turn."
    return [(f"{(GOOD if i % 2 else BAD)[i % 4]} {i}.", i % 2) for i in range(n)]


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *rows])


def answers(path):
    "The rows of a file of answers."
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def names_unknown_options(command, error, kit):
    "Options that a message names and the command lacks, and names that only Python has."
    known = kit(command, "--help")[1]
    named = re.findall(r"--[a-z][a-z-]+", error)
    python = re.findall(r"\b[a-z]+_(?:key|bad|scale)\b", error)
    return [name for name in named if name not in known] + python


def test_a_tab_file_with_stray_quotes_has_an_answer_a_line(models, kit):
    texts = [text if i % 5 else f'"{text}' for i, (text, _) in enumerate(reviews(20))]
    lines = [f"{text}\t{i % 2}" for i, text in enumerate(texts)]
    with open("t.tsv", "w", encoding="utf-8") as f:
        f.write("\n".join(["sentence\tlabel", *lines]) + "\n")
    how = ("--text-key", "sentence")
    assert kit("classify", models / "classifier", "t.tsv", "--out", "o.csv", *how)[0] == 0
    assert [int(row["row"]) for row in answers("o.csv")] == list(range(1, 21))


def test_stars_stay_with_their_reviews_in_a_tab_file(kit):
    rows = [
        (f'"{text}' if i % 3 == 0 else text, 1 + 4 * y) for i, (text, y) in enumerate(reviews())
    ]
    with open("t.tsv", "w", encoding="utf-8") as f:
        f.writelines(f"{line}\n" for line in ["star_rating\treview_body"])
        f.writelines(f"{stars}\t{text}\n" for text, stars in rows)
    keys = ("--text-key", "review_body", "--stars-key", "star_rating")
    assert kit("shards", "t.tsv", "--out", "c", *ONE, *keys)[0] == 0
    corpus = open_corpus("c")
    read = {}
    for split in ("train", "valid", "test"):
        for shard in corpus.split(split):
            texts = [text.decode().strip() for text in shard.encoded_reviews()]
            read |= dict(zip(texts, shard.meta["stars"].tolist(), strict=True))
    assert read == dict(rows)


@pytest.mark.parametrize("scale", [(2, 8, 10), (0, 3, 4), (0, 80, 100), (0, 0.5, 1)])
def test_another_scale_trains_no_judge(kit, scale):
    low, high, top = scale
    rows = [json.dumps({"text": t, "stars": (high, low)[1 - y]}) for t, y in reviews(40)]
    rows.append(json.dumps({"text": "The best of all.", "stars": top}))
    with open("t.jsonl", "w", encoding="utf-8") as f:
        f.write("\n".join(rows))
    status, _, error = kit("shards", "t.jsonl", "--out", "c", *ONE)
    if status == 2:
        assert "scale" in error and not names_unknown_options("shards", error, kit)
        return
    shards = [
        shard for split in ("train", "valid", "test") for shard in open_corpus("c").split(split)
    ]
    with pytest.raises(KitError):
        labelled_by_stars(shards)


def test_a_column_of_stars_that_is_asked_for_and_missing(kit):
    write_csv("t.csv", ["text", "stars"], [(t, 1 + 4 * y) for t, y in reviews()])
    status, _, error = kit("shards", "t.csv", "--out", "c", *ONE, "--stars-key", "overall")
    assert status == 2 and "overall" in error and "stars" in error.split("overall", 1)[1]
    assert not names_unknown_options("shards", error, kit)


SPELLINGS = ((0, 1), (0.0, 1.0), ("0", "1"), (False, True))


@pytest.mark.parametrize("tested", SPELLINGS)
def test_a_class_has_one_name_however_it_is_spelled(models, kit, tested):
    rows = reviews(48)
    spelled = [SPELLINGS[(i // 2) % 4][y] for i, (_, y) in enumerate(rows)]
    for name, labels in (("train", spelled), ("test", [tested[y] for _, y in rows])):
        lines = [
            json.dumps({"text": t, "label": label})
            for (t, _), label in zip(rows, labels, strict=True)
        ]
        with open(f"{name}.jsonl", "w", encoding="utf-8") as f:
            f.write("\n".join(lines))
    how = ("--mode", "frozen", "--epochs", 1, "--test", "test.jsonl")
    status, _, error = kit("finetune", models / "lm", "train.jsonl", "--out", "c", *how)
    assert (status, error) == (0, "") or status == 0
    assert len(TextClassifier.from_pretrained("c").classes_) == 2


@pytest.mark.parametrize("words", [("negative", "positive"), ("schlecht", "gut"), (-1, 1)])
def test_words_as_labels_in_both_commands(models, kit, words):
    write_csv("t.csv", ["review", "sentiment"], [(t, words[y]) for t, y in reviews(60)])
    keys = ("--text-key", "review", "--label-key", "sentiment")
    labels = ("--labels", "t.csv", "t.csv", "t.csv")
    status, said, error = kit("transfer", models / "lm", *labels, *keys)
    assert status == 0, error
    how = ("--mode", "frozen", "--epochs", 1, "--out", "c")
    assert kit("finetune", models / "lm", "t.csv", *keys, *how)[0] == 0
    classes = {str(name) for name in TextClassifier.from_pretrained("c").classes_}
    assert classes == {str(word) for word in words} or words == (-1, 1)


def test_advice_can_be_followed(models, kit):
    write_csv("t.csv", ["review", "sentiment"], [(t, y) for t, y in reviews()])
    write_csv("empty.csv", ["text", "label"], [("A fine thing.", 1), ("", 0), ("Broke.", 0)])
    for name in ("t.csv", "empty.csv"):
        for command, args in {
            "transfer": ("--labels", name, name, name),
            "finetune": (name, "--out", "c"),
            "classify": (name, "--out", "o.csv"),
            "shards": (name, "--out", "s", *ONE),
        }.items():
            model = {"classify": "classifier", "shards": None}.get(command, "lm")
            first = () if model is None else (models / model,)
            status, _, error = kit(command, *first, *args)
            if status:
                assert not names_unknown_options(command, error, kit), error


def test_a_rating_that_nobody_asked_for(models, kit):
    rows = [(t, y, "PG-13") for t, y in reviews(60)]
    write_csv("t.csv", ["text", "label", "rating"], rows)
    assert kit("transfer", models / "lm", "--labels", "t.csv", "t.csv", "t.csv")[0] == 0
    assert kit("classify", models / "classifier", "t.csv", "--out", "o.csv")[0] == 0
    assert len(answers("o.csv")) == 60


def test_a_file_without_a_header_loses_no_review(models, kit):
    write_csv("t.csv", ["2", "Good", reviews()[0][0]], [(5, "Fine", t) for t, _ in reviews()[1:]])
    how = ("--out", "o.csv")
    status, _, error = kit("classify", models / "classifier", "t.csv", *how)
    assert status == 2 and "header" in error, error
    assert not names_unknown_options("classify", error, kit)
    first = ("--text-key", reviews()[0][0])  # who takes the first review for a name
    status, _, error = kit("classify", models / "classifier", "t.csv", *how, *first)
    assert status == 2 or len(answers("o.csv")) == 12
    columns = ("--header", "stars,title,text", "--text-key", "text")
    status, _, error = kit("classify", models / "classifier", "t.csv", *how, *columns)
    assert status == 0 and len(answers("o.csv")) == 12, error


def test_a_page_says_which_label_has_which_colour(models, kit):
    status, _, error = kit("heatmap", models / "classifier", "I love it.", "--out", "h.html")
    assert status == 0, error
    with open("h.html", encoding="utf-8") as f:
        page = f.read()
    assert "good" in page and "awful" in page


def test_an_answer_file_names_the_labels(models, kit):
    write_csv("t.csv", ["text"], [(t,) for t, _ in reviews()])
    assert kit("classify", models / "classifier", "t.csv", "--out", "o.csv")[0] == 0
    assert {row["label"] for row in answers("o.csv")} <= {"good", "awful"}


RECIPES = {
    "aliases": "chain: [63_map_the_neuron]\ndoses: [&a [x, x, x, x, x, x, x, x, x]"
    + "".join(
        f", &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]\n",
    "a date": "chain: [60_make_shards]\ndata: 2020-01-01\n",
    "a notebook from outside": "chain: [../../evil]\n",
    "an object": "chain: !!python/object/apply:os.getcwd []\n",
    "no mapping": "- chain\n",
    "another value": "chain: [60_make_shards]\nno_such_value: 1\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_from_strangers(kit, name):
    with open("r.yaml", "w", encoding="utf-8") as f:
        f.write(RECIPES[name])
    status, _, error = kit("run", "r.yaml", "--out", "out")
    assert status == 2 and error.count("\n") == 1, error


@pytest.mark.parametrize("value", ["chain=[62_transfer]", "no_such_value=1", "counts"])
def test_values_that_nothing_takes_are_refused(kit, value):
    status, _, error = kit("run", "smoke", "--set", value, "--out", "out")
    assert status == 2 and value.split("=")[0] in error


def test_an_address_is_read_by_a_recipe_as_by_the_command(kit, tmp_path):
    lines = [json.dumps({"text": t * 40 + str(i)}) for i, (t, _) in enumerate(reviews(60))]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (tmp_path / "r.yaml").write_text("chain: [60_make_shards]\ncounts: [1, 1, 1]\ndata: null\n")
    status, _, error = kit("run", "r.yaml", "--data", f"file://{tmp_path}/t.jsonl", "--out", "out")
    assert status == 0, error
    assert list(tmp_path.glob("out/**/manifest.json"))


def test_more_epochs_and_weights_of_a_model(models, kit, tmp_path):
    lines = [json.dumps({"text": t * 20 + str(i)}) for i, (t, _) in enumerate(reviews(60))]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert kit("shards", "t.jsonl", "--out", "c", *ONE)[0] == 0
    how = "--corpus c --global-batch 4 --seq-len 32 --progress none".split()
    size = "--hidden-size 8 --embed-size 4".split()
    assert kit("train", *how, *size, "--out", "t")[0] == 0
    status, _, error = kit("train", *how, *size, "--out", "t", "--epochs", 2)
    assert status == 0, error
    status, _, error = kit("train", *how, "--out", "u", "--start-from", models / "lm")
    assert status == 0, error
    steps = [json.loads(line)["step"] for line in (tmp_path / "t/metrics.jsonl").open()]
    assert steps == sorted(steps) and np.diff(steps).max() > 0
