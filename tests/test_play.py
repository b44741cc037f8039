"""One text in four views: any model, any text, every change in the right place."""

import json
import re

import numpy as np
import pytest
import torch
from hostile import HOSTILE
from sync import ROOT, cells

import sentiment_kit as sk
from sentiment_kit.data.files import KitError, write_json
from sentiment_kit.data.text import encode
from sentiment_kit.looking.counting import (
    find_counters,
    follow_places,
    place_in_sentence,
    place_in_word,
)
from sentiment_kit.looking.edits import (
    SUGGESTIONS,
    changes,
    characters,
    drop_stop,
    matched,
    put_not,
    shout,
)
from sentiment_kit.looking.ledger import write_ledger
from sentiment_kit.looking.next_byte import surprise
from sentiment_kit.looking.page_parts import STATIC
from sentiment_kit.looking.panes import mark_ends
from sentiment_kit.looking.play import PLAY_MODULES, PLAY_SCRIPT, PLAY_TEXT, Play
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates
from sentiment_kit.transfer.classifier import TextClassifier
from sentiment_kit.transfer.features import record_states
from sentiment_kit.transfer.neuron_file import read_neuron

TEXTS = ["It broke.", "", " ", "Café 👩‍🚀👍🏽 한국어", "هذا المنتج رائع. מוצר", "a\r\n\x00 b"]
WEIGHTS = ROOT / "sentiment_kit" / "weights" / "reviews-small"


def fresh(**config):
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(hidden_size=16, embed_size=4, **config))


@pytest.fixture(scope="module")
def bundled():
    return Play(WEIGHTS)


def rows_of(play):
    "All rows of the picture, [U, T]."
    pane = play.picture["pane"]
    n = len(pane["bytes"])
    values = np.frombuffer(pane["values"], "<f4")
    return values.reshape(-1, n) if n else values.reshape(0, 0)


def view(play, name):
    return next(view for view in play.picture["views"] if view["name"] == name)


# -- places and counters


@pytest.mark.parametrize("text", [b"", b"a", b"It broke. So? \xc3\xa9t\xc3\xa9!", b"...\n\n a'b"])
def test_places_are_counted_as_by_hand(text):
    word, sentence, words, sentences = 0, 0, [], []
    for byte in text:
        word = word + 1 if byte > 127 or chr(byte).isalnum() or byte == 39 else 0
        sentence = 0 if byte in b".!?\n" else sentence + 1
        words.append(word)
        sentences.append(sentence)
    assert place_in_word(text).tolist() == words
    assert place_in_sentence(text).tolist() == sentences


@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_correlations_are_those_of_numpy_whatever_the_lanes(lanes):
    model = fresh()
    texts = [encode(f"word {'x' * n}. And {n}!") for n in range(7)]
    followed = follow_places(model, texts, lanes=lanes)
    x_RU = np.concatenate([ModelStates(model).trace(text) for text in texts])
    for r_U, place in zip(followed.r_PU, (place_in_word, place_in_sentence), strict=True):
        y_R = np.concatenate([place(text) for text in texts])
        wanted = [np.corrcoef(x_R, y_R)[0, 1] for x_R in x_RU.T]
        np.testing.assert_allclose(r_U, wanted, atol=1e-4)
    np.testing.assert_allclose(followed.mean_U, x_RU.mean(0), atol=1e-5)
    np.testing.assert_allclose(followed.std_U, x_RU.std(0), atol=1e-5)


def test_what_is_told_of_a_counter_comes_from_texts_that_did_not_choose_it():
    model = fresh()
    texts = ["One two three. " * 3, "a b c d e! f g", "Long words everywhere. So", "x. y. z."]
    found = find_counters(model, texts)
    chosen = follow_places(model, [encode(text) for text in texts[0::2]])
    told = follow_places(model, [encode(text) for text in texts[1::2]])
    for p, counter in enumerate(found.values()):
        assert counter.unit == np.abs(chosen.r_PU[p]).argmax()
        assert counter.r == pytest.approx(told.r_PU[p, counter.unit])
        assert counter.chosen_r == pytest.approx(chosen.r_PU[p, counter.unit])


