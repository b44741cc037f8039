"What a law of size is fitted to, and what it foretells."

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentiment_kit.data.files import KitError
from sentiment_kit.evidence.model_size import (
    SizeLaw,
    fit_law,
    foretell,
    last_points,
    lstm_peer,
    total_parameters,
)
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig


def points(truth, sizes, seeds, spread, rng):
    "Each run has an error of its own, which all its points share."
    rows = [
        (H, D, truth(H, D) + error, run)
        for run, (H, error) in enumerate(
            (H, rng.normal(0, spread)) for H in sizes for _ in range(seeds)
        )
        for D in np.geomspace(2e6, 6e7, 6)
    ]
    return map(np.array, zip(*rows, strict=True))


@given(st.tuples(st.floats(0.3, 1.2), *[st.floats(0.1, 0.6), st.floats(0.3, 1.0)] * 2))
@settings(max_examples=15, deadline=None)
def test_a_law_without_errors_is_foretold_inside_its_range(law):
    truth = SizeLaw(*law)
    H_N, D_N, bits_N, _ = points(truth, [64, 128, 512], 1, 0.0, np.random.default_rng(0))
    assert abs(fit_law(H_N, D_N, bits_N)(256, 3e7) - truth(256, 3e7)) < 0.01


def test_a_size_that_was_not_trained_is_not_foretold():
    H_N, D_N, bits_N, run_N = points(
        SizeLaw(0.9, 0.35, 0.5, 0.4, 0.45), [64, 128, 256], 1, 0.0, np.random.default_rng(0)
    )
    with pytest.raises(KitError, match="size 33 .*64, 128, 256"):
        foretell(H_N, D_N, bits_N, run_N, 33)


def test_the_measured_lies_in_the_interval_about_as_often_as_it_should():
    truth, rng, inside = SizeLaw(0.9, 0.35, 0.5, 0.4, 0.45), np.random.default_rng(1), 0
    for n in range(20):
        H_N, D_N, bits_N, run_N = points(truth, [64, 128, 256, 512], 2, 0.01, rng)
        said = foretell(H_N, D_N, bits_N, run_N, 256, draws=30, seed=n)
        inside += said.low <= truth(256, said.D) <= said.high
        assert said.H == 256 and said.D == pytest.approx(6e7) and said.low <= said.bits + 0.05
    assert inside >= 15


def test_one_size_is_no_law():
    with pytest.raises(KitError, match="two sizes, two lengths"):
        fit_law([64] * 8, np.arange(1, 9), np.ones(8))


def test_last_points_are_where_runs_end():
    run_N, D_N = np.array(["b", "a", "b", "a", "b"]), np.array([3, 1, 9, 5, 2])
    assert last_points(run_N, D_N).tolist() == [2, 3]


@pytest.mark.parametrize("size", [16, 48])
def test_the_peer_has_as_many_parameters(size):
    config = LanguageModelConfig(hidden_size=size, embed_size=8)
    peer = lstm_peer(config)
    assert total_parameters(config) == LanguageModel(config).n_parameters
    assert peer.cell == "lstm" and abs(total_parameters(peer) / total_parameters(config) - 1) < 0.03
