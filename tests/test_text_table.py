"""A table of texts: any container in, right numbers out, hostile text stays text."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hostile import HOSTILE

import sentiment_kit as sk
from sentiment_kit.data.files import KitError
from sentiment_kit.data.given import Given, given_texts
from sentiment_kit.data.labelled import Texts
from sentiment_kit.looking.page_parts import STATIC, join_modules, static_text
from sentiment_kit.looking.table_view import (
    MOST_TEXTS,
    TABLE_MODULES,
    TABLE_SCRIPT,
    TableView,
    pack_texts,
    still_table,
    table_of,
)
from sentiment_kit.looking.text_slices import answer_places, quarter_slices, word_slices
from sentiment_kit.looking.text_table import TextTable, answer_table, csv_of, look
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import text_bits
from sentiment_kit.transfer import text_scores
from sentiment_kit.transfer.accuracy import accuracy
from sentiment_kit.transfer.classifier import TextClassifier
from sentiment_kit.transfer.features import ByteFeaturizer
from sentiment_kit.transfer.finetune import FinetuneConfig
from sentiment_kit.transfer.text_scores import open_scorer, read_once, score_texts
from sentiment_kit.transfer.unit_notes import name_unit

TEXTS = ["It broke.", "Love it, it works.", "", "A café\nin two lines 👍"] * 3
LABELS = [0, 1, None, 1] * 3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4)).eval()


@pytest.fixture(scope="module")
def classifier(model):
    texts = ["It broke.", "Love it."] * 20
    config = FinetuneConfig(mode="frozen", epochs=1)
    return TextClassifier(model, config).fit(texts, [0, 1] * 20, texts, [0, 1] * 20)


@pytest.fixture
def folder(classifier, tmp_path, monkeypatch):
    "A classifier's folder with a unit that was found."
    monkeypatch.setenv("SENTIMENT_KIT_NOTES", str(tmp_path / "mine"))
    folder = classifier.save_pretrained(tmp_path / "classifier")
    (folder / "neuron.json").write_text('{"unit": 5, "sign": -1, "threshold": 0.25}')
    return folder


# -- texts in any form


class Frame:
    "What pandas' DataFrame shows of itself here."

    def __init__(self, columns):
        self.columns = list(columns)
        self.rows = list(zip(*columns.values(), strict=True))

    def itertuples(self, index, name):
        return iter(self.rows)


class Polar:
    "What polars' DataFrame shows of itself here."

    def __init__(self, columns):
        self.columns = list(columns)
        self.rows = list(zip(*columns.values(), strict=True))

    def iter_rows(self, named):
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)


COLUMNS = dict(text=["It broke.", "Love it."], label=["neg", "pos"], stars=[1, 5])


def records(columns):
    return [
        dict(text=text, label=label, stars=n)
        for text, label, n in zip(*columns.values(), strict=True)
    ]


@pytest.mark.parametrize("kind", [Frame, Polar, records])
def test_tables_of_any_library_give_the_same(kind):
    given = given_texts(kind(COLUMNS))
    assert given.texts == COLUMNS["text"] and given.classes == ["neg", "pos"]
    assert given.label_N.tolist() == [0, 1] and given.more == dict(stars=["1", "5"])
    assert "text from 'text', label from 'label'" in given.said


def test_files_columns_and_lists(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('Sentence,label,split\n"two\nlines",1,test\n"",0,test\nfine,0,train\n')
    given = given_texts(path, max_bad=0.5)
    assert given.texts == ["two\nlines", "fine"] and given.label_N.tolist() == [1, 0]
    assert given.more == dict(split=["test", "train"]) and "1 of 3 rows left out" in given.said
    with pytest.raises(KitError, match="1 of 3 rows are bad"):
        given_texts(path)
    assert given_texts(str(path), max_bad=1).texts == given.texts
    assert given_texts(np.array(["a", "b"], object), np.array([1, 0])).label_N.tolist() == [1, 0]
    assert given_texts(Texts(["a", "b"], np.array([0, 1]))).classes == ["negative", "positive"]
    assert given_texts(text for text in ("a", "b")).texts == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (Frame(dict(comment=["a"], id=[1])), {}, "no column called sentence, text or reviewText"),
        (Frame(dict(comment=["a"], id=[1])), dict(text_key="words"), "no column 'words'"),
        (Frame(dict(text=["a"], sentence=["b"])), {}, "several columns of texts"),
        (Frame(dict(text=["a"], label=[2.5])), {}, "row 1: the label 2.5 has a fraction"),
        (Frame(COLUMNS), dict(labels=[0, 1]), "name it with label_key"),
        (["a", "b"], dict(labels=[0]), "2 texts but 1 labels"),
        (["a", None], {}, "1 of 2 texts are missing"),
        ([], {}, "no texts"),
        ("no such file.csv", {}, "no file matches"),
        (["a"] * 300, dict(labels=list(range(300))), "is this the column of classes"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(data, options, said):
    with pytest.raises(KitError, match=re.escape(said)) as caught:
        given_texts(data, **options)
    assert "\n" not in str(caught.value)


# -- scores


def test_one_reading_gives_what_two_rooms_give(model):
    texts = [*TEXTS, "long " * 300, "x"]
    encoded = [b"\n " + text.replace("\n", " ").encode() + b" " for text in texts]
    X_NU, bits_N = read_once(model, encoded)
    np.testing.assert_allclose(X_NU, ByteFeaturizer(model).transform(encoded), atol=1e-5)
    np.testing.assert_allclose(bits_N, text_bits(model, encoded), rtol=1e-5)
    assert np.isnan(read_once(model, [b"", b"a", b"ab"])[1]).tolist() == [True, True, False]


def test_scores_are_the_classifiers_and_the_units(folder, classifier, model):
    scores = score_texts(folder, TEXTS, [5, 2])
    values = dict(zip([c.key for c in scores.columns], scores.values_NC.T, strict=True))
    X_NU = ByteFeaturizer(model).transform(TEXTS)
    np.testing.assert_allclose(values["vote_5"], -(X_NU[:, 5] - 0.25), atol=1e-5)
    np.testing.assert_allclose(values["unit_2"], X_NU[:, 2], atol=1e-5)
    p_N = classifier.predict_proba(TEXTS)[:, 1]
    np.testing.assert_allclose(values["p_positive"], p_N, atol=1e-5)
    assert np.array_equal(scores.answer_N, classifier.predict(TEXTS))
    (folder / "classifier.json").unlink()
    alone = score_texts(folder, TEXTS)
    assert [c.key for c in alone.columns] == ["surprise", "vote_5"]
    assert np.array_equal(alone.answer_N, (values["vote_5"] > 0) * 1)
    assert alone.answered_by == "the vote of the unit"
    assert score_texts(model, TEXTS).classes == []


def test_a_stop_keeps_what_was_read_and_the_next_call_goes_on(model, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(text_scores, "PIECE", 4)
    texts = [f"{n}: {text}" for n, text in enumerate(TEXTS)]
    whole = score_texts(model, texts, [1])
    real = text_scores.read_once
    read = []

    def stopping(model, encoded):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(len(encoded))
        return real(model, encoded)

    monkeypatch.setattr(text_scores, "read_once", stopping)
    part = score_texts(model, texts, [1], tmp_path)
    assert part.n_read == 8 and np.isnan(part.values_NC[8:]).all()
    assert "stopped after 8 of 12 texts" in capfd.readouterr().err
    monkeypatch.setattr(text_scores, "read_once", lambda m, e: read.append(len(e)) or real(m, e))
    again = score_texts(model, texts, [1], tmp_path)
    assert again.n_read == 12 and len(read) <= 3, "the pieces that were kept are not read again"
    np.testing.assert_array_equal(again.values_NC, whole.values_NC)
    kept = sorted(tmp_path.iterdir())
    kept[0].write_bytes(b"damaged")
    np.testing.assert_array_equal(
        score_texts(model, texts, [1], tmp_path).values_NC, whole.values_NC
    )
    other = score_texts(model, texts, [2], tmp_path)
    assert not np.array_equal(other.values_NC[:, 1], whole.values_NC[:, 1])


@pytest.mark.parametrize(
    ("labels", "classes", "places"),
    [
        (["neg", "pos"], [0, 1], [0, 1]),
        (["pos"], [0, 1], [1]),
        ([0, 1], ["0", "1"], [0, 1]),
        ([-1, 1], [0, 1], [0, 1]),
        ([1, 2, 3, 4, 5], [0, 1], None),
        (["neg", "neutral", "pos"], [0, 1], None),
        ([0, "neg"], [0, 1], None),
        (["a", "b"], ["b", "a"], [1, 0]),
        ([], [0, 1], None),
        (["a"], [], None),
    ],
)
def test_labels_are_compared_only_where_each_has_its_class(labels, classes, places):
    assert answer_places(labels, classes) == places


def test_slices_count_what_their_condition_shows():
    rng = np.random.default_rng(0)
    x_N = rng.integers(0, 12, 500).astype(np.float32)
    right_N = rng.integers(-1, 2, 500)
    found = quarter_slices("x", "x", x_N, right_N, 0)
    assert sum(s.right.n for s in found) == (right_N >= 0).sum(), "each text is in one slice"
    for s in found:
        shown = (x_N >= s.where["low"]) & (x_N <= s.where["high"]) & (right_N >= 0)
        assert s.right == accuracy(np.ones(shown.sum()), right_N[shown])
    assert len(quarter_slices("x", "x", np.full(500, 3.0), right_N)) == 0
    words = word_slices("w", "w", x_N.astype(int), [*"abcdefghijkl"], right_N)
    assert [s.right.n for s in words] == [((x_N == k) & (right_N >= 0)).sum() for k in range(12)]


# -- the widget


@pytest.fixture
def table(folder):
    return TextTable(folder, TEXTS, LABELS, cache=None, progress=False)


def test_the_table_holds_all_and_a_row_opens_its_heatmap(table):
    state = table.view.table
    keys = [column["key"] for column in state["columns"]]
    assert keys == ["text", "label", "answer", "p_positive", "vote_5", "surprise", "characters"]
    assert state["n"] == 12 and state["judged"]["places"] == [0, 1]
    assert table.heatmap.texts == [TEXTS[0]] and table.view.row == 0
    table.view.row = 3
    assert table.heatmap.texts == [TEXTS[3]]
    assert table.heatmap.picture["panes"][0]["title"] == "text 4"
    table.view.row = 99
    assert table.heatmap.texts == [TEXTS[3]]


def test_a_unit_is_added_by_number_or_by_name(folder):
    name_unit(folder, 7, "shouting")
    table = look(TEXTS, model=folder, units=[5], cache=None, progress=False)
    answer_table(table, dict(kind="unit", unit="shouting"), [])
    assert table.scores.columns[-1].title == "unit 7 · shouting" and table.view.error == ""
    np.testing.assert_allclose(
        table.frame()["unit_7"], ByteFeaturizer(folder).transform(TEXTS)[:, 7], rtol=1e-4
    )
    before = table.view.table
    answer_table(table, dict(kind="unit", unit="16"), [])
    assert "'16' is no unit" in table.view.error and table.view.table is before
    assert table.view.table["titles"] == {"7": "shouting"}


def test_csv_holds_whole_texts_and_reads_back(table, tmp_path):
    table.save(tmp_path / "all.csv")
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows[:4]] == ["negative", "positive", "", "positive"]
    assert float(rows[1]["p_positive"]) == pytest.approx(table.frame()["p_positive"][1], abs=1e-6)
    sent = []
    table.view.send = lambda message, buffers: sent.append(buffers[0].decode())
    answer_table(table, dict(kind="csv"), [np.array([3, 0, 99], "<u4").tobytes()])
    shown = list(csv.DictReader(io.StringIO(sent[0])))
    assert [row["text"] for row in shown] == [TEXTS[3], TEXTS[0]]
    assert csv_of({"text": ["\ud800"]}, [0]), "half a pair does not stop a file"
    with pytest.raises(KitError, match="saved as .csv or .html"):
        table.save(tmp_path / "all.xlsx")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()
        self.handlers = []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


def test_hostile_texts_stay_text(model, tmp_path):
    texts = [text[:5_000] for text in HOSTILE.values()]
    labels = [name[:40] for name in HOSTILE]
    table = TextTable(model, texts, labels, cache=None, progress=False)
    still = table._repr_mimebundle_()["text/html"]
    parsed = Tags()
    parsed.feed(still)
    allowed = {"div", "table", "thead", "tbody", "tr", "th", "td", "bdi"}
    assert parsed.tags <= allowed and parsed.handlers == []
    table.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("<script") == 2 and "window.hacked = 1</script>" not in page
    state = re.search(r'id="state">(.*?)</script>', page, re.S)[1]
    assert "<" not in state and json.loads(state)["table"]["n"] == len(texts)
    assert "default-src 'none'" in page


def test_a_still_table_shows_the_first_rows_in_colour(table):
    still = still_table(table.view.table, range(3))
    assert still.count("<tr>") == 4 and "background:#" in still and "3 of 12 texts" in still


def test_many_texts_are_cut_so_that_all_fit_and_it_is_said(monkeypatch):
    monkeypatch.setattr("sentiment_kit.looking.table_view.MOST_BYTES", 10_000)
    texts = ["x" * 1_000] * 100
    blob, stops, chars = pack_texts(texts)
    assert 60 <= chars < 150 and len(blob) == 100 * chars == np.frombuffer(stops, "<u4")[-1]
    assert f"only the first {chars} characters are here" in table_of(texts, [])["said"]
    with pytest.raises(KitError, match="up to 400,000 texts"):
        pack_texts(range(MOST_TEXTS + 1))


# -- the browser's half


def test_modules_import_only_from_those_before_and_put_nothing_in_as_markup():
    for n, name in enumerate(TABLE_MODULES):
        source = static_text(f"{name}.js")
        for path in re.findall(r'from "\.\.?/([\w/]+)\.js"', source):
            found = path if "/" in path else f"{name.split('/')[0]}/{path}"
            assert found in TABLE_MODULES[:n], f"{name} imports {path}"
    names = re.findall(r"^(?:class|function|const|let) (\w+)", TABLE_SCRIPT, re.M)
    assert len(names) == len(set(names)), "all modules share one scope"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", TABLE_SCRIPT)
    assert (STATIC / "table.css").is_file() and TableView._esm


NODE = """
const document = { createElement: () => ({ getContext: () => ({}) }) };
const bytes = (array) => new DataView(array.buffer);
const rows = new Rows({
  n: 5,
  blob: new TextEncoder().encode("bBaacd"),
  stops: bytes(Uint32Array.of(1, 2, 4, 5, 6)),
  columns: [
    { key: "x", kind: "number", cells: bytes(Float32Array.of(2, NaN, -1, 2, 0)) },
    { key: "label", kind: "word", cells: bytes(Int32Array.of(0, 1, -1, 1, 0)) },
    { key: "answer", kind: "word", cells: bytes(Int32Array.of(0, 0, 0, 1, 1)) },
  ],
});
const names = ["n", "p"];
const judged = { label: "label", answer: "answer", places: [0, 1], classes: names, names };
const order = (sort, ...where) => [...rows.order(sort, where, judged)];
console.log(JSON.stringify({
  plain: order([]),
  up: order(["x", 1]), down: order(["x", -1]),
  text: order(["text", 1]), label: order(["label", -1]),
  find: order([], { find: "B" }), range: order([], { column: "x", low: 0, high: null }),
  is: order([], { column: "label", is: 1 }), wrong: order([], { wrong: true }),
  right: order(["x", -1], { wrong: false }), gone: order([], { column: "no more", is: 1 }),
  confusion: confusion(rows, rows.order([], [], judged), judged),
  wilson: SHARES.map(([right, n]) => wilson(right, n)),
}));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="node is missing")
def test_order_filters_and_intervals(tmp_path):
    modules = [static_text(f"{name}.js") for name in ("heatmap/basics", "table/rows")]
    shares = [(0, 3), (3, 3), (7, 11), (650, 1000)]
    script = join_modules(modules) + NODE.replace("SHARES", json.dumps(shares))
    (tmp_path / "rows.mjs").write_text(script)
    done = subprocess.run(["node", tmp_path / "rows.mjs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for (right, n), found in zip(shares, said.pop("wilson"), strict=True):
        expected = accuracy(np.ones(n), np.arange(n) < right)
        np.testing.assert_allclose(found, expected[:3], atol=1e-12)
    assert said == dict(
        plain=[0, 1, 2, 3, 4],
        up=[2, 4, 0, 3, 1],
        down=[0, 3, 4, 2, 1],
        text=[2, 0, 1, 3, 4],
        label=[1, 3, 0, 4, 2],
        find=[0, 1],
        range=[0, 3, 4],
        **{"is": [1, 3]},
        wrong=[1, 4],
        right=[0, 3],
        gone=[0, 1, 2, 3, 4],
        confusion=[[1, 1], [1, 1]],
    )


def test_look_is_the_front_doors(folder):
    assert sk.look is look and sk.TextTable is TextTable
    scorer = open_scorer(folder)
    given = Given(["a"], np.array([-1]), [])
    assert scorer.neuron.unit == 5 and len(given) == 1