# -- suggestions and changes


def test_suggestions():
    assert put_not("It is good and it was cheap.") == "It is good and it was not cheap."
    assert put_not("Nice.") == "Not: Nice." and put_not("  ") is None and put_not("") is None
    assert put_not("It is not bad") == "Not: It is not bad"
    assert put_not("I don't. It's. She would've") == "Not: I don't. It's. She would've"
    assert shout("straße!") == "STRASSE!" and shout("A 1") is None and shout("") is None
    assert drop_stop("So what?!  ") == "So what" and drop_stop("No stop ") is None
    assert drop_stop("...") == "" and drop_stop("") is None


@pytest.mark.parametrize("text", [*TEXTS, *(text[:2_000] for text in HOSTILE.values())])
def test_every_suggestion_takes_every_text(text):
    for change in SUGGESTIONS.values():
        changed = change(text)
        assert changed is None or (isinstance(changed, str) and changed != text)


@pytest.mark.parametrize("seed", range(5))
def test_what_was_matched_is_the_same_character(seed):
    rng = np.random.default_rng(seed)
    old = [bytes([c]) for c in rng.integers(97, 100, 12)]
    at = int(rng.integers(13))
    new = (
        old[:at] + [b"X", b"Y", b"Z"][: int(rng.integers(1, 4))] + old[at + int(rng.integers(2)) :]
    )
    match = matched(old, new)
    if len(old) != len(new):
        assert all(old[m] == new[g] for g, m in enumerate(match) if m >= 0)
        kept = match[match >= 0]
        assert (np.diff(kept) > 0).all() and len(kept) >= len(old) - 1
    assert matched(new, new).tolist() == list(range(len(new)))


def test_a_new_character_is_compared_with_its_place_or_with_nothing():
    old, new = b"ab", b"aXb"
    value_T = np.array([1.0, 5.0, 7.0])
    before = np.array([1.0, 2.0])
    assert changes(value_T, new, before, old).tolist() == [0, 4, 5]
    assert changes(value_T, new, before, old, adds=True).tolist() == [0, 5, 5]
    assert changes(value_T, new, np.zeros(0), b"").tolist() == [1, 5, 7]
    assert changes(np.zeros(0), b"", before, old).tolist() == []


# -- the widget, for any model


