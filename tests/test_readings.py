"""One rule for colours: whatever draws a unit asks how; openings, accounts, directions."""

import json
import re

import numpy as np
import pytest
import torch

from sentiment_kit.data.files import KitError, write_json
from sentiment_kit.data.text import encode
from sentiment_kit.looking.account import account_html, account_line, cut_text, entries_by
from sentiment_kit.looking.directed_ledger import direction_ledger
from sentiment_kit.looking.heatmap import heatmap_figure, heatmap_html, heatmap_page
from sentiment_kit.looking.heatmap_widget import HeatmapWidget
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.looking.readings import (
    VOTES,
    Reading,
    colour_words,
    neutral_words,
    reading_of,
    standing,
)
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig, folder_of
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.transfer.directions import DirectedStates, Direction, probe_direction
from sentiment_kit.transfer.features import ByteFeaturizer, record_states
from sentiment_kit.transfer.inside import read_inside
from sentiment_kit.transfer.neuron_file import StatedNeuron, neuron_of, read_neuron
from sentiment_kit.transfer.probe import SentimentProbe
from sentiment_kit.transfer.values_by_label import neutral_range, share_below, values_by_label

TEXT = "I wanted to love it. It broke!"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4))


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    write_json(tmp_path / "model" / "neuron.json", dict(unit=5, sign=-1, threshold=0.25))
    return tmp_path / "model"


def test_a_known_sign_is_applied_and_stated(folder):
    widget = HeatmapWidget(folder, TEXT, [3, 5])
    assert widget.picture["readings"]["5"] == dict(turns=[[-1, 0.25]], ends=list(VOTES))
    assert widget.picture["readings"]["3"]["turns"] == [[1, 0.0]] and widget.why == ""
    c_T = record_states(folder, TEXT, [5])[:, 0]
    widget.shown = [5]
    plain = widget._repr_mimebundle_()[0]["text/html"]
    told = [float(v.replace("−", "-")) for v in re.findall(r'· ([+−][\d.e-]+|0)"', plain)]
    np.testing.assert_allclose(told, -(c_T - 0.25), rtol=0.01)
    assert "orange: votes good" in plain and "blue: votes bad" in plain
    assert '"turns": [[-1, 0.25]]' in widget.html()
    weighed = HeatmapWidget(folder, TEXT, [3], weight_U=-np.arange(16.0))
    assert weighed.picture["readings"]["3"]["turns"] == [[-1, 0.0]]


def test_every_heatmap_says_what_orange_means():
    values = [0.5, -0.5]
    figure = heatmap_figure(b"ab", values, ends=("bad", "good")).data[0].colorbar.ticktext
    pages = [heatmap_html(b"ab", values), heatmap_page([(b"ab", values, "x")], title="t")]
    assert all("orange: above zero" in page and "blue: below zero" in page for page in pages)
    assert figure[0].endswith("blue: bad") and figure[2].endswith("orange: good")
    counts = heatmap_html(b"ab", [0.0, 1.0], ends=("", "not expected"))
    assert "blue" not in counts and "orange: not expected" in counts
    assert colour_words(VOTES, flipped=True) == "orange: votes bad, blue: votes good"


def test_where_a_widget_opens(model, folder):
    widget = HeatmapWidget(folder, TEXT)
    assert (widget.shown, widget.units[0]) == ([5], 5) and "neuron.json" in widget.why
    opened = LanguageModel.from_pretrained(folder)
    assert HeatmapWidget(opened, TEXT).shown == [5]
    assert HeatmapWidget([folder, model], TEXT).shown == ["surprise"]
    with torch.no_grad():
        opened.head.bias += 1.0  # now it is another model
    assert folder_of(opened) is None and HeatmapWidget(opened, TEXT).shown == ["surprise"]
    widget = HeatmapWidget(model, TEXT)
    assert widget.shown == ["surprise"] and "no neuron.json" in widget.why
    assert HeatmapWidget(model, TEXT, weight_U=-np.arange(16.0)).shown == [15]
    assert neuron_of(ModelStates(folder, "hidden")) is None


def test_the_neuron_of_a_run_belongs_to_its_checkpoint(model, tmp_path):
    for step in ("1", "2"):
        model.save_pretrained(tmp_path / "checkpoints" / step)
    said = dict(unit=5, checkpoint="checkpoints/2")
    write_json(tmp_path / "neuron.json", said)
    assert neuron_of(ModelStates(tmp_path / "checkpoints" / "1")) is None
    assert neuron_of(ModelStates(tmp_path / "checkpoints" / "2")).unit == 5


