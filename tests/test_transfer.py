"""The probe against its optimality condition, the choice of C, the exact cut, and refusals."""

import json
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sentiment_kit.data.datasets import SAMPLES, load_dataset
from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import Texts
from sentiment_kit.data.shards import make_shards
from sentiment_kit.model.language_model import LanguageModelConfig
from sentiment_kit.training.callbacks import SaveCheckpoint, Validate
from sentiment_kit.training.checkpoint import latest_checkpoint
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.log import LogMetrics
from sentiment_kit.training.trainer import launch, train
from sentiment_kit.transfer.accuracy import accuracy
from sentiment_kit.transfer.areas import unit_auc
from sentiment_kit.transfer.baselines import ngram_baseline, probe_splits, results_table
from sentiment_kit.transfer.logistic import l1_logistic
from sentiment_kit.transfer.neuron import (
    NeuronClassifier,
    best_cut,
    compare_rules,
    find_sentiment_neuron,
    unit_histogram,
    weight_stem,
)
from sentiment_kit.transfer.probe import SentimentProbe, best_point, fit_path, path_figure
from sentiment_kit.transfer.probe_callback import TransferCallback


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # of a check's own labels
@parametrize_with_checks([SentimentProbe(), NeuronClassifier()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def problem(kind, seed=0):
    rng = np.random.default_rng(seed)
    N, U = dict(wide=(30, 90)).get(kind, (300, 20))
    X = rng.normal(size=(N, U)) + 0.5
    y = (X[:, 0] - X[:, 1] + rng.normal(size=N) > 0.3).astype(int)
    if kind == "separable":
        y = (X[:, 0] > 0.5).astype(int)
    if kind == "scales":
        X *= 10.0 ** rng.uniform(-3, 2, U)
    if kind == "rank deficient":
        X[:, 10:] = X[:, :10]
        X[:, 5] = 1.0
    if kind == "unbalanced":
        y = (X[:, 0] > np.quantile(X[:, 0], 0.95)).astype(int)
    return (X.astype(np.float32) if kind == "float32" else X), y


def objective(X, y, w_U, b, C):
    score_N = X @ w_U + b
    return np.abs(w_U).sum() + C * (np.logaddexp(0, score_N) - y * score_N).sum()


@pytest.mark.parametrize("C", [2.0**-8, 0.25, 8.0])
@pytest.mark.parametrize(
    "kind", ["plain", "wide", "separable", "scales", "rank deficient", "unbalanced", "float32"]
)
def test_l1_logistic_is_optimal(kind, C):
    X, y = problem(kind)
    w_U, b = l1_logistic(X, y, C)
    p_N = 1 / (1 + np.exp(-(X @ w_U + b)))
    gradient_U = C * X.T @ (p_N - y)
    kept = w_U != 0
    assert (np.abs(gradient_U[~kept]) <= 1.01).all()
    np.testing.assert_allclose(gradient_U[kept], -np.sign(w_U[kept]), atol=0.02)
    assert abs(np.sum(p_N - y)) < 0.01 * len(y)  # the intercept is free
    warm_w, warm_b = l1_logistic(X, y, C, l1_logistic(X, y, C / 2))
    np.testing.assert_allclose(
        objective(X, y, w_U, b, C), objective(X, y, warm_w, warm_b, C), rtol=1e-4
    )


def test_l1_logistic_is_as_good_as_scikit_learn():
    X, y = problem("plain")
    if (
        "l1_ratio" not in LogisticRegression().get_params()
        or LogisticRegression().penalty != "deprecated"
    ):
        pytest.skip("scikit-learn before 1.8 spells the oracle's penalty differently")
    oracle = LogisticRegression(l1_ratio=1, C=0.3, solver="saga", tol=1e-7, max_iter=50_000).fit(
        X, y
    )
    w_U, b = l1_logistic(X, y, 0.3)
    best = objective(X, y, oracle.coef_[0], oracle.intercept_[0], 0.3)
    assert objective(X, y, w_U, b, 0.3) <= best * (1 + 1e-6)
    np.testing.assert_allclose(w_U, oracle.coef_[0], atol=1e-3)


def test_a_strong_penalty_predicts_the_larger_class():
    X, y = problem("unbalanced")
    w_U, b = l1_logistic(X, y, 1e-6)
    assert not w_U.any()
    np.testing.assert_allclose(b, np.log(y.mean() / (1 - y.mean())))


def splits(kind="plain"):
    X, y = problem(kind)
    return X[:200], y[:200], X[200:], y[200:]


def test_ties_go_to_the_smaller_c():
    X, y, X_valid, y_valid = splits()
    path = fit_path(X, y, X_valid, y_valid, extend=0)
    best = best_point(path)
    assert best.C == min(
        p.C for p in path if p.valid_accuracy == max(q.valid_accuracy for q in path)
    )


def test_grid_is_extended_past_an_edge_and_only_there():
    X, y, X_valid, y_valid = splits()
    low = SentimentProbe(Cs=(2.0**-12, 2.0**-11)).fit(X, y, X_valid, y_valid)
    high = SentimentProbe(Cs=(64.0, 128.0)).fit(X, y, X_valid, y_valid)
    inside = SentimentProbe(Cs=(2.0**-12, 1.0, 512.0)).fit(X, y, X_valid, y_valid)
    single = SentimentProbe(Cs=(2.0**-12,)).fit(X, y, X_valid, y_valid)
    assert not any(p.C < 2.0**-12 for p in low.path_)  # no weight is left to lose there
    assert high.path_[0].C < 64 and not high.path_[0].in_grid and high.grid_C_ == 64
    assert len(inside.path_) == 3 and len(single.path_) == 1
    paper = high.at(high.grid_C_)
    assert paper.C_ == high.grid_C_ and high.C_ == best_point(high.path_).C
    assert paper.predict(X_valid).shape == y_valid.shape


def test_grid_is_extended_upwards():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) * 0.01
    y = (X[:, 0] > 0).astype(int)
    probe = SentimentProbe(extend=3).fit(X[:300], y[:300], X[300:], y[300:])
    assert probe.C_ > 1 and probe.path_[-1].C <= 8 and probe.grid_C_ <= 1


def test_an_extension_is_said():
    X, y, X_valid, y_valid = splits()
    inside = SentimentProbe(Cs=(2.0**-12, 1.0, 512.0)).fit(X, y, X_valid, y_valid)
    high = SentimentProbe(Cs=(64.0, 128.0)).fit(X, y, X_valid, y_valid)
    stuck = SentimentProbe(Cs=(64.0, 128.0), extend=0).fit(X, y, X_valid, y_valid)
    assert inside.describe() == f"C = 1, {inside.n_nonzero_} of 20 units"
    assert "past the grid's edge" in high.describe() and "64 was best" in high.describe()
    assert "still at the edge" in stuck.describe()


def three_classes(N=600):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, N)
    X = rng.normal(size=(N, 20))
    X[np.arange(N), y] += 2.5
    return X, np.array(["bad", "good", "mixed"])[y]


