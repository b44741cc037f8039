"""One rule for labels in every reader; containers that are no list of texts; names on pages."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sentiment_kit.cli import main
from sentiment_kit.data.containers import as_list, is_missing, list_texts
from sentiment_kit.data.datasets import load_splits
from sentiment_kit.data.files import KitError
from sentiment_kit.data.label_values import label_words, order_classes, plain_label
from sentiment_kit.data.labelled import Texts, load_labelled
from sentiment_kit.data.reviews import read_reviews
from sentiment_kit.looking.heatmap import heatmap_html
from sentiment_kit.looking.heatmap_widget import HeatmapWidget
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.looking.neuron_map import NeuronMap
from sentiment_kit.looking.steering import SteeringPanel, steer
from sentiment_kit.model.generate import generate_batch, written_bits
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates, text_bits, which_units
from sentiment_kit.terminal import name_options
from sentiment_kit.transfer.baselines import ngram_counts
from sentiment_kit.transfer.bulk import classify_file
from sentiment_kit.transfer.classifier import LabelLogits, TextClassifier
from sentiment_kit.transfer.features import ByteFeaturizer, record_states
from sentiment_kit.transfer.finetune import FinetuneConfig
from sentiment_kit.transfer.labels import load_texts
from sentiment_kit.transfer.matching import stream_traces
from sentiment_kit.transfer.neuron import unit_histogram
from sentiment_kit.transfer.probe import SentimentProbe


class NAType:
    "What pandas calls its missing value, and how it answers a comparison."

    def __eq__(self, other):
        return self

    __ne__ = __eq__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


class Column:
    "As much of a pandas Series as is used: values in order, found by labels of its own."

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        raise KeyError(label)


def frame(**columns):
    "As much of a DataFrame: iterating gives the names of its columns."

    class DataFrame:
        def __init__(self):
            self.columns = list(columns)

        def __iter__(self):
            return iter(columns)

        def __len__(self):
            return len(next(iter(columns.values())))

    return DataFrame()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=12, embed_size=6))


FROZEN = FinetuneConfig(mode="frozen")
GOOD = [f"the good lid {n}" for n in range(12)]
BAD = [f"a bad strap {n}" for n in range(12)]
TEXTS = [text for pair in zip(BAD, GOOD, strict=True) for text in pair]


def fitted(model, no, yes, **options):
    return TextClassifier(model, FROZEN, **options).fit(
        TEXTS, [no, yes] * 12, TEXTS[:8], [no, yes] * 4
    )


def write_table(path, labels, texts=None):
    texts = TEXTS if texts is None else texts
    rows = [f"{label},{text}" for label, text in zip(labels, texts, strict=False)]
    path.write_text("\n".join(["label,text", *rows]) + "\n", encoding="utf-8")
    return path


# --- one rule


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", "+1", " 1 ", "1e0", True, "True", "TRUE"])
def test_one_is_one(value):
    assert plain_label(value) == 1 and type(plain_label(value)) is int
    assert plain_label(np.array([value])[0]) == 1


def test_missing_is_missing():
    for value in (
        None,
        math.nan,
        np.float32("nan"),
        NAType(),
        np.ma.masked,
        "",
        " ",
        "nan",
        "<NA>",
    ):
        assert plain_label(value) is None
    for value in ("none", "no", "0", 0, False, "na"):
        assert plain_label(value) is not None
    assert is_missing(NAType()) and not is_missing("nan")


@pytest.mark.parametrize("value", ["0.5", 0.5, "1e-3", math.inf, [1], {"label": 1}])
def test_what_is_no_label_is_refused(value):
    with pytest.raises(KitError):
        plain_label(value)


def test_words_and_codes_stay_words():
    assert [plain_label(x) for x in ("007", "01", "1a", "pos ")] == ["007", "01", "1a", "pos"]
    assert plain_label("−1") == plain_label(-1.0) == -1


def test_order_and_names():
    assert order_classes([1, -1, 0]) == [-1, 0, 1]
    assert order_classes(["POS", "neg", "POS"]) == ["neg", "POS"]
    assert order_classes(["gut", "schlecht"], ("schlecht", "gut")) == ["schlecht", "gut"]
    assert label_words([0, 1]) == label_words(["-1", "1"]) == ["negative", "positive"]
    assert label_words([1, 2, 3]) == ["1", "2", "3"] and label_words(["gut"]) == ["gut"]
    for labels, classes, said in (
        (["Good", "bad", "good"], None, "one word"),
        ([0, 1], ("0", "2"), "classes are 0, 2, but the labels are 0, 1"),
        ([0, 1], ("1", "1.0"), "name each of these once"),
        (range(1000), None, "is this the column of classes"),
    ):
        with pytest.raises(KitError, match=said):
            order_classes(labels, classes)


CODES = [
    (("0", "1"), {0: "negative", 1: "positive"}),
    (("0.0", "1.0"), {0: "negative", 1: "positive"}),
    (("False", "True"), {0: "negative", 1: "positive"}),
    (("-1", "1"), {0: "negative", 1: "positive"}),
    (("neg", "pos"), {0: "neg", 1: "pos"}),
    (("negative", "positive"), {0: "negative", 1: "positive"}),
    (("Neg", "POS"), {0: "Neg", 1: "POS"}),
    (("1", "2"), {1: "1", 2: "2"}),
]


@pytest.mark.parametrize("codes, names", CODES, ids=[codes[1] for codes, _ in CODES])
def test_every_code_works_in_both_readers(tmp_path, codes, names):
    path = write_table(tmp_path / "own.csv", codes * 12)
    data = load_labelled(path, path, path)["test"]
    low = min(names)
    assert data.words() == names and data.labels.tolist() == [low, low + 1] * 12
    texts, y = load_texts(path)
    assert texts == TEXTS and len(set(y.tolist())) == 2
    assert y.tolist() == [plain_label(code) for code in codes] * 12


def test_spellings_of_one_class_are_one_class_in_all_readers(tmp_path):
    rows = [("1", "0"), ("1.0", "0.0"), ("true", "false"), ("True", "False"), (" 1", "0 ")]
    labels = [label for pair in rows for label in pair]
    table = write_table(tmp_path / "mixed.csv", labels)
    lines = tmp_path / "mixed.jsonl"
    values = [1, 0, 1.0, 0.0, True, False, "1", "0", "1.0", "0.0"]
    told = (json.dumps(dict(text=t, label=v)) for t, v in zip(TEXTS, values, strict=False))
    lines.write_text("\n".join(told) + "\n")
    for path in (table, lines):
        assert load_labelled(path, path, path)["train"].labels.tolist() == [1, 0] * 5
        assert load_texts(path)[1].tolist() == [1, 0] * 5
        assert [r.label for r in read_reviews(path, "text", "label")] == [1, 0] * 5
    assert load_texts(table, ["label"])[1].tolist() == [[1], [0]] * 5


def test_missing_labels_are_counted_and_left_out_only_on_request(tmp_path, capsys):
    path = write_table(tmp_path / "holes.csv", ["1", "0", "", "NaN", "<NA>", "1"] * 4)
    said = (
        r"holes.csv, row 3: label is None; .*\(the first of 4 such rows; 12 of 24 rows are bad\).*"
        r"max_bad above 0"
    )
    for read in (load_texts, lambda path, **how: load_labelled(path, path, path, **how)):
        with pytest.raises(KitError, match=said):
            read(path)
    assert load_texts(path, max_bad=0.5)[1].tolist() == [1, 0, 1] * 4
    assert "holes.csv: 12 of 24 rows left out (label is None" in capsys.readouterr().err
    with pytest.raises(KitError, match="no row with a text"):
        load_texts(write_table(tmp_path / "none.csv", [""] * 5), max_bad=1.0)


def test_columns_nobody_asked_for_do_not_matter_and_two_texts_are_not_guessed(tmp_path):
    path = tmp_path / "rated.csv"
    path.write_text("label,text,rating\n1,a gem,PG-13\n0,a dud,R\n")
    assert load_labelled(path, path, path)["train"].labels.tolist() == [1, 0]
    path.write_text("label,text,sentence\n1,a gem,b\n")
    for read in (load_texts, lambda path: load_labelled(path, path, path)):
        with pytest.raises(KitError, match="several columns of text; set text_key"):
            read(path)
    path.write_text("label,text\n1,a gem\nlabel,text\n0,a dud\n")
    with pytest.raises(KitError, match=r"rated.csv, row 2: the header again \(1 of 3 rows"):
        load_texts(path)


def test_a_labelled_table_without_a_header_is_declared(tmp_path):
    path = tmp_path / "bare.csv"
    path.write_text("".join(f'{n % 2},"a ""gem"" {n}"\n' for n in range(12)))
    how = dict(header="label,text", quoting="doubled")
    texts, y = load_texts(path, **how)
    assert y.tolist() == [0, 1] * 6 and texts[0] == 'a "gem" 0'
    assert load_texts(path, ["label"], **how)[1].tolist() == [[0], [1]] * 6
    assert load_splits([path] * 3, **how)["test"].texts == texts
    with pytest.raises(KitError, match="header is for files of your own"):
        load_splits("samples", header="no")


def test_the_order_of_classes_can_be_given_and_is_that_of_the_training_file(tmp_path):
    path = write_table(tmp_path / "kino.csv", ["schlecht", "gut"] * 12)
    given = load_labelled(path, path, path, classes=["schlecht", "gut"])["train"]
    assert given.labels.tolist() == [0, 1] * 12 and repr(given).endswith("12 gut (1))")
    assert load_labelled(path, path, path)["train"].labels.tolist() == [1, 0] * 12  # a to z
    alone = write_table(tmp_path / "alone.csv", ["pos"] * 4)
    assert load_labelled(alone, alone, alone)["train"].names == {1: "pos"}
    other = write_table(tmp_path / "other.csv", ["schlecht", "mittel"])
    with pytest.raises(KitError, match="other.csv, row 2: the label 'mittel' is not among"):
        load_labelled(path, path, other)
    with pytest.raises(KitError, match="row 2: label is 'mittel'; it must be schlecht or gut"):
        load_labelled(path, path, other, classes=["schlecht", "gut"])
    with pytest.raises(KitError, match="label_key is for files of your own"):
        load_splits("samples", label_key="mood")


def test_labels_in_memory_follow_the_rule(model):
    spelled = np.array([0, 1, "0", "1", 0.0, 1.0, False, True] * 3, object)
    classifier = TextClassifier(model, FROZEN).fit(TEXTS, spelled, TEXTS[:8], ["0", "1"] * 4)
    assert classifier.classes_.tolist() == [0, 1]
    assert classifier.score(TEXTS, ["0.0", "1.0"] * 12) == classifier.score(TEXTS, [0, 1] * 12)
    for missing in (None, math.nan, NAType()):
        for labels in (["a", "b"], [0, 1]):
            y = labels * 11 + [missing] * 2
            with pytest.raises(KitError, match="text 22 has no label, nor have 1 more of 24"):
                TextClassifier(model, FROZEN).fit(TEXTS, y)
            with pytest.raises(KitError, match="text 22 has no label"):
                SentimentProbe().fit(np.zeros((24, 3)), y)
    with pytest.raises(KitError, match="a table of one column"):
        TextClassifier(model, FROZEN).fit(TEXTS, np.array([[0], [1]] * 12))
    probe = SentimentProbe().fit(np.arange(48.0).reshape(24, 2), [0, 1] * 12)
    assert probe.fit(np.arange(48.0).reshape(24, 2), ["0", "1"] * 12).classes_.tolist() == [
        "0",
        "1",
    ]


# --- containers


TABLE = frame(text=TEXTS, label=[0, 1] * 12)
WRONG = [
    (TABLE, r"a DataFrame .* df\['text'\], of: text, label"),
    ({"text": TEXTS}, r"a dict .* d\['text'\]"),
    ("a text", "one text was given .* write \\[text\\]"),
    (b"a text", "one text was given"),
    ({"a", "b"}, "a set has no order"),
    (None, "None was given"),
    (5, "an int was given"),
    (np.zeros((3, 2)), "its shape is"),
    (Texts(["a"], np.array([1])), r"write its \.texts"),
    ([["a", "b"]], "text 0 is a list"),
    ([{"text": "a"}], r"row\['text'\] for row in rows"),
    ([SimpleNamespace(text="a")], r"r\.text for r in reviews"),
    (["a", None, math.nan], "text 1 is None, not a str"),
    (["a", 5], "text 1 is 5, not a str"),
]


@pytest.mark.parametrize("given, said", WRONG, ids=[said[:20] for _, said in WRONG])
def test_what_is_no_list_of_texts_is_refused_everywhere(model, given, said):
    classifier = fitted(model, 0, 1)
    entries = [
        classifier.predict,
        classifier.predict_table,
        lambda X: classifier.score(X, [0, 1]),
        lambda X: TextClassifier(model, FROZEN).fit(X, [0, 1] * 12),
        ByteFeaturizer(model).transform,
        lambda X: text_bits(model, X),
        lambda X: list(stream_traces(model, X)),
        lambda X: written_bits(model, "", X),
        ngram_counts,
    ]
    for entry in entries:
        with pytest.raises(KitError, match=said):
            entry(given)


def test_panels_and_prompts_refuse_tables_too(model):
    for entry in (
        lambda X: HeatmapWidget(model, X),
        lambda X: SteeringPanel(model, 3, X),
        lambda X: generate_batch(model, X, 3),
    ):
        for given, said in WRONG[:2]:
            with pytest.raises(KitError, match=said):
                entry(given)


def test_good_containers_are_read_in_order(model):
    X = ByteFeaturizer(model).transform(TEXTS)
    for given in (tuple(TEXTS), np.array(TEXTS), Column(TEXTS), (t for t in TEXTS), iter(TEXTS)):
        np.testing.assert_array_equal(ByteFeaturizer(model).transform(given), X)
    classifier = fitted(model, "bad", "good")
    said = TextClassifier(model, FROZEN).fit(
        Column(TEXTS), Column(["bad", "good"] * 12), (t for t in TEXTS[:8]), ["bad", "good"] * 4
    )
    np.testing.assert_array_equal(said.predict_proba(TEXTS), classifier.predict_proba(TEXTS))
    assert as_list(Column([1, 2]), "labels") == [1, 2] and list_texts([]) == []


def test_texts_in_the_place_of_features_get_advice(model):
    for X in (TEXTS, np.array(TEXTS), np.array(TEXTS)[:, None], "a text", [["a"], ["b"]]):
        with pytest.raises(KitError, match=r"put ByteFeaturizer\(model\) in front"):
            SentimentProbe().fit(X, [0, 1] * 12)
    probe = SentimentProbe().fit(ByteFeaturizer(model).transform(TEXTS), [0, 1] * 12)
    with pytest.raises(KitError, match="ByteFeaturizer"):
        probe.predict(TEXTS)


def test_names_and_folders_stand_for_models(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "model")
    want = ByteFeaturizer(model).transform(TEXTS[:3])
    for name in (folder, str(folder)):
        np.testing.assert_array_equal(ByteFeaturizer(name).transform(TEXTS[:3]), want)
        assert record_states(name, "fun", 3).shape == (6, 1)
        assert write_ledger(name, "fun", 3).unit == 3
        assert HeatmapWidget(name, "fun", 3).units == [3]
    said = TextClassifier(str(folder), FROZEN).fit(TEXTS, [0, 1] * 12)
    assert said.model_.config == model.config
    assert SteeringPanel(str(folder), 3).units == SteeringPanel(model, [3]).units == [3, "bits"]
    assert len(list(steer(str(folder), "a", 2, {3: 1.0}))) == 2
    for wrong in (5, None, [model], said):
        with pytest.raises(KitError, match="was given where a LanguageModel"):
            ModelStates(wrong)
    with pytest.raises(KitError, match="is no folder, nor a model that comes with the kit"):
        TextClassifier("reviews-smal", FROZEN).fit(TEXTS, [0, 1] * 12)


def test_units_are_one_or_many_and_no_mask():
    assert which_units(3, 9) == which_units([3.0], 9) == which_units(np.int64(3), 9) == [3]
    for wrong in ("3", [True, False], [1.5], [None], {3: 1}, [9], math.nan, 1.5):
        with pytest.raises(KitError):
            which_units(wrong, 9)


# --- odd texts


@pytest.mark.parametrize("lanes", [1, 2, 128])
@pytest.mark.parametrize("pool", ["last", "mean", "max", "min"])
def test_a_text_without_bytes_is_a_row_of_zeros_wherever_it_lies(model, lanes, pool):
    texts = [b"", b"long " * 200, b"", b"short", b"", b"x" * 300, b""]
    X = ByteFeaturizer(model, pool=pool, lanes=lanes).transform(texts)
    alone = [ByteFeaturizer(model, pool=pool).transform([text])[0] for text in texts]
    np.testing.assert_allclose(X, alone, atol=1e-5)
    assert not X[[0, 2, 4, 6]].any() and X[[1, 3, 5]].any(1).all()


def test_odd_texts_in_every_entry(model, tmp_path):
    classifier = fitted(model, 0, 1)
    odd = ["", " ", "\n", b"", b" ", "🙂", "a" * 20_000]
    p_NK = classifier.predict_proba(odd)
    assert p_NK.shape == (7, 2) and np.isfinite(p_NK).all()
    assert [row["text"] for row in classifier.predict_table(odd[:5])] == ["", " ", "\n", "", ""]
    for text in odd:
        n_bytes = len(text) if isinstance(text, bytes) else len(record_states(model, text))
        assert LabelLogits(classifier).trace(text if text == b"" else b"x" * n_bytes).shape[1] == 1
        if text != b"":
            assert np.isfinite(write_ledger(model, text, 0).total)
    assert (
        len(HeatmapWidget(model, [t for t in odd if isinstance(t, str)], 3).picture["panes"]) == 5
    )
    with pytest.raises(KitError, match="nothing was written"):
        write_ledger(model, b"", 0)
    with pytest.raises(KitError, match="a list was given where one text is expected"):
        record_states(model, ["a"])


def test_the_opinion_on_a_long_text_needs_no_more_memory_than_on_a_short_one(model):
    source = LabelLogits(fitted(model, 0, 1))
    text = b"it works and works " * 600
    whole = source.head(torch.from_numpy(source.source.trace(text))).detach().numpy()
    np.testing.assert_allclose(source.trace(text), whole, atol=1e-5)


# --- names


def test_a_heatmap_says_which_label_is_which_colour(model, tmp_path):
    classifier = fitted(model, "schlecht", "gut", classes=["schlecht", "gut"])
    assert classifier.classes_.tolist() == ["schlecht", "gut"]
    sorted_one = fitted(model, "schlecht", "gut")
    np.testing.assert_allclose(
        classifier.predict_proba(TEXTS), sorted_one.predict_proba(TEXTS)[:, ::-1], atol=1e-3
    )
    for given in (classifier, LabelLogits(classifier)):
        widget = HeatmapWidget(given, "It broke.")
        assert widget.picture["readings"]["0"]["ends"] == ["schlecht", "gut"]
        assert widget.picture["names"] == {"0": "gut"} and "Opens on gut" in widget.why
        page = widget.html()
        widget.save(tmp_path / "page.html")
        assert '{"0": "gut"}' in page and '["schlecht", "gut"]' in page
        plain = widget._repr_mimebundle_()[0]["text/html"]
        assert "blue: schlecht" in plain and "orange: gut" in plain and "unit 0" not in plain
    three = TextClassifier(model, FROZEN).fit(TEXTS, ["a", "b", "c"] * 8)
    assert LabelLogits(three).ends == [("not a", "a"), ("not b", "b"), ("not c", "c")]
    assert "orange: above zero" in heatmap_html(b"ab", [1.0, -1.0])


def test_pages_and_tables_name_the_labels(model, tmp_path):
    names = [bar.name for bar in unit_histogram(np.arange(4.0), np.array([0, 1, 0, 1])).data]
    assert names == ["negative", "positive"]
    part = Texts(TEXTS, np.array([0, 1] * 12), {0: "rotten", 1: "fresh"})
    panel = NeuronMap(model, dict(train=part, valid=part, test=part), k=1)
    assert [bar.name for bar in panel.figure.data] == ["rotten", "fresh"]
    assert "fresh where" in panel.numbers.value and "· rotten ·" in panel.ends.value
    assert repr(part) == "Texts(24 texts: 12 rotten (0), 12 fresh (1))"
    rows = fitted(model, 0, 1).predict_table(TEXTS[:2])
    assert [row["label"] for row in rows] == ["negative", "positive"]
    assert list(rows[0]) == ["text", "label", "p_negative", "p_positive"]
    path = write_table(tmp_path / "own.csv", ["0"] * 4)
    out = classify_file(fitted(model, 0, 1), path, tmp_path / "out.jsonl", texts=True).path
    row = json.loads(out.read_text().splitlines()[1])
    assert (row["label"], row["name"], row["text"]) == (1, "positive", TEXTS[1])
    out = classify_file(fitted(model, 0, 1), path, tmp_path / "out.csv", texts=True).path
    assert out.read_text().splitlines()[0] == "source,row,label,p_0,p_1,name,text"


# --- the command line


def test_advice_of_a_command_can_be_followed(model, tmp_path, capsys):
    folder = str(model.save_pretrained(tmp_path / "model"))
    path = tmp_path / "imdb.csv"
    moods = ["negative", "positive"] * 12
    lines = [f"{text},{mood}" for text, mood in zip(TEXTS, moods, strict=True)]
    path.write_text("\n".join(["review,sentiment", *lines]) + "\n")
    out = ["--out", str(tmp_path / "classifier"), "--mode", "frozen"]
    for words in (
        ["transfer", folder, "--labels", *[str(path)] * 3],
        ["finetune", folder, str(path), "--test", str(path), *out],
    ):
        for option, value in (("--text-key", "review"), ("--label-key", "sentiment")):
            assert main(words) == 2
            said = capsys.readouterr().err
            assert f"set {option}" in said and "to one of: review, sentiment" in said
            words += [option, value]
        assert main(words) == 0
        assert "labels: negative" in capsys.readouterr().out
    assert main([*words, "--classes", "positive", "negative"]) == 0
    assert "labels: positive, negative" in capsys.readouterr().out
    path.write_text(path.read_text() + "no mood,\n")
    assert main(words) == 2
    assert "row 25: sentiment is None" in (said := capsys.readouterr().err)
    assert "raise --max-bad above 0" in said
    assert main([*words, "--max-bad", "0.1"]) == 0
    assert "1 of 25 rows left out" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert main(["heatmap", str(tmp_path / "classifier"), "It broke.", "--out", str(page)]) == 0
    assert "blue: negative" in page.read_text("utf-8")


def test_a_test_file_with_other_labels_is_refused_before_learning(model, tmp_path, capsys):
    folder = str(model.save_pretrained(tmp_path / "model"))
    train = write_table(tmp_path / "train.csv", ["bad", "good"] * 12)
    test = write_table(tmp_path / "test.csv", ["bad", "great"] * 12)
    out = tmp_path / "classifier"
    words = ["finetune", folder, str(train), "--test", str(test), "--out", str(out)]
    assert main(words) == 2
    assert "'great' is not among those of training" in capsys.readouterr().err
    assert not out.exists()


def test_only_options_of_the_command_are_named_as_options():
    said = "text_key, label_key and max_bad; not text_key.csv nor a/text_key nor 'text_key'"
    named = said.replace("text_key, label_key", "--text-key, --label-key", 1)
    assert name_options(said, {"--text-key", "--label-key"}) == named
