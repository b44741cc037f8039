"""Bits per byte of each text, by slot refill and a head in chunks, against one text at a time."""

import numpy as np
import pytest
import torch

from sentiment_kit.data.files import KitError
from sentiment_kit.model import reading
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import bits_per_byte, cross_entropy
from sentiment_kit.model.reading import encode_texts, text_bits

TEXTS = ["", "a", "Zoë 🙂 & <b>", "long " * 130, "short", "x" * 300, "again and again", "b" * 253]


def make_model(**changes):
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(**dict(hidden_size=12, embed_size=4) | changes))


@torch.no_grad()
def one_by_one(model, texts):
    bits = []
    for encoded in encode_texts(texts, model.config.preset):
        ids_BT = torch.tensor([list(encoded)])
        logits_BTV, _ = model(ids_BT)
        bits.append(bits_per_byte(cross_entropy(logits_BTV[:, :-1], ids_BT[:, 1:])))
    return np.array(bits)


@pytest.mark.parametrize(
    "changes",
    [{}, dict(cell="lstm", weight_norm=False), dict(n_layers=2), dict(preset="raw")],
    ids=str,
)
def test_every_text_costs_what_it_costs_alone(changes, monkeypatch):
    model = make_model(**changes)
    with torch.no_grad():
        model.head.weight *= 20
    expected_N = one_by_one(model, TEXTS)
    assert expected_N.std() > 0.05
    for lanes, rows in ((1, 4096), (3, 7), (64, 4096)):
        monkeypatch.setattr(reading, "HEAD_ROWS", rows)
        bits_N = text_bits(model, TEXTS, lanes=lanes)
        assert bits_N.dtype == np.float64
        np.testing.assert_allclose(bits_N, expected_N, rtol=1e-5)


def test_the_head_never_sees_more_than_a_few_rows(monkeypatch):
    model, seen = make_model(), []
    whole = model.logits
    monkeypatch.setattr(model, "logits", lambda h: seen.append(h[..., 0].numel()) or whole(h))
    text_bits(model, ["word " * 200] * 32, lanes=32)
    assert max(seen) <= reading.HEAD_ROWS and len(seen) >= 8


def test_texts_of_almost_nothing():
    model = make_model()
    bits_N = text_bits(model, [b"", b"a", b"ab", "ab"])
    assert np.isnan(bits_N).tolist() == [True, True, False, False]
    assert text_bits(model, []).shape == (0,)
    with pytest.raises(KitError, match="list of texts"):
        text_bits(model, "one text")


def test_a_model_that_has_learnt_the_text_finds_it_cheap():
    model, text = make_model(hidden_size=32), "good good good good good"
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    ids_BT = torch.tensor([list(encode_texts([text], "openai")[0])])
    for _ in range(40):
        cross_entropy(model(ids_BT)[0][:, :-1], ids_BT[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    known, unknown = text_bits(model, [text, "a wholly different one"])
    assert known < 0.5 and unknown > 5
