"""Every byte as promised: once, in order, with resets in the right places, on any rank count, from any position."""

import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sentiment_kit.files import KitError
from sentiment_kit.loader import RESETS, ShardLoader, check_lanes


def fake_corpus(shards, digest="d"):
    "A corpus in memory: `shards` is a list of lists of review lengths; bytes are random."
    rng, made = np.random.default_rng(len(shards)), []
    for i, lengths in enumerate(shards):
        starts = np.cumsum([0, *lengths[:-1]], dtype=np.uint64)
        data = rng.integers(0, 256, sum(lengths)).astype(np.uint8)
        made.append(SimpleNamespace(name=f"train/{i:05d}", n_bytes=len(data), data=data, starts=starts))
    return SimpleNamespace(split=lambda name: made, digest=digest, folder=Path("corpus"))


relaxed = settings(deadline=None, max_examples=60)
CORPORA = st.lists(st.lists(st.integers(3, 40), min_size=4, max_size=20), min_size=1, max_size=4)


@st.composite
def setups(draw, **fixed):
    shards = draw(CORPORA)
    options = (
        dict(
            global_batch=draw(st.sampled_from([1, 2, 3, 4, 6])),
            seq_len=draw(st.integers(1, 16)),
            reset=draw(st.sampled_from(RESETS)),
            seed=draw(st.integers(0, 99)),
        )
        | fixed
    )
    assume((min(map(sum, shards)) - 1) // options["global_batch"] >= options["seq_len"])
    return fake_corpus(shards), dict(split="train") | options


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@relaxed
@given(setups())
def test_every_byte_but_the_first_and_the_tail_is_a_target_once(made):
    corpus, options = made
    loader, B, T = ShardLoader(corpus, **options), options["global_batch"], options["seq_len"]
    batches, total = list(loader), 0
    assert len(batches) == loader.steps_per_epoch and (loader.epoch, loader.step) == (1, 0)
    for shard in loader.order(0):
        n = (len(shard.data) - 1) // B
        steps, batches = batches[: -(-n // T)], batches[-(-n // T) :]
        assert all(batch.input_BT.shape == (B, T) for batch in steps[:-1])
        inputs, targets, resets = (torch.cat(parts, 1) for parts in zip(*steps, strict=True))
        assert inputs.flatten().tolist() == shard.data[: B * n].tolist()
        assert targets.flatten().tolist() == shard.data[1 : B * n + 1].tolist()
        expected = {b * n for b in range(B)} if options["reset"] != "never" else set()
        if options["reset"] == "review":
            expected |= {int(start) for start in shard.starts if start < B * n}
        assert set(resets.flatten().nonzero()[:, 0].tolist()) == expected
        total += B * n
    assert not batches and loader.bytes_per_epoch == total
    assert (inputs.dtype, targets.dtype, resets.dtype) == (torch.int64, torch.int64, torch.bool)


@relaxed
@given(setups(global_batch=6), st.sampled_from([2, 3, 6]))
def test_ranks_put_together_are_the_one_rank_batch(made, world_size):
    corpus, options = made
    ranks = [ShardLoader(corpus, **options, rank=r, world_size=world_size) for r in range(world_size)]
    one = ShardLoader(corpus, **options)
    for whole, *parts in zip(one, *ranks, strict=True):
        assert equal(whole, (torch.cat(x) for x in zip(*parts, strict=True)))
    assert {r.bytes_per_epoch for r in ranks} == {one.bytes_per_epoch}


def epochs(loader, n):
    while loader.epoch < n:
        yield from loader


@relaxed
@given(setups(global_batch=2), st.data())
def test_save_and_restore_at_any_step_continues_exactly(made, data):
    corpus, options = made
    straight = list(epochs(ShardLoader(corpus, **options), 3))
    at = data.draw(st.integers(0, len(straight)))
    stopped = ShardLoader(corpus, **options)
    before = list(islice(epochs(stopped, 3), at))
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = [ShardLoader(corpus, **options, rank=r, world_size=2) for r in range(2)]
    for rank in resumed:
        rank.load_state_dict(state)
    after = [[torch.cat(x) for x in zip(*parts, strict=True)] for parts in zip(*(epochs(r, 3) for r in resumed))]  # noqa: B905
    assert len(before) + len(after) == len(straight)
    assert all(map(equal, straight, before + after))


def test_prefetched_but_unread_batches_do_not_count():
    loader = ShardLoader(fake_corpus([[50]]), "train", 1, 10)
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict()["step"] == 2
    batches.close()
    assert torch.equal(next(iter(loader)).input_BT[0], torch.from_numpy(loader.shards[0].data[20:30].astype(np.int64)))


@relaxed
@given(st.integers(0, 50), st.integers(2, 8))
def test_each_epoch_is_a_permutation_that_all_ranks_share(seed, n):
    loaders = [ShardLoader(fake_corpus([[20]] * n), "train", 2, 4, rank=r, world_size=2, seed=seed) for r in range(2)]
    orders = [[[s.name for s in loader.order(e)] for e in range(12)] for loader in loaders]
    assert orders[0] == orders[1]
    assert all(sorted(order) == sorted(orders[0][0]) for order in orders[0])
    assert len({tuple(order) for order in orders[0]}) > 1


@relaxed
@given(CORPORA, st.integers(1, 400), st.integers(1, 300), st.sampled_from([1, 2, 4]))
def test_a_refused_batch_comes_with_one_that_works(shards, lanes, seq_len, world_size):
    corpus, lanes = fake_corpus(shards), lanes * world_size
    try:
        check_lanes(corpus, "train", lanes, seq_len, world_size)
    except KitError as error:
        if "global_batch <= " in str(error):
            most = int(str(error).split("global_batch <= ")[1].split()[0])
            check_lanes(corpus, "train", most, seq_len, world_size)
        if "seq_len <= " in str(error):
            check_lanes(corpus, "train", lanes, int(str(error).split("seq_len <= ")[1].split()[0]), world_size)
    else:
        assert (min(map(sum, shards)) - 1) // lanes >= seq_len


def test_lanes_too_short_say_what_to_take():
    with pytest.raises(
        KitError, match=r"train/00001 has 90 bytes, 11 for each of 8 .* global_batch <= 4 or seq_len <= 11"
    ):
        ShardLoader(fake_corpus([[100], [90]]), "train", 8, 20)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(reset="book"), "reset='book' is unknown; take one of: shard, review, never"),
        (dict(global_batch=3, world_size=2), "global_batch=3"),
        (dict(global_batch=0), "global_batch=0"),
        (dict(seq_len=0), "seq_len=0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(KitError, match=message):
        ShardLoader(fake_corpus([[100]]), "train", **dict(global_batch=2, seq_len=4) | options)


@pytest.mark.parametrize("change", [dict(seq_len=5), dict(global_batch=4), dict(reset="review"), dict(seed=1)])
def test_a_position_of_another_run_is_refused(change):
    base = dict(split="train", global_batch=2, seq_len=4)
    state = ShardLoader(fake_corpus([[100]]), **base).state_dict()
    with pytest.raises(KitError, match=f"{[*change][0]}=.*use the same settings"):
        ShardLoader(fake_corpus([[100]]), **base | change).load_state_dict(state)
    with pytest.raises(KitError, match="corpus='d' "):
        ShardLoader(fake_corpus([[100]], digest="e"), **base).load_state_dict(state)
