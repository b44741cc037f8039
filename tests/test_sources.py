"States of tokens over bytes: every byte gets the right token's, for any text of any length."

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sentiment_kit.data.datasets import load_dataset
from sentiment_kit.data.files import KitError
from sentiment_kit.data.text import encode
from sentiment_kit.looking.heatmap import heatmap_html
from sentiment_kit.looking.heatmap_widget import HeatmapWidget
from sentiment_kit.transfer.features import ByteFeaturizer, cached_features, record_states
from sentiment_kit.transfer.probe import SentimentProbe
from sentiment_kit.transfer.sources import TokenStates, byte_characters, token_of_byte

TEXTS = [
    "Works well.",
    "",
    " ",
    "🎧👩‍🚀 très bien",
    "word " * 60,
    b"\n \xff\x00 raw\xe2\x82 ",
    b"no pads",
    b"\n  ",
]


class Words:
    "A fast tokenizer: words without the spaces between them, a start token before them."

    is_fast = True

    def get_vocab(self):
        return {"a": 1}

    def __call__(self, text, **options):
        words = list(re.finditer(r"\S+", text))
        ids = [1] + [2 + len(word[0]) % 20 for word in words]
        return dict(
            input_ids=ids,
            offset_mapping=[(0, 0)] + [word.span() for word in words],
            special_tokens_mask=[1] + [0] * len(words),
        )


class Counter(torch.nn.Module):
    "Unit 0 is the token, unit 1 how many tokens were seen."

    def __init__(self, **config):
        super().__init__()
        self.config, self.longest = SimpleNamespace(hidden_size=2, **config), 0
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, output_hidden_states):
        self.longest = max(self.longest, input_ids.shape[1])
        seen = torch.arange(1, input_ids.shape[1] + 1).expand_as(input_ids)
        return SimpleNamespace(hidden_states=(torch.stack((input_ids, seen), 2).float(),))


def test_a_byte_gets_the_first_token_that_ends_at_or_after_it():
    rng = np.random.default_rng(0)
    for _ in range(200):
        T = int(rng.integers(1, 20))
        stop_N = np.sort(rng.integers(1, T + 1, rng.integers(1, 10)))
        for t, n in enumerate(token_of_byte(stop_N, T), 1):
            later = stop_N[stop_N >= t]
            end = later[0] if len(later) else stop_N[-1]
            assert stop_N[n] == end and (n + 1 == len(stop_N) or stop_N[n + 1] > end)


@pytest.mark.parametrize(
    "encoded", [b"", b"plain", "né🎧".encode(), b"\xff\xe2\x82\xac\xe2\x82", bytes(range(256))]
)
def test_characters_cover_the_bytes(encoded):
    text, stop_C = byte_characters(encoded)
    assert len(text) == len(stop_C) and (len(encoded) == 0 or stop_C[-1] == len(encoded))
    text.encode()  # no lone surrogates left
    for start, stop, c in zip([0, *stop_C], stop_C, text, strict=False):
        assert c == "\ufffd" or encoded[start:stop].decode() == c


def test_words_own_their_bytes_and_pads_go_with_their_neighbours():
    values_TU = TokenStates(Counter(), Words()).trace(b"\n an apple ")
    assert values_TU[:, 1].tolist() == [2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3], (
        "pad, 'an', its space, 'apple', pad"
    )
    assert values_TU[0, 0] == 4 and values_TU[-1, 0] == 7


