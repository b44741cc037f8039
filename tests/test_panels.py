"""What the two panels show is what the plain functions give; they walk, write and stop."""

import asyncio
import threading
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import Texts
from sentiment_kit.evidence.behaviour import unit_snippets
from sentiment_kit.figures import GRID
from sentiment_kit.looking.heatmap import snippets_html
from sentiment_kit.looking.neuron_map import (
    NeuronMap,
    end_snippets,
    summary_html,
    unit_extremes,
    unit_summary,
)
from sentiment_kit.looking.steering import SteeringPanel, cost_line, pair_html, read_units, steer
from sentiment_kit.looking.unit_orders import unit_orders
from sentiment_kit.model.generate import generate, written_bits
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.transfer.baselines import split_features
from sentiment_kit.transfer.features import ByteFeaturizer, record_states
from sentiment_kit.transfer.probe import SentimentProbe

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(2)">',
    "\u202eabc\u2066 \x00\x1b[31m",
    "👩‍🚀 e\u0301 商品",
    "",
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=32, embed_size=8)).eval()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    words = {0: "bad broke awful waste late".split(), 1: "good love great fine neat".split()}

    def texts(n):
        labels = rng.integers(0, 2, n)
        return Texts(
            [" ".join(rng.choice(words[label], rng.integers(2, 9))) for label in labels], labels
        )

    return dict(train=texts(60), valid=texts(30), test=texts(40))


@pytest.fixture(scope="module")
def measured(model, data):
    X, y = split_features(model, data), {split: part.labels for split, part in data.items()}
    return X, y, SentimentProbe().fit(X["train"], y["train"], X["valid"], y["valid"])


class Tags(HTMLParser):
    "All tags of a fragment, which must be closed."

    def __init__(self, markup):
        super().__init__()
        self.tags, self.open = set(), []
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_summary_by_hand(measured):
    X, y, probe = measured
    for unit in (0, int(probe.neurons_[0]), 31):
        s = unit_summary(unit, probe, X, y)
        x_N = X["test"][:, unit]
        assert s.accuracy.value == np.mean((s.sign * (x_N - s.threshold) > 0) == (y["test"] == 1))
        pairs = np.sign(x_N[y["test"] == 1][:, None] - x_N[y["test"] == 0][None])
        assert s.auc == pytest.approx(0.5 + pairs.mean() / 2)
        assert s.weight == probe.coef_[0, unit] and (s.rank is None) == (s.weight == 0)
        assert s.means == pytest.approx([x_N[y["test"] == k].mean() for k in (0, 1)], rel=1e-5)
        assert Tags(summary_html(s)).tags == {"table", "tr", "th", "td"}
    assert unit_summary(int(probe.neurons_[0]), probe, X, y).rank == 1


def test_ends_are_those_of_a_full_reading(model):
    texts = [
        f"{word} number {n} {'so ' * (n % 7)}" for n in range(60) for word in ("lid", "lid!")
    ] + HOSTILE
    extremes = unit_extremes(model, texts)
    for unit in (0, 5, 31):
        full, ends = (
            unit_snippets(model, texts, unit, 3, quantiles=()),
            end_snippets(model, texts, extremes, unit, 3),
        )
        for ours, theirs in ((ends["highest"], full["top"]), (ends["lowest"], full["bottom"])):
            assert [(s.text, s.byte) for s in ours] == [(s.text, s.byte) for s in theirs]
            np.testing.assert_allclose(
                [s.value for s in ours], [s.value for s in theirs], rtol=1e-5
            )


def test_texts_cannot_add_markup(model):
    ends = end_snippets(model, HOSTILE, unit_extremes(model, HOSTILE), 3, k=5)
    assert Tags(snippets_html(ends, ["<b>", "x", "y", "z", "w"])).tags <= {"div", "span"}
    *_, pair = steer(model, "<script>alert(1)</script>", 40, {0: 1.0})
    assert Tags(pair_html(pair, ("<img>", "held"))).tags <= {"div", "span"}


def test_an_order_by_weights_needs_weights(measured):
    X, y, probe = measured
    orders = unit_orders(probe, X["valid"], y["valid"])
    assert orders["weight in the probe"] == probe.neurons_.tolist() and orders["number"] == list(
        range(32)
    )
    flat = SentimentProbe(Cs=(2.0**-12,), extend=0).fit(X["train"], y["train"])
    assert flat.n_nonzero_ == 0 and "weight in the probe" not in unit_orders(
        flat, X["valid"], y["valid"]
    )


