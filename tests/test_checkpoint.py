"""Checkpoints under damage, full disks and kills: what is found is whole, and is what was saved.

`--n 1000` (where the option exists) sets the number of damages and kills.
"""

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from forks import FORKS

from sentiment_kit.data.files import KitError, read_json, write_json
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.model.mlstm import MLSTMState
from sentiment_kit.training import checkpoint, checkpoint_writer, run_lock
from sentiment_kit.training.checkpoint import (
    clear_leftovers,
    find_damage,
    find_model,
    latest_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    save_checkpoint,
    step_folder,
    take_snapshot,
    verify_checkpoint,
    write_snapshot,
)
from sentiment_kit.training.checkpoint_writer import CheckpointWriter, prune_checkpoints

TINY = LanguageModelConfig(hidden_size=16, embed_size=8)


def make_run(config=TINY, lanes=4, device="cpu"):
    "A model, an optimizer and a state with something in each."
    torch.manual_seed(0)
    model = LanguageModel(config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    state = MLSTMState(
        *(torch.randn(config.n_layers, lanes, config.hidden_size, device=device) for _ in range(2))
    )
    return model, optimizer, state


def tensors(model, optimizer, state):
    return (
        model.state_dict()
        | optimizer_tensors(model, optimizer)
        | dict(zip("hc", state, strict=False))
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def fill(run, value):
    "Change everything in place, as training does."
    for t in tensors(*run).values():
        t.fill_(value)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def number(request, few):
    return request.config.getoption("--n", default=None) or few


# Damage


def test_every_byte_and_every_length_of_the_manifest_counts(tmp_path):
    folder = save_checkpoint(tmp_path, *make_run(), {"step": 1})
    path, good = folder / "manifest.json", (folder / "manifest.json").read_bytes()
    for at in range(len(good)):
        for bad in (good[:at], good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :]):
            path.write_bytes(bad)
            assert find_damage(folder) == "manifest.json", (at, bad)
    path.write_bytes(good)
    assert find_damage(folder) is None


def damaged(good, rng):
    "One bit turned, one byte replaced, the end cut off, or a byte too many."
    at, kind = rng.randrange(len(good)), rng.randrange(4)
    changed = [1 << rng.randrange(8), rng.randrange(1, 256)][kind % 2]
    turned = good[:at] + bytes([good[at] ^ changed]) + good[at + 1 :]
    return [turned, turned, good[:at], good + bytes([rng.randrange(256)])][kind]


def test_damage_anywhere_is_found_and_the_checkpoint_before_used(tmp_path, request, capsys):
    before, newest = (
        save_checkpoint(tmp_path, *make_run(), {"step": step, "loader": [0, step]})
        for step in (1, 2)
    )
    rng, paths, n = random.Random(0), sorted(newest.iterdir()), number(request, 50)
    assert len(paths) == 6
    for k in range(n):
        path = paths[k % len(paths)]
        good = path.read_bytes()
        path.write_bytes(damaged(good, rng))
        assert latest_checkpoint(tmp_path) == before, (path.name, path.read_bytes())
        assert f"{newest.name}/{path.name} is missing or damaged" in capsys.readouterr().out
        path.write_bytes(good)
    assert latest_checkpoint(tmp_path) == newest
    with capsys.disabled():
        print(f" [{n} damages, {n} found]", end="")


def test_missing_files_and_folders_that_are_no_checkpoints(tmp_path, capsys):
    before, newest = (save_checkpoint(tmp_path, *make_run(), {"step": step}) for step in (1, 2))
    (tmp_path / "step-000000003").mkdir()
    (tmp_path / "step-mine").mkdir()
    assert latest_checkpoint(tmp_path) == newest
    assert "step-000000003/manifest.json" in capsys.readouterr().out
    for name in names(newest):
        (newest / name).rename(tmp_path / "away")
        assert find_damage(newest) == name and latest_checkpoint(tmp_path) == before
        (newest / name).mkdir()  # cannot even be read
        assert find_damage(newest) == name
        (newest / name).rmdir()
        (tmp_path / "away").rename(newest / name)
    with pytest.raises(
        KitError, match="step-000000003/manifest.json is missing or damaged; delete that checkpoint"
    ):
        verify_checkpoint(tmp_path / "step-000000003")
    shutil.rmtree(before), shutil.rmtree(newest)
    with pytest.raises(KitError, match="no whole checkpoint"):
        find_model(tmp_path)


def test_manifests_of_version_1_open_and_of_a_later_one_do_not(tmp_path):
    folder = save_checkpoint(tmp_path, *make_run(), {"step": 1})
    files = read_json(folder / "manifest.json")["files"]
    write_json(folder / "manifest.json", {"version": 1, "files": files})
    assert verify_checkpoint(folder) == folder
    write_json(folder / "manifest.json", {"version": 3, "files": files})
    assert find_damage(folder) == "manifest.json"


# What is saved


def test_what_comes_back_is_what_was_there(tmp_path):
    run = make_run(lanes=6)
    want = {name: t.clone() for name, t in tensors(*run).items()}
    torch.manual_seed(7)
    folder = save_checkpoint(tmp_path, *run, {"step": 1, "scaler": {"scale": 0.1 + 0.2, "good": 3}})
    draws = torch.rand(5)
    model, optimizer, _ = make_run(lanes=6)
    fill((model, optimizer, ()), 9.0)
    _, state, trainer = load_checkpoint(folder, model, optimizer)
    assert torch.equal(torch.rand(5), draws)
    assert same(tensors(model, optimizer, state), want)
    assert trainer == {"step": 1, "scaler": {"scale": 0.1 + 0.2, "good": 3}}
    assert (folder / "model.safetensors").read_bytes() == content(
        run[0].save_pretrained(tmp_path / "m")
    )["model.safetensors"]
    assert (
        len({path.stat().st_mode for path in folder.iterdir()}) == 1
    )  # all readable by whom the umask lets


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_any_number_of_ranks_takes_its_lanes(tmp_path, ranks):
    model, optimizer, state = make_run(lanes=6)
    folder = save_checkpoint(tmp_path, model, optimizer, state, {"step": 1})
    each = 6 // ranks
    mine = [
        load_checkpoint(folder, model, None, range(r * each, (r + 1) * each)).state
        for r in range(ranks)
    ]
    assert torch.equal(torch.cat([s.h_LBH for s in mine], dim=1), state.h_LBH)
    assert torch.equal(torch.cat([s.c_LBH for s in mine], dim=1), state.c_LBH)


def test_an_optimizer_is_saved_by_name_whatever_its_order(tmp_path):
    model, optimizer, state = make_run()
    folder = save_checkpoint(tmp_path, model, optimizer, state, {"step": 1})
    groups = [
        {"params": [p for p in model.parameters() if (p.dim() == 1) == vectors]}
        for vectors in (True, False)
    ]
    other = torch.optim.Adam(groups, fused=True)
    load_checkpoint(folder, model, other)
    assert all(
        torch.equal(other.state[p]["exp_avg"], optimizer.state[p]["exp_avg"])
        for p in model.parameters()
    )
    fresh = torch.optim.Adam(model.parameters(), fused=True)  # before its first step it has nothing
    load_checkpoint(save_checkpoint(tmp_path, model, fresh, state, {"step": 0}), model, fresh)
    assert not fresh.state


# In the background


def test_background_files_equal_the_simple_ones_while_everything_changes(tmp_path, monkeypatch):
    changed, numbers, run = threading.Event(), {"step": 0, "since": [0]}, make_run()
    real, writer = checkpoint.save_file, CheckpointWriter(tmp_path / "background", keep=9)
    for step in (1, 2, 3):
        fill(run, step)
        numbers |= {"step": step}
        simple = save_checkpoint(tmp_path / "simple", *run, numbers)
        changed.clear()
        monkeypatch.setattr(checkpoint, "save_file", lambda *args: (changed.wait(30), real(*args)))
        writer.save(*run, numbers)
        fill(run, -step)  # before the first byte is written
        numbers["since"].append(step)
        changed.set()
        monkeypatch.setattr(checkpoint, "save_file", real)
        assert content(writer.wait()) == content(simple)
    assert writer.close() is None
    assert len(names(tmp_path / "background")) == 3


def test_one_write_at_a_time_in_one_snapshots_memory(tmp_path, monkeypatch):
    go, running, most = threading.Event(), [], []
    real, run, writer = checkpoint.write_snapshot, make_run(), CheckpointWriter(tmp_path, keep=9)

    def slow(*args):
        running.append(1)
        most.append(len(running))
        go.wait(30)
        running.pop()
        return real(*args)

    monkeypatch.setattr(checkpoint_writer, "write_snapshot", slow)
    assert writer.save(*run, {"step": 1}) is None
    memory = writer.snapshot.tensors["model"]["head.bias"].data_ptr()
    assert writer.poll() is None  # still writing, and says so at once
    threading.Timer(0.2, go.set).start()
    assert writer.save(*run, {"step": 2}).name == "step-000000001"  # waited, and reports it
    while (published := writer.poll()) is None:
        time.sleep(0.01)
    assert published.name == "step-000000002" and writer.poll() is None
    assert max(most) == 1 and writer.snapshot.tensors["model"]["head.bias"].data_ptr() == memory
    assert writer.close() is None


def save_and_leave(folder):
    CheckpointWriter(folder).save(*make_run(LanguageModelConfig(hidden_size=256)), {"step": 1})


def test_a_process_that_ends_waits_for_its_write(tmp_path):
    process = FORKS.Process(target=save_and_leave, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0 and latest_checkpoint(tmp_path).name == "step-000000001"
    assert names(tmp_path) == ["step-000000001"]


def test_numbers_that_are_no_json_are_refused_at_the_call(tmp_path):
    with pytest.raises(TypeError):
        CheckpointWriter(tmp_path).save(*make_run(), {"step": 1, "loss": torch.zeros(1)})


# Disks that fill up


def failing(calls, k):
    "`calls` with a full disk at the k-th."
    count = iter(range(k + 1))

    def call(*args):
        if next(count, None) == k:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return calls(*args)

    return call


@pytest.mark.parametrize("module, name", [(checkpoint, "save_file"), (os, "fsync"), (os, "rename")])
def test_a_disk_full_at_any_moment_changes_nothing(tmp_path, monkeypatch, module, name):
    run = make_run()
    good = content(save_checkpoint(tmp_path, *run, {"step": 1}))
    fill(run, 3.0)
    real, failed = getattr(module, name), 0
    for k in range(99):
        writer = CheckpointWriter(tmp_path, keep=9)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing(real, k))
            writer.save(*run, {"step": 2})
            try:
                writer.close()
            except KitError as e:
                assert (
                    "step-000000002 could not be saved (No space left on device); make room"
                    in str(e)
                )
                failed += 1
            else:
                break
        published = (
            ["step-000000002"] if step_folder(tmp_path, 2).exists() else []
        )  # at the very last sync
        assert names(tmp_path) == ["step-000000001", *published]
        assert latest_checkpoint(tmp_path).name == names(tmp_path)[-1]
        assert content(step_folder(tmp_path, 1)) == good
    assert failed >= {"save_file": 3, "fsync": 9, "rename": 1}[name] and names(tmp_path) == [
        "step-000000001",
        "step-000000002",
    ]


def save_under_limits(folder, limits):
    "Steps 2, 3, … each with a file size limit; exits with the number refused in a sentence."
    run, refused = make_run(), 0
    writer = CheckpointWriter(folder, keep=99)
    for step, limit in enumerate(limits, 2):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            writer.save(*run, {"step": step})
            writer.wait()
        except KitError as e:
            refused += "File too large" in str(e)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    os._exit(refused)


def test_files_that_may_not_grow(tmp_path):
    "The system itself refuses the write, at a random byte of the largest file."
    first = save_checkpoint(tmp_path, *make_run(), {"step": 1})
    largest, good = max(path.stat().st_size for path in first.iterdir()), content(first)
    limits = [random.Random(0).randrange(1, largest) for _ in range(20)]
    process = FORKS.Process(target=save_under_limits, args=(tmp_path, limits))
    process.start()
    process.join()
    assert process.exitcode == len(limits)
    assert names(tmp_path) == ["step-000000001"] and content(first) == good


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import *
folder, run = Path(sys.argv[1]), make_run()
size = sum(map(len, content(save_checkpoint(folder / "c", *run, {"step": 1})).values()))
room = shutil.disk_usage(folder).free
(folder / "ballast").write_bytes(bytes(room - size // 2))
writer = CheckpointWriter(folder / "c")
for step in (2, 3):
    writer.save(*run, {"step": step})
    try:
        print(writer.wait())
    except KitError as e:
        print(e)
    print(names(folder / "c"), latest_checkpoint(folder / "c").name)
    (folder / "ballast").unlink(missing_ok=True)
"""


def test_a_disk_that_is_really_full(tmp_path):
    mount = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=4m none "$0" && "$@"',
    ]
    run = [*mount, tmp_path, sys.executable, "-c", FULL, tmp_path, Path(__file__).parent]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*mount, tmp_path, "true"], capture_output=True).returncode
    ):
        pytest.skip("needs user namespaces, to mount a small disk")
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    full, left, saved, then = done.stdout.splitlines()
    assert "step-000000002 could not be saved (" in full and "No space left on device" in full
    assert left == "['step-000000001'] step-000000001"
    assert (
        saved.endswith("step-000000003")
        and then == "['step-000000001', 'step-000000003'] step-000000003"
    )


def test_a_folder_one_may_not_write_to_is_said_at_the_next_call(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    writer, run = CheckpointWriter(tmp_path / "checkpoints"), make_run()
    writer.save(*run, {"step": 1})
    with pytest.raises(KitError, match="checkpoints/step-000000001 could not be saved"):
        writer.save(*run, {"step": 2})
    (tmp_path / "checkpoints").unlink()
    writer.save(*run, {"step": 3})  # and once it is put right, saving goes on
    assert writer.close().name == "step-000000003"


# Kills


def save_for_ever(folder):
    "Checkpoints without a pause, each full of its own step; all changes while one is written."
    run, writer, newest = make_run(), CheckpointWriter(folder, keep=2), latest_checkpoint(folder)
    step = int(newest.name[5:]) if newest else 0
    while True:
        step += 1
        fill(run, step)
        writer.save(*run, {"step": step})


def check_kills(folder, n, capsys):
    rng, last, leftovers = random.Random(0), 0, 0
    for _ in range(n):
        process = FORKS.Process(target=save_for_ever, args=(folder,))
        process.start()
        while not [path for path in folder.glob("step-*") if int(path.name[5:]) > last]:
            assert process.exitcode is None
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.join()
        leftovers += bool(list(folder.glob(".step-*")))
        newest = latest_checkpoint(folder)
        assert "passed over" not in capsys.readouterr().out
        model, optimizer, _ = make_run()
        _, state, trainer = load_checkpoint(newest, model, optimizer)
        last = trainer["step"]
        assert newest == step_folder(folder, last)
        assert all(bool((t == last).all()) for t in tensors(model, optimizer, state).values())
    save_checkpoint(folder, *make_run(), {"step": last + 1})
    assert not list(folder.glob(".*")) and len(names(folder)) <= 4
    assert n < 20 or leftovers  # else no kill was of interest
    with capsys.disabled():
        print(f" [{n} kills at {last} checkpoints, {leftovers} in the middle of a write]", end="")


def test_killed_while_it_writes(tmp_path, capsys):
    check_kills(tmp_path, 3, capsys)


@pytest.mark.slow
def test_killed_while_it_writes_many_times(tmp_path, request, capsys):
    check_kills(tmp_path, number(request, 20), capsys)


# Two trainers, one folder


def claim_for_ever(run, ready):
    with run_lock.claim_run(run):
        ready.set()
        time.sleep(60)


def test_a_run_is_one_trainers_until_it_dies(tmp_path, capsys):
    ready, run = FORKS.Event(), tmp_path / "run"
    process = FORKS.Process(target=claim_for_ever, args=(run, ready))
    process.start()
    assert ready.wait(30)
    with (
        pytest.raises(KitError, match="another process trains in .*run; stop it"),
        run_lock.claim_run(run, 0.05),
    ):
        pass
    threading.Timer(0.3, process.kill).start()
    with run_lock.claim_run(run, 30.0):  # waits for it
        assert not process.is_alive() or process.join(1) is None
    assert capsys.readouterr().out.count("waiting for the process") == 1


def test_a_disk_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def none_here(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".step-000000001.unknown").mkdir()
    monkeypatch.setattr("fcntl.flock", none_here)
    with run_lock.claim_run(tmp_path, 0.0), run_lock.claim_run(tmp_path, 0.0):
        clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir())


# Keeping few


def test_the_newest_and_the_best_stay(tmp_path):
    run, writer = make_run(), CheckpointWriter(tmp_path, keep=2)
    for step in range(1, 7):
        writer.save(*run, {"step": step}, best=min(step, 3))
    writer.close()
    assert names(tmp_path) == ["step-000000003", "step-000000005", "step-000000006"]


def test_only_whole_ones_count_and_the_last_whole_one_never_goes(tmp_path):
    run = make_run()
    (tmp_path / "step-000000002.copy").mkdir()
    for step in (1, 2, 6, 9):
        save_checkpoint(tmp_path, *run, {"step": step})
    for step in (6, 9):
        (step_folder(tmp_path, step) / "state.safetensors").write_bytes(b"")
    assert prune_checkpoints(tmp_path, keep=1) == ["step-000000002"]
    (step_folder(tmp_path, 2) / "state.safetensors").write_bytes(b"")
    assert prune_checkpoints(tmp_path, keep=1) == ["step-000000002"]  # nothing whole: nothing goes
    writer = CheckpointWriter(tmp_path, keep=1)
    writer.save(*run, {"step": 1})
    writer.close()
    assert names(tmp_path) == ["step-000000001", "step-000000002.copy"]


def prune(folder):
    prune_checkpoints(folder, keep=1)


def test_pruning_leaves_alone_what_is_being_written(tmp_path, monkeypatch):
    begun, go, run = threading.Event(), threading.Event(), make_run()
    save_checkpoint(tmp_path, *run, {"step": 1})
    (tmp_path / ".step-000000009.dead").mkdir()
    real, writer = checkpoint.save_file, CheckpointWriter(tmp_path)
    monkeypatch.setattr(
        checkpoint, "save_file", lambda *args: (begun.set(), go.wait(30), real(*args))
    )
    writer.save(*run, {"step": 2})
    assert begun.wait(30)
    [beside] = tmp_path.glob(".step-000000002.*")
    prune(tmp_path)
    other = FORKS.Process(target=prune, args=(tmp_path,))
    other.start()
    other.join()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == [beside.name, "step-000000001"]
    go.set()
    assert find_damage(writer.close()) is None and names(tmp_path) == [
        "step-000000001",
        "step-000000002",
    ]


def test_saving_a_step_again_replaces_it(tmp_path):
    run = make_run()
    first = content(save_checkpoint(tmp_path, *run, {"step": 1}))
    fill(run, 2.0)
    again = save_checkpoint(tmp_path, *run, {"step": 1})
    assert (
        content(again) != first
        and find_damage(again) is None
        and names(tmp_path) == ["step-000000001"]
    )


# On a GPU


@pytest.mark.cuda
def test_a_snapshot_of_a_gpu_is_consistent_and_its_generator_comes_back(tmp_path):
    run = make_run(LanguageModelConfig(hidden_size=1024), device="cuda")
    into = None
    for step in (1, 2):
        fill(run, step)
        into = take_snapshot(*run, {"step": step}, into=into)
        fill(run, -step)  # queued behind the copies
        folder = write_snapshot(tmp_path, into)
        draws = torch.rand(5, device="cuda")
        model, optimizer, _ = make_run(LanguageModelConfig(hidden_size=1024), device="cuda")
        state = load_checkpoint(folder, model, optimizer).state
        assert all(bool((t == step).all()) for t in tensors(model, optimizer, state).values())
        assert torch.equal(torch.rand(5, device="cuda"), draws)
    assert all(t.is_pinned() for t in into.tensors["model"].values())
    assert json.loads((folder / "trainer.json").read_text()) == {"step": 2}
