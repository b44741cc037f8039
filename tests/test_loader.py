"""Every byte as promised: once, in order, with resets in the right places, on any rank count,
from any position."""

import json
import shutil
import threading
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sentiment_kit.data import loader as loader_module
from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.datasets import SAMPLE_KEYS, SAMPLES
from sentiment_kit.data.files import KitError
from sentiment_kit.data.loader import RESETS, Batch, ShardLoader, check_lanes, prefetch
from sentiment_kit.data.shards import make_shards
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.loss import cross_entropy


def fake_corpus(shards, digest="d"):
    "A corpus in memory: `shards` is a list of lists of review lengths; bytes are random."
    rng, made = np.random.default_rng(len(shards)), []
    for i, lengths in enumerate(shards):
        starts = np.cumsum([0, *lengths[:-1]], dtype=np.uint64)
        data = rng.integers(0, 256, sum(lengths)).astype(np.uint8)
        made.append(
            SimpleNamespace(name=f"train/{i:05d}", n_bytes=len(data), data=data, starts=starts)
        )
    return SimpleNamespace(split=lambda name: made, digest=digest, folder=Path("corpus"))


relaxed = settings(deadline=None, max_examples=60)
CORPORA = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=20), min_size=1, max_size=4)
LANES = st.sampled_from([1, 2, 3, 4, 6])


@st.composite
def setups(draw, lanes=LANES):
    shards, B = draw(CORPORA), draw(lanes)
    shortest = (min(map(sum, shards)) - 1) // B
    assume(shortest > 0)
    how = dict(seq_len=draw(st.integers(1, min(shortest, 16))), reset=draw(st.sampled_from(RESETS)))
    return fake_corpus(shards), dict(
        split="train", global_batch=B, seed=draw(st.integers(0, 99))
    ) | how


def naive_epoch(shards, B, T, reset):
    """Batches as lists [B][T] of (input, target, reset), one byte after the other: the
    specification once more."""
    for shard in shards:
        data, starts = shard.data.tolist(), set(shard.starts.tolist())
        n = (len(data) - 1) // B
        for first in range(0, n, T):
            lanes = []
            for b in range(B):
                places = range(b * n + first, b * n + min(first + T, n))
                anew = {"never": set(), "shard": {b * n}, "review": {b * n, *starts}}[reset]
                lanes.append([(data[p], data[p + 1], p in anew) for p in places])
            yield lanes


def as_lists(batch):
    return [
        list(zip(*lanes, strict=True)) for lanes in zip(*(x.tolist() for x in batch), strict=True)
    ]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def epochs(loader, n):
    while loader.epoch < n:
        yield from loader


def together(ranks, n):
    "The batches of all ranks, put side by side, up to epoch `n`."
    for parts in zip(*(epochs(rank, n) for rank in ranks), strict=True):
        yield Batch(*(torch.cat(x) for x in zip(*parts, strict=True)))


@relaxed
@given(setups())
def test_batches_are_what_a_naive_reading_gives(made):
    corpus, options = made
    loader, B, T = ShardLoader(corpus, **options), options["global_batch"], options["seq_len"]
    for epoch in range(2):
        batches, slow = list(loader), list(naive_epoch(loader.order(epoch), B, T, options["reset"]))
        assert [as_lists(batch) for batch in batches] == slow
        assert (len(batches), loader.epoch, loader.step) == (loader.steps_per_epoch, epoch + 1, 0)
        assert sum(batch.target_BT.numel() for batch in batches) == loader.bytes_per_epoch
    assert [x.dtype for x in batches[0]] == [torch.int64, torch.int64, torch.bool]
    assert all(x.is_contiguous() for x in batches[0])