def test_neuron_map_walks(model, data, measured):
    X, y, probe = measured
    panel = NeuronMap(model, data, probe, X, k=2)
    order = panel.orders["weight in the probe"]
    assert panel.unit == order[0]
    panel.controls["next"].click()
    assert panel.unit == order[1 % len(order)]
    panel.controls["previous"].click()
    panel.controls["previous"].click()
    assert panel.unit == order[-1] and f"{len(order)} of {len(order)}" in panel.place.value
    panel.controls["order"].value = "number"
    panel.controls["search"].value = "unit 7 · weight"
    assert panel.unit == 7 and "8 of 32" in panel.place.value
    panel.controls["next"].click()
    assert panel.unit == 8
    panel.controls["search"].value = "99"
    assert panel.unit == 8
    summary = unit_summary(8, probe, X, y)
    assert panel.numbers.value == summary_html(summary, "test", probe.n_nonzero_)
    assert panel.figure.layout.shapes[0].x0 == summary.threshold
    assert sum(sum(bars.y) for bars in panel.figure.data) == len(data["test"].texts)


def test_neuron_map_shows_a_unit_that_is_not_in_the_order(model, data, measured):
    X, _, probe = measured
    panel = NeuronMap(model, data, probe, X, k=1)
    panel.unit = next(unit for unit in range(32) if unit not in probe.neurons_)
    assert "not among" in panel.place.value and "none" in panel.numbers.value
    assert panel.figure.layout.yaxis.gridcolor == panel.figure.layout.xaxis.gridcolor == GRID
    panel.controls["next"].click()
    assert panel.unit == probe.neurons_[0]


def test_neuron_map_takes_any_source_and_string_labels():
    class Length:
        n_units, preset, digest = 2, "openai", "bytes so far; minus that"

        def trace(self, encoded, units=None):
            c_TU = np.outer(np.arange(1, len(encoded) + 1), [0.1, -0.1]).astype(np.float32)
            return c_TU if units is None else c_TU[:, units]

    labels = np.array(["brief", "wordy"] * 12)
    texts = Texts(
        ["a " * (20 if label == "wordy" else 3) + str(n) for n, label in enumerate(labels)], labels
    )
    panel = NeuronMap(Length(), dict(train=texts, valid=texts, test=texts), k=1)
    assert "100.0%" in panel.numbers.value and "· wordy ·" in panel.ends.value


@pytest.mark.parametrize("prompt", ["The", "", "x" * 700, "Für 👩‍🚀"])
@pytest.mark.parametrize("options", [dict(temperature=0.7, seeds=3), dict(temperature=0, top_k=5)])
def test_a_pair_is_what_generate_writes_and_written_bits_counts(model, prompt, options):
    clamp = {0: 2.0, 31: -1.0}
    *_, pair = steer(model, prompt, 60, clamp, [0, 7], **options)
    wanted = options | dict(seed=options.get("seeds", 0))
    wanted.pop("seeds", None)
    written = [encoded[pair.start :] for encoded in pair.encoded]
    for text, held in zip(written, (None, clamp), strict=True):
        assert "".join(text.decode("utf-8", "replace")).startswith(
            generate(model, prompt, 60, clamp=held, **wanted)
        )
    np.testing.assert_allclose(pair.cost(), written_bits(model, prompt, written), rtol=1e-4)
    for encoded, c_TU in zip(pair.encoded, pair.c_2TU, strict=True):
        np.testing.assert_allclose(c_TU, record_states(model, encoded, [0, 7]), atol=1e-5)


def test_pairs_grow_byte_by_byte(model):
    pairs = list(steer(model, "The", 20, dict.fromkeys(range(32), 5.0), temperature=0.1, seeds=1))
    assert [len(pair.encoded[0]) - pair.start for pair in pairs] == list(range(1, 21))
    assert all(
        b.encoded[1].startswith(a.encoded[1]) for a, b in zip(pairs, pairs[1:], strict=False)
    )
    first = (
        next(n for n, (a, b) in enumerate(zip(*pairs[-1].encoded, strict=True)) if a != b)
        - pairs[-1].start
    )
    assert pairs[-1].equal() == first and f"equal up to byte {first}" in cost_line(pairs[-1])
    *_, same = steer(model, "The", 20, {}, [0], seeds=1)
    assert same.equal() == 20 and "the same text" in cost_line(same)


