"""Written text against an oracle that reads all anew for each byte; held cells against one by hand;
what a seed promises; prompts; errors."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentiment_kit.data.files import KitError
from sentiment_kit.model.generate import (
    decode_pieces,
    encode_prompt,
    generate,
    generate_batch,
    stream,
    written_bits,
)
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import text_bits
from sentiment_kit.model.reference import step
from sentiment_kit.model.sampling import gumbel_noise, keep_likely, pick

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


@pytest.mark.parametrize(
    "changes", [{}, dict(cell="lstm", weight_norm=False), dict(n_layers=2)], ids=str
)
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_every_lane_equals_the_oracle(changes, temperature):
    model = make_model(**changes)
    expected = [oracle(model, prompt, 6, temperature, seed) for seed, prompt in enumerate(PROMPTS)]
    columns = stream(model, PROMPTS, 6, temperature, seeds=range(4))
    assert [bytes(lane) for lane in zip(*columns, strict=True)] == expected
    assert len(set(expected)) == 4
    for seed, prompt in enumerate(PROMPTS):
        assert b"".join(stream(model, prompt, 6, temperature, seed)) == expected[seed]


@torch.no_grad()
def clamped_oracle(model, prompt, n_bytes, seed, put):
    "One lane, by the oracle's own step: `put(t, c_H)` gives the cell that h is made from."
    weights = [layer.effective() for layer in model.rnn.layers]
    prompt, noise, written = (
        encode_prompt(prompt, model.config.preset),
        gumbel_noise([seed], "cpu"),
        bytearray(),
    )
    H = model.config.hidden_size
    state, t = [(torch.zeros(1, H), torch.zeros(1, H)) for _ in weights], 2 - len(prompt)
    while len(written) < n_bytes:
        x_BD = model.embed.weight[None, (prompt + written)[t - 2 + len(prompt)]]
        for k, w in enumerate(weights):
            h_BH, c_BH = step(x_BD, *state[k], w)
            if k == len(weights) - 1 and t > 0:
                free_BH, c_BH = c_BH, put(t, c_BH[0])[None]
                h_BH = h_BH / free_BH.tanh() * c_BH.tanh()
            state[k], x_BD = (h_BH, c_BH), h_BH
        if t > 0:
            written.append(int((model.head(h_BH)[0] + next(noise)[0]).argmax()))
        t += 1
    return bytes(written)


def written_with(model, prompt, n_bytes, seed, **options):
    return b"".join(stream(model, prompt, n_bytes, seeds=seed, **options))


@pytest.mark.parametrize(
    "changes", [{}, dict(cell="lstm", weight_norm=False), dict(n_layers=2)], ids=str
)
def test_held_cells_equal_the_oracle(changes):
    model, texts = make_model(**changes), set()
    for ramp in (0, 1, 5):
        for clamp in ({0: 1.5}, {0: -1.5}, {3: 0.0, 0: 2.0, 23: -0.5}):

            def put(t, c_H, clamp=clamp, ramp=ramp):
                c_H = c_H.clone()
                for unit, value in clamp.items():
                    c_H[unit] += (value - c_H[unit]) * (min(1, t / ramp) if ramp else 1)
                return c_H

            for prompt in ("", "Zoë 🙂 "):
                expected = clamped_oracle(model, prompt, 16, 4, put)
                assert written_with(model, prompt, 16, 4, clamp=clamp, ramp=ramp) == expected
                texts.add(expected)
    assert len(texts) > 5, "the clamps matter, or the test says nothing"


def test_a_held_direction_equals_the_oracle():
    model = make_model()
    direction_H = np.random.default_rng(0).normal(size=24)
    unit_H = torch.tensor(direction_H / np.linalg.norm(direction_H), dtype=torch.float32)
    expected = clamped_oracle(
        model, "The", 24, 3, lambda t, c_H: c_H + (2.5 - c_H @ unit_H) * unit_H
    )
    assert written_with(model, "The", 24, 3, clamp=(direction_H, 2.5)) == expected
    assert written_with(model, "The", 24, 3, clamp=(7 * direction_H, 2.5)) == expected
    assert written_with(model, "The", 24, 3, clamp=(direction_H, -2.5)) != expected
    axis_H = np.eye(24)[0]
    assert written_with(model, "The", 24, 3, clamp=(axis_H, 1.5)) == written_with(
        model, "The", 24, 3, clamp={0: 1.5}
    )


def test_unit_0_is_a_unit_and_no_clamp_is_none():
    model = make_model()
    free = generate(model, "The", 60, seed=1)
    assert (
        generate(model, "The", 60, seed=1, clamp={})
        == free
        == generate(model, "The", 60, seed=1, clamp=None)
    )
    assert generate(model, "The", 60, seed=1, clamp={0: 2.0}) != free
    assert generate(model, "The", 60, seed=1, clamp={np.int64(0): np.float32(2)}) != free


def test_steered_lanes_equal_one_alone():
    model, options = make_model(), dict(clamp={0: 1.0, 5: -1.0}, ramp=3, top_k=40, top_p=0.9)
    alone = [generate(model, "The", 80, 0.8, seed=seed, **options) for seed in range(3)]
    assert (
        generate_batch(model, "The", 80, 0.8, seeds=range(3), **options) == alone
        and len(set(alone)) == 3
    )


@given(
    st.integers(0, 10_000),
    st.integers(1, 300) | st.none(),
    st.floats(0.01, 1.0) | st.none(),
    st.floats(0.1, 3.0),
)
@example(0, None, 1.0, 0.25)  # a tail that adds nothing to the sum
@settings(max_examples=100, deadline=None)
def test_what_is_left_of_a_prediction(seed, top_k, top_p, temperature):
    logits_V = np.random.default_rng(seed).integers(-9, 3, 256) / 2  # with ties
    left_V = keep_likely(torch.tensor(logits_V)[None], temperature, top_k, top_p)[0].numpy()
    order = np.lexsort((np.arange(256), -logits_V))[:top_k]
    p = np.exp(logits_V[order] / temperature)
    p /= p.sum()
    before = np.cumsum(p)[:-1]  # probability of all likelier bytes, of each but the first
    fewest, most = (
        len(order) if top_p is None else 1 + int(np.sum(before < top_p + rounding))
        for rounding in (-1e-9, 1e-9)
    )
    kept = np.flatnonzero(np.isfinite(left_V))
    assert fewest <= len(kept) <= most and set(kept) == set(order[: len(kept)])
    assert (left_V[kept] == logits_V[kept]).all()


def test_the_tail_is_never_drawn():
    model = make_model()
    assert generate(model, "The", 40, 1.3, seed=2, top_k=1) == generate(model, "The", 40, 0)
    assert generate(model, "The", 40, 1.3, seed=2, top_p=1e-9) == generate(
        model, "The", 40, 0, top_k=3, top_p=0.5
    )
    full = generate(model, "The", 40, 1.3, seed=2)
    assert generate(model, "The", 40, 1.3, seed=2, top_k=256, top_p=1.0) == full
    assert generate(model, "The", 40, 1.3, seed=2, top_k=10**9) == full


def test_written_bits_are_those_of_the_written_bytes():
    model, prompts, written = make_model(), ["", "Zoë 🙂 "], ["abc", b"\xff\x00 def"]
    found = written_bits(model, prompts, written)
    for bits, prompt, text in zip(found, prompts, [b"abc", written[1]], strict=True):
        begun = encode_prompt(prompt, "openai")
        ids_BT = torch.tensor([list(begun + text)])
        log_p_TV = torch.log_softmax(model(ids_BT)[0][0, len(begun) - 1 : -1], -1) / np.log(2)
        oracle = -log_p_TV[torch.arange(len(text)), ids_BT[0, len(begun) :]].mean()
        np.testing.assert_allclose(bits, oracle.item(), rtol=1e-5)
    np.testing.assert_allclose(written_bits(model, "", [b"abc"]), found[:1])
    assert not np.isclose(text_bits(model, [b"\n abc"])[0], found[0])
    with pytest.raises(KitError, match="at least one byte"):
        written_bits(model, "", ["abc", ""])


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
        generate(model, "The", 100, 1.0, seed=9),
    ]
    assert torch.equal(torch.get_rng_state(), state), (
        "writing leaves torch's own random numbers alone"
    )
    assert len({generate(model, "The", 100, 1.0, seed=seed) for seed in range(5)}) == 5


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
    assert "".join(decode_pieces(encoded[k : k + 1] for k in range(len(encoded)))) == text
    assert "".join(decode_pieces([encoded[:6]])) == "Zoë "
    assert "".join(decode_pieces([b"\xf0\x9f", b"a\xff"])) == "\ufffda\ufffd"
    assert list(decode_pieces(iter([b"\xc3", b"\xa9"]))) == ["é"]


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
        (lambda m: stream(m, "a", 5, top_k=0), "top_k is 0"),
        (lambda m: stream(m, "a", 5, top_p=0), "top_p is 0"),
        (lambda m: stream(m, "a", 5, top_p=1.01), "top_p is 1.01"),
        (lambda m: stream(m, "a", 5, top_p=float("nan")), "top_p is nan"),
        (lambda m: stream(m, "a", 5, clamp={0: 1.0}, ramp=-1), "ramp is -1"),
        (
            lambda m: stream(m, "a", 5, clamp={24: 1.0}),
            "unit 24 cannot be clamped; this model has units 0 … 23",
        ),
        (lambda m: stream(m, "a", 5, clamp={-1: 1.0}), "unit -1 cannot"),
        (lambda m: stream(m, "a", 5, clamp={None: 1.0}), "unit None cannot"),
        (lambda m: stream(m, "a", 5, clamp={True: 1.0}), "unit True cannot"),
        (lambda m: stream(m, "a", 5, clamp={1.5: 1.0}), "unit 1.5 cannot"),
        (lambda m: stream(m, "a", 5, clamp={3: float("nan")}), "values are .nan.; a cell"),
        (lambda m: stream(m, "a", 5, clamp={3: None}), "values are .None.; a cell"),
        (lambda m: stream(m, "a", 5, clamp={3: "high"}), "values are .'high'.; a cell"),
        (lambda m: stream(m, "a", 5, clamp=(np.ones(23), 1.0)), "must be 24 finite numbers"),
        (lambda m: stream(m, "a", 5, clamp=(np.zeros(24), 1.0)), "not all 0"),
        (lambda m: stream(m, "a", 5, clamp=(np.full(24, np.nan), 1.0)), "finite numbers"),
        (lambda m: stream(m, "a", 5, clamp=(np.ones(24), float("inf"))), "values are .inf."),
        (lambda m: stream(m, "a", 5, clamp=3), "a clamp is 3"),
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
    steered = generate_batch(model, PROMPTS, 30, 0.5, seeds=range(4), clamp={0: 1.5}, top_k=50)
    assert generate_batch(model.cuda(), PROMPTS, 30, 0.5, seeds=range(4)) == expected
    assert (
        generate_batch(model, PROMPTS, 30, 0.5, seeds=range(4), clamp={0: 1.5}, top_k=50) == steered
    )
