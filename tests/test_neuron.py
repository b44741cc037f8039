"""Stability, matching, snippets, ends, damage, steering: against oracles or planted truths."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_kit.data.files import KitError
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.starred import labelled_by_stars
from sentiment_kit.data.text import encode
from sentiment_kit.evidence.behaviour import (
    DAMAGE,
    ENDINGS,
    damaged,
    end_sensitivity,
    robustness_curve,
    robustness_figure,
    unit_snippets,
)
from sentiment_kit.evidence.dose_response import (
    dose_response_figure,
    natural_range,
    steering_dose_response,
)
from sentiment_kit.figures import PALE, rgb
from sentiment_kit.model.generate import generate_batch, stream, written_bits
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.transfer.features import ByteFeaturizer, record_states
from sentiment_kit.transfer.matching import (
    bootstrap_units,
    match_neurons,
    match_units,
    stream_traces,
)
from sentiment_kit.transfer.neuron import NeuronClassifier
from sentiment_kit.transfer.probe import SentimentProbe

TEXTS = [
    "",
    "a",
    "Zoë 🙂 loves it",
    "long " * 90,
    "It broke.",
    "mid-length text of some forty characters",
] * 4


class Counter:
    "Unit 0 counts the bytes `a`, unit 1 the bytes `z` downwards: values that a test can know."

    n_units, preset, digest = 2, "raw", "a and z"

    def trace(self, encoded, units=None):
        ids_T = np.frombuffer(encoded, np.uint8)
        values_TU = np.stack(
            [np.cumsum(ids_T == ord("a")), -np.cumsum(ids_T == ord("z"))], 1
        ).astype(np.float32)
        return values_TU if units is None else values_TU[:, units]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return LanguageModel(LanguageModelConfig(hidden_size=24, embed_size=8)).eval()


def one_sentence(call, told):
    with pytest.raises(KitError, match=told) as error:
        call()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- stability


def planted(N=400, U=12, seed=0):
    rng = np.random.default_rng(seed)
    X, opinion = rng.normal(size=(N, U)), rng.normal(size=N)
    return X, opinion, np.where(opinion > 0, "good", "bad"), rng


def test_a_planted_unit_wins_every_resample_and_twins_share():
    X, opinion, y, rng = planted()
    X[:, 0] += 2 * opinion  # unit 0 is a unit like any other
    probe = SentimentProbe(Cs=(0.1,)).fit(X, y, X, y)
    for row in bootstrap_units(probe, X, y, n_resamples=12):
        assert (row["unit"], row["wins"], row["rank_95"], row["runner_up"]) == (0, 1.0, 1, None)
    X[:, 5] = X[:, 0] + 0.05 * rng.normal(size=len(X))
    twins = SentimentProbe(Cs=(0.1,)).fit(X, y, X, y)
    [row] = bootstrap_units(twins, X, y, rules=["auc"], n_resamples=40)
    assert {row["unit"], row["runner_up"]} == {0, 5} and 0 < row["its_wins"] <= row["wins"]
    assert row["wins"] + row["its_wins"] == pytest.approx(1) and row["rank_95"] == 2
    assert bootstrap_units(twins, X, y, ["auc"], 5, seed=3) == bootstrap_units(
        twins, X, y, ["auc"], 5, seed=3
    )


def test_rules_without_weights_have_no_row():
    X, _, y, _ = planted()
    empty = SentimentProbe(Cs=(1e-9,), extend=0).fit(X, y, X, y)
    assert [row["rule"] for row in bootstrap_units(empty, X, y, n_resamples=3)] == ["auc"]
    one_sentence(lambda: bootstrap_units(empty, X, y, ["loudest"]), "rule is 'loudest'")
    one_sentence(lambda: bootstrap_units(empty, np.where(X > 2, np.nan, X), y), "NaN or inf")


# ---------------------------------------------------------------- matching


@given(st.integers(0, 1000), st.lists(st.integers(0, 40), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_matching_in_chunks_equals_numpy_at_once(seed, sizes):
    rng = np.random.default_rng(seed)
    sizes = [*sizes, 5]
    A = [rng.normal(size=(n, 4)).astype(np.float32) + 50 for n in sizes]
    B = [
        (a @ rng.normal(size=(4, 3)) + rng.normal(size=(len(a), 3))).astype(np.float32) - 20
        for a in A
    ]
    best_U, r_U = match_units(zip(A, B, strict=True))
    r_UV = np.corrcoef(np.concatenate(A).T.astype(float), np.concatenate(B).T.astype(float))[:4, 4:]
    np.testing.assert_allclose(np.abs(r_U), np.abs(r_UV).max(1), atol=1e-4)
    np.testing.assert_allclose(r_U, r_UV[np.arange(4), best_U], atol=1e-4)


def test_matching_finds_a_permutation_and_constant_units_match_nothing(model):
    other = LanguageModel(model.config)
    traces = [c_TU for _, c_TU in stream_traces(model, TEXTS)]
    order = np.random.default_rng(0).permutation(24)
    best_U, r_U = match_units((c_TU, -2 * c_TU[:, order] + 1) for c_TU in traces)
    assert (order[best_U] == np.arange(24)).all() and (r_U < -0.9999).all()
    flat = traces[3].copy()
    flat[:, 7] = 0.25
    best_U, r_U = match_units([(flat, flat)])
    assert r_U[7] == 0 and (best_U[:7] == np.arange(7)).all()
    pairs = zip(stream_traces(model, TEXTS), stream_traces(other, TEXTS), strict=True)
    assert np.abs(match_units((a, b) for (_, a), (_, b) in pairs)[1]).max() < 1


def test_matching_refuses_what_it_cannot_match():
    A = np.random.default_rng(0).normal(size=(9, 3))
    one_sentence(lambda: match_units([]), "no states to match")
    one_sentence(lambda: match_units([(A, A[:8])]), "9 and 8 rows")
    one_sentence(lambda: match_units([(np.where(A > 1, np.nan, A), A)]), "NaN or inf")


def test_neurons_of_two_seeds():
    X, opinion, _, rng = planted()
    Z = rng.normal(size=(400, 7))
    X[:, 3] += 3 * opinion
    Z[:, 6] -= 3 * opinion
    there, back = match_neurons(dict(a=X, b=Z), dict(a=3, b=6))
    assert there["best_match"] == "b, unit 6" and back["best_match"] == "a, unit 3"
    np.testing.assert_allclose(there["r"], there["r_with_it"])
    assert there["r"] < -0.8 and 0 < there["best_r_by_chance"] < 0.3
    wrong = match_neurons(dict(a=X, b=Z), dict(a=3, b=0))[0]
    assert wrong["best_match"] == "b, unit 6" and abs(wrong["r_with_it"]) < 0.2


# ---------------------------------------------------------------- traces of many texts


@pytest.mark.parametrize("units", [None, [0], [5, 0, 23]])
def test_streamed_traces_equal_single_ones(model, units):
    many = [*TEXTS, b"", b"\xff bytes", *TEXTS]
    found = list(stream_traces(model, iter(many), units, lanes=3))
    assert len(found) == len(many)
    for text, (encoded, c_TU) in zip(many, found, strict=True):
        assert encoded == (text if isinstance(text, bytes) else encode(text))
        np.testing.assert_allclose(c_TU, record_states(model, text, units), atol=1e-5)


def test_streaming_is_flat_in_memory_and_lazy(model):
    text, pulled = b"\n some text of a review " * 3, iter(range(10**9))
    assert next(stream_traces(model, (text for _ in pulled), [0], lanes=4))[0] == text
    assert next(pulled) <= 64, "one lot was read, no more"
    peaks = []
    for n in (128, 384):
        tracemalloc.start()
        assert sum(1 for _ in stream_traces(model, (text for _ in range(n)), [0], lanes=4)) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# ---------------------------------------------------------------- snippets


def test_snippets_equal_a_full_sort(model, unit=11):
    rng = np.random.default_rng(0)
    words = "lamp blue arrived café great 🙂 broke twice never box".split()
    texts = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(50)]
    found = unit_snippets(model, texts, unit, k=4, lanes=8)
    traces = [record_states(model, text, [unit])[:, 0] for text in texts]
    for end, sign in (("top", 1), ("bottom", -1)):
        order = sorted(range(50), key=lambda n: -(sign * traces[n]).max())[:4]
        assert [s.text for s in found[end]] == order
        for s in found[end]:
            assert s.byte == (sign * traces[s.text]).argmax()
    for s in sum(found.values(), []):
        whole = encode(texts[s.text])
        start = s.byte - s.at
        assert s.encoded == whole[start : start + len(s.encoded)] and len(s.values_T) == len(
            s.encoded
        )
        np.testing.assert_allclose(
            s.values_T, traces[s.text][start : start + len(s.encoded)], atol=1e-5
        )
        np.testing.assert_allclose(s.values_T[s.at], s.value, atol=1e-5)
        s.encoded.decode()  # whole characters
    middle = [
        np.mean([s.value for s in found[end]]) for end in ("top", "75%", "50%", "25%", "bottom")
    ]
    assert middle == sorted(middle, reverse=True)


def test_stock_phrases_count_once():
    stock = ["Fine. " * k + "I received a banana for free. Thanks!" for k in range(1, 9)]
    found = unit_snippets(Counter(), [*stock, "aaaa", "A banana", *stock], 0, k=3)
    assert [s.value for s in found["top"]] == [5, 4, 3]
    assert [s.text for s in found["top"]] == [0, 8, 9]
    assert found["top"][0].encoded[: found["top"][0].at + 1].endswith(b"a")
    assert len({s.text for s in unit_snippets(Counter(), ["same"] * 50, 0, k=5)["50%"]}) <= 5


def test_snippets_refuse_what_they_cannot_show(model):
    class Diverged(Counter):
        def trace(self, encoded, units=None):
            return super().trace(encoded, units) / (b"?" not in encoded)

    one_sentence(lambda: unit_snippets(model, [], 0), "no text to take snippets from")
    one_sentence(lambda: unit_snippets(model, [b"", b""], 0), "no text to take snippets from")
    one_sentence(lambda: unit_snippets(model, ["a"], 24), "units .24. are not all in 0 … 23")
    one_sentence(lambda: unit_snippets(model, ["a"], -1), "units .-1. are not all")
    with np.errstate(all="ignore"):
        one_sentence(
            lambda: unit_snippets(Diverged(), ["a", "a?"], 0), "in text 1; the model has diverged"
        )
    assert unit_snippets(model, ["a"], 0)["top"][0].text == 0


# ---------------------------------------------------------------- the text's end


def test_endings_change_nothing_else():
    body, pad = b"Great, really great. ", b" "
    changed = {name: change(body.rstrip(), pad) for name, change in ENDINGS.items()}
    assert changed == {
        "no closing pad": b"Great, really great.",
        "two closing pads": b"Great, really great.  ",
        "no end punctuation": b"Great, really great ",
        "one full stop": b"Great, really great. ",
        "one exclamation mark": b"Great, really great! ",
        "no last word": b"Great, really ",
    }
    assert (
        ENDINGS["no last word"](b"Great", b" ") == b" "
        and ENDINGS["one full stop"](b"", b" ") == b". "
    )


def test_end_sensitivity_counts_what_moved():
    "Unit 1 counts z: texts whose last word has one lose it, and flip."
    texts, labels = ["a buzz", "buzz a", "none here", "all zzz"], np.array([1, 1, 0, 1])
    featurizer = ByteFeaturizer(Counter())
    cut = NeuronClassifier(1).fit(featurizer.transform(texts), labels)
    rows = {row["ending"]: row for row in end_sensitivity(featurizer, cut, texts, labels)}
    assert rows["as it is"]["accuracy"].value == 1 and rows["no last word"]["flips"] == 0.5
    assert rows["no last word"]["accuracy"].value == 0.5
    spread = np.std([2, 2, 0, 3])
    np.testing.assert_allclose(rows["no last word"]["shift"], -np.mean([2, 0, 0, 3]) / spread)
    assert all(rows[name]["moved"] == 0 for name in ENDINGS if name != "no last word")
    one_sentence(lambda: end_sensitivity(featurizer, cut, [], labels), "no text")


# ---------------------------------------------------------------- damage


@given(st.text(max_size=60), st.sampled_from(sorted(DAMAGE)), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_damage_is_nested_and_seeded(text, kind, seed):
    assert damaged(text, kind, 0.0, seed) == text
    assert damaged(text, kind, 0.4, seed) == damaged(text, kind, 0.4, seed)
    hit_T, chance_T = np.random.default_rng(seed).random((2, len(text)))
    pieces = {
        r: [
            DAMAGE[kind](c, p) if h < r else c
            for c, h, p in zip(text, hit_T, chance_T, strict=True)
        ]
        for r in (0.2, 0.6)
    }
    assert damaged(text, kind, 0.6, seed) == "".join(pieces[0.6])
    for char, low, high in zip(text, pieces[0.2], pieces[0.6], strict=True):
        assert low in (char, high)


def test_each_kind_of_damage():
    text = "Please, it is a very nice coat " * 40
    for kind, change in dict(typos=None, case=str.swapcase, homoglyphs=None, emoji=None).items():
        all_hit = damaged(text, kind, 1.0)
        assert all_hit != text and damaged("12 34!", kind, 1.0) == "12 34!" or kind == "emoji"
        assert change is None or all_hit == change(text)
    assert (
        damaged("caopx", "homoglyphs", 1.0).isalpha()
        and not damaged("caopx", "homoglyphs", 1.0).isascii()
    )
    assert len(damaged(text, "emoji", 0.2)) == pytest.approx(1.2 * len(text), rel=0.05)
    assert {DAMAGE["typos"]("a", p) for p in (0.1, 0.5, 0.9)} == {"", "aa", "s"}
    assert {DAMAGE["typos"](c, 0.9) for c in "QPé"} == {"W", "O", "éé"}
    for rate, kind in ((1.5, "case"), (float("nan"), "case"), (0.1, "rot")):
        one_sentence(lambda rate=rate, kind=kind: damaged("a", kind, rate), "damage of kind")


class Shouts:
    "Positive where a text has a capital."

    def predict(self, texts):
        return np.array([any(c.isupper() for c in text) for text in texts], int)


def test_robustness_curve_measures_the_damaged_texts():
    texts, labels = ["GOOD THING", "bad thing"] * 30, np.array([1, 0] * 30)
    rows = robustness_curve(
        dict(shouts=Shouts()), texts, labels, rates=(0.0, 0.2), kinds=("case", "homoglyphs")
    )
    found = {(row["kind"], row["rate"]): row["accuracy"] for row in rows}
    assert (
        found["case", 0.0].value
        == found["homoglyphs", 0.0].value
        == found["homoglyphs", 0.2].value
        == 1
    )
    expected = np.mean(
        Shouts().predict([damaged(t, "case", 0.2, (0, n)) for n, t in enumerate(texts)]) == labels
    )
    assert found["case", 0.2].value == expected < 0.8 and found["case", 0.2].n == 60
    figure = robustness_figure(rows)
    assert len(figure.data) == 2 and list(figure.data[0].y) == [1, expected]
    one_sentence(lambda: robustness_curve(dict(shouts=Shouts()), [], []), "no text to damage")


# ---------------------------------------------------------------- steering, judged from outside


class Judge:
    "Says how much of a text is in one half of the byte values."

    def predict_proba(self, texts):
        share = np.array([np.mean([ord(c) % 2 for c in text]) for text in texts])
        return np.stack([1 - share, share], 1)


@pytest.fixture(scope="module")
def writer(model):
    "Unit 0 decides: high makes odd bytes likely, low even ones."
    writer = LanguageModel(model.config).eval()
    writer.load_state_dict(model.state_dict())
    with torch.no_grad():
        writer.head.weight[:, 0] = torch.where(torch.arange(256) % 2 == 1, 12.0, -12.0)
    return writer


def test_judges_see_a_unit_that_steers_and_not_one_that_does_not(writer):
    axis_H = -np.eye(24)[0]
    directions = {"unit 0": 0, "turned round": axis_H, "random 9": 9}
    options = dict(doses=(-3, 3), n=24, n_bytes=40)
    response = steering_dose_response(writer, directions, dict(odd=Judge()), TEXTS, **options)
    rows, swing = response.points, {row["held"]: row["swing"] for row in response.swings}
    assert (
        len(rows) == 7
        and rows[0]["dose"] is None
        and rows[0]["changed_texts"] == rows[0]["change"] == 0
    )
    found = {(row["held"], row["dose"]): row for row in rows}
    low, high = found["unit 0", -3], found["unit 0", 3]
    assert low["change"] + low["half_width"] < 0 < high["change"] - high["half_width"]
    assert found["turned round", -3]["positive"] == high["positive"]
    assert abs(found["random 9", 3]["change"]) < high["change"] / 2
    assert high["bits_per_byte"] > rows[0]["bits_per_byte"]
    np.testing.assert_allclose(swing["unit 0"], high["change"] - low["change"])
    np.testing.assert_allclose(swing["turned round"], -swing["unit 0"])
    assert abs(swing["random 9"]) < swing["unit 0"] / 2
    figure = dose_response_figure(response)
    assert len(figure.data) == 7 and figure.data[0].line.color == rgb(PALE)
    one_sentence(lambda: dose_response_figure(response, "nobody"), "no row has the judge")


def test_a_point_is_what_the_pieces_make_of_it(writer):
    [mean], [std] = natural_range(writer, TEXTS, [5])
    c_T = np.concatenate([record_states(writer, text, [5])[:, 0] for text in TEXTS])
    np.testing.assert_allclose((mean, std), (c_T.mean(), c_T.std()), rtol=1e-4)
    options = dict(doses=(2,), n=6, n_bytes=30, seed=10, prompt="The", top_k=40)
    (base, row), [swing] = steering_dose_response(
        writer, {"unit 5": 5}, dict(odd=Judge()), TEXTS, **options
    )
    assert swing["swing"] == 0, "one dose has none"
    np.testing.assert_allclose(row["value"], mean + 2 * std)
    texts = generate_batch(writer, "The", 30, 1.0, range(10, 16), top_k=40, clamp={5: row["value"]})
    free = generate_batch(writer, "The", 30, 1.0, range(10, 16), top_k=40)
    change_N = [
        float(np.diff(Judge().predict_proba(["The" + a, "The" + b])[:, 1])[0])
        for a, b in zip(free, texts, strict=True)
    ]
    np.testing.assert_allclose(row["change"], np.mean(change_N))
    np.testing.assert_allclose(row["half_width"], 1.96 * np.std(change_N, ddof=1) / 6**0.5)
    np.testing.assert_allclose(base["positive"] + row["change"], row["positive"])
    columns = zip(*stream(writer, "The", 30, seeds=range(10, 16), top_k=40), strict=True)
    np.testing.assert_allclose(
        base["bits_per_byte"], written_bits(writer, "The", list(map(bytes, columns))).mean()
    )


def test_bad_wishes_for_steering(writer):
    def steer(**changes):
        given = dict(
            directions={"unit 0": 0},
            judges=dict(odd=Judge()),
            ordinary=TEXTS,
            n=2,
            n_bytes=3,
            doses=(1,),
        )
        return steering_dose_response(writer, **given | changes)

    one_sentence(lambda: steer(n=1), "n of at least 2")
    one_sentence(lambda: steer(judges={}), "a judge")
    one_sentence(lambda: steer(directions={}), "a direction")
    one_sentence(lambda: steer(doses=()), "a dose")
    one_sentence(lambda: steer(directions={"unit 24": 24}), "unit 24 cannot be clamped")
    one_sentence(lambda: steer(directions={"short": np.ones(3)}), "24 finite numbers")
    one_sentence(lambda: steer(ordinary=[]), "no ordinary text")
    one_sentence(lambda: steer(doses=(float("nan"),)), "values are .nan.")


def test_labels_from_stars(tmp_path):
    lines = [
        f'{{"reviewText": "review number {n} of many", "overall": {stars}}}'
        for n, stars in enumerate([1, 2, 3, 4, 5, 5, 4, "null", 5])
    ]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines))
    shards = make_shards(tmp_path / "reviews.jsonl", tmp_path / "corpus", (1, 0, 0)).split("train")
    data = labelled_by_stars(shards)
    number = [int(text.split()[2]) for text in data.texts]
    assert sorted(number, key=lambda n: n > 2)[:2] in ([0, 1], [1, 0])
    assert (
        all((n > 2) == label for n, label in zip(number, data.labels, strict=True))
        and len(data) == 4
    )
    assert not {2, 7} & set(number) and len(labelled_by_stars(shards, n=2)) == 2
    one_sentence(lambda: labelled_by_stars([]), "no reviews with 1 or 2")