@relaxed
@given(setups())
def test_every_byte_but_the_first_and_the_tail_is_a_target_once(made):
    corpus, options = made
    loader, B, T = ShardLoader(corpus, **options), options["global_batch"], options["seq_len"]
    batches = iter(loader)
    for shard in loader.order(0):
        n = (shard.n_bytes - 1) // B
        target_Bn = torch.cat([batch.target_BT for batch in islice(batches, -(-n // T))], dim=1)
        assert target_Bn.flatten().tolist() == shard.data[1 : B * n + 1].tolist()
        assert shard.n_bytes - 1 - B * n < B
    assert next(batches, None) is None


@relaxed
@given(setups(lanes=st.just(6)), st.sampled_from([2, 3, 6]))
def test_ranks_put_together_are_the_one_rank_batch(made, world_size):
    corpus, options = made
    ranks = [
        ShardLoader(corpus, **options, rank=r, world_size=world_size) for r in range(world_size)
    ]
    one = ShardLoader(corpus, **options)
    for whole, parts in zip(one, together(ranks, 1), strict=True):
        assert equal(whole, parts)
    assert {r.bytes_per_epoch for r in ranks} == {one.bytes_per_epoch}


@relaxed
@given(
    setups(lanes=st.just(6)),
    st.sampled_from([1, 2, 3, 6]),
    st.sampled_from([1, 2, 3, 6]),
    st.booleans(),
    st.data(),
)
def test_save_and_restore_at_any_step_continues_exactly(made, before, after, ahead, data):
    """In any of three epochs, also at their ends, on other ranks, with batches made ahead or
    not; more than once."""
    corpus, options = made
    straight = list(epochs(ShardLoader(corpus, **options), 3))
    cuts = data.draw(st.lists(st.integers(0, len(straight)), max_size=3).map(sorted))
    read, state = [], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module, "copy_to", lambda batch, device: batch)
        for n, cut in enumerate([*cuts, len(straight)]):
            how = dict(world_size=after if n % 2 else before, device="cuda" if ahead else "cpu")
            ranks = [
                ShardLoader(corpus, **options, rank=r, **how) for r in range(how["world_size"])
            ]
            for rank in ranks if state else ():
                rank.load_state_dict(state)
            read += islice(together(ranks, 3), cut - len(read))
            states = [json.loads(json.dumps(rank.state_dict())) for rank in ranks]
            assert all(s == states[0] for s in states)
            state = states[0]
    assert len(read) == len(straight) and all(map(equal, read, straight))


@relaxed
@given(st.integers(0, 50), st.integers(2, 8))
def test_each_epoch_is_a_permutation_that_all_ranks_share(seed, n):
    loaders = [
        ShardLoader(fake_corpus([[20]] * n), "train", 2, 4, rank=r, world_size=2, seed=seed)
        for r in range(2)
    ]
    orders = [[[s.name for s in loader.order(e)] for e in range(12)] for loader in loaders]
    assert orders[0] == orders[1]
    assert all(sorted(order) == sorted(orders[0][0]) for order in orders[0])
    assert len({tuple(order) for order in orders[0]}) > 1


def test_the_permutation_of_a_seed_stays_as_it_is():
    """Checkpoints hold a position in it: another one would silently repeat some bytes and
    leave out others."""
    corpus = fake_corpus([[20]] * 5)
    orders = [ShardLoader(corpus, "train", 2, 4, seed=seed).order(1) for seed in (0, 1)]
    assert [[int(shard.name[-1]) for shard in order] for order in orders] == [
        [2, 3, 1, 0, 4],
        [3, 0, 2, 1, 4],
    ]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader") / "corpus"
    return make_shards(SAMPLES, folder, counts=(3, 1, 1), **SAMPLE_KEYS)


def test_batches_from_files(samples):
    loader = ShardLoader(samples, "train", 4, 100, reset="review")
    assert [as_lists(b) for b in loader] == list(naive_epoch(loader.order(0), 4, 100, "review"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the list of maps is Linux's")
def test_one_shard_is_mapped_at_a_time(samples, tmp_path):
    """Mapped pages count as the process's memory: a loader that kept its maps would grow to
    the size of the corpus."""
    folder, counts = shutil.copytree(samples.folder, tmp_path.resolve() / "corpus"), set()
    for _ in ShardLoader(open_corpus(folder), "train", 4, 256, reset="review"):
        lines = Path("/proc/self/maps").read_text().splitlines()
        counts.add(
            len(
                {
                    line.split()[-1]
                    for line in lines
                    if str(folder) in line and line.endswith(".bin")
                }
            )
        )
    assert counts == {1}


def test_batches_ahead_come_in_order_and_no_more_than_asked_for():
    made, third = [], threading.Event()

    def transfer(n):
        made.append(n)
        third.set() if len(made) == 3 else None
        return 10 * n

    batches = prefetch(iter(range(6)), transfer, depth=2)
    assert made == [], "nothing happens before the first is asked for"
    assert next(batches) == 0
    assert third.wait(10), "made while the first is still in use"
    time.sleep(0.05)
    assert made == [0, 1, 2]
    assert list(batches) == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("bad", ["reading", "transfer"])
def test_an_error_ahead_is_raised_in_its_turn(bad):
    def read():
        yield from (0, 1)
        if bad == "reading":
            raise OSError("the disk is gone")
        yield 2

    def transfer(n):
        if n == 2:
            raise OSError("the disk is gone")
        return n

    batches = prefetch(read(), transfer, depth=4)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_what_is_ahead_does_not_count_and_ends_with_its_iterator(monkeypatch):
    moved, threads = [], threading.active_count()
    monkeypatch.setattr(
        loader_module, "copy_to", lambda batch, device: moved.append(device) or batch
    )
    loader = ShardLoader(fake_corpus([[50]]), "train", 1, 10, device="cuda")
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict()["step"] == 2
    batches.close()
    assert (
        len(moved) == 4
        and set(moved) == {torch.device("cuda")}
        and threading.active_count() == threads
    )
    assert torch.equal(
        next(iter(loader)).input_BT[0],
        torch.from_numpy(loader.shards[0].data[20:30].astype(np.int64)),
    )


@pytest.mark.cuda
def test_batches_arrive_on_the_gpu(samples):
    here, there = (
        ShardLoader(samples, "train", 4, reset="review", device=device)
        for device in ("cpu", "cuda")
    )
    for a, b in zip(here, there, strict=True):
        assert all(x.is_cuda for x in b) and equal(a, (x.cpu() for x in b))


@pytest.mark.slow
def test_a_batch_costs_less_than_2_percent_of_a_step(samples):
    """Processor time of both, in turns, at H = 512 with 64 lanes; resets at every review,
    shards' beginnings included."""
    model = LanguageModel(LanguageModelConfig(hidden_size=512))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    loader, state, shares = ShardLoader(samples, "train", 64, 256, reset="review"), None, []

    def step(batch):
        nonlocal state
        logits_BTV, state = model(batch.input_BT, state, batch.reset_BT)
        cross_entropy(logits_BTV, batch.target_BT).backward()
        optimizer.step()
        optimizer.zero_grad()
        state = state.detach()

    for batch in [*loader][:4]:
        start = time.process_time()
        step(batch)
        between = time.process_time()
        n = sum(1 for _ in range(10) for _ in loader)
        shares.append((time.process_time() - between) / n / (between - start))
    print(f"shares of a step: {[f'{share:.4%}' for share in shares]}")
    assert max(shares) < 0.02


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
            check_lanes(
                corpus,
                "train",
                lanes,
                int(str(error).split("seq_len <= ")[1].split()[0]),
                world_size,
            )
    else:
        assert (min(map(sum, shards)) - 1) // lanes >= seq_len


def test_lanes_too_short_say_what_to_take():
    with pytest.raises(
        KitError,
        match=r"train/00001 has 90 bytes, 11 for each of 8 .* global_batch <= 4 or seq_len <= 11",
    ):
        ShardLoader(fake_corpus([[100], [90]]), "train", 8, 20)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(reset="book"), "reset='book' is unknown; take one of: shard, review, never"),
        (dict(global_batch=3, world_size=2), "global_batch=3"),
        (dict(global_batch=0), "global_batch=0"),
        (dict(seq_len=0), "seq_len=0"),
        (dict(rank=2, world_size=2), "rank=2 is none of 2 ranks; they count from 0 to 1"),
        (dict(rank=-1), "rank=-1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(KitError, match=message):
        ShardLoader(fake_corpus([[100]]), "train", **dict(global_batch=2, seq_len=4) | options)


@pytest.mark.parametrize(
    "change", [dict(seq_len=5), dict(global_batch=4), dict(reset="review"), dict(seed=1)]
)
def test_a_position_of_another_run_is_refused(change):
    base = dict(split="train", global_batch=2, seq_len=4)
    state = ShardLoader(fake_corpus([[100]]), **base).state_dict()
    with pytest.raises(KitError, match=f"{[*change][0]}=.*use the same settings"):
        ShardLoader(fake_corpus([[100]]), **base | change).load_state_dict(state)
    with pytest.raises(KitError, match="corpus='d' "):
        ShardLoader(fake_corpus([[100]], digest="e"), **base).load_state_dict(state)
