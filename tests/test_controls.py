"""Intervals, paired test and calibration against values by hand; stars; controls on features whose
truth is known."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import Texts
from sentiment_kit.evidence.claims import choose_unit, take_away_order, unit_order
from sentiment_kit.evidence.confidence import (
    bootstrap_interval,
    brier_score,
    calibrate,
    calibration_figure,
    calibration_report,
    expected_calibration_error,
    mcnemar,
)
from sentiment_kit.evidence.controls import HeldStates, controls, mean_cells, untrained_twin
from sentiment_kit.evidence.feature_controls import feature_controls, permutation_null
from sentiment_kit.evidence.label_efficiency import (
    curve_figure,
    label_curves,
    label_efficiency,
    units_curve,
)
from sentiment_kit.evidence.stars import StarsRegressor, check_stars, rank_correlation, stars_report
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.model.reference import gates
from sentiment_kit.transfer.features import ByteFeaturizer
from sentiment_kit.transfer.probe import SentimentProbe


@parametrize_with_checks([StarsRegressor()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    x_N = np.random.default_rng(0).normal(3, 2, 1000)
    estimate, half = bootstrap_interval(np.mean, x_N), 1.96 * 2 / np.sqrt(1000)
    np.testing.assert_allclose(
        estimate[:3], (x_N.mean(), x_N.mean() - half, x_N.mean() + half), atol=0.02
    )
    assert estimate == bootstrap_interval(np.mean, x_N) and estimate.n == 1000
    for parts in ((x_N, x_N[1:]), (x_N[:1], x_N[:1]), (x_N[:0],)):
        with pytest.raises(KitError, match="resampled in pairs"):
            bootstrap_interval(lambda *parts: 0.0, *parts)


def test_mcnemar_is_the_binomial_by_hand():
    y, a, b = np.zeros(100, int), np.zeros(100, int), np.zeros(100, int)
    a[:9] = 1
    b[9:11] = 1  # nine texts that only b got right, two that only a did
    test = mcnemar(y, a, b)
    assert (test.only_a, test.only_b, test.difference) == (2, 9, 0.07)
    np.testing.assert_allclose(test.p, 2 * binom.cdf(2, 11, 0.5))
    assert (
        test.low < 0.07 < test.high
        and mcnemar(y, b, a).difference == -0.07
        and mcnemar(y, b, a).p == test.p
    )
    assert (
        mcnemar(y, a, a).p == 1
        and mcnemar(np.array(["x"]), np.array(["x"]), np.array(["y"])).only_a == 1
    )
    with pytest.raises(KitError, match="one of each for every text"):
        mcnemar(y, a, b[1:])


def test_calibration_figures_by_hand():
    event_N, p_N = np.array([1, 0, 1, 1.0]), np.array([0.92, 0.98, 0.5, 1.0])
    np.testing.assert_allclose(
        expected_calibration_error(event_N, p_N), (abs(2 - 2.9) + abs(1 - 0.5)) / 4
    )
    np.testing.assert_allclose(brier_score(event_N, p_N), (0.08**2 + 0.98**2 + 0.25) / 4)


def moods(n_classes=2, N=2400, U=12):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, N)
    X = rng.normal(size=(N, U))
    X[np.arange(N), y] += 1.5
    return X, np.array(["bad", "good", "mixed"])[y]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_temperature_mends_a_timid_probe_and_changes_no_answer(n_classes):
    X, y = moods(n_classes)
    probe = SentimentProbe(Cs=(0.01,)).fit(X[:800], y[:800], X[800:1600], y[800:1600])
    mended = calibrate(probe, X[800:1600], y[800:1600])
    assert (mended.predict(X[1600:]) == probe.predict(X[1600:])).all()
    before, after = (
        calibration_report(model, X[1600:], y[1600:], repeats=50) for model in (probe, mended)
    )
    assert after.ece.value < before.ece.value / 2 and after.brier.value < before.brier.value
    assert before.count_K.sum() == 800 and before.ece.low <= before.ece.value <= before.ece.high
    assert len(calibration_figure({"before": before, "after": after}).data) == 3
    with pytest.raises(KitError, match="no calibration by 'magic'"):
        calibrate(probe, X[:100], y[:100], "magic")


def test_stars_are_learnt_and_stay_on_their_scale():
    rng = np.random.default_rng(0)
    opinion = rng.normal(size=600)
    X, stars = rng.normal(size=(600, 30)), np.digitize(opinion, [-1, -0.3, 0.3, 1]) + 1
    X[:, 4] += 3 * opinion
    rater = StarsRegressor().fit(X[:400], stars[:400], X[400:500], stars[400:500])
    said_N, report = (
        rater.predict(10 * X[500:]),
        stars_report(stars[500:], rater.predict(X[500:]), 100),
    )
    assert said_N.min() == 1 and said_N.max() == 5 and np.abs(rater.coef_).argmax() == 4
    assert report["mae"].high < 0.7 and report["spearman"].low > 0.8
    best = min(point.valid_mae for point in rater.path_)
    assert rater.valid_mae_ == best and rater.alpha_ == max(
        p.alpha for p in rater.path_ if p.valid_mae == best
    )
    assert rank_correlation(stars, np.full(600, 3)) == 0
    same = StarsRegressor().fit(X, np.full(600, 4.5))
    assert (same.predict(X) == 4.5).all() and same.n_nonzero_ == 0


@pytest.mark.parametrize(
    "stars, told",
    [
        (None, "target y is None"),
        (["five"] * 4, "must be numbers"),
        ([1, 2, 3], "4 rows but y has 3"),
        ([1, np.nan, 3, 4], "first in row 1"),
        ([[1, 2], [3, 4]], "one for each row"),
    ],
)
def test_bad_stars_get_one_sentence(stars, told):
    with pytest.raises(KitError, match=told) as error:
        check_stars(stars, 4)
    assert "\n" not in str(error.value)


def planted(N=900, U=40, seed=0):
    "Features in which unit 0 has the opinion and the others a trace of it between them."
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, N)
    X = rng.normal(size=(N, U)).astype(np.float32)
    X[:, 0] += 4 * y - 2
    cut = dict(train=slice(0, N // 2), valid=slice(N // 2, 3 * N // 4), test=slice(3 * N // 4, N))
    return {s: X[c] for s, c in cut.items()}, {s: y[c] for s, c in cut.items()}


def test_controls_tell_a_neuron_from_a_code():
    X, y = planted()
    rows = feature_controls(X, y, top=(1, 100), n_random=5, draws=10, permutations=9)
    test = {row.features: row.test.value for row in rows}
    assert len(test) == len(rows) == 11 and rows[0].features == "all units" and rows[0].p is None
    assert rows[2].features == "unit 0 by coef, coef_std, auc" and rows[2].test.value > 0.95
    assert test["rotated at random, all axes"] > 0.9 > 0.8 > test["rotated at random, one axis"]
    assert test["without the top 1"] < 0.6 and abs(test["larger class"] - 0.5) < 0.1
    assert test["difference in means"] > 0.9 and 0.4 < test["5 random units, 10 draws"] < 0.75
    shuffled = [row for row in rows if "shuffled" in row.features]
    assert [row.p for row in shuffled] == [0.1, 0.1] and all(
        0.4 < row.test.value < 0.6 for row in shuffled
    )
    assert rows == feature_controls(X, y, top=(1, 100), n_random=5, draws=10, permutations=9)


def test_the_null_repeats_the_choice_of_unit_and_sees_its_price():
    "On 40 units and few validation texts, the best is above chance there, and not on test."
    rng = np.random.default_rng(0)
    X = {split: rng.normal(size=(n, 40)) for split, n in dict(train=60, valid=30, test=400).items()}
    y = {split: np.arange(len(X_NU)) % 2 for split, X_NU in X.items()}
    null = permutation_null(X, y, repeats=20)
    for values_R2 in (null["all"], null["one"]):
        assert values_R2.shape == (20, 2)
        assert values_R2[:, 0].mean() > 0.55 and abs(values_R2[:, 1].mean() - 0.5) < 0.03


def test_controls_of_three_classes_have_no_unit_rows():
    X, y = moods(3, 600)
    cut = dict(train=slice(0, 300), valid=slice(300, 450), test=slice(450, 600))
    rows = feature_controls(
        {s: X[c] for s, c in cut.items()},
        {s: y[c] for s, c in cut.items()},
        draws=2,
        permutations=2,
    )
    names = " ".join(row.features for row in rows)
    assert (
        "rotated at random, all axes" in names and "unit " not in names and "one axis" not in names
    )


WORDS = "kettle lamp chair pen desk box good lovely bad broken".split()


def reviews(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    opinions = [("bad broken", "good lovely")[label].split() for label in labels]
    return Texts(
        [" ".join([*rng.choice(WORDS[:6], 3), rng.choice(two)]) for two in opinions], labels
    )


@pytest.fixture(scope="module")
def data():
    return {split: reviews(n, n) for split, n in dict(train=160, valid=81, test=80).items()}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=24, embed_size=8))


def test_every_control_is_there_for_a_language_model(model, data, tmp_path):
    how = dict(
        top=(1,), n_random=10, draws=2, permutations=2, seed=5, folder=str(tmp_path), lanes=16
    )
    rows = controls(model, data, **how)
    names = [row.features for row in rows]
    for name in (
        "all units",
        "all units, C within 2⁻⁸ … 2⁰",
        "10 random units, 2 draws",
        "rotated at random, all axes",
        "rotated at random, one axis",
        "without the top 1",
        "difference in means",
        "larger class",
        "labels shuffled 2 times, all units",
        "labels shuffled 2 times, one unit",
        "untrained, all units",
        "untrained, one unit",
        "top 1 held at the mean, same probe",
        "top 1 held at the mean, probe anew",
        "n-grams, no model",
    ):
        assert names.count(name) == 1, name
    assert (
        len({row.test.n for row in rows if row.p is None or "shuffled" not in row.features} - {2})
        == 1
    )
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert rows == controls(model, data, **how)
    assert (
        made == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        and len(made) == 9
    )


def test_any_source_of_states_has_controls(data):
    class LastWord:
        n_units, preset, digest = 5, "raw", "last word"

        def trace(self, encoded, units=None):
            good = encoded.strip().endswith((b"good", b"lovely"))
            return np.tile(
                np.array([len(encoded), 0, good, 1, encoded[0]], np.float32), (len(encoded), 1)
            )

    rows = controls(LastWord(), data, draws=2, permutations=2)
    by_name = {row.features: row for row in rows}
    assert (
        by_name["unit 2 by coef, coef_std, auc"].test.value == 1
        and "untrained, all units" not in by_name
    )
    assert by_name["without the top 1"].test.value < 0.75 and not any(
        "held" in name for name in by_name
    )


def naive_held(model, encoded, clamp, state):
    "One text, a byte at a time by the equations; units of the top layer are put to their values."
    weights = [layer.effective() for layer in model.rnn.layers]
    h, c = ([torch.zeros(1, model.config.hidden_size) for _ in weights] for _ in range(2))
    trace = []
    for byte in encoded:
        x = model.embed.weight[byte][None]
        for k, w in enumerate(weights):
            m = x @ w["w_mx"] * (h[k] @ w["w_mh"]) if "w_mx" in w else h[k]
            z = m @ w["w_h"] + x @ w["w_x"] + w["b"]
            h[k], c[k] = gates(z, c[k])
            if k == len(weights) - 1:
                for unit, value in clamp.items():
                    c[k][0, unit] = value
                h[k] = z.chunk(4, dim=-1)[2].sigmoid() * c[k].tanh()
            x = h[k]
        trace.append(dict(cell=c[-1], hidden=h[-1], tanh_cell=c[-1].tanh())[state][0].clone())
    return torch.stack(trace).detach().numpy()


@pytest.mark.parametrize("state", ["cell", "hidden", "tanh_cell"])
@pytest.mark.parametrize("cell, n_layers", [("mlstm", 1), ("lstm", 1), ("mlstm", 2)])
def test_holding_cells_while_reading_equals_the_equations(cell, n_layers, state):
    torch.manual_seed(1)
    model = LanguageModel(
        LanguageModelConfig(cell=cell, n_layers=n_layers, hidden_size=12, embed_size=4)
    )
    source, texts = (
        HeldStates(model, {0: 0.7, 5: -2.0}, state),
        [b"\n it fell apart ", b"\n ok ", b"\n so so, really "],
    )
    naive = [naive_held(model, text, {0: 0.7, 5: -2.0}, state) for text in texts]
    for text, trace_TU in zip(texts, naive, strict=True):
        np.testing.assert_allclose(source.trace(text), trace_TU, atol=1e-4)
    X_NU = ByteFeaturizer(source, lanes=2).transform(
        texts
    )  # laid end to end: a reset does not let go
    np.testing.assert_allclose(X_NU, [trace_TU[-1] for trace_TU in naive], atol=1e-4)
    assert (
        np.abs(X_NU - ByteFeaturizer(model, state=state).transform(texts))[:, [1, 2, 3, 4, 6]].max()
        > 1e-3
    )


def test_held_states_are_told_apart_and_need_something_to_hold(model):
    digests = {
        ModelStates(model).digest,
        *(HeldStates(model, clamp).digest for clamp in ({1: 0.0}, {1: 0.5}, {2: 0.5})),
    }
    assert len(digests) == 4
    for clamp, told in (
        (None, "nothing is held"),
        ({}, "nothing is held"),
        ({24: 0.0}, "units 0 … 23"),
    ):
        with pytest.raises(KitError, match=told):
            HeldStates(model, clamp)


def test_mean_cells_are_over_bytes(model):
    texts = [b"\n a ", b"\n a much longer one "]
    c_TU = np.concatenate([ModelStates(model).trace(text) for text in texts])
    np.testing.assert_allclose(mean_cells(model, texts), c_TU.mean(0), atol=1e-6)


def test_a_twin_has_other_weights_and_takes_no_random_numbers(model):
    before = torch.random.get_rng_state()
    twins = [untrained_twin(model, seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.random.get_rng_state())
    a, b, c = (twin.rnn.layers[0].w_h for twin in twins)
    assert (
        torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(c, model.rnn.layers[0].w_h)
    )


def test_the_chosen_unit_is_the_first_to_be_taken_away():
    "Also where it has no weight: unit 3 is a weaker copy of unit 0, and a rule may name it."
    X, y = planted()
    for part in X.values():
        part[:, 3] = part[:, 0] ** 3
    probe = SentimentProbe().fit(X["train"], y["train"], X["valid"], y["valid"])
    for rule in ("coef", "auc", "best"):
        order = take_away_order(X, y, probe, rule)
        assert order[0] == choose_unit(X, y, probe, rule) and len(order) == len(set(order))
        assert set(order) == {order[0], *unit_order(probe, X["train"])}


def test_units_are_ranked_by_what_they_move():
    X, y = planted()
    for part in X.values():
        part[:, 0] *= 100
    probe = SentimentProbe().fit(X["train"], y["train"], X["valid"], y["valid"])
    order, spread_U = unit_order(probe, X["train"]), X["train"].std(0)
    score_U = np.abs(probe.coef_[0]) * spread_U
    assert (
        order[0] == 0 == choose_unit(X, y, probe, "coef_std")
        and (np.diff(score_U[order]) <= 0).all()
    )
    assert len(order) == probe.n_nonzero_
    curves = units_curve(X, y, probe, counts=(1, 2, 10_000))
    assert (
        [k for k, _ in curves["top"]]
        == [k for k, _ in curves["random"]]
        == sorted({1, 2} & set(range(len(order) + 1)))
    )
    assert curves["top"][0][1].value > 0.95
    assert len(curve_figure(curves, "units").data) == 4


def test_label_efficiency_looks_at_nothing_but_its_labels(data):
    "Features of texts that were not drawn are NaN: whoever reads one fails."
    rng = np.random.default_rng(0)
    y = data["train"].labels
    X = {
        split: rng.normal(size=(len(part), 6)) + part.labels[:, None]
        for split, part in data.items()
    }
    free = label_efficiency(X, data, counts=(40,), repeats=1)
    drawn = train_test_split(np.arange(len(y)), train_size=40, stratify=y, random_state=0)[0]
    X["train"][np.setdiff1d(np.arange(len(y)), drawn)] = np.nan
    X["valid"][:] = np.nan
    for a, b in zip(free, label_efficiency(X, data, counts=(40,), repeats=1), strict=True):
        assert a.test == b.test


def test_label_efficiency_is_paired_and_repeatable(data):
    rng = np.random.default_rng(0)
    X = {
        split: rng.normal(size=(len(part), 6)) + 2 * part.labels[:, None]
        for split, part in data.items()
    }
    points = label_efficiency(X, data, counts=(20, 80, 10_000), repeats=4)
    again = label_efficiency(X, data, counts=(20, 80), repeats=2)
    assert [(p.reader, p.n) for p in points] == [
        (r, n) for n in (20, 80) for r in ("all units", "one unit", "n-grams")
    ]
    assert all(
        (p.runs_R[:2] == q.runs_R).all() and p.runs_R.shape == (4,)
        for p, q in zip(points, again, strict=True)
    )
    assert all(p.test.low <= p.test.value <= p.test.high for p in points)
    assert points[3].test.value > 0.9 and [n for n, _ in label_curves(points)["one unit"]] == [
        20,
        80,
    ]
    for n in (1, 3):
        with pytest.raises(KitError, match="cannot be drawn|too few rows|only one class"):
            label_efficiency(X, data, counts=(n,), repeats=1)


@pytest.mark.filterwarnings("error")
def test_where_nothing_is_to_be_known_every_row_says_so():
    "Dead units, labels as strings: no weight, no warning, chance."
    y = {
        split: np.array(["neg", "pos"])[np.arange(n) % 2]
        for split, n in dict(train=120, valid=60, test=60).items()
    }
    X = {split: np.ones((len(labels), 5), np.float32) for split, labels in y.items()}
    rows = feature_controls(X, y, draws=2, permutations=2)
    assert {row.test.value for row in rows} == {0.5}
    data = {split: Texts(["same words"] * len(labels), labels) for split, labels in y.items()}
    assert {point.test.value for point in label_efficiency(X, data, counts=(20,), repeats=2)} == {
        0.5
    }
    probe = SentimentProbe().fit(X["train"], y["train"], X["valid"], y["valid"])
    assert units_curve(X, y, probe) == {"top": [], "random": []}
    assert "edge" not in probe.describe()
    assert len(curve_figure(units_curve(X, y, probe), "units").data) == 4
    report = calibration_report(
        calibrate(probe, X["valid"], y["valid"]), X["test"], y["test"], repeats=20
    )
    np.testing.assert_allclose(report.brier.value, 0.25)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda X, y: (X | {"train": np.full_like(X["train"], np.nan)}, y), "NaN or inf"),
        (lambda X, y: (X | {"valid": X["valid"][:, 1:]}, y), "39 features"),
        (lambda X, y: (X, y | {"train": np.zeros(450)}), "only one class"),
        (lambda X, y: (X, y | {"train": y["train"][1:]}), "450 rows but y has 449"),
        (lambda X, y: (X, y | {"train": y["train"] + 0.5}), "one class label"),
    ],
)
def test_controls_say_what_they_cannot_use(change, told):
    with pytest.raises(KitError, match=told) as error:
        feature_controls(*change(*planted()), draws=1, permutations=1)
    assert "\n" not in str(error.value)


def test_empty_texts_are_texts(model):
    texts = Texts(["", "good", "", "bad"] * 20, np.array([0, 1, 0, 1] * 20))
    rows = controls(
        model,
        dict(train=texts, valid=texts, test=texts),
        top=(1,),
        n_random=3,
        draws=1,
        permutations=1,
    )
    assert rows[0].test.value == 1
