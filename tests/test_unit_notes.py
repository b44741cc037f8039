"""Notes on units: beside their weights, checked, seen in every list; guesses that are judged."""

import json
import os

import numpy as np
import pytest
import torch

from sentiment_kit.data.files import KitError, write_json
from sentiment_kit.looking.heatmap_widget import HeatmapWidget
from sentiment_kit.looking.neuron_map import walk_controls
from sentiment_kit.model.language_model import BUNDLED, LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.transfer.unit_guesses import (
    PROPERTIES,
    GroupSums,
    byte_properties,
    correlations,
    guess_units,
    judged_interval,
    pearson,
    sum_groups,
    write_guesses,
)
from sentiment_kit.transfer.unit_notes import (
    NOTES,
    UnitGuess,
    UnitNote,
    name_unit,
    notes_path,
    read_notes,
    unit_titles,
    write_notes,
)

GUESS = UnitGuess("spaces", 0.7, 0.6, 0.8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A small saved model; your own notes go to tmp_path / mine."
    monkeypatch.setenv("SENTIMENT_KIT_NOTES", str(tmp_path / "mine"))
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4))
    return model.save_pretrained(tmp_path / "model")


def test_a_name_lies_beside_the_model_and_outlives_new_guesses(folder):
    assert name_unit(folder, 3, "shouting", "capitals") == folder / NOTES
    write_notes(folder, {3: UnitNote("shouting", "capitals", GUESS), 5: UnitNote(guess=GUESS)})
    write_guesses(folder, ["It broke. I AM CROSS!", "Love it, 5 of 5."] * 20)
    notes = read_notes(folder)
    assert notes[3].name == "shouting" and notes[3].note == "capitals"
    assert all(told.title for told in notes.values())
    name_unit(folder, 3, "")
    assert read_notes(folder)[3].note == "capitals", "taking the name away keeps the rest"


def test_notes_on_a_bundled_or_a_closed_model_go_to_your_own_folder(folder, tmp_path, monkeypatch):
    name = sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))[0]
    path = name_unit(name, 0, "mine")
    assert path.parent == tmp_path / "mine" and not (BUNDLED / name / NOTES).exists()
    assert unit_titles(name)[0] == "mine"
    name_unit(folder, 1, "of the folder")
    write_notes(folder, {2: UnitNote(guess=GUESS)})
    real = os.access
    closed = lambda place, mode: str(place) != str(folder) and real(place, mode)  # noqa: E731
    monkeypatch.setattr(os, "access", closed)
    assert notes_path(folder).parent == tmp_path / "mine"
    name_unit(folder, 2, "my own")
    assert unit_titles(folder) == {1: "of the folder", 2: "my own"}
    assert read_notes(folder)[2].guess == GUESS, "a name of yours beside a guess that came along"


def test_notes_on_other_weights_are_neither_shown_nor_lost(folder, capfd):
    name_unit(folder, 3, "shouting")
    before = (folder / NOTES).read_bytes()
    torch.manual_seed(1)
    LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4)).save_pretrained(folder)
    assert unit_titles(folder) == {}
    assert "other weights" in capfd.readouterr().err
    with pytest.raises(KitError, match="speaks of other weights; move it away"):
        name_unit(folder, 4, "new")
    assert (folder / NOTES).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(version=2), "version is 2"),
        (dict(units={"16": {}}), "'16' is no unit; this model has 0 … 15"),
        (dict(units={"-1": {}}), "'-1' is no unit"),
        (dict(units={"²": {}}), "is no unit"),
        (dict(units={"3": {"name": 7}}), "not a text"),
        (dict(units={"3": {"name": "two\nlines"}}), "cannot be shown"),
        (dict(units={"3": {"name": "\u202egnp"}}), "cannot be shown"),
        (dict(units={"3": {"guess": {"follows": "x", "r": 2, "low": 0, "high": 0}}}), "at most 1"),
        (dict(units=[]), "units"),
    ],
)
def test_a_file_that_cannot_be_notes_is_named_and_no_picture_waits_for_it(
    folder, capfd, change, said
):
    name_unit(folder, 3, "shouting")
    write_json(folder / NOTES, json.loads((folder / NOTES).read_text()) | change)
    with pytest.raises(KitError, match="unit_notes.json") as caught:
        read_notes(folder)
    assert said in str(caught.value)
    assert unit_titles(folder) == {}
    assert "left out" in capfd.readouterr().err
    assert HeatmapWidget(LanguageModel.from_pretrained(folder), "It broke.", [3]).error == ""


@pytest.mark.parametrize("name", ["x" * 61, " blank", "a\tb", "\x1b[2J"])
def test_a_name_that_no_menu_can_show_is_refused(folder, name):
    with pytest.raises(KitError, match="cannot be shown"):
        name_unit(folder, 3, name)
    assert not (folder / NOTES).exists()
    with pytest.raises(KitError, match="no unit"):
        name_unit(folder, 16, "far")