MODELS = {
    "plain": dict(),
    "raw": dict(preset="raw"),
    "two layers": dict(n_layers=2),
    "lstm": dict(cell="lstm"),
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_any_model_and_any_text(config):
    model = fresh(**config)
    play = Play(model)
    for text in [*TEXTS, *(text[:200] for text in HOSTILE.values())]:
        before = play.text
        play.before, play.text = before, text
        assert play.error == ""
        encoded = encode(play.text, model.config.preset)
        assert play.picture["pane"]["bytes"] == encoded
        names = [view["name"] for view in play.picture["views"]]
        assert names == ["Surprise", "Sentiment", "Counting", "Ledger"]
        assert np.isfinite(rows_of(play)).all()
        json.dumps({k: v for k, v in play.picture.items() if k != "pane"})
        assert "text/html" in play._repr_mimebundle_()[0] and play.html().count("</script>") == 2
    assert "No neuron.json" in view(play, "Sentiment")["said"]


def test_the_numbers_are_those_of_the_model(bundled):
    play = bundled
    play.before, play.text = "", PLAY_TEXT
    model, neuron = play.player.model, read_neuron(WEIGHTS / "neuron.json")
    encoded = encode(PLAY_TEXT)
    rows = rows_of(play)
    assert f"unit {neuron.unit}" in view(play, "Sentiment")["facts"][0]["name"]
    vote_T = neuron.sign * (record_states(model, encoded, [neuron.unit])[:, 0] - neuron.threshold)
    np.testing.assert_allclose(rows[view(play, "Sentiment")["rows"][0]["row"]], vote_T, atol=1e-4)
    np.testing.assert_allclose(rows[0], surprise(model, encoded), atol=1e-3)
    ledger = write_ledger(model, encoded, neuron.unit)
    drawn = rows[view(play, "Ledger")["rows"][0]["row"]]
    np.testing.assert_allclose(drawn, neuron.sign * ledger.contribution_T, atol=1e-4)
    p = TextClassifier.from_pretrained(WEIGHTS).predict_proba([PLAY_TEXT])[0, 1]
    fact = view(play, "Sentiment")["facts"][1]
    assert fact == dict(name="classifier: positive", shown=f"{100 * p:.0f}%")
    counter = play.player.counters["sentence"]
    assert f"unit {counter.unit}" in view(play, "Counting")["said"]
    assert f"{abs(counter.r):.2f}" in view(play, "Counting")["said"]


def test_a_suggestion_shows_the_change_in_every_view(bundled):
    play = bundled
    play.before, play.text = "", PLAY_TEXT
    plain = play.picture
    assert all("before" not in fact for view in plain["views"] for fact in view["facts"])
    assert all("change" not in row for view in plain["views"] for row in view["rows"])
    [(_, changed), *_] = plain["tries"]
    assert "not" in changed.split()
    was = {fact["name"]: fact["shown"] for view in plain["views"] for fact in view["facts"]}
    play.before, play.text = PLAY_TEXT, changed
    rows = rows_of(play)
    for each in play.picture["views"]:
        assert each["facts"] and each["rows"]
        for fact in each["facts"]:
            assert fact["before"] == was[fact["name"]] and fact["sign"] in (-1, 0, 1)
        for row in each["rows"]:
            same = 2 + len("The colour is lovely. I would")
            if each["name"] != "Ledger":  # what is left changes everywhere
                np.testing.assert_allclose(rows[row["change"]][:same], 0, atol=1e-4)
            assert np.abs(rows[row["change"]][same:]).max() > 0
    vote = view(play, "Sentiment")["facts"][0]
    assert vote["sign"] == -1 and vote["change"].startswith("−")
    play.text = play.text + " Really."
    assert play.before and play.picture["turn"] > plain["turn"]


def test_a_suggestion_that_would_change_nothing_rests():
    play = Play(fresh(), "LOUD")
    assert [changed for _, changed in play.picture["tries"]] == ["Not: LOUD", None, None]
    assert [changed for _, changed in Play(fresh(), "").picture["tries"]] == [None] * 3


def test_ten_thousand_characters_are_read_and_edited():
    play = Play(fresh(), "It broke after a week. " * 435)
    assert len(play.picture["pane"]["bytes"]) > 10_000
    with play.hold_trait_notifications():  # as a browser sends them
        play.before, play.text = play.text, play.text[:9_000] + "not " + play.text[9_000:]
    assert play.error == "" and rows_of(play).shape[1] > 10_000
    assert len(play._repr_mimebundle_()[0]["text/html"]) < 60_000


# -- folders


@pytest.mark.parametrize("state", ["cell", "hidden", "tanh_cell"])
@pytest.mark.parametrize("layer", [-1, 0])
def test_the_neuron_that_the_folder_names_is_drawn(tmp_path, state, layer):
    model = fresh(n_layers=2)
    model.save_pretrained(tmp_path / "mine")
    neuron = dict(unit=5, sign=-1, threshold=0.25, state=state, layer=layer)
    write_json(tmp_path / "mine" / "neuron.json", neuron)
    play = sk.play(tmp_path / "mine", "It broke.")
    states_T = ModelStates(model, state, layer).trace(encode("It broke."), [5])[:, 0]
    drawn = rows_of(play)[view(play, "Sentiment")["rows"][0]["row"]]
    np.testing.assert_allclose(drawn, -(states_T - 0.25), atol=1e-5)
    assert [fact["name"] for fact in view(play, "Sentiment")["facts"]] == ["vote of unit 5"]
    assert play.picture["head"].startswith("mine: 16 units, 2 layers")
    ledger = write_ledger(model, "It broke.", 5, layer)
    assert view(play, "Ledger")["facts"][0]["shown"] == f"{-ledger.total:+.2f}".replace("-", "−")


def test_a_neuron_that_cannot_be_is_a_sentence(tmp_path):
    fresh().save_pretrained(tmp_path / "mine")
    write_json(tmp_path / "mine" / "neuron.json", dict(unit=16))
    with pytest.raises(KitError, match="names unit 16, but the model has 0 … 15"):
        sk.play(tmp_path / "mine")
    write_json(tmp_path / "mine" / "neuron.json", dict(unit=1, layer=3))
    with pytest.raises(KitError, match="layer is 3"):
        sk.play(tmp_path / "mine")
    with pytest.raises(KitError, match="is no folder"):
        sk.play(tmp_path / "missing")
    with pytest.raises(KitError, match="LanguageModel"):
        sk.play(3)


@pytest.mark.parametrize("labels", [["bad", "good"], ["bad", "good", "odd"]])
def test_a_classifier_without_a_neuron_has_an_opinion(tmp_path, labels):
    texts = [f"{label} number {n}" for n in range(12) for label in labels]
    y = [text.split()[0] for text in texts]
    classifier = TextClassifier(fresh()).fit(texts, y, texts, y)
    classifier.save_pretrained(tmp_path / "mine")
    for model in (tmp_path / "mine", classifier):
        play = sk.play(model, "good number 3")
        [fact] = view(play, "Sentiment")["facts"]
        p_K = classifier.predict_proba(["good number 3"])[0]
        best = 1 if len(labels) == 2 else int(p_K.argmax())
        name = classifier.classes_[best]
        assert fact == dict(name=f"classifier: {name}", shown=f"{100 * p_K[best]:.0f}%")


# -- files


def test_the_saved_page_runs_one_script_and_asks_nobody(bundled, tmp_path):
    bundled.save(tmp_path / "play.html")
    page = (tmp_path / "play.html").read_text("utf-8")
    assert "default-src 'none'" in page and not re.search(r"(?:src|href)=\"http", page)
    with pytest.raises(KitError, match=r"saved as \.html"):
        bundled.save(tmp_path / "play.png")


def test_the_modules_can_be_joined():
    "No name is declared twice, nothing is imported that does not stand above, no markup is made."
    sources = [STATIC / "heatmap" / f"{name}.js" for name in PLAY_MODULES]
    exported, declared = {}, []
    for path in [*sources, STATIC / "play" / "play.js"]:
        source = path.read_text("utf-8")
        assert source.startswith("// ") and max(map(len, source.splitlines())) <= 100
        for names, home in re.findall(
            r'^import \{([^}]*)\} from "[./a-z]*/(\w+)\.js";$', source, re.M
        ):
            assert set(re.findall(r"\w+", names)) <= exported[home]
        found = re.findall(
            r"^(export )?(?:async )?(?:const|let|function|class) (\w+)", source, re.M
        )
        exported[path.stem] = {declaration for export, declaration in found if export}
        declared += [declaration for _, declaration in found]
    assert len(declared) == len(set(declared))
    assert not re.search(r"^(import|export (?!default))", PLAY_SCRIPT, re.M)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", PLAY_SCRIPT)


def test_the_first_notebook_is_one_call_and_make_lab_opens_it():
    path = ROOT / "nbs" / "tour" / "00_play.ipynb"
    [code] = cells(path, "code")
    assert code["source"].split() == ["import", "sentiment_kit", "as", "sk", "sk.play()"]
    assert "text/html" in code["outputs"][0]["data"]
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", "".join(c["source"] for c in cells(path)))
    assert pictures and all((path.parent / name).is_file() for name in pictures)
    makefile = (ROOT / "Makefile").read_text()
    [root, place] = re.search(
        r"jupyter lab --ServerApp.root_dir=(\S+) --LabApp.default_url=/lab/tree/(\S+)", makefile
    ).groups()
    assert ROOT / root / place == path
    linked = re.search(r"\]\((\S+?\.ipynb)\)", (ROOT / "README.md").read_text())[1]
    assert ROOT / linked == path, "the first notebook that a newcomer is told to open"


def test_characters_cover_the_text():
    for text in HOSTILE.values():
        encoded = encode(text[:2_000])
        assert b"".join(characters(encoded)) == encoded
        assert len(characters(encoded)) == len(mark_ends(encoded))
