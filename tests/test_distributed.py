"""Ranks that agree to the bit, and launches that end with one sentence and leave nobody behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist
from forks import run_ranks

from sentiment_kit.data.files import KitError, write_json
from sentiment_kit.model.mlstm import MLSTMState
from sentiment_kit.training import agreement, distributed
from sentiment_kit.training.agreement import check_same, fingerprint, others_wait
from sentiment_kit.training.distributed import (
    Extras,
    GradientReducer,
    World,
    gather_lanes,
    join_world,
    total,
)
from sentiment_kit.training.launcher import run_processes
from sentiment_kit.training.rank_notes import failure, root_cause

SHAPES = [(3, 5), (7,), (), (2, 1, 4)]


def gradients_of(rank, dtype=torch.float32):
    draw = torch.Generator().manual_seed(rank)
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in SHAPES]


# ---- what the ranks do: run in processes of their own, which import this file


def assert_nobody_gets_in():
    "Ports of the ranks here and of their launcher answer to 127.0.0.1 and to no other address."
    launcher, others = psutil.Process(os.getppid()), ["127.0.0.2"]
    for network in psutil.net_if_addrs().values():
        ipv4 = (place.address for place in network if place.family == socket.AF_INET)
        others += [address for address in ipv4 if not address.startswith("127.")]
    family = [launcher, *launcher.children(recursive=True)]
    places = [c.laddr for p in family for c in p.net_connections("inet") if c.status == "LISTEN"]
    assert len(places) > 2, "a store, and a port of each rank"
    assert {address for address, _ in places} == {"127.0.0.1"}
    for _, port in places:
        for address in others:
            with pytest.raises(OSError):
                socket.create_connection((address, port), timeout=5)


def coarse_of(gradients):
    return [g.clone() for g in gradients]


def agree(state):
    "Every collective against its meaning, computed alone; then doubled lanes, put together again."
    with join_world("cpu", timeout=60) as world:
        rank, size = world.rank, world.world_size
        every = [gradients_of(r) for r in range(size)]
        mean = [sum(parts) / size for parts in zip(*every, strict=True)]
        reducer, marks = GradientReducer(world), []
        for _ in range(3):
            mine = [g.clone() for g in every[rank]]
            out = reducer.reduce_step(
                mine, Extras(torch.tensor(2.5), 100_001, overflow=torch.tensor(rank == 1))
            )
            marks.append(fingerprint(mine))
            check_same(world, marks[-1], "the averaged gradients")
            assert out == Extras(2.5 * size, 100_001 * size, overflow=True, stop=False)
            same = (
                torch.equal if size == 2 else torch.allclose
            )  # two numbers have one order, four have several
            assert all(same(a, b) for a, b in zip(mine, mean, strict=True))
        assert len(set(marks)) == 1, "the same numbers, summed in the same order every time"
        assert len(reducer.buffers) == 1, "one buffer, one message"

        whole = [
            torch.full(shape, float(rank + 1)) for shape in SHAPES
        ]  # sums of small integers are exact
        out = reducer.reduce_step(whole, Extras(float("nan") if rank else 1.0, 7, stop=rank == 0))
        assert all(torch.equal(g, torch.full_like(g, (size + 1) / 2)) for g in whole)
        assert out.nats != out.nats and out[2:] == (False, True, None, None)
        out = GradientReducer(world).reduce_step(whole, Extras(1.0, 7, weight=rank + 0.5))
        assert out == Extras(size, 7 * size, weight=size * size / 2)
        sums = torch.tensor([rank + 0.5, 2.0, 3.0, 4.0 * rank], dtype=torch.float64)
        want = [size * size / 2, 2.0 * size, 3.0 * size, 2.0 * size * (size - 1)]
        for weight in (None, 3.0):
            more = Extras(1.0, 7, weight=weight, parts=sums)
            out = GradientReducer(world, torch.bfloat16).reduce_step(coarse_of(every[rank]), more)
            assert out == Extras(size, 7 * size, weight=weight and weight * size, parts=want)

        double = [g.double() for g in every[rank]]
        GradientReducer(world).reduce_step(double, Extras(0.0, 1))
        for a, parts in zip(double, zip(*every, strict=True), strict=True):
            torch.testing.assert_close(
                a, sum(p.double() for p in parts) / size, rtol=1e-14, atol=1e-14
            )

        coarse, halves = [g.clone() for g in every[rank]], GradientReducer(world, torch.bfloat16)
        out = halves.reduce_step(coarse, Extras(2.5, 100_001, stop=True))
        assert out == Extras(2.5 * size, 100_001 * size, stop=True), (
            "the extras are not rounded to bfloat16"
        )
        for a, b in zip(coarse, mean, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)

        with pytest.raises(KitError, match="give every rank as many"):
            reducer.reduce_step(whole, Extras(0.0, rank + 1))
        with pytest.raises(KitError, match="the weights: rank 1 differs from rank 0"):
            check_same(world, fingerprint([torch.ones(2) * (rank == 1)]), "the weights")
        assert total(world, 2.0**60, rank) == [size * 2.0**60, size * (size - 1) / 2]

        if rank == 0 and size == 2 and sys.platform == "linux":
            assert_nobody_gets_in()
        total(world, 0)  # the others keep their ports open until then

        h_LBH, c_LBH = (t.chunk(size, dim=1)[rank] for t in torch.tensor(state))
        state = gather_lanes(MLSTMState(h_LBH * 2, c_LBH * 3), world)
        assert (state is None) == (rank > 0)
        lanes = None if state is None else [t.tolist() for t in state]
    assert not dist.is_initialized()
    return lanes


def leave_pid(folder):
    Path(folder, f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))


def go_wrong(folder, how, timeout):
    "Rank 1 does something it should not while rank 0 waits for it."
    leave_pid(folder)
    with join_world("cpu", timeout) as world:
        total(world, 1)
        if world.rank == 1:
            if how == "raises":
                raise ValueError("no such lane")
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "is deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        total(world, 1)


def count_until_stopped(folder):
    "What a trainer does: a signal raises a flag, flags are summed, all stop after the same step."
    stop = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    with join_world("cpu", timeout=60) as world:
        leave_pid(folder)
        reducer, step = GradientReducer(world), 0
        while True:
            step += 1
            if world.rank == 0 and step == 1:
                print("under way\nzwölf ½", flush=True)
            time.sleep(0.01 * world.rank)
            if reducer.reduce_step([torch.zeros(2)], Extras(0.0, 1, stop=bool(stop))).stop:
                check_same(world, f"{step:064x}", "the step of the stop")
                Path(folder, f"{world.rank}.saved").write_text(str(step))
                return step


def ignore_everything(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave_pid(folder)
    print("deaf", flush=True)
    time.sleep(600)


def add_ranks(folder, fail=None):
    leave_pid(folder)
    with join_world("cpu", timeout=60) as world:
        if world.rank == fail:
            raise ValueError("no such lane")
        return [world.world_size, *total(world, world.rank)]


# ---- watching them


def alive(pid):
    "Whether the process still runs; a dead one whose parent has not asked for it yet does not."
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        if not Path("/proc").is_dir():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                return True
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def ranks(folder):
    return [int(path.read_text()) for path in folder.glob("*.pid") if path.read_text()]


def assert_nobody_left(folder, expected=2):
    assert len(ranks(folder)) == expected
    wait_for(lambda: not any(map(alive, ranks(folder))), seconds=5)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def start(folder, target, **options):
    "`run_processes` called from a script of its own, which can be killed."
    call = f"run_processes('test_distributed:{target}', 2, [{str(folder)!r}], **{options!r})"
    code = f"from sentiment_kit.training.launcher import run_processes\nprint('result', {call})"
    env = dict(
        os.environ, PYTHONPATH=str(Path(__file__).parent), PYTHONUTF8="1", TMPDIR=str(folder)
    )
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    return subprocess.Popen([sys.executable, "-u", "-c", code], env=env, **pipes)


# ---- sums and lanes


def test_ranks_agree_and_lanes_survive_a_change_of_their_number():
    "1 → 2 → 4 ranks: the lanes come out as if one process had kept them."
    state = torch.randn(2, 1, 8, 3).tolist()
    two = run_processes("test_distributed:agree", 2, [state])
    four = run_ranks(agree, 4, [two])
    want = torch.tensor(state) * torch.tensor([4.0, 9.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(torch.tensor(four), want)


def test_alone_nothing_is_touched_or_allocated():
    with join_world("cpu") as world:
        gradients, reducer = gradients_of(0), GradientReducer(world)
        out = reducer.reduce_step(
            gradients, Extras(torch.tensor(1.5), 3, overflow=torch.tensor(True))
        )
        assert (
            out == Extras(1.5, 3, overflow=True)
            and isinstance(out.nats, float)
            and out.overflow is True
        )
        assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_of(0), strict=True))
        state = MLSTMState(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
        assert (
            gather_lanes(state, world) is state
            and total(world, 3) == [3.0]
            and reducer.buffers == []
        )
        check_same(world, "0" * 64, "nothing")
    assert world == World() and not dist.is_initialized()


def test_a_fingerprint_sees_one_bit_and_every_type():
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool):
        tensors = [torch.zeros(3, 4, dtype=dtype), torch.ones((), dtype=dtype)]
        changed = [tensors[0].clone(), tensors[1]]
        changed[0][2, 1] = 1
        assert (
            fingerprint(tensors)
            == fingerprint([t.clone() for t in tensors])
            != fingerprint(changed)
        )
    assert fingerprint([torch.zeros(2)]) != fingerprint([torch.zeros(2), torch.zeros(2)])


# ---- what can go wrong


@pytest.mark.parametrize(
    "how, said",
    [
        ("raises", "rank 1 of 2 failed: ValueError: no such lane; its last lines:"),
        ("is killed", "rank 1 of 2 was killed by SIGKILL, by somebody or for want of memory"),
        ("hangs", "rank 0 of 2 failed: rank 0 lost the others while summing figures: "),
        pytest.param(
            "is deaf", "rank 0 of 2 failed: rank 0 lost the others", marks=pytest.mark.slow
        ),
    ],
)
def test_a_rank_that_fails_is_named_and_nobody_is_left(tmp_path, how, said):
    with pytest.raises(KitError) as caught:
        run_processes(
            "test_distributed:go_wrong",
            2,
            [str(tmp_path), how, 3 if said.startswith("rank 0") else 60],
            logs=tmp_path,
        )
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(said)
    if how == "raises":
        assert "in go_wrong" in "".join(rest) and rest[-1] == "  ValueError: no such lane"
        assert "ValueError: no such lane" in (tmp_path / "rank-1.log").read_text()
    if said.startswith("rank 0"):
        assert first.endswith("no word from rank 1") and not rest
    assert_nobody_left(tmp_path)


def test_asked_to_stop_all_ranks_finish_the_same_step(tmp_path):
    script = start(tmp_path, "count_until_stopped")
    wait_for(lambda: len(ranks(tmp_path)) == 2, 60)
    assert script.stdout.readline() == "under way\n", "rank 0 is heard while it works"
    assert script.stdout.readline() == "zwölf ½\n"
    script.send_signal(signal.SIGINT)
    out, error = script.communicate(timeout=30)
    saved = [(tmp_path / f"{rank}.saved").read_text() for rank in range(2)]
    assert script.returncode == 0, error
    assert saved[0] == saved[1] and f"result {saved[0]}" in out
    assert_nobody_left(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_parent_leaves_nobody_and_the_ranks_save(tmp_path):
    script = start(tmp_path, "count_until_stopped")
    wait_for(lambda: len(ranks(tmp_path)) == 2, 60)
    assert script.stdout.readline() == "under way\n"
    launcher = parent_of(ranks(tmp_path)[0])
    script.kill()
    script.wait()
    wait_for(lambda: not any(map(alive, [launcher, *ranks(tmp_path)])), seconds=10)
    assert (tmp_path / "0.saved").read_text() == (tmp_path / "1.saved").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("victim", ["parent and launcher", "launcher"])
def test_killed_launchers_take_even_deaf_ranks_with_them(tmp_path, victim):
    script = start(tmp_path, "ignore_everything")
    wait_for(lambda: len(ranks(tmp_path)) == 2, 60)
    launcher = parent_of(ranks(tmp_path)[0])
    if victim == "parent and launcher":
        script.kill()
    os.kill(launcher, signal.SIGKILL)
    assert_nobody_left(tmp_path)
    out, error = script.communicate(timeout=10)
    assert victim != "launcher" or "torchrun was killed by SIGKILL" in error


@pytest.mark.slow
def test_a_second_interrupt_ends_deaf_ranks(tmp_path):
    script = start(tmp_path, "ignore_everything", grace=300)
    wait_for(lambda: len(ranks(tmp_path)) == 2, 60)
    script.send_signal(signal.SIGINT)
    time.sleep(2)
    assert all(map(alive, ranks(tmp_path)))
    script.send_signal(signal.SIGINT)
    _, error = script.communicate(timeout=10)
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert_nobody_left(tmp_path)


@pytest.mark.slow
def test_grace_is_kept(tmp_path):
    script = start(tmp_path, "ignore_everything", grace=2)
    wait_for(lambda: len(ranks(tmp_path)) == 2, 60)
    script.terminate()
    _, error = script.communicate(timeout=20)
    assert "KitError: stopped by SIGTERM before all ranks were done" in error
    assert_nobody_left(tmp_path)


@pytest.mark.slow
def test_an_error_in_the_caller_leaves_nobody(tmp_path, monkeypatch):
    def sleep(seconds):
        time.sleep(seconds)
        if len(ranks(tmp_path)) == 2:
            raise ZeroDivisionError

    monkeypatch.setattr(
        "sentiment_kit.training.launcher.time",
        SimpleNamespace(sleep=sleep, monotonic=time.monotonic),
    )
    with pytest.raises(ZeroDivisionError):
        run_processes("test_distributed:ignore_everything", 2, [str(tmp_path)])
    assert_nobody_left(tmp_path)


@pytest.fixture
def endpoint():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("fail", [None, 3])
def test_two_nodes(tmp_path, endpoint, fail):
    "Two launchers on one machine meet at a port; four ranks in all."

    def node(_):
        try:
            return run_processes(
                "test_distributed:add_ranks", 2, [str(tmp_path), fail], nnodes=2, endpoint=endpoint
            )
        except KitError as error:
            return str(error).splitlines()[0]

    with ThreadPoolExecutor(2) as pool:
        said = sorted(map(str, pool.map(node, range(2))))
    if fail is None:
        assert said == ["[4, 6.0]"] * 2
    else:
        assert sum("rank 3 of 4 failed: ValueError: no such lane" in s for s in said) == 1
        assert sum("lost the others" in s and "another node" in s for s in said) == 1
    assert_nobody_left(tmp_path, expected=4)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_stop_on_one_node_is_a_stop_on_both(tmp_path, endpoint, which):
    nodes = [start(tmp_path, "count_until_stopped", nnodes=2, endpoint=endpoint) for _ in range(2)]
    wait_for(lambda: len(ranks(tmp_path)) == 4, 90)
    nodes[which].terminate()
    said = [node.communicate(timeout=40) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    saved = {(tmp_path / f"{rank}.saved").read_text() for rank in range(4)}
    assert len(saved) == 1 and all(f"result {min(saved)}" in out for out, _ in said)
    assert_nobody_left(tmp_path, expected=4)


# ---- what is refused, and who is blamed


@pytest.mark.parametrize(
    "target, said",
    [
        ("__main__:train", "cannot be imported; move train to a .py file"),
        ("no_such_module:f", "cannot import 'no_such_module:f'"),
        ("math:no_such_function", "cannot import 'math:no_such_function'"),
        ("math", "write module:function"),
    ],
)
def test_a_target_that_no_process_could_import(target, said):
    with pytest.raises(KitError, match=said):
        run_processes(target, 2)


@pytest.mark.parametrize(
    "options", [{"nproc": 0}, {"nproc": 2, "nnodes": 2}, {"nproc": 2, "endpoint": "here:1"}]
)
def test_a_launch_that_cannot_be(options):
    with pytest.raises(KitError, match="several nodes need an endpoint"):
        run_processes("os:getpid", **options)


@pytest.mark.parametrize("endpoint", ["", ":29400", "node0:http", "node0:70000", "a b:1", "::1:3"])
def test_an_endpoint_that_is_none(endpoint):
    with pytest.raises(KitError, match="write host:port"):
        run_processes("os:getpid", 1, nnodes=2, endpoint=endpoint)


def test_a_kit_error_of_a_rank_stays_one_sentence(tmp_path):
    said = "reviews.csv has no column 'text'; name another"
    note = {
        "pid": 1,
        "time": 1.0,
        "error": f"KitError: {said}",
        "sentence": said,
        "lost": False,
        "traceback": "…",
    }
    write_json(tmp_path / "rank-1.json", note)
    write_json(tmp_path / "rank-0.json", {"pid": 2, "result": None})
    assert str(failure(tmp_path, tmp_path, {}, 1, 2, [])) == f"rank 1 of 2 failed: {said}"
    assert (
        str(failure(tmp_path, tmp_path, {}, 1, 2, [signal.SIGTERM]))
        == f"rank 1 of 2 failed: {said}"
    )


def test_an_interrupt_is_not_a_failure_of_the_ranks(tmp_path):
    write_json(tmp_path / "rank-0.json", {"pid": 2})
    assert isinstance(failure(tmp_path, tmp_path, {}, 1, 2, [signal.SIGINT]), KeyboardInterrupt)
    assert "stopped by SIGTERM" in str(failure(tmp_path, tmp_path, {}, 1, 2, [signal.SIGTERM]))


def test_a_launcher_that_fails_shows_its_own_log_of_this_launch(tmp_path):
    (tmp_path / "launcher.log").write_text(
        "an older launch\nmany lines\nRendezvousTimeoutError: nobody came\n"
    )
    said = str(failure(tmp_path, tmp_path, {"launcher.log": len("an older launch\n")}, 1, 4, []))
    assert (
        said == "torchrun ended with status 1; its last lines:\n  many lines\n"
        "  RendezvousTimeoutError: nobody came"
    )


def test_a_rank_that_waited_in_vain_is_not_to_blame(tmp_path):
    "NCCL's watchdog kills whoever waits; the rank that hangs is ended by torchrun, without a word."
    for rank in (0, 1):
        write_json(tmp_path / f"rank-{rank}.json", {"pid": 1})
    codes = ((0, -signal.SIGABRT, 600.0), (1, -signal.SIGTERM, 600.5))
    exits = [{"rank": rank, "code": code, "noticed": noticed} for rank, code, noticed in codes]
    write_json(tmp_path / "exits.json", exits)
    old = "an older launch: Watchdog caught collective operation timeout\n"
    (tmp_path / "rank-0.log").write_text(old + "what(): [PG ID 0] Watchdog caught collective ope")
    before = {"rank-0.log": len(old)}
    assert "rank 0 of 2 was killed by SIGABRT" in str(failure(tmp_path, tmp_path, before, 1, 2, []))
    with open(tmp_path / "rank-0.log", "a") as log:
        log.write("ration timeout: WorkNCCL(SeqNum=41, OpType=ALLREDUCE) ran for 600012 ms\n")
    said = str(failure(tmp_path, tmp_path, before, 1, 2, []))
    assert "NCCL's watchdog ended it; no word from rank 1" in said


def new_group(calls):
    return SimpleNamespace(abort=lambda: calls.append("abort"))


def group_of_torch_2_6(calls):
    backend = SimpleNamespace(_abort=lambda: calls.append("abort"))
    return SimpleNamespace(_get_backend=lambda device: backend)


@pytest.mark.parametrize("make_group", [new_group, group_of_torch_2_6, lambda calls: None])
def test_leaving_after_an_error_does_not_hide_it(monkeypatch, make_group):
    calls = []
    fake = SimpleNamespace(
        group=SimpleNamespace(WORLD=make_group(calls)),
        init_process_group=lambda *args, **kwargs: None,
        destroy_process_group=lambda: calls.append("destroy"),
    )
    monkeypatch.setattr(distributed, "dist", fake)
    place = World(1, 2, 1, torch.device("cuda", 1))
    monkeypatch.setattr(distributed, "world_of_environment", lambda device: place)
    with pytest.raises(ZeroDivisionError), join_world("cuda"):
        1 / 0  # noqa: B018
    assert calls == ([] if fake.group.WORLD is None else ["abort", "destroy"])


def test_signs_of_life_while_rank_0_works(monkeypatch):
    sent = []
    monkeypatch.setattr(agreement, "BEAT", 0.01)
    monkeypatch.setattr(agreement, "total", lambda world, n: sent.append(n) or [n])
    with pytest.raises(ZeroDivisionError), others_wait(World(0, 2)) as ours:
        while len(sent) < 3:
            time.sleep(0.01)
        assert ours
        1 / 0  # noqa: B018
    assert sent[-1] == 0 and set(sent[:-1]) == {1}, "the others are told that it is over"
    answers = iter([[1.0], [1.0], [0.0]])
    monkeypatch.setattr(agreement, "total", lambda world, n: next(answers))
    with others_wait(World(1, 2)) as ours:
        assert not ours
    assert next(answers, None) is None, "rank 1 waited until then"


def work_longer_than_the_timeout():
    agreement.BEAT = 0.3
    with join_world("cpu", timeout=2) as world:
        with others_wait(world) as ours:
            time.sleep(4 if ours else 0)
        return total(world, 1)


@pytest.mark.slow
def test_the_others_wait_longer_than_the_timeout():
    assert run_ranks(work_longer_than_the_timeout, 2) == [2.0]


def test_who_is_to_blame():
    def error(at, what="ValueError: x", lost=False):
        return {"time": at, "error": what, "lost": lost, "sentence": what if lost else None}

    def exits(*codes):
        return [{"rank": rank, "code": code, "noticed": noticed} for rank, code, noticed in codes]

    lost = error(1.0, "rank 0 lost the others", lost=True)
    blamed = {
        "the first, not the lowest": root_cause({0: error(2.01), 1: error(2.0)}, []),
        "an echo came first": root_cause({0: lost, 1: error(5.0)}, exits((0, 1, 1), (1, 1, 5))),
        "killed, not those who lost it": root_cause({0: lost, 1: {}}, exits((0, 1, 1), (1, -9, 2))),
        "killed by torchrun 30 s later": root_cause(
            {0: lost, 1: {}}, exits((0, 1, 1), (1, -9, 31))
        ),
        "ended by torchrun at once": root_cause({0: lost, 1: {}}, exits((0, 1, 1), (1, -15, 1))),
        "crashed": root_cause({0: lost, 1: {}}, exits((1, -11, 1), (0, 1, 1))),
        "gone with a status": root_cause({0: {}, 1: {}}, exits((1, 3, 1), (0, -15, 1))),
        "elsewhere": root_cause({2: lost, 3: error(1.5, "rank 3 lost the others", lost=True)}, []),
        "nobody": root_cause({}, []),
    }
    assert {case: rank for case, (rank, _) in blamed.items()} == {
        "the first, not the lowest": 1,
        "an echo came first": 1,
        "killed, not those who lost it": 1,
        "killed by torchrun 30 s later": 0,
        "ended by torchrun at once": 0,
        "crashed": 1,
        "gone with a status": 1,
        "elsewhere": 2,
        "nobody": None,
    }
    assert "no word from rank 1" in blamed["killed by torchrun 30 s later"][1]
    assert "another node" in blamed["elsewhere"][1]
    assert "SIGSEGV" in blamed["crashed"][1] and "status 3" in blamed["gone with a status"][1]