def test_every_list_of_units_shows_the_names(folder):
    name_unit(folder, 3, "<b>shouting")
    model = LanguageModel.from_pretrained(folder)
    widget = HeatmapWidget(model, "It broke.", [3, 4])
    assert widget.choices["names"] == {"3": "unit 3 · <b>shouting"}
    assert widget.picture["names"]["3"] == "unit 3 · <b>shouting"
    assert "4" not in widget.picture["names"]
    plain = widget._repr_mimebundle_()[0]["text/html"]
    assert "unit 3 · &lt;b&gt;shouting" in plain and "<b>shouting" not in plain
    assert "<b>shouting" not in widget.html()
    options = walk_controls(np.zeros(16), {"number": [0]}, unit_titles(model))["search"].options
    assert options[3].endswith("<b>shouting") and "·" not in options[4].split("weight")[1]


def test_notes_are_about_cells_of_the_top_layer_of_a_saved_model(folder):
    name_unit(folder, 3, "shouting")
    model = LanguageModel.from_pretrained(folder)
    assert unit_titles(ModelStates(model)) == {3: "shouting"}
    assert unit_titles(ModelStates(model, "hidden")) == {}
    assert unit_titles(LanguageModel(model.config)) == unit_titles(None) == {}
    with torch.no_grad():
        model.head.bias.add_(1)
    assert unit_titles(model) == {}, "it is another model by now"


# -- guesses


def test_properties_are_those_of_their_names():
    encoded = b"\n Ab, 12. C"
    rows = dict(zip(PROPERTIES, byte_properties(encoded, 4), strict=True))
    assert rows["position in text"][5] == np.float32(np.log(6))
    assert rows["position in sentence"].tolist().index(0, 1) == 9, "the blank after the stop"
    assert (np.round(np.expm1(rows["position in word"])) == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]).all()
    assert rows["spaces"].tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    lately = rows["capital letters lately"]
    assert lately[2] == 1 and lately[10] == np.float32(1 + np.exp(-8 / 8))
    assert rows["digits lately"].argmax() == 7 and rows["punctuation lately"].argmax() == 8
    assert set(rows["stars"]) == {4}
    assert not byte_properties(b"").any() and byte_properties(b"").shape == (len(PROPERTIES), 0)


def test_sums_are_those_of_all_bytes(folder):
    texts = ["It broke. I AM CROSS!", "Love it, 5 of 5.", "Fine"] * 5
    stars = [1, 5, 3] * 5
    sums = sum_groups(folder, texts, stars, groups=4)
    source = ModelStates(LanguageModel.from_pretrained(folder))
    encoded = [b"\n " + text.encode() + b" " for text in texts]
    c_TU = np.concatenate([source.trace(x) for x in encoded])
    p_PT = np.concatenate([byte_properties(x, s) for x, s in zip(encoded, stars, strict=True)], 1)
    naive = np.array([[pearson(p, c) for c in c_TU.T] for p in p_PT])
    np.testing.assert_allclose(correlations(sums.of(slice(None))), naive, atol=1e-4)
    assert sums.n_G.sum() == len(c_TU)


def made_up(rng, groups, r):
    "Sums of one property, and of one unit that goes with it."
    rows = []
    for _ in range(groups):
        p = rng.normal(size=400)
        c = r * p + np.sqrt(1 - r * r) * rng.normal(size=400)
        rows.append([400, [p.sum()], [p @ p], [c.sum()], [c @ c], [[p @ c]]])
    return GroupSums(*(np.array(x, float) for x in zip(*rows, strict=True)))


def test_the_interval_holds_the_true_value_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        r, low, high = judged_interval(made_up(rng, 10, 0.6), np.arange(10))
        held += low[0, 0] <= 0.6 <= high[0, 0]
    assert 0.88 < held / 300 <= 0.99, "ten groups and a normal quantile: a little less than 95%"


def test_what_is_chosen_is_judged_on_other_texts(folder, monkeypatch):
    "A unit that goes with capitals in the choosing half only is no guess; one in both is."
    U = 3

    def fake(*_, **__):
        rng = np.random.default_rng(0)
        found = []
        for g in range(20):
            p = rng.normal(size=(len(PROPERTIES), 300))
            c = rng.normal(size=(U, 300))
            c[0] += 2 * p[4] * (g % 2 == 0)  # even groups choose
            c[1] += 2 * p[3]
            found.append([300, p.sum(1), (p**2).sum(1), c.sum(1), (c**2).sum(1), p @ c.T])
        return GroupSums(*(np.array(x) for x in zip(*found, strict=True)))

    monkeypatch.setattr("sentiment_kit.transfer.unit_guesses.sum_groups", fake)
    guesses = guess_units(folder, ["x"] * 40)
    assert list(guesses) == [1] and guesses[1].follows == PROPERTIES[3]
    assert guesses[1].low < guesses[1].r < guesses[1].high


def test_too_few_texts_and_missing_stars_are_sentences(folder):
    with pytest.raises(KitError, match="40 or more"):
        guess_units(folder, ["It broke."])
    with pytest.raises(KitError, match="some texts have no stars"):
        guess_units(folder, ["It broke."] * 40, [None] * 40)