@pytest.mark.parametrize("window", [1, 2, 7, 8, 500])
def test_a_window_shows_every_token_half_of_it(window):
    model, text = Counter(max_position_embeddings=window), encode("a bb ccc dddd " * 20)
    values_TU = TokenStates(model, Words()).trace(text)
    whole_TU = TokenStates(Counter(), Words()).trace(text)
    np.testing.assert_array_equal(values_TU[:, 0], whole_TU[:, 0])
    assert model.longest <= window
    full = whole_TU[:, 1] > window
    assert (values_TU[full, 1] > window // 2).all() and (values_TU[~full] == whole_TU[~full]).all()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_one_finite_state_a_byte_whatever_the_text(text):
    source = TokenStates(Counter(), Words())
    encoded = text if isinstance(text, bytes) else encode(text, "raw")
    values_TU = record_states(source, text)
    assert (
        values_TU.shape == (len(encoded), 2)
        and values_TU.dtype == np.float32
        and np.isfinite(values_TU).all()
    )
    assert heatmap_html(encoded, record_states(source, text, [1])[:, 0])


def test_requests_that_cannot_be_met_are_one_sentence():
    with pytest.raises(KitError, match="not all in 0 … 1"):
        TokenStates(Counter(), Words()).trace(b"a", [2])
    with pytest.raises(KitError, match="open the fast one"):
        TokenStates(Counter(), SimpleNamespace(is_fast=False))


def test_equal_digest_equal_states():
    source = TokenStates(Counter(), Words())
    assert source.digest == TokenStates(Counter(), Words()).digest
    others = [
        TokenStates(Counter(), Words(), **options) for options in (dict(layer=0), dict(window=4))
    ]
    with torch.no_grad():
        source.model.weight += 1
    assert (
        len(
            {
                source.digest,
                *(other.digest for other in others),
                TokenStates(Counter(), Words()).digest,
            }
        )
        == 4
    )


@pytest.fixture(scope="module")
def gpt2():
    "A randomly initialised GPT-2 of two layers and a byte-level tokenizer trained on the samples."
    transformers, tokenizers = (
        pytest.importorskip("transformers"),
        pytest.importorskip("tokenizers"),
    )
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        load_dataset("samples")["train"].texts, vocab_size=400, show_progress=False
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer)
    torch.manual_seed(0)
    sizes = dict(vocab_size=len(tokenizer), n_positions=48, n_embd=16, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval(), tokenizer


def test_gpt2_s_states_are_at_the_last_bytes_of_its_tokens(gpt2):
    model, tokenizer = gpt2
    text = "Good sound 🎧, très bien."
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    stops = np.cumsum(
        [len(token) for token in tokenizer.convert_ids_to_tokens(ids)]
    )  # one letter stands for a byte
    for layer in (0, 1, -1):
        values_TU = TokenStates(model, tokenizer, layer).trace(encode(text, "raw"))
        body_TU = values_TU[2:-1]
        assert len(body_TU) == stops[-1] == len(text.encode())
        for n, stop in enumerate(stops):
            if text.encode()[stop : stop + 1] and text.encode()[stop] & 0xC0 == 0x80:
                continue  # inside a character: it has the state of the token that completes it
            np.testing.assert_allclose(body_TU[stop - 1], hidden[layer][0, n], atol=1e-5)
    emoji = text.encode().index("🎧".encode())
    assert (body_TU[emoji : emoji + 4] == body_TU[emoji]).all()


def test_gpt2_goes_through_features_probe_cache_and_heatmap(gpt2, tmp_path):
    source, reviews = TokenStates(*gpt2), load_dataset("samples")
    part = {split: (texts.texts[:60], texts.labels[:60]) for split, texts in reviews.items()}
    X = {split: ByteFeaturizer(source).transform(texts) for split, (texts, _) in part.items()}
    again = cached_features(ByteFeaturizer(source), part["test"][0], tmp_path)
    assert np.array_equal(X["test"], again) and X["test"].shape == (60, 16)
    probe = SentimentProbe().fit(X["train"], part["train"][1], X["valid"], part["valid"][1])
    assert 0 <= probe.score(X["test"], part["test"][1]) <= 1
    assert len(HeatmapWidget(source, "It broke 🎧.", [3]).picture["panes"][0]["stops"]) == 4 * 14
    long = " ".join(reviews["train"].texts[:20])
    assert np.isfinite(source.trace(encode(long, "raw"))).all(), (
        "longer than the 48 tokens the model can read at once"
    )
