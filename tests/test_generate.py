"""Written text against an oracle that reads everything anew for each byte; what the seed promises; prompts; errors."""

import numpy as np
import pytest
import torch

from sentiment_kit.files import KitError
from sentiment_kit.generate import (
    characters,
    encode_prompt,
    generate,
    generate_batch,
    gumbel_noise,
    pick,
    stream,
)
from sentiment_kit.language_model import LanguageModel, LanguageModelConfig

PROMPTS = ["", "The", "Zoë 🙂 ", "long " * 60]


def make_model(**changes):
    torch.manual_seed(1)
    model = LanguageModel(LanguageModelConfig(**dict(hidden_size=24, embed_size=8) | changes))
    with torch.no_grad():
        model.head.weight *= 20  # opinions strong enough that the state decides, not the noise
    return model


@torch.no_grad()
def oracle(model, prompt, n_bytes, temperature, seed):
    "The whole text read from its first byte for every byte that is written."
    text, noise = bytearray(encode_prompt(prompt, model.config.preset)), gumbel_noise([seed], "cpu")
    start = len(text)
    for _ in range(n_bytes):
        logits_BTV, _ = model(torch.tensor([list(text)]))
        text.append(int((logits_BTV[0, -1] + temperature * next(noise)[0]).argmax()))
    return bytes(text[start:])


@pytest.mark.parametrize("changes", [{}, dict(cell="lstm", weight_norm=False), dict(n_layers=2)], ids=str)
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_every_lane_equals_the_oracle(changes, temperature):
    model = make_model(**changes)
    expected = [oracle(model, prompt, 16, temperature, seed) for seed, prompt in enumerate(PROMPTS)]
    columns = stream(model, PROMPTS, 16, temperature, seeds=range(4))
    assert [bytes(lane) for lane in zip(*columns, strict=True)] == expected
    assert len(set(expected)) == 4
    for seed, prompt in enumerate(PROMPTS):
        assert b"".join(stream(model, prompt, 16, temperature, seed)) == expected[seed]


def test_bf16_products_write_too():
    model = make_model()
    low = LanguageModel(model.config, precision="bf16")
    low.load_state_dict(model.state_dict())
    assert generate(low, "The", 50, 0.5) == generate(low, "The", 50, 0.5)
    assert generate(low, "The", 8, 0) == generate(model, "The", 8, 0)


def test_a_seed_is_a_text_whatever_else_is_written():
    model = make_model()
    alone = generate(model, "The", 100, 1.0, seed=5)
    assert generate(model, "The", 150, 1.0, seed=5).startswith(alone)
    state = torch.get_rng_state()
    assert generate_batch(model, "The", 100, 1.0, seeds=[4, 5, 6])[1] == alone
    assert generate_batch(model, ["I", "The"], 100, 1.0, seeds=5)[1] == alone
    assert generate_batch(model, ["The"] * 2, 100, seeds=np.array([5, 9])) == [
        alone,
        generate(model, "The", 100, 1.0, 9),
    ]
    assert torch.equal(torch.get_rng_state(), state), "writing leaves torch's own random numbers alone"
    assert len({generate(model, "The", 100, 1.0, seed) for seed in range(5)}) == 5


def test_draws_follow_the_softmax():
    torch.manual_seed(0)
    logits_V, temperature, n = torch.randn(256), 0.6, 40_000
    noise = gumbel_noise([3, 3, 4], "cpu")
    blocks = torch.stack([next(noise) for _ in range(n // 2)])
    assert torch.equal(blocks[:, 0], blocks[:, 1]) and not torch.equal(blocks[:, 0], blocks[:, 2])
    ids = pick(logits_V, blocks[:, 1:].flatten(0, 1), temperature)
    p_V = torch.softmax(logits_V.double() / temperature, -1)
    chi2 = ((ids.bincount(minlength=256) - n * p_V) ** 2 / (n * p_V)).sum()
    assert 255 - 5 * (2 * 255) ** 0.5 < chi2 < 255 + 5 * (2 * 255) ** 0.5
    assert (pick(logits_V, blocks[:, 0], 0) == logits_V.argmax()).all()


@pytest.mark.parametrize(
    "prompt, preset, expected",
    [
        ("", "openai", b"\n "),
        ("  ", "openai", b"\n "),
        ("The batt", "openai", b"\n The batt"),
        ("The battery ", "openai", b"\n The battery "),
        ("Two\nlines\n", "openai", b"\n Two lines "),
        ("a &amp; b", "openai", b"\n a & b"),
        ("abc ", "raw", b"\n abc "),
        ("abc\n", "raw", b"\n abc\n"),
        ("", "raw", b"\n "),
        ("half \ud83d", "openai", "\n half \ufffd".encode()),
    ],
)
def test_a_prompt_is_left_open(prompt, preset, expected):
    assert encode_prompt(prompt, preset) == expected


def test_characters_are_whole():
    text = "Zoë 🙂 👍🏽 naïve"
    encoded = text.encode()
    assert "".join(characters(encoded[k : k + 1] for k in range(len(encoded)))) == text
    assert "".join(characters([encoded[:6]])) == "Zoë "
    assert "".join(characters([b"\xf0\x9f", b"a\xff"])) == "\ufffda\ufffd"
    assert list(characters(iter([b"\xc3", b"\xa9"]))) == ["é"]


def test_bytes_come_one_by_one():
    model, pulled = make_model(), stream(make_model(), "The", 10**9)
    assert b"".join(next(pulled) for _ in range(20)) == b"".join(stream(model, "The", 20))


def test_no_graph_is_left_behind():
    model = make_model()
    generate(model, "The", 3)
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()
    pieces = stream(model, "The", 3)
    next(pieces)
    assert torch.is_grad_enabled(), "also between two bytes"


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda m: stream(m, "a", 0), "n_bytes is 0"),
        (lambda m: stream(m, "a", 5, -0.1), "temperature is -0.1"),
        (lambda m: stream(m, "a", 5, float("nan")), "temperature is nan"),
        (lambda m: stream(m, "a", 5, float("inf")), "temperature is inf"),
        (lambda m: stream(m, ["a", "b"], 5, seeds=[1, 2, 3]), "2 prompts and 3 seeds"),
        (lambda m: stream(m, [], 5), "0 prompts"),
        (lambda m: stream(m, [None], 5), "a prompt is None"),
        (lambda m: stream(make_model(vocab_size=26), "a", 5), "26 symbols"),
    ],
)
def test_errors_are_one_sentence_at_the_call(call, told):
    with pytest.raises(KitError, match=told) as error:
        call(make_model())
    assert "\n" not in str(error.value)


@pytest.mark.cuda
def test_on_a_gpu():
    model = make_model()
    expected = generate_batch(model, PROMPTS, 30, 0.5, seeds=range(4))
    assert generate_batch(model.cuda(), PROMPTS, 30, 0.5, seeds=range(4)) == expected
