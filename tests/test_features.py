"""Slot refill against one text at a time, the cache's key, and pipelines of a frozen model."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sentiment_kit.data.files import KitError
from sentiment_kit.model.lanes import fill_lanes
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.reading import ModelStates, encode_texts
from sentiment_kit.transfer.features import (
    ByteFeaturizer,
    cached_features,
    pooled_states,
    record_states,
)

TEXTS = ["", "a", "Zoë 🙂 & <b>", "long " * 130, "short", "x" * 300, "again and again", "b" * 253]


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    return LanguageModel(LanguageModelConfig(**dict(hidden_size=12, embed_size=4) | changes))


def pooled(values_TU, pool):
    return values_TU[-1] if pool == "last" else getattr(values_TU, pool)(0)


@pytest.mark.parametrize("pool", ["last", "mean", "max", "min"])
@pytest.mark.parametrize(
    "changes", [{}, dict(cell="lstm", weight_norm=False), dict(n_layers=2)], ids=str
)
def test_slot_refill_equals_one_by_one(pool, changes):
    model = make_model(**changes)
    expected_NU = np.stack([pooled(record_states(model, text), pool) for text in TEXTS])
    for lanes in (1, 3, 64):
        X_NU = ByteFeaturizer(model, pool=pool, lanes=lanes).transform(TEXTS)
        assert X_NU.dtype == np.float32
        np.testing.assert_allclose(X_NU, expected_NU, atol=2e-5)


@pytest.mark.parametrize("layer", [0, -1])
def test_state_and_layer_are_those_of_the_model(layer):
    model = make_model(n_layers=2)
    [encoded] = encode_texts(["Not bad, not bad."], "openai")
    h_BTH, c_BTH, _ = model.prepare(1).states(torch.tensor([list(encoded)]), layer=layer)
    for state, values_BTH in dict(cell=c_BTH, hidden=h_BTH, tanh_cell=torch.tanh(c_BTH)).items():
        X_NU = ByteFeaturizer(model, state=state, layer=layer).transform(["Not bad, not bad."])
        np.testing.assert_allclose(X_NU[0], values_BTH[0, -1].numpy(), atol=1e-6)


def test_traces_are_carried_over_pieces_and_cut_to_units():
    model, text = make_model(), b"0123456789" * 100
    c_TU = record_states(model, text, units=[11, 0])
    assert c_TU.shape == (1000, 2)
    _, c_BTH, _ = model.prepare(1).states(torch.tensor([list(text[:700])]))
    np.testing.assert_allclose(c_TU[:700], c_BTH[0, :, [11, 0]].numpy(), atol=1e-6)


def test_no_text_and_empty_bytes():
    model = make_model()
    assert ByteFeaturizer(model).transform([]).shape == (0, 12)
    for pool in ("last", "mean", "max", "min"):
        assert not ByteFeaturizer(model, pool=pool).transform([b""]).any()


def test_lanes_do_not_overlap_and_end_together():
    length_N = np.random.default_rng(0).integers(0, 400, 300)
    lane_N, start_N = fill_lanes(length_N, 7)
    for lane in range(7):
        mine = np.flatnonzero(lane_N == lane)
        mine = mine[np.lexsort((length_N[mine], start_N[mine]))]
        assert (start_N[mine][1:] == (start_N + length_N)[mine][:-1]).all()
    loads = np.bincount(lane_N, length_N)
    assert loads.max() - loads.min() <= length_N.max()


def test_memory_is_a_chunk_not_the_whole():
    model, widest = make_model(), 0
    source = ModelStates(model)
    read = source.read

    def watched(ids_BT, *rest):
        nonlocal widest
        widest = max(widest, ids_BT.shape[1])
        return read(ids_BT, *rest)

    source.read = watched
    pooled_states(source, [b"x" * 3000], "mean")
    assert widest <= 256


def test_pipeline_shares_the_frozen_model():
    model = make_model()
    featurizer = ByteFeaturizer(model, pool="mean")
    copy = clone(featurizer)
    assert copy is not featurizer and copy.model is model and copy.pool == "mean"
    texts = ["good"] * 5 + ["a much longer text"] * 5
    pipeline = make_pipeline(featurizer, LogisticRegression(C=1e4)).fit(texts, [1] * 5 + [0] * 5)
    assert pipeline.score(texts, [1] * 5 + [0] * 5) == 1


def test_cache_key_holds_model_texts_and_options(tmp_path):
    variants = [
        (ByteFeaturizer(make_model()), ["ab", "c"]),
        (ByteFeaturizer(make_model(seed=1)), ["ab", "c"]),
        (ByteFeaturizer(make_model(), pool="max"), ["ab", "c"]),
        (ByteFeaturizer(make_model(), state="hidden"), ["ab", "c"]),
        (ByteFeaturizer(make_model()), ["c", "ab"]),
        (ByteFeaturizer(make_model()), [b"ab", b"c"]),
        (ByteFeaturizer(make_model()), [b"a", b"bc"]),
    ]
    for n, (featurizer, texts) in enumerate(variants):
        for _ in range(2):
            np.testing.assert_array_equal(
                cached_features(featurizer, texts, tmp_path), featurizer.transform(texts)
            )
            assert len(list(tmp_path.iterdir())) == n + 1
    cached_features(ByteFeaturizer(make_model(), lanes=1, progress=True), ["ab", "c"], tmp_path)
    assert len(list(tmp_path.iterdir())) == len(variants)  # lanes and the bar change no number


def test_a_hit_reads_no_text_and_a_damaged_file_is_made_again(tmp_path, monkeypatch):
    featurizer = ByteFeaturizer(make_model())
    X_NU = cached_features(featurizer, TEXTS, tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (
        whole[:100],
        b"",
        whole[:-200] + b"\0" * 200,
        whole.replace(X_NU.tobytes()[:8], b"\0" * 8),
    ):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(cached_features(featurizer, TEXTS, tmp_path), X_NU)
        assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(ByteFeaturizer, "transform", None)
    np.testing.assert_array_equal(cached_features(featurizer, TEXTS, tmp_path), X_NU)


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda m: ByteFeaturizer(m).transform("one text"), "list of texts"),
        (lambda m: ByteFeaturizer(m).transform(["a", None]), "text 1 is None"),
        (lambda m: ByteFeaturizer(m, pool="sum").transform(["a"]), "pool is 'sum'"),
        (lambda m: ByteFeaturizer(m, state="gate").transform(["a"]), "state is 'gate'"),
        (lambda m: ByteFeaturizer(m, layer=1).transform(["a"]), "layer is 1"),
        (lambda m: record_states(m, "a", [12]), "0 … 11"),
    ],
)
def test_errors_are_one_sentence(call, told):
    with pytest.raises(KitError, match=told) as error:
        call(make_model())
    assert "\n" not in str(error.value)
