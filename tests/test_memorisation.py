"""What a model repeats of a text, against an oracle that writes it out; which texts are drawn."""

import numpy as np
import pytest
import torch

from sentiment_kit.data.files import KitError
from sentiment_kit.data.shards import make_shards
from sentiment_kit.evidence.memorisation import draw_passages, greedy_matches
from sentiment_kit.model.generate import encode_prompt, stream
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig


def make_model():
    torch.manual_seed(1)
    model = LanguageModel(LanguageModelConfig(hidden_size=24, embed_size=8, preset="raw"))
    with torch.no_grad():
        model.head.weight *= 20  # so that the likeliest byte depends on what was read
    return model.eval()


@pytest.mark.parametrize("lanes", [1, 3, 64])
def test_a_text_that_was_written_greedily_is_repeated_as_far_as_it_was_left_alone(lanes):
    model, n = make_model(), 12
    prefix = encode_prompt("The lid leaks, and ", "raw")
    own = prefix + b"".join(stream(model, "The lid leaks, and ", n, 0, seeds=0))
    texts, expected = [own], [n]
    for at in (
        0,
        1,
        5,
        n - 1,
    ):  # another byte at one place: repeated up to there, whatever comes after
        changed = bytearray(own)
        changed[len(prefix) + at] ^= 1
        texts.append(bytes(changed))
        expected.append(at)
    assert greedy_matches(model, texts, len(prefix), lanes=lanes).tolist() == expected


def test_mistakes_are_one_sentence():
    model = make_model()
    for texts, prefix_bytes, why in [
        ([], 1, "there are none"),
        ([b"abc", b"ab"], 1, "differ in length"),
        ([b"abc"], 3, "prefix_bytes is 3, but the texts have 3 bytes"),
        ([b"abc"], 0, "prefix_bytes is 0"),
    ]:
        with pytest.raises(KitError, match=why):
            greedy_matches(model, texts, prefix_bytes)


def test_passages_are_beginnings_of_reviews_long_enough_and_differ(tmp_path):
    lines = [f"review {i} " + "x" * (i % 40) for i in range(400)]
    (tmp_path / "reviews.csv").write_text("text\n" + "\n".join(lines) + "\n")
    corpus = make_shards(
        tmp_path / "reviews.csv", tmp_path / "corpus", counts=(3, 1, 1), text_key="text"
    )
    whole = [review for shard in corpus.split("train") for review in shard.encoded_reviews()]
    enough = [review for review in whole if len(review) >= 40]
    everything = draw_passages(corpus, "train", 1000, 40)
    assert everything == [review[:40] for review in enough] and 0 < len(enough) < len(whole)
    some = draw_passages(corpus, "train", 10, 40, seed=3)
    assert len(set(some)) == 10 and set(some) <= set(everything)
    assert (
        some
        == draw_passages(corpus, "train", 10, 40, seed=3)
        != draw_passages(corpus, "train", 10, 40, seed=4)
    )
    assert draw_passages(corpus, "train", 10, 400) == []
    assert np.all([text.startswith(b"\n review") for text in everything])