def test_several_classes_are_each_fitted_against_the_rest():
    X, y = three_classes()
    probe = SentimentProbe(extend=0).fit(X[:400], y[:400], X[400:500], y[400:500])
    assert (
        probe.coef_.shape == (3, 20)
        and set(probe.neurons_[:3]) == {0, 1, 2}
        and probe.score(X[500:], y[500:]) > 0.8
    )
    for k, name in enumerate(probe.classes_):
        w_U, b = l1_logistic(X[:400], (y[:400] == name).astype(float), probe.C_)
        np.testing.assert_allclose(probe.coef_[k], w_U, atol=1e-3)
    p_NK = probe.predict_proba(X[500:])
    np.testing.assert_allclose(p_NK.sum(1), 1)
    assert (probe.classes_[p_NK.argmax(1)] == probe.predict(X[500:])).all()
    assert probe.n_nonzero_ == np.count_nonzero(probe.coef_.any(0)) == len(probe.neurons_)
    with pytest.raises(KitError, match="Only binary"):
        NeuronClassifier(0).fit(X, y)


def test_the_probe_is_a_part_like_others():
    X, y = three_classes()
    steps = make_pipeline(StandardScaler(), SentimentProbe(Cs=(0.01, 0.1)))
    search = GridSearchCV(steps, {"sentimentprobe__Cs": [(1e-6,), (0.1, 0.3)]}, cv=3).fit(X, y)
    assert search.best_params_ == {"sentimentprobe__Cs": (0.1, 0.3)} and search.score(X, y) > 0.8
    copy = clone(search.best_estimator_[-1])
    assert copy.Cs == (0.1, 0.3) and not hasattr(copy, "coef_")