def test_shares_of_labelled_texts():
    rng = np.random.default_rng(0)
    y_N = np.repeat([0, 1], 500)
    x_N = rng.normal(size=1000) - y_N
    known = values_by_label(x_N, y_N, "made up")
    for value in (-9.0, -1.2, 0.0, 0.7, 9.0):
        for label, values_Q in enumerate(known[:2]):
            exact = np.mean(x_N[y_N == label] > value)
            assert share_below(values_Q, value, -1) == pytest.approx(exact, abs=0.02)
    low, high = neutral_range(known, -1)
    assert np.mean(x_N[y_N == 0] < low) == pytest.approx(0.25, abs=0.01)
    assert np.mean(x_N[y_N == 1] > high) == pytest.approx(0.25, abs=0.01)
    reading = reading_of(3, StatedNeuron(3, -1, 0.0, by_label=known))
    assert "of negative and" in standing(reading, 0.2) and "1,000 held-out" in neutral_words(
        reading
    )
    assert standing(Reading(), 0.2) == neutral_words(Reading()) == ""
    with pytest.raises(KitError, match="one label"):
        values_by_label(x_N, np.zeros(1000), "")


def test_files_with_and_without_the_distribution(tmp_path):
    path = tmp_path / "neuron.json"
    path.write_text(json.dumps(dict(unit=3)))
    assert read_neuron(path).by_label is None
    good = dict(negative=[0, 1], positive=[0, 2], n=[5, 5], texts="")
    path.write_text(json.dumps(dict(unit=3, by_label=good)))
    assert read_neuron(path).by_label.positive == [0, 2]
    for wrong in (dict(good, positive=[1, 0]), dict(good, n=[5]), dict(good, negative=[1])):
        path.write_text(json.dumps(dict(unit=3, by_label=wrong)))
        with pytest.raises(KitError, match="neuron.json: by_label"):
            read_neuron(path)


def test_the_bundled_neuron_knows_its_distribution():
    neuron = neuron_of(ModelStates("reviews-small"))
    known = neuron.by_label
    assert len(known.negative) == len(known.positive) == 101 and min(known.n) > 300
    right = [
        share_below(q, neuron.threshold, neuron.sign) for q in (known.negative, known.positive)
    ]
    assert right[0] > 0.55 > 0.45 > right[1]  # more of the negative texts vote below the cut


@pytest.mark.parametrize("by", ["word", "character"])
def test_the_account_adds_up(model, by):
    ledger = write_ledger(model, TEXT, 5)
    reading = Reading(-1, 0.25, VOTES)
    entries = entries_by(ledger, by, reading)
    left = sum(entry.amount for entry in entries) + float(reading.drawn(0.0))
    assert left == pytest.approx(float(reading.drawn(ledger.total)), abs=1e-5)
    assert [abs(entry.amount) for entry in entries] == sorted(
        [abs(entry.amount) for entry in entries], reverse=True
    )
    line = account_line(ledger, by, reading)
    assert line.startswith(entries[0].shown) and "all together" in line and "its cut +0.25" in line
    page = account_html(ledger, title="<b>", by=by, reading=reading)
    assert "&lt;b&gt; · unit 5" in page and "opacity:.72" in page and "orange: votes good" in page


def test_words_take_their_blanks_along():
    cut = cut_text(encode("It broke!"), "word")
    assert [name for _, name in cut] == ["It", "broke!"] and cut[0][0] == slice(0, 5)
    with pytest.raises(KitError, match="word or character"):
        cut_text(b"a", "line")


def test_a_direction_is_drawn_wherever_a_unit_is(model):
    rng = np.random.default_rng(1)
    direction = Direction("mine", rng.normal(size=16), 0.5, ("no", "yes"))
    source = DirectedStates(model, direction)
    states_TU = record_states(model, TEXT)
    wanted_T = states_TU @ direction.weight_U + 0.5
    np.testing.assert_allclose(record_states(source, TEXT, [16])[:, 0], wanted_T, atol=1e-5)
    last = ByteFeaturizer(source).transform([TEXT])[0, 16]
    assert last == pytest.approx(wanted_T[-1], abs=1e-5)
    assert read_inside(source, [TEXT], 2).inside_NKU.shape == (1, 2, 17)
    widget = HeatmapWidget(source, TEXT)
    assert widget.shown == [16] and widget.picture["names"]["16"] == "mine"
    assert widget.picture["readings"]["16"]["ends"] == ["no", "yes"]
    widget.view = "ledger"
    account = widget.ledgers["16"][0]
    parts = [np.frombuffer(account[name], "<f4") for name in ("write", "survive")]
    assert parts[0] @ parts[1] + 0.5 == pytest.approx(wanted_T[-1], abs=1e-4)
    ledger = direction_ledger(source, encode(TEXT), 16)
    units = [write_ledger(model, TEXT, u).contribution_T for u in range(16)]
    np.testing.assert_allclose(ledger.contribution_T, direction.weight_U @ units, atol=1e-6)


def test_directions_that_cannot_be(model):
    for bad, told in (
        (Direction("x", np.ones(3)), "16 units"),
        (Direction("x", np.full(16, np.nan)), "NaN"),
        ([Direction("x", np.ones(16))] * 2, "its own name"),
    ):
        with pytest.raises(KitError, match=told):
            DirectedStates(model, bad)
    with pytest.raises(KitError, match="there is mine"):
        DirectedStates(model, Direction("mine", np.ones(16))).unit_of("yours")
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, 4)) + y[:, None]
    with pytest.raises(KitError, match="two classes"):
        probe_direction(SentimentProbe(Cs=(1.0,)).fit(X, y, X, y))
