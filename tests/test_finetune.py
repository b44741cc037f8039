"""The classifier: gradients against one text at a time, modes, folders, files, refusals."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sentiment_kit.data.files import KitError
from sentiment_kit.data.text import encode
from sentiment_kit.looking.heatmap_widget import HeatmapWidget
from sentiment_kit.looking.text_table import TextTable
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import cross_entropy
from sentiment_kit.model.mlstm import MLSTMState
from sentiment_kit.model.reading import ModelStates, encode_texts
from sentiment_kit.transfer import bulk
from sentiment_kit.transfer import last_cells as last_cells_room
from sentiment_kit.transfer.accuracy import best_threshold
from sentiment_kit.transfer.bulk import classify_file
from sentiment_kit.transfer.bulk_features import write_features
from sentiment_kit.transfer.classifier import LabelLogits, TextClassifier, choose_thresholds
from sentiment_kit.transfer.features import ByteFeaturizer, cached_features
from sentiment_kit.transfer.finetune import FinetuneConfig, length_batches
from sentiment_kit.transfer.labels import load_texts
from sentiment_kit.transfer.last_cells import last_cells, window_bytes
from sentiment_kit.transfer.probe import SentimentProbe

TEXTS = [
    "broke",
    "holds well",
    "it broke on day one",
    "fine, it holds",
    "🙂",
    "broke again",
    "",
    "a" * 90,
]


def tiny(precision="fp32", **options):
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=12, embed_size=6, **options), precision)


def made_up(n=60, seed=0):
    "Texts whose label is their second word."
    rng = np.random.default_rng(seed)
    words = rng.choice(["bad", "good", "mixed"], n)
    return [
        f"the {word} {thing}"
        for word, thing in zip(words, rng.choice(["lid", "strap"], n), strict=True)
    ], words


def quick(mode="full", **options):
    return FinetuneConfig(
        **(dict(mode=mode, epochs=2, batch_size=16, lr=1e-2, lm_lr=1e-2) | options)
    )


@pytest.fixture(scope="module")
def classifier():
    texts, words = made_up()
    return TextClassifier(tiny(), quick("frozen")).fit(
        texts[:40], words[:40], texts[40:], words[40:]
    )


def alone(model, text, max_bytes):
    "One unpadded text, its beginning without a gradient: cell, sum of nats, number of targets."
    state, head, tail = None, text[:-max_bytes], text[-max_bytes:]
    if head:
        with torch.no_grad():
            state = MLSTMState(*(s.clone() for s in model(torch.tensor([list(head)]))[1]))
    ids_BT = torch.tensor([list(tail)])
    logits_BTV, state = model(ids_BT, state)
    n = len(tail) - 1
    return state.c_LBH[-1, 0], cross_entropy(logits_BTV[:, :-1], ids_BT[:, 1:]) * n if n else 0.0, n


@pytest.mark.parametrize(
    "options", [{}, dict(cell="lstm", n_layers=2, weight_norm=False)], ids=["mlstm", "lstm"]
)
@pytest.mark.parametrize("max_bytes", [1000, 20, 1])
def test_cells_loss_and_gradients_are_those_of_one_text_at_a_time(options, max_bytes):
    model, encoded = tiny(**options), encode_texts(TEXTS, "openai")
    weight_BU = torch.randn(len(encoded), 12)

    def gradients(c_BU, nats):
        model.zero_grad()
        ((c_BU * weight_BU).sum() + nats).backward()
        return [
            torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()
        ]

    c_BU, nats = last_cells(model, encoded, max_bytes, with_lm=True)
    fast = gradients(c_BU, nats)
    cells, sums, counts = zip(*(alone(model, text, max_bytes) for text in encoded), strict=True)
    naive = gradients(torch.stack(cells), sum(sums) / max(sum(counts), 1))
    torch.testing.assert_close(c_BU, torch.stack(cells))
    torch.testing.assert_close(nats, torch.as_tensor(sum(sums) / max(sum(counts), 1)))
    for a, b in zip(fast, naive, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("max_bytes", [100, 512])
def test_windows_that_a_gpu_can_use_again_change_nothing(monkeypatch, max_bytes):
    rng = np.random.default_rng(0)
    encoded = [bytes(rng.integers(97, 123, n).tolist()) for n in rng.integers(1, 700, 200)]
    model = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4))
    some, on_a_cpu = encoded[:9], []
    for device in ("cpu", "cuda"):
        here = torch.device(device)
        monkeypatch.setattr(
            last_cells_room,
            "window_bytes",
            lambda n, most, _, here=here: window_bytes(n, most, here),
        )
        model.zero_grad()
        c_BU, nats = last_cells(model, some, max_bytes, with_lm=True)
        (c_BU.sum() + nats).backward()
        on_a_cpu.append([c_BU.detach(), nats.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*on_a_cpu, rtol=1e-5, atol=1e-6)
    config = FinetuneConfig(max_bytes=512)
    length_N = np.array([len(text) for text in encoded])
    ends = [length_N[rows].clip(max=512).max() for rows in length_batches(length_N, config, rng)]
    shapes = {window_bytes(n, 512, torch.device("cuda")) for n in ends}
    assert shapes <= set(range(64, 513, 64)) and len(shapes) <= len(set(ends))


def test_padding_and_the_byte_after_the_end_teach_nothing():
    "Byte 0 pads, and no text holds it: as input its row would have a gradient, as target a pull."
    model = tiny()
    last_cells(model, encode_texts(["a", "much longer"], "openai"), 100, with_lm=True)[1].backward()
    assert model.embed.weight.grad[0].abs().max() == 0
    assert model.head.bias.grad[0] > 0  # only ever pushed down, as a byte that never comes
    with torch.no_grad():
        model.embed.weight[0] += 100
    changed = last_cells(model, encode_texts(["a", "much longer"], "openai"), 100, with_lm=True)
    model.embed.weight.data[0] -= 100
    same = last_cells(model, encode_texts(["a", "much longer"], "openai"), 100, with_lm=True)
    torch.testing.assert_close(changed, same, atol=0, rtol=0)


def test_batches_hold_every_text_once_within_their_bounds():
    length_N = np.random.default_rng(0).integers(1, 900, 500)
    config = FinetuneConfig(batch_size=8, batch_bytes=1000, max_bytes=400)
    batches = length_batches(length_N, config, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for rows in batches:
        assert len(rows) <= 8 and len(rows) * min(length_N[rows].max(), 400) <= 1000


def test_best_threshold_is_that_of_trying_all():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        for _ in range(30):
            p_N, y_N = rng.integers(1, 7, n) / 6, rng.integers(0, 2, n)
            tried = [
                2 * ((p_N > t) & (y_N == 1)).sum() / max((p_N > t).sum() + y_N.sum(), 1)
                for t in (-1, *p_N)
            ]
            threshold, f1 = best_threshold(p_N, y_N)
            assert not y_N.any() or f1 == pytest.approx(max(tried))
            said = p_N > threshold
            if y_N.any():
                assert 2 * (said & (y_N == 1)).sum() / max(
                    said.sum() + y_N.sum(), 1
                ) == pytest.approx(f1)


def test_frozen_is_the_sentiment_probe():
    texts, words = made_up(90)
    model, y = tiny(), np.where(words == "good", "good", "bad")
    classifier = TextClassifier(model, quick("frozen")).fit(texts[:60], y[:60], texts[60:], y[60:])
    X_NU = ByteFeaturizer(model).transform(texts)
    probe = SentimentProbe().fit(X_NU[:60], y[:60], X_NU[60:], y[60:])
    np.testing.assert_allclose(
        classifier.predict_proba(texts), probe.predict_proba(X_NU), atol=1e-4
    )
    assert classifier.valid_score_ == probe.valid_accuracy_ and classifier.model_ is model
    assert set(classifier.predict(texts)) <= {"good", "bad"}


@pytest.fixture
def read(monkeypatch):
    "How many texts each reading of the model has read, in order."
    counts, transform = [], ByteFeaturizer.transform

    def counted(featurizer, X):
        counts.append(len(X))
        return transform(featurizer, X)

    monkeypatch.setattr(ByteFeaturizer, "transform", counted)
    return counts


def test_what_a_cache_holds_is_not_read_again(tmp_path, read):
    texts, words = made_up(40)
    model, y = tiny(), words == "good"
    given = (texts[:30], y[:30], texts[30:], y[30:])
    plain = TextClassifier(model, quick("frozen")).fit(*given)
    cached = TextClassifier(model, quick("frozen")).fit(*given, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and read == [30, 10] * 2, "each part once"
    again = clone(cached).fit(*given, cache=tmp_path)
    assert read == [30, 10] * 2
    for classifier in (cached, again):
        assert np.array_equal(classifier.predict_proba(texts), plain.predict_proba(texts))
        assert classifier.valid_score_ == plain.valid_score_


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("mode", ["frozen", "head", "full"])
def test_the_score_of_a_fit_is_that_of_reading_again(read, mode, several):
    texts, words = made_up(60)
    y = words[:, None] == np.array(["bad", "good"]) if several else words == "bad"
    names = ["bad", "good"] if several else None
    given = (texts[:40], y[:40] * 1, texts[40:], y[40:] * 1)
    classifier = TextClassifier(tiny(), quick(mode), names).fit(*given)
    assert read[:2] == [40, 20] and (len(read) > 2) == (mode == "full")
    assert classifier.valid_score_ == classifier.score(*given[2:])
    p_NK, target_NK = classifier.predict_proba(given[2]), given[3]
    thresholds = choose_thresholds(p_NK, target_NK, classifier.labels_.task)
    assert np.array_equal(classifier.thresholds_, thresholds)


@pytest.mark.parametrize("name, told", [("", "cache is ''"), ("a.txt", "is a file, but a cache")])
def test_a_cache_that_is_no_folder_is_refused_before_anything_is_read(
    tmp_path, monkeypatch, read, name, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    texts, words = made_up(40)
    model, y = tiny(), words == "good"
    calls = [
        lambda: TextClassifier(model, quick("frozen")).fit(texts, y, cache=name),
        lambda: cached_features(ByteFeaturizer(model), texts, name),
        lambda: TextTable(model, texts, cache=name, progress=False),
    ]
    for call in calls:
        with pytest.raises(KitError, match=told):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and not read


@pytest.mark.parametrize("mode", ["frozen", "head", "full"])
@pytest.mark.parametrize("task", ["binary", "multi-class", "multi-label"])
def test_every_mode_does_every_task(mode, task):
    texts, words = made_up()
    y = {
        "binary": words == "bad",
        "multi-class": words,
        "multi-label": words[:, None] == np.array(["bad", "good"]),
    }[task]
    model = tiny()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    names = ["bad", "good"] if task == "multi-label" else None
    classifier = TextClassifier(model, quick(mode), names).fit(texts, y * 1 if names else y)
    p_NK, said = classifier.predict_proba([*texts, "", "🙂🙂"]), classifier.predict(texts)
    assert p_NK.shape == (62, 3 if task == "multi-class" else 2) and np.isfinite(p_NK).all()
    if task == "multi-label":
        assert classifier.thresholds_.shape == (2,) and said.shape == y.shape
    else:
        np.testing.assert_allclose(p_NK.sum(1), 1)
        assert classifier.score(texts, y) == np.mean(said == y)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items()), (
        "the given model stays"
    )
    assert (classifier.model_ is model) == (mode != "full")
    best = max(record["valid_score"] for record in classifier.history_)
    assert classifier.valid_score_ == pytest.approx(best), "the best epoch is what is kept"


def test_it_stops_when_nothing_gets_better_and_keeps_what_was_best():
    texts, words = made_up(60)
    y = (words == "mixed").astype(int)
    config = quick(epochs=30, patience=3, lr=3.0, lm_lr=3.0)  # breaks whatever was there
    classifier = TextClassifier(tiny(), config).fit(texts[:30], y[:30], texts[30:], y[30:])
    ranks = [(record["valid_score"], -record["valid_loss"]) for record in classifier.history_]
    best = ranks.index(max(ranks))
    assert len(ranks) == best + 1 + 3 and classifier.valid_score_ == ranks[best][0]


def test_the_same_seed_gives_the_same_classifier():
    texts, words = made_up(40)
    model, state = tiny(), torch.random.get_rng_state()
    a, b = (
        TextClassifier(model, quick(dropout=0.5)).fit(texts, words).predict_proba(texts)
        for _ in range(2)
    )
    np.testing.assert_array_equal(a, b)
    assert torch.equal(torch.random.get_rng_state(), state), "other chance numbers are not touched"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_learns_too(precision):
    texts, words = made_up(40)
    classifier = TextClassifier(tiny(precision), quick()).fit(texts, words)
    assert all(np.isfinite(record["valid_loss"]) for record in classifier.history_)


def test_the_own_loss_keeps_the_language_model_a_language_model():
    texts, words = made_up(60)
    fitted = [
        TextClassifier(tiny(), quick(lm_weight=w, epochs=4)).fit(texts, words) for w in (1.0, 0.0)
    ]
    bits = [cross_entropy(*_one(k.model_, texts[0])).item() for k in fitted]
    assert (
        bits[0] < bits[1] - 0.1
        and "lm_bits" in fitted[0].history_[-1]
        and "lm_bits" not in fitted[1].history_[-1]
    )


def _one(model, text):
    ids_BT = torch.tensor([list(encode_texts([text], "openai")[0])])
    return model(ids_BT)[0][:, :-1], ids_BT[:, 1:]


def test_sklearn_knows_it():
    model = tiny()
    copy = clone(TextClassifier(model, quick("head"), progress=True))
    assert (
        copy.model is model and copy.config.mode == "head" and copy.get_params()["progress"] is True
    )


# ── folders


def test_a_folder_gives_back_the_same_answers_and_notices_damage(classifier, tmp_path):
    folder, texts = tmp_path / "kept", [*TEXTS, *made_up()[0]]
    again = TextClassifier.from_pretrained(classifier.save_pretrained(folder))
    np.testing.assert_array_equal(again.predict_proba(texts), classifier.predict_proba(texts))
    assert again.classes_.tolist() == ["bad", "good", "mixed"] and again.config == classifier.config
    LanguageModel.from_pretrained(folder)
    classifier.save_pretrained(folder)  # once more, in its place
    for name in ("head.safetensors", "model.safetensors"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(KitError, match=f"{name} is missing or not as it was written"):
            TextClassifier.from_pretrained(folder)
        (folder / name).write_bytes(kept)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_half_precision_on_the_disk_halves_the_model_and_hardly_moves_an_answer(
    classifier, tmp_path
):
    whole = classifier.save_pretrained(tmp_path / "whole")
    half = classifier.save_pretrained(tmp_path / "half", torch.float16)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    p_NK = TextClassifier.from_pretrained(half).predict_proba(TEXTS)
    np.testing.assert_allclose(p_NK, classifier.predict_proba(TEXTS), atol=0.05)


def test_the_opinion_after_every_byte_is_that_of_the_text_so_far(classifier):
    opinion, encoded = LabelLogits(classifier), encode(TEXTS[0])
    z_TK = opinion.trace(encoded)
    assert z_TK.shape == (len(encoded), opinion.n_units) == (len(encoded), 3)
    for t in (1, len(encoded) // 2, len(encoded)):
        p_K = 1 / (1 + np.exp(-z_TK[t - 1].astype(float)))
        np.testing.assert_allclose(
            p_K / p_K.sum(), classifier.predict_proba([encoded[:t]])[0], atol=1e-4
        )
    np.testing.assert_array_equal(opinion.trace(encoded, [2, 0]), z_TK[:, [2, 0]])
    for units in (
        [3],
        [-1],
    ):  # in the panels a minus turns a unit round, so it counts from no end here
        with pytest.raises(KitError, match="not all in 0 … 2"):
            opinion.trace(encoded, units)
    assert opinion.digest == LabelLogits(classifier).digest != ModelStates(classifier.model_).digest
    assert sorted(HeatmapWidget(opinion, TEXTS[0]).units) == [0, 1, 2]


def test_a_folder_of_something_else_is_not_overwritten(classifier, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(KitError, match="not a classifier"):
        classifier.save_pretrained(tmp_path)
    with pytest.raises(KitError, match="classifier.json does not exist"):
        TextClassifier.from_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


# ── whole files


def write_rows(path, texts, key="text"):
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def two_files(tmp_path):
    texts = made_up(600)[0]
    texts[300] = 'a "quoted", 🙂\nline'
    texts[301] = "long " * 400
    texts[302] = ""
    return [
        write_rows(tmp_path / "a.jsonl", texts[:500]),
        write_rows(tmp_path / "b.jsonl", texts[500:]),
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_broken_off_run_ends_like_a_whole_one(classifier, two_files, tmp_path, form, monkeypatch):
    whole = classify_file(classifier, two_files, tmp_path / f"whole.{form}")
    assert (whole.n_rows, whole.left_out, whole.why) == (599, 1, "empty text")
    content = whole.path.read_bytes()
    asked, answer = [], bulk.result_lines
    monkeypatch.setattr(
        bulk,
        "result_lines",
        lambda k, chunk, form: asked.append(chunk) or answer(k, chunk, form),
    )
    job = bulk.job_digest(classifier, two_files, "reviewText", "." + form)
    part = bulk.part_path(tmp_path / f"again.{form}", job)
    for at in (0, 3, len(content) // 3, len(content) // 2, len(content) - 1, len(content)):
        asked.clear()
        part.write_bytes(content[:at])
        again = classify_file(classifier, two_files, tmp_path / f"again.{form}")
        assert again.path.read_bytes() == content and not part.exists()
        assert at < len(content) or not asked, "what was done is not done again"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_answers_stand_beside_source_and_row(classifier, two_files, tmp_path, form):
    out = classify_file(classifier, two_files, tmp_path / f"out.{form}").path
    with open(out, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f)) if form == "csv" else [json.loads(line) for line in f]
    assert [(r["source"], int(r["row"])) for r in rows[-2:]] == [("b.jsonl", 99), ("b.jsonl", 100)]
    texts = [
        json.loads(line)["text"]
        for path in two_files
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    texts.remove("")
    p_NK = classifier.predict_proba(texts)
    said = np.array([[float(r[f"p_{name}"]) for name in classifier.classes_] for r in rows])
    np.testing.assert_allclose(said, p_NK, atol=2e-6)
    assert [r["label"] for r in rows] == classifier.predict(texts).tolist()


def test_another_classifier_does_not_continue_the_part(classifier, two_files, tmp_path):
    texts, words = made_up()
    other = TextClassifier(tiny(), quick("head")).fit(texts, words)
    first, second = (
        bulk.job_digest(k, two_files, "reviewText", ".csv") for k in (classifier, other)
    )
    write_rows(two_files[0], ["changed"])
    assert len({first, second, bulk.job_digest(classifier, two_files, "reviewText", ".csv")}) == 3


def test_whole_file_commands_refuse_what_cannot_be_meant(classifier, two_files, tmp_path):
    for what, named in ((classify_file, "jsonl"), (write_features, "npz")):
        first = classifier if what is classify_file else classifier.model_
        with pytest.raises(KitError, match=f"name it .*{named}"):
            what(first, two_files, tmp_path / "out.txt")
        with pytest.raises(KitError, match="has no column 'words'"):
            what(first, two_files, tmp_path / f"out.{named}", text_key="words")
        with pytest.raises(KitError, match="no file matches"):
            what(first, tmp_path / "none.csv", tmp_path / f"out.{named}")
    with pytest.raises(KitError, match="is one of the inputs"):
        classify_file(classifier, two_files[0], two_files[0])
    with pytest.raises(KitError, match="raise max_bad"):
        classify_file(classifier, two_files, tmp_path / "out.csv", max_bad=0.0)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".jsonl", ".part"]


def test_features_of_files_are_those_of_their_texts(classifier, two_files, tmp_path):
    written = write_features(
        classifier.model_, two_files, tmp_path / "f.npz", state="hidden", pool="mean"
    )
    with np.load(written.path, allow_pickle=False) as stored:
        found = {name: stored[name] for name in stored}
    texts = [
        json.loads(line)["text"]
        for path in two_files
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    texts.remove("")
    X_NU = ByteFeaturizer(classifier.model_, "hidden", "mean").transform(texts)
    np.testing.assert_allclose(found["X_NU"], X_NU, atol=1e-5)
    assert found["sources"][found["source_N"]].tolist() == ["a.jsonl"] * 499 + ["b.jsonl"] * 100
    assert found["row_N"][[0, 301, 302, -1]].tolist() == [1, 302, 304, 100]
    assert (written.n_rows, written.left_out, written.why) == (599, 1, "empty text")


def test_features_to_parquet_or_a_sentence(classifier, two_files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(KitError, match="parquet needs a package"):
        write_features(classifier.model_, two_files, tmp_path / "f.parquet")
    monkeypatch.undo()
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"] * 2, "nothing is left behind"
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(
        write_features(classifier.model_, two_files, tmp_path / "f.parquet").path
    )
    npz = np.load(
        write_features(classifier.model_, two_files, tmp_path / "f.npz").path, allow_pickle=False
    )
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), npz["X_NU"])
    assert table["row"].to_pylist() == npz["row_N"].tolist()


@pytest.mark.slow
def test_classify_survives_kills(classifier, tmp_path, request):
    "A process killed at chance moments and started again, until it ends."
    files = [write_rows(tmp_path / "many.jsonl", made_up(20_000)[0])]
    classifier.save_pretrained(tmp_path / "kept")
    whole = classify_file(
        TextClassifier.from_pretrained(tmp_path / "kept"), files, tmp_path / "whole.csv"
    )
    code = "import sys; from sentiment_kit.transfer.bulk import *; "
    code += "from sentiment_kit.transfer.classifier import *; print('up', flush=True); "
    code += "classify_file(TextClassifier.from_pretrained(sys.argv[1]), sys.argv[2], sys.argv[3])"
    command = [
        sys.executable,
        "-c",
        code,
        str(tmp_path / "kept"),
        str(files[0]),
        str(tmp_path / "killed.csv"),
    ]
    kills, rng = request.config.getoption("--n") or 5, np.random.default_rng()
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert (tmp_path / "killed.csv").read_bytes() == whole.path.read_bytes()


# ── bad input


@pytest.mark.parametrize(
    "options",
    [
        dict(mode="all"),
        dict(epochs=0),
        dict(lr=0),
        dict(dropout=1.0),
        dict(batch_bytes=10),
        dict(lm_weight=-1),
    ],
)
def test_settings_that_cannot_be_meant(options):
    with pytest.raises(KitError, match=next(iter(options))):
        FinetuneConfig(**options)


@pytest.mark.parametrize(
    "X, y, said",
    [
        (["a", "b"], ["x", "x"], "only one class"),
        (["a", "b"], ["x"], "2 texts but 1 labels"),
        (["a", "b"], ["x", None], "text 1 has no label"),
        (["a", "b"], [0.0, float("nan")], "text 1 has no label"),
        (["a", "b"], [0.5, 1.0], "has a fraction"),
        (["a", "b"], [[0, 1], [0, 2]], "a table .* of 0 and 1"),
        (["a", "b"], [[0, 1], [0]], "differ in length"),
        (["a", "b"], [[0, 1], [0, 0]], "label 0 is 0 for every training text"),
        (["a", 7], ["x", "y"], "text 1 is 7, not a str"),
        ([], [], "only one class"),
        ("ab", ["x", "y"], "one text was given"),
        (["a", b""], ["x", "y"], "one is b''"),
    ],
)
def test_texts_and_labels_that_cannot_be_used(X, y, said):
    with pytest.raises(KitError, match=said):
        TextClassifier(tiny(), quick("frozen")).fit(X, y, ["c", "d"], ["x", "y"])


def test_more_sentences(classifier):
    texts, words = made_up()
    with pytest.raises(KitError, match="'awful' is not among those of training"):
        classifier.score(["a"], ["awful"])
    with pytest.raises(KitError, match="cannot be set aside"):
        TextClassifier(tiny()).fit(["a", "b"], ["x", "y"])
    with pytest.raises(KitError, match="2 columns, but there are 1 label names"):
        TextClassifier(tiny(), label_names=["one"]).fit(
            texts, np.stack([words == "bad", words == "good"], 1)
        )
    assert classifier.predict_proba([]).shape == (0, 3) and classifier.predict_proba(
        [b""]
    ).shape == (1, 3)


def test_long_and_odd_texts_are_handled():
    texts, words = made_up(30)
    X, y = [*texts, "it holds and holds " * 100, "", "🙂"], [*words, "good", "bad", "bad"]
    config = quick(batch_size=4, batch_bytes=64, max_bytes=64, epochs=1)
    classifier = TextClassifier(tiny(), config).fit(X, y, X, y)
    alone_NK = np.vstack([classifier.predict_proba([text]) for text in X[-3:]])
    np.testing.assert_allclose(classifier.predict_proba(X)[-3:], alone_NK, atol=1e-4)


@pytest.mark.slow
def test_a_text_of_100_kilobytes_is_a_text():
    model, encoded = tiny(), encode_texts(["it holds and holds " * 5500, "short"], "openai")
    c_BU, _ = last_cells(model, encoded, 64)
    c_BU.sum().backward()
    np.testing.assert_allclose(c_BU.detach(), ByteFeaturizer(model).transform(encoded), atol=1e-4)


def test_labels_from_files(tmp_path):
    path = tmp_path / "many.csv"
    path.write_text(
        "Tweet,joy,fear,mood\nso glad,1,0,up\n🙂,1.0,0,up\noh no,0,1,down\n", encoding="utf-8"
    )
    texts, table = load_texts(path, ["joy", "fear"], "Tweet")
    assert texts == ["so glad", "🙂", "oh no"] and table.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert load_texts(path, "mood", "Tweet")[1].tolist() == ["up", "up", "down"]
    for key, said in (
        ("anger", "has no column 'anger'"),
        (["joy", "mood"], "row 1: mood is 'up'; it must be 0 or 1"),
    ):
        with pytest.raises(KitError, match=said):
            load_texts(path, key, "Tweet")
    path.write_text("Tweet,mood\nso glad,\n", encoding="utf-8")
    with pytest.raises(KitError, match="row 1: mood is None; it must be a label"):
        load_texts(path, "mood", "Tweet")