@pytest.mark.slow
def test_a_path_at_the_papers_size():
    "4,096 correlated units, 7,000 texts: about 35 s on one core; minutes if the solver is slow."
    rng = np.random.default_rng(0)
    topics, opinion = rng.normal(size=(7900, 64)), rng.normal(size=7900)
    X = (0.1 * topics @ rng.normal(size=(64, 4096)) + 0.3 * rng.normal(size=(7900, 4096))).astype(
        np.float32
    )
    X[:, 388] += opinion
    y = (opinion + 0.5 * topics[:, 0] + 0.5 * rng.normal(size=7900) > 0).astype(int)
    start = time.process_time()
    probe = SentimentProbe().fit(X[:7000], y[:7000], X[7000:], y[7000:])
    assert time.process_time() - start < 150 and probe.neurons_[0] == 388


def test_weights_come_from_train_alone():
    X, y, X_valid, y_valid = splits()
    a = SentimentProbe(extend=0).fit(X, y, X_valid, y_valid)
    b = SentimentProbe(extend=0).fit(X, y, X_valid[::-1] * 3, y_valid)
    for p, q in zip(a.path_, b.path_, strict=True):
        np.testing.assert_array_equal(p.coef, q.coef)


def test_probe_attributes_and_string_labels():
    X, y, X_valid, y_valid = splits()
    names = np.array(["bad", "good"])
    numbers = SentimentProbe().fit(X, y, X_valid, y_valid)
    strings = clone(numbers).fit(X, names[y], X_valid, names[y_valid])
    assert strings.classes_.tolist() == ["bad", "good"]
    assert (strings.predict(X_valid) == names[numbers.predict(X_valid)]).all()
    np.testing.assert_allclose(numbers.predict_proba(X_valid).sum(1), 1)
    assert numbers.coef_.shape == (1, 20) and numbers.intercept_.shape == (1,)
    assert numbers.n_nonzero_ == np.count_nonzero(numbers.coef_) == len(numbers.neurons_)
    assert (np.diff(np.abs(numbers.coef_[0][numbers.neurons_])) <= 0).all() and set(
        numbers.neurons_[:2]
    ) == {0, 1}


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda X, y, Xv, yv: (np.where(X > 2, np.nan, X), y, Xv, yv), "NaN or inf, first in row"),
        (lambda X, y, Xv, yv: (X, y, np.full_like(Xv, np.inf), yv), "row 0, unit 0"),
        (lambda X, y, Xv, yv: (X, np.ones_like(y), Xv, yv), "only one class"),
        (lambda X, y, Xv, yv: (X, y + 0.5, Xv, yv), "one class label"),
        (lambda X, y, Xv, yv: (X[:0], y[:0], Xv, yv), "0 sample"),
        (lambda X, y, Xv, yv: (X, y[:-1], Xv, yv), "200 rows but y has 199"),
        (lambda X, y, Xv, yv: (X[0], y, Xv, yv), "Reshape"),
        (lambda X, y, Xv, yv: (X, y, Xv[:, :-1], yv), "19 features"),
        (lambda X, y, Xv, yv: (X, y, Xv, yv + 1), "validation has labels"),
        (lambda X, y, Xv, yv: (X, y, Xv, None), "target y is None"),
        (lambda X, y, Xv, yv: (X[:3], [0, 0, 1], None, None), "too few rows"),
    ],
)
def test_probe_errors_are_one_sentence(change, told):
    with pytest.raises(KitError, match=told) as error:
        SentimentProbe().fit(*change(*splits()))
    assert "\n" not in str(error.value)


def test_wilson_interval_known_values():
    none, most = accuracy(np.zeros(10), np.ones(10)), accuracy(np.ones(100), np.arange(100) < 92)
    np.testing.assert_allclose(none[:3], (0, 0, 0.2775), atol=1e-4)
    np.testing.assert_allclose(most[:3], (0.92, 0.8500, 0.9589), atol=1e-4)
    assert accuracy(np.ones(5), np.ones(5)).high == 1


def test_claim_and_control_go_through_one_function():
    rng = np.random.default_rng(1)
    X, y = problem("plain")
    parts = dict(train=slice(0, 180), valid=slice(180, 240), test=slice(240, 300))
    claim = probe_splits({s: X[p] for s, p in parts.items()}, {s: y[p] for s, p in parts.items()})
    control = probe_splits(
        {s: rng.normal(size=X[p].shape) for s, p in parts.items()},
        {s: y[p] for s, p in parts.items()},
    )
    assert claim.test.low > control.test.value and claim.test.n == 60


