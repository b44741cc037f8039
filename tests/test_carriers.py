"""The unit is chosen by what it does inside a text: planted carriers and readers."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import Texts
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.starred import labelled_by_stars
from sentiment_kit.data.text import decode
from sentiment_kit.evidence.carrier_controls import (
    ask,
    carrier_controls,
    count_words,
    random_scores,
    shuffled_scores,
)
from sentiment_kit.looking.unit_map import UnitMapView, unit_map_figure
from sentiment_kit.model.gates import record_gates
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.transfer.areas import chance_area, inside_auc, unit_auc, weigh
from sentiment_kit.transfer.carriers import (
    carrier_texts,
    like_units,
    measure_units,
    rule_stability,
    unit_kinds,
)
from sentiment_kit.transfer.features import record_states
from sentiment_kit.transfer.inside import draw_places, read_inside, word_ends
from sentiment_kit.transfer.neuron import compare_rules, find_carrier, find_sentiment_neuron
from sentiment_kit.transfer.probe import SentimentProbe
from sentiment_kit.transfer.time_constants import time_constants

CARRIER, READER, TWO_FACED, U = 5, 9, 2, 12


class Planted:
    "One unit carries g minus b, downwards; one reads it out at the end; one contradicts itself."

    n_units, preset, digest = U, "raw", "planted"

    def trace(self, encoded, units=None):
        ids_T = np.frombuffer(encoded, np.uint8).astype(int)
        said_T = np.cumsum((ids_T == ord("g")).astype(float) - (ids_T == ord("b")))
        c_TU = np.random.default_rng(list(encoded)).normal(size=(len(ids_T), U))
        c_TU[:, CARRIER] = -said_T + c_TU[:, CARRIER]
        c_TU[-1, READER] = said_T[-1]
        c_TU[:, TWO_FACED] = said_T
        c_TU[-1, TWO_FACED] = 2 * c_TU[-1, 0] - said_T[-1]
        return c_TU.astype(np.float32) if units is None else c_TU[:, units].astype(np.float32)


def planted_texts(n=120, seed=0):
    rng = np.random.default_rng(seed)
    words = [
        ["good" if rng.random() < (0.3, 0.7)[i % 2] else "bad" for _ in range(14)] for i in range(n)
    ]
    labels = np.array([i % 2 for i in range(n)])
    return Texts([" ".join(w) + "\n" for w in words], labels)


@pytest.fixture(scope="module")
def planted():
    return measure_units(Planted(), planted_texts(), k=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    config = LanguageModelConfig(hidden_size=24, embed_size=8, n_layers=2)
    return LanguageModel(config).eval()


def one_sentence(call, told):
    with pytest.raises(KitError, match=told) as error:
        call()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- the rule


def test_the_rule_takes_the_carrier_and_the_last_byte_the_reader(planted):
    assert planted.unit == CARRIER and planted.weighed.sign_U[CARRIER] == -1
    kind_U = unit_kinds(planted)
    assert kind_U[CARRIER] == "carrier" and kind_U[READER] == "reader"
    states, y_N = planted.states, planted.y_N
    last_U = np.abs(unit_auc(states.last_NU, y_N) - 0.5)
    assert last_U[READER] > last_U[CARRIER]  # the old rule would have named the reader
    carrier = find_carrier(states.last_NU, y_N, states.last_NU, y_N, states.inside_NKU)
    assert (carrier.unit, carrier.sign, carrier.rule) == (CARRIER, -1, "inside")
    assert carrier.inside_area > 0.7 and carrier.valid_accuracy > 0.8


def test_a_unit_that_changes_its_sign_at_the_end_is_worth_nothing(planted):
    weighed = planted.weighed
    assert abs(weighed.last_U[TWO_FACED] - 0.5) > 0.3  # either place alone says much
    assert abs(weighed.inside_U[TWO_FACED] - 0.5) > 0.3
    assert weighed.score[TWO_FACED] < 0.5 < weighed.score[CARRIER]


def test_labels_flipped_turn_the_sign_and_nothing_else(planted):
    flipped = measure_units(Planted(), Texts(planted_texts().texts, 1 - planted.y_N), k=4)
    assert flipped.unit == CARRIER and flipped.weighed.sign_U[CARRIER] == 1
    np.testing.assert_allclose(flipped.weighed.score, planted.weighed.score, atol=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_areas_equal_scikit_learn_with_ties(seed):
    rng = np.random.default_rng(seed)
    inside_NKU = rng.integers(0, 4, (20, 3, 2)).astype(np.float32)
    y_N = rng.permutation(np.arange(20) % 2)
    want = [np.mean([roc_auc_score(y_N, inside_NKU[:, k, u]) for k in range(3)]) for u in range(2)]
    np.testing.assert_allclose(inside_auc(inside_NKU, y_N), want)
    weighed = weigh(np.array(want), np.array(want))
    np.testing.assert_allclose(weighed.score, 0.5 + np.abs(np.array(want) - 0.5))


def test_a_constant_unit_has_one_half_and_ties_go_to_the_first():
    X_NU = np.zeros((40, 2), np.float32)
    y_N = np.arange(40) % 2
    found = find_carrier(X_NU, y_N, X_NU, y_N, X_NU[:, None])
    assert (found.unit, found.sign, found.last_area, found.inside_area) == (0, 1, 0.5, 0.5)


def test_old_rules_stay_and_the_new_one_is_a_row(planted):
    X, y, inside = planted.states.last_NU, planted.y_N, planted.states.inside_NKU
    probe = SentimentProbe(Cs=(1.0,), extend=0).fit(X, y, X, y)
    old = compare_rules(probe, X, y, X, y)
    both = compare_rules(probe, X, y, X, y, ["coef", "coef_std", "auc", "inside"], inside)
    assert both[:-1] == old and both[-1].unit == CARRIER
    assert find_sentiment_neuron(probe, X, y, X, y, "best") in old
    assert find_sentiment_neuron(probe, X, y, X, y, "inside", inside).unit == CARRIER


def test_what_the_rule_cannot_use_is_one_sentence(planted):
    X, y, inside = planted.states.last_NU, planted.y_N, planted.states.inside_NKU
    probe = SentimentProbe(Cs=(1.0,), extend=0).fit(X, y, X, y)

    def find(**given):
        return find_sentiment_neuron(probe, X, y, X, y, "inside", **given)

    one_sentence(find, "needs states inside the validation texts")
    one_sentence(lambda: find(inside_NKU=inside[:-1]), r"\[119, 4, 12\].*\[120, 12\]")
    one_sentence(lambda: find(inside_NKU=inside[:, 0]), "texts, places, units")
    one_sentence(lambda: find(inside_NKU=np.where(inside > 2, np.nan, inside)), "NaN or inf")
    one_sentence(lambda: find_carrier(X, y, X[::2], y[::2], inside[::2]), "one label")
    one_sentence(
        lambda: measure_units(Planted(), Texts(["a b c"] * 30, np.ones(30))), "only one|two"
    )
    few = Texts(planted_texts(60).texts, np.arange(60) < 5)
    one_sentence(lambda: measure_units(Planted(), few), "too few texts.*55 of .*5 of")
    one_sentence(lambda: rule_stability(planted.states, y, (600,), 2), "needs 300 texts of each")


# ---------------------------------------------------------------- places and states


@given(st.binary(min_size=1, max_size=80), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_places_are_word_ends_of_the_second_half(encoded, seed):
    at_K = draw_places(encoded, 5, seed)
    assert len(at_K) == 5 and at_K.max() < len(encoded) and at_K.min() >= len(encoded) // 2
    ends = set(word_ends(encoded))
    assert set(at_K) <= ends or set(at_K) == {len(encoded) // 2}
    assert np.array_equal(at_K, draw_places(encoded, 5, seed))


def test_word_ends_of_several_scripts():
    text = "It didn't, Zoë: déjà 12!".encode()
    said = [text[: t + 1].decode().split()[-1] for t in word_ends(text)]
    assert said == ["It", "didn't", "Zoë", "déjà", "12"]
    assert word_ends(b"").size == 0


@pytest.mark.parametrize("layer", [0, -1])
def test_one_pass_equals_reading_text_by_text(model, layer):
    texts = ["Zoë loves it, and so do I.", "It broke.", "long words " * 60, "a"] * 3
    source = ModelStates(model, layer=layer)
    read = read_inside(source, texts, k=3, lanes=5)
    for n, text in enumerate(texts):
        c_TU = record_states(source, text)
        np.testing.assert_allclose(read.last_NU[n], c_TU[-1], atol=1e-5)
        np.testing.assert_allclose(read.inside_NKU[n], c_TU[read.at_NK[n]], atol=1e-5)
    all_TU = np.concatenate([record_states(source, text) for text in texts]).astype(float)
    steps_TU = np.concatenate([np.diff(record_states(source, text), axis=0) for text in texts])
    want_U = (steps_TU.astype(float) ** 2).mean(0) / all_TU.var(0)
    np.testing.assert_allclose(read.roughness_U, want_U, rtol=1e-3)


def test_places_do_not_depend_on_company_or_lanes(model):
    texts = planted_texts(12).texts
    together = read_inside(model, texts, k=3, lanes=7)
    alone = read_inside(model, texts[:2], k=3, lanes=1)
    assert np.array_equal(together.at_NK[:2], alone.at_NK)
    np.testing.assert_allclose(together.inside_NKU[:2], alone.inside_NKU, atol=1e-5)
    again = read_inside(model, texts, k=3, lanes=7)
    assert np.array_equal(together.inside_NKU, again.inside_NKU)
    assert not np.array_equal(together.at_NK, read_inside(model, texts, k=3, seed=1).at_NK)


def test_no_text_and_empty_texts_are_one_sentence(model):
    one_sentence(lambda: read_inside(model, []), "no text to read")
    one_sentence(lambda: read_inside(model, ["a", b""]), "no bytes")
    one_sentence(lambda: time_constants(model, []), "no text to measure")
    one_sentence(lambda: time_constants(model, ["a text"], layer=2), "layer is 2")


@pytest.mark.parametrize("cell", ["mlstm", "lstm"])
@pytest.mark.parametrize("layer", [0, -1])
def test_time_constants_are_those_of_the_recorded_gates(cell, layer):
    torch.manual_seed(3)
    config = LanguageModelConfig(cell=cell, hidden_size=10, embed_size=4, n_layers=2)
    model = LanguageModel(config).eval()
    texts = [b"good and bad", b"it is", b"x", b"a longer one, of words"]
    f_TU = np.concatenate([record_gates(model, text, range(10), layer).f_TU[1:] for text in texts])
    want_U = 1 / -np.log(f_TU).mean(0)
    np.testing.assert_allclose(time_constants(model, texts, layer, lanes=3), want_U, rtol=1e-4)


def test_the_time_constant_says_what_is_left():
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(hidden_size=6, embed_size=4)).eval()
    text = b"one text of some length"
    f_TU = record_gates(model, text, range(6)).f_TU[1:]
    tau_U = time_constants(model, [text])
    np.testing.assert_allclose(f_TU.prod(0), np.exp(-len(f_TU) / tau_U), rtol=1e-3)


def test_like_units_are_the_nearest_in_time():
    tau_U = np.array([1.0, 2, 4, 8, 16, 32, 64, 128])
    assert set(like_units(tau_U, 3, 1, seed=0)) <= {1, 2, 4, 5}
    assert 3 not in like_units(tau_U, 3, 7)


# ---------------------------------------------------------------- controls


@pytest.fixture(scope="module")
def table():
    pair = planted_texts(120), planted_texts(120, seed=1)
    return carrier_controls(Planted(), *pair, k=3, permutations=20, repeats=40)


def test_the_carrier_is_confirmed_and_its_controls_are_not(table):
    carrier, *others = table
    assert carrier.unit == CARRIER and carrier.inside.low > 0.7 and carrier.last.low > 0.7
    assert any(row.unit == READER and row.inside.value < 0.6 for row in others)
    luck = [row for row in others if row.last is None]
    assert len(luck) == 2 and all(row.chosen.high < carrier.chosen for row in luck)
    rotated = next(row for row in others if "rotated" in row.reads)
    assert rotated.inside.value < carrier.inside.value
    words = next(row for row in others if "word counts" in row.reads)
    assert words.last.value > 0.9 and words.inside.value > 0.7  # g and b are all there is to know
    assert all(row.last.low <= row.last.value <= row.last.high for row in table if row.last)


def test_controls_are_the_same_for_a_seed(table):
    pair = planted_texts(120), planted_texts(120, seed=1)
    assert table == carrier_controls(Planted(), *pair, k=3, permutations=20, repeats=40)


def test_shuffled_areas_are_those_of_one_after_the_other():
    asked = ask(Planted(), planted_texts(60), 3, 0)
    scores_R = shuffled_scores(asked, 4, 7)
    rng = np.random.default_rng(7)
    for score in scores_R:
        z_N = rng.permutation(asked.y_N)
        weighed = weigh(
            unit_auc(asked.states.last_NU, z_N), inside_auc(asked.states.inside_NKU, z_N)
        )
        assert score == pytest.approx(weighed.score.max())
    chance = chance_area((30, 30), U)
    assert np.quantile(random_scores(asked, 200, 0), 0.95) == pytest.approx(chance, abs=0.03)


def test_word_counts_see_what_was_read_and_no_more():
    asked = ask(Planted(), planted_texts(60), 2, 0)
    seen = []

    class Words:
        def decision_function(self, texts):
            seen.append(texts)
            return np.zeros(len(texts))

    count_words(Words(), asked)
    begun = np.array(seen[1]).reshape(60, 2)
    for n, at_K in enumerate(asked.states.at_NK):
        for k, t in enumerate(at_K):
            assert begun[n, k] == decode(asked.encoded[n][: t + 1])


def test_the_untrained_network_is_chosen_anew():
    torch.manual_seed(4)
    model = LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4)).eval()
    rows = carrier_controls(model, planted_texts(60), planted_texts(60, 1), 2, 0, 3, 10)
    assert sum("untrained" in row.reads for row in rows) == 1


# ---------------------------------------------------------------- which texts, and the map


def test_stars_balanced_in_each_category(tmp_path):
    lines = [
        f'{{"reviewText": "{kind} review number {n}", "overall": {stars}, "category": "{kind}"}}'
        for kind, many in (("toy", [5] * 9 + [1] * 3), ("pan", [1] * 8 + [4] * 2), ("cd", [5] * 7))
        for n, stars in enumerate(many)
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    shards = make_shards(tmp_path / "r.jsonl", tmp_path / "corpus", (1, 0, 0)).split("train")
    even = labelled_by_stars(shards, within="category")
    for kind, half in (("toy", 3), ("pan", 2), ("cd", 0)):
        labels = [y for text, y in zip(even.texts, even.labels, strict=True) if kind in text]
        assert sorted(labels) == [0] * half + [1] * half
    assert len(labelled_by_stars(shards)) == 22 and len(set(even.texts)) == 10
    assert labelled_by_stars(shards, within="category").texts == even.texts
    one_sentence(lambda: labelled_by_stars(shards, within="shop"), "within is 'shop'")


def test_a_corpus_without_stars_falls_back_to_labels_unless_asked(tmp_path):
    data = dict(valid=planted_texts(), test=planted_texts(seed=1))
    found = carrier_texts(tmp_path / "none", data)
    assert found.choose is data["valid"] and "labelled" in found.said
    one_sentence(lambda: carrier_texts(tmp_path / "none", data, "stars"), "none")


def test_the_map_has_every_unit_once_and_its_marks(planted):
    figure = unit_map_figure(planted, [CARRIER, READER])
    units = np.concatenate([trace.customdata[:, 0] for trace in figure.data])
    assert sorted(units.astype(int)) == list(range(U))
    mark = {trace.name.split(":")[0]: trace.customdata[:, 0] for trace in figure.data}
    assert CARRIER in mark["carrier"] and READER in mark["reader"]
    assert [note.text for note in figure.layout.annotations][:2] == ["unit 5", "unit 9"]


def test_a_click_on_a_dot_shows_its_unit_on_the_text(planted):
    view = UnitMapView(Planted(), planted, "good good bad")
    assert view.unit == CARRIER and f"unit {CARRIER}, carrier" in view.drawn.value
    dots = next(trace for trace in view.map.data if trace.name.startswith("reader"))
    place = dots.customdata[:, 0].tolist().index(READER)
    view._clicked(dots, SimpleNamespace(point_inds=[place]), None)
    assert view.unit == READER and f"unit {READER}, reader" in view.drawn.value
    ring = view.map.data[-1]
    assert (ring.x[0], ring.y[0]) == pytest.approx((dots.x[place], dots.y[place]))
    assert "good good" in re.sub("<[^>]+>", "", view.drawn.value)
    view.typed.value = "bad bad"
    drawn = re.sub("<[^>]+>", "", view.drawn.value)
    assert "good good" not in drawn and "bad bad" in drawn


def test_what_cannot_be_measured_inside_texts_is_one_sentence():
    class Diverged(Planted):
        def trace(self, encoded, units=None):
            return super().trace(encoded, units) * (np.nan if b"bad" in encoded else 1.0)

    few = ["good one", "bad"] * 20
    data = Texts(few, np.array([1, 0] * 20))
    measured = measure_units(Planted(), data)
    y_N, states = measured.y_N, measured.states
    for said, ask_for in (
        ("text 1 gives states of NaN or inf", lambda: measure_units(Diverged(), data)),
        ("places inside a text is 0", lambda: measure_units(Planted(), data, 0)),
        ("places inside a text is -1", lambda: read_inside(Planted(), few, -1)),
        ("text 1 has no bytes", lambda: read_inside(Planted(), [b"a", b""])),
        ("permutations. is -1", lambda: carrier_controls(Planted(), data, data, permutations=-1)),
        ("repeats. is 0", lambda: carrier_controls(Planted(), data, data, repeats=0)),
        ("draws is 0", lambda: rule_stability(states, y_N, [40], 0)),
        ("texts of a draw is 1", lambda: rule_stability(states, y_N, [1])),
        ("texts of a draw is 0", lambda: rule_stability(states, y_N, [])),
        ("asked of 'star'", lambda: carrier_texts("", dict(valid=data, test=data), "star")),
    ):
        with pytest.raises(KitError, match=said):
            ask_for()
