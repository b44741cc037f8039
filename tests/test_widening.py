"A larger model from a smaller one: what it says at first, what learns, what is refused."

import dataclasses
import shutil

import pytest
import torch
from test_start import A_STEP, StopAt, corpus, settings, weights  # noqa: F401

from sentiment_kit.data.files import KitError
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.training.callbacks import usual_callbacks
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.start import start_config, start_weights
from sentiment_kit.training.trainer import Stopped, train
from sentiment_kit.training.widening import widen

IDS_BT = torch.randint(256, (3, 11), generator=torch.Generator().manual_seed(1))


def pair(**fields):
    "A small model with weights of every kind, and the same with 5 units more."
    torch.manual_seed(0)
    config = LanguageModelConfig(**{"hidden_size": 6, "embed_size": 3} | fields)
    narrow = LanguageModel(config).double()
    for p in narrow.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    wide = LanguageModel(dataclasses.replace(config, hidden_size=11)).double()
    widen(narrow, wide)
    return narrow, wide


SHAPES = [
    dict(cell=cell, n_layers=n_layers, weight_norm=weight_norm)
    for cell in ("mlstm", "lstm")
    for n_layers in (1, 2)
    for weight_norm in (True, False)
]


@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_a_widened_model_says_the_same_and_its_new_units_move(fields):
    narrow, wide = pair(**fields)
    with torch.no_grad():
        before_BTV, small = narrow(IDS_BT)
        after_BTV, large = wide(IDS_BT)
    assert torch.allclose(before_BTV, after_BTV, atol=1e-12)
    for old, new in zip(small, large, strict=True):
        assert torch.allclose(old, new[..., :6], atol=1e-12)
        assert (new[..., 6:].abs() > 1e-4).all()


@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_whatever_was_zero_learns_from_the_first_step(fields):
    _, wide = pair(**fields)
    logits_BTV, _ = wide(IDS_BT)
    torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), IDS_BT[:, 1:].flatten()
    ).backward()
    assert (wide.head.weight.grad[:, 6:] != 0).all()
    for layer in wide.rnn.layers:
        rows_HG = layer.w_h.grad[6:].unflatten(1, (4, 11))[..., :6]
        assert (layer.w_h[6:].unflatten(1, (4, 11))[..., :6] == 0).all()
        assert (rows_HG != 0).all()


@pytest.fixture
def narrow(tmp_path):
    "A trained model's folder."
    torch.manual_seed(3)
    return LanguageModel(LanguageModelConfig(hidden_size=8, embed_size=4)).save_pretrained(
        tmp_path / "narrow"
    )


def wide_settings(corpus, out, narrow, **more):  # noqa: F811
    how = dict(
        start_from=str(narrow), widen_to=12, chrono_share=0.5, seed=3, stop_bytes=12 * A_STEP
    )
    config = settings(corpus, out, **how | more)
    return dataclasses.replace(config, model=LanguageModelConfig())


def test_only_fresh_units_get_slow_gates(corpus, narrow, tmp_path):  # noqa: F811
    config = start_config(wide_settings(corpus, tmp_path / "run", narrow))
    model = LanguageModel(config.model)
    plain = LanguageModel(config.model)
    start_weights(config, model)
    start_weights(dataclasses.replace(config, chrono_share=0.0), plain)
    changed = (model.rnn.layers[0].b != plain.rnn.layers[0].b).view(4, 12)
    assert (
        changed[:2].nonzero().tolist() == [[0, 8], [0, 9], [1, 8], [1, 9]] and not changed[2:].any()
    )


def test_a_widened_run_goes_on_without_its_start(corpus, narrow, tmp_path):  # noqa: F811
    whole = train(wide_settings(corpus, tmp_path / "whole", narrow))
    cut = wide_settings(corpus, tmp_path / "cut", narrow, save_every=4)
    with pytest.raises(Stopped):
        train(cut, [StopAt(6), *usual_callbacks()])
    shutil.rmtree(narrow)
    with pytest.raises(Stopped):
        train(cut, [StopAt(9), *usual_callbacks()])
    for name, t in weights(train(cut)).items():
        assert torch.equal(t, weights(whole)[name]), name


def test_a_widened_run_has_branches(corpus, narrow, tmp_path):  # noqa: F811
    held = wide_settings(corpus, tmp_path / "held", narrow, decay_bytes=5 * A_STEP, stop_bytes=0)
    with pytest.raises(Stopped):
        train(held, [StopAt(8), *usual_callbacks()])
    branch = dataclasses.replace(
        held, out=str(tmp_path / "branch"), branch_from=held.out, stop_bytes=14 * A_STEP
    )
    one = dataclasses.replace(held, out=str(tmp_path / "one"), stop_bytes=14 * A_STEP)
    runs = [weights(train(config)) for config in (branch, one)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    "more, told",
    [
        (dict(widen_to=8), "widen_to is 8, but .*narrow has 8 units; use more"),
        (dict(start_from=None), "widen_to is given without weights to widen"),
        (dict(widen_to=0), "leave one out, or give widen_to"),
        (dict(model=LanguageModelConfig(embed_size=5)), "embed_size is 5, but .*narrow has 4"),
    ],
)
def test_what_cannot_be_widened_is_refused(corpus, narrow, tmp_path, more, told):  # noqa: F811
    with pytest.raises(KitError, match=told):
        config = wide_settings(corpus, tmp_path / "run", narrow)
        start_config(dataclasses.replace(config, **more))
    assert not (tmp_path / "run").exists()


def test_the_setting_of_an_older_run_is_no_widening():
    assert TrainConfig("corpus", "out").widen_to == 0