def test_ngram_baseline_reads_word_pairs():
    texts = ["not good", "good", "not bad", "bad"] * 20
    part = Texts(texts, np.array([0, 1, 1, 0] * 20))
    result = ngram_baseline(part, part, part)
    assert result.test.value == 1 and result.model.predict(["not bad"]) == [1]
    empty, one_class = Texts(["", " "], np.array([0, 1])), Texts(["a", "b"], np.array([1, 1]))
    for broken, told in (
        (empty, "no n-gram baseline: empty vocabulary"),
        (one_class, "only one class"),
    ):
        with pytest.raises(KitError, match=told) as error:
            ngram_baseline(broken, broken, broken)
        assert "\n" not in str(error.value)


def test_table_is_markdown():
    share = accuracy(np.ones(4), np.ones(4))
    table = results_table(
        [dict(row="a", test=share, C=0.5), dict(row="b", test=None, C=1 / 3)]
    ).splitlines()
    assert (
        table[1] == "| --- | --- | --- |" and table[3] == "| b | – | 0.3333 |" and len(table) == 4
    )


@pytest.fixture(scope="module")
def labelled():
    return {
        split: Texts(part.texts[:60], part.labels[:60])
        for split, part in load_dataset("samples").items()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder, keys = (
        tmp_path_factory.mktemp("corpus"),
        dict(text_key="text", stars_key="stars", split_key="split"),
    )
    (folder / "some.csv").write_text(
        "\n".join(SAMPLES.read_text(encoding="utf-8").splitlines()[:250]), encoding="utf-8"
    )
    return make_shards(folder / "some.csv", folder / "corpus", counts=(1, 1, 1), **keys)


def config_for(corpus, out, **changes):
    model = LanguageModelConfig(hidden_size=16, embed_size=4)
    size = dict(global_batch=16, seq_len=64, log_every=2, save_every=1000, lr=0.02)
    return TrainConfig(
        corpus=str(corpus.folder), out=str(out), model=model, progress="none", **size | changes
    )


def probe_lines(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "probe_all" in line]


def test_the_callback_writes_into_the_metrics_and_disturbs_nothing(corpus, labelled, tmp_path):
    watched = [
        Validate(),
        TransferCallback(labelled, every_bytes=10_000, lanes=32),
        LogMetrics(),
        SaveCheckpoint(),
    ]
    runs = [
        train(config_for(corpus, tmp_path / "a"), watched),
        train(config_for(corpus, tmp_path / "b")),
    ]
    lines, total = (
        probe_lines(runs[0]),
        json.loads((runs[1] / "metrics.jsonl").read_text().splitlines()[-1])["bytes"],
    )
    due = [0, *(-(-n // 2048) * 2048 for n in range(10_000, total, 10_000)), total]
    assert [
        line["bytes"] for line in lines
    ] == due  # at 0, at the next written line after each 10,000, at the end
    assert all(0 <= line["probe_all"] <= 1 for line in lines) and probe_lines(runs[1]) == []
    assert all(("probe_one" in line) == ("probe_unit" in line) for line in lines)
    a, b = (load_file(latest_checkpoint(run) / "model.safetensors") for run in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_callback_finds_what_the_state_knows(labelled):
    class Knowing:
        n_units, preset, digest = 3, "raw", "label"

        def trace(self, encoded, units=None):
            return np.full((len(encoded), 3), [0.0, float(b"good" in encoded), 1.0], np.float32)

    labels = np.arange(60) % 2
    data = {
        split: Texts([("bad", "good")[k] for k in labels], labels) for split in ("train", "valid")
    }
    run = SimpleNamespace(bytes=70)
    trainer = SimpleNamespace(model=Knowing(), run=run, world=SimpleNamespace(rank=0))
    callback = TransferCallback(data, every_bytes=50)
    assert callback.measure(trainer) == {
        "probe_all": 1.0,
        "probe_one": 1.0,
        "probe_unit": 1,
    } and callback.state() == {"due": 100}
    callback.load_state({})  # a checkpoint from before
    assert callback.state() == {"due": 0}


def test_the_callback_refuses_a_place_where_nothing_is_written(corpus, labelled, tmp_path):
    with pytest.raises(KitError, match="after LogMetrics"):
        train(
            config_for(corpus, tmp_path / "run"),
            [Validate(), LogMetrics(), TransferCallback(labelled)],
        )


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_launch_makes_the_callbacks_where_it_trains(corpus, labelled, tmp_path, nproc):
    files = [tmp_path / f"{split}.jsonl" for split in ("train", "valid", "test")]
    for file, split in zip(files, ("train", "valid", "valid"), strict=True):
        texts, labels = labelled[split].texts, labelled[split].labels.tolist()
        rows = [
            json.dumps({"text": text, "label": y}) for text, y in zip(texts, labels, strict=True)
        ]
        file.write_text("\n".join(rows))
    callbacks = (
        "sentiment_kit.transfer.probe_callback:probe_callbacks",
        [*map(str, files)],
        10_000,
    )
    lines = probe_lines(launch(config_for(corpus, tmp_path / "run"), nproc, callbacks=callbacks))
    assert len(lines) > 2 and all(0 <= line["probe_all"] <= 1 for line in lines)


values = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=30)


@given(values)
@settings(max_examples=200, deadline=None)
def test_best_cut_is_the_best_of_all(pairs):
    x_N, y_N = (np.array(column) for column in zip(*pairs, strict=True))
    sign, threshold, right = best_cut(x_N.astype(np.float32), y_N)
    cuts = [-5, *np.arange(-4, 5) + 0.5, 5]
    assert right == max(np.mean((s * (x_N - cut) > 0) == y_N) for s in (1, -1) for cut in cuts)
    assert right == np.mean((sign * (x_N - threshold) > 0) == y_N)


@pytest.mark.parametrize("low", [1.0, -1.0, 0.0, 1e300])
def test_best_cut_between_neighbouring_floats(low):
    x_N = np.array([low, np.nextafter(low, np.inf)])
    for y_N in ([0, 1], [1, 0]):
        sign, threshold, right = best_cut(x_N, np.array(y_N))
        assert right == 1 and ((sign * (x_N - threshold) > 0) == y_N).all()


def test_unit_auc_with_ties():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 4, (60, 5)).astype(float), rng.integers(0, 2, 60)
    np.testing.assert_allclose(unit_auc(X, y), [roc_auc_score(y, x_N) for x_N in X.T])


def test_rules_disagree_where_scales_differ():
    rng = np.random.default_rng(0)
    opinion = rng.normal(size=900)
    X = rng.normal(size=(900, 8))
    X[:, 0] = 100 * (opinion + 0.3 * rng.normal(size=900))  # unit 0 is a unit like any other
    X[:, 5] -= 0.5 * opinion
    y = (opinion > 0).astype(int)
    train, valid = (X[:600], y[:600]), (X[600:], y[600:])
    probe = SentimentProbe().fit(*train, *valid)
    found = {neuron.rule: neuron for neuron in compare_rules(probe, *train, *valid)}
    assert found["auc"].unit == 0 and found["coef_std"].unit == 0 and found["coef"].unit != 0
    best = find_sentiment_neuron(probe, *train, *valid, rule="best")
    assert (
        best.unit == 0
        and best.sign == 1
        and best.valid_accuracy == max(n.valid_accuracy for n in found.values())
    )
    assert NeuronClassifier(0).fit(*train).score(*valid) == best.valid_accuracy
    assert find_sentiment_neuron(probe, *train, *valid) == found["coef"]


def test_rules_on_weights_say_so_when_there_is_no_weight():
    X, y, X_valid, y_valid = splits()
    empty = SentimentProbe(Cs=(1e-9,)).fit(X, y, X_valid, y_valid)
    assert [n.rule for n in compare_rules(empty, X, y, X_valid, y_valid)] == ["auc"]
    with pytest.raises(KitError, match="all weights"):
        find_sentiment_neuron(empty, X, y, X_valid, y_valid, rule="coef")
    with pytest.raises(KitError, match="rule is 'loudest'"):
        find_sentiment_neuron(empty, X, y, X_valid, y_valid, rule="loudest")
    with pytest.raises(KitError, match="units 0 … 19"):
        NeuronClassifier(20).fit(X, y)


def test_figures_hold_what_they_show():
    X, y, X_valid, y_valid = splits()
    probe = SentimentProbe().fit(X, y, X_valid, y_valid)
    assert list(path_figure(probe).data[0].x) == [p.C for p in probe.path_]
    stems = weight_stem(probe.coef_[0])
    assert list(stems.data[1].x) == sorted(probe.neurons_)
    histogram = unit_histogram(X_valid[:, 0], y_valid, 0.1)
    assert sum(bar.y.sum() for bar in histogram.data) == len(y_valid) and len(histogram.data) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            weight_stem(np.zeros(4)).data and unit_histogram(np.ones(3), np.array([0, 1, 1])).data
        )