@pytest.mark.parametrize("config", [dict(n_layers=2), dict(cell="lstm"), dict(preset="raw")])
def test_other_models_and_directions(config):
    other = LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4, **config)).eval()
    *_, pair = steer(other, "The", 30, (np.ones(16), 2.0), [3])
    np.testing.assert_allclose(pair.c_2TU[1], record_states(other, pair.encoded[1], [3]), atol=1e-5)


@pytest.mark.parametrize(
    "wrong", [dict(n_bytes=0), dict(temperature=-1), dict(clamp={32: 1.0}), dict(units=[32])]
)
def test_mistakes_are_reported_at_the_call(model, wrong):
    with pytest.raises(KitError):
        steer(model, **dict(prompt="The", n_bytes=10, clamp={0: 1.0}) | wrong)


def test_units_as_they_are_typed():
    assert read_units(" 3, -17 ;5", 32) == {3: 1, 17: -1, 5: 1}
    assert read_units("−0", 32) == {0: -1}
    for wrong in ("", "32", "a", "3,,", "1.5", "3 to 5"):
        with pytest.raises(KitError, match="0 to 31"):
            read_units(wrong, 32)


def panel_of(model, data, **values):
    panel = SteeringPanel(model, 3, data["valid"].texts[:5], "The", n_bytes=40)
    for name, value in values.items():
        panel.controls[name].value = value
    return panel


def test_panel_writes_what_its_controls_say(model, data):
    panel = panel_of(
        model, data, units="3, -5", strength=-1.0, temperature=0.5, seed=9, top_k=20, prompt="I "
    )
    panel.start()  # no loop runs here: it returns when all is written
    c_TU = np.concatenate([record_states(model, text, [3, 5]) for text in data["valid"].texts[:5]])
    clamp = dict(zip((3, 5), c_TU.mean(0) + (-1, 1) * c_TU.std(0), strict=True))
    *_, wanted = steer(model, "I ", 40, clamp, temperature=0.5, seeds=9, top_k=20)
    assert panel.pair.encoded == wanted.encoded and panel.said.value.startswith("40 bytes written")
    assert panel.stop_button.disabled and panel.view.units == [3, 5, "bits"]


def test_others_have_their_turn_while_it_writes(model, data):
    async def watch():
        panel, turns, seen = panel_of(model, data, n_bytes=200), 0, []
        panel.start()
        while not panel._task.done():
            await asyncio.sleep(0)
            turns += 1
            seen.append(panel.pair and len(panel.pair.encoded[0]))
        return turns, seen

    turns, seen = asyncio.run(watch())
    assert turns >= 200 and len(set(seen)) >= 200


def test_stop_from_any_thread_ends_it_where_it_is(model, data):
    async def watch():
        panel = panel_of(model, data, n_bytes=5000)
        panel.start()
        while panel.pair is None:
            await asyncio.sleep(0)
        threading.Thread(target=panel.stop_button.click).start()
        await asyncio.wait_for(panel._task, 20)
        return panel

    panel = asyncio.run(watch())
    assert 0 < len(panel.pair.encoded[0]) < 5000 and panel.stop_button.disabled


def test_the_latest_call_is_the_one_that_writes(model, data):
    async def watch():
        panel = panel_of(model, data, n_bytes=5000)
        panel.start()
        first = panel._task
        while panel.pair is None:
            await asyncio.sleep(0)
        panel.controls["n_bytes"].value, panel.controls["prompt"].value = 30, "I "
        panel.start()
        await asyncio.wait_for(asyncio.gather(first, panel._task), 20)
        return panel

    panel = asyncio.run(watch())
    assert panel.pair.encoded[0].startswith(b"\n I ") and len(panel.pair.encoded[0]) == 34


@pytest.mark.parametrize("values", [dict(units="900"), dict(units="x"), dict(units="")])
def test_a_mistake_is_a_sentence_in_the_panel(model, data, values):
    panel = panel_of(model, data)
    panel.start()
    before = panel.pair
    panel.controls["units"].value = values["units"]
    panel.start()
    assert "type numbers from 0 to 31" in panel.said.value and panel.pair is before


def test_a_saved_copy_shows_the_pair(model, data):
    panel = panel_of(model, data)
    assert "text/html" not in panel._repr_mimebundle_()
    panel.start()
    shown = panel._repr_mimebundle_()["text/html"]
    assert "bits per byte" in shown and "held: unit 3 at" in shown and "colours: unit 3" in shown
    assert ByteFeaturizer(model).transform(["x"]).shape == (1, 32)
