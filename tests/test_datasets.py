"""Datasets from a server on this machine that misbehaves as servers do: no network is needed."""

import gzip
import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sentiment_kit.data.archives import unpack
from sentiment_kit.data.datasets import (
    DATASETS,
    SAMPLES,
    Dataset,
    fetch_dataset,
    load_dataset,
    split_off,
)
from sentiment_kit.data.downloads import download
from sentiment_kit.data.files import KitError
from sentiment_kit.data.labelled import Texts
from sentiment_kit.data.reviews import read_reviews

BODY = np.random.default_rng(0).bytes(200_000)
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


class Site(ThreadingHTTPServer):
    "Serves `files`; the other attributes are its bad manners, `asked` is what it was asked for."

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.tag, self.date = {"body.bin": BODY}, [], '"v1"', ""
        self.ranges, self.if_range, self.length = True, True, True  # what it honours or tells
        self.breaks, self.stalls, self.statuses, self.pause = None, False, [], 0.0

    def url(self, name="body.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def dataset(self, hash=None, read=None, **files):
        "A registry with one dataset, `it`, of these files (all of the site's, if none is named)."
        files = files or {name: name for name in self.files}
        return {
            "it": Dataset(
                "a test", {name: (self.url(at), hash) for name, at in files.items()}, read
            )
        }

    def handle_error(self, request, client_address):
        pass  # clients hang up here


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site, wanted = self.server, self.headers["Range"]
        site.asked.append(wanted)
        status = site.statuses.pop(0) if site.statuses else 200
        body = site.files.get(self.path[1:])
        if site.stalls:
            return time.sleep(1)
        if status != 200 or body is None:
            return self.send_error(404 if status == 200 else status)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
        if site.if_range and self.headers["If-Range"] not in (site.tag, site.date):
            start = 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for key, value in {"ETag": site.tag, "Last-Modified": site.date}.items():
            if value:
                self.send_header(key, value)
        if site.length:
            self.send_header("Content-Length", len(body) - start)
        self.end_headers()
        rest = body[start:][: site.breaks]
        for at in range(0, len(rest), 10_000):
            self.wfile.write(rest[at : at + 10_000])
            time.sleep(site.pause)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Site() as site:
        threading.Thread(
            target=site.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True
        ).start()
        yield site
        site.shutdown()


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


# The downloader


@pytest.mark.parametrize(
    "marks", [dict(tag='"v1"'), dict(tag='W/"v1"', date="Mon, 01 Feb 2016 00:00:00 GMT")]
)
def test_a_connection_that_breaks_is_continued(site, tmp_path, marks):
    vars(site).update(marks, breaks=90_000)
    download(site.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY
    assert site.asked == [None, "bytes=89999-", "bytes=179998-"]
    assert visible(tmp_path) == ["out"]


def test_a_later_call_continues_what_an_earlier_one_left(site, tmp_path):
    site.breaks, site.statuses = 150_000, [200, 503]
    with pytest.raises(KitError, match="503"):
        download(site.url(), tmp_path / "out", tries=1)
    assert visible(tmp_path) == [".body.bin.part", ".body.bin.version"]
    site.breaks, site.asked[:] = None, []
    download(site.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY and site.asked == ["bytes=149999-"]


@pytest.mark.parametrize("manners", [dict(ranges=False), dict(tag=""), dict(tag='W/"v1"')])
def test_where_nothing_can_be_continued_it_begins_anew(site, tmp_path, manners):
    vars(site).update(manners, breaks=150_000)
    with pytest.raises(KitError, match="broke after 150,000 of 200,000 bytes"):
        download(site.url(), tmp_path / "out", tries=1 + ("ranges" in manners))
    site.breaks = None
    download(site.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY and visible(tmp_path) == ["out"]


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize(
    "new", [BODY[::-1], BODY[:100_000][::-1]], ids=["as long", "shorter than the part"]
)
def test_a_file_changed_meanwhile_is_never_mixed(site, tmp_path, if_range, new):
    site.breaks = 150_000
    site.statuses = [200, 404]
    with pytest.raises(KitError):
        download(site.url(), tmp_path / "out")
    vars(site).update(if_range=if_range, tag='"v2"', files={"body.bin": new}, breaks=None)
    download(site.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == new and visible(tmp_path) == ["out"]


def test_what_is_missing_is_asked_for_once_and_what_is_busy_again(site, tmp_path):
    with pytest.raises(
        KitError, match=re.escape(f"{site.url('no.gz')} could not be fetched (HTTP Error 404")
    ):
        download(site.url("no.gz"), tmp_path / "out")
    assert len(site.asked) == 1 and visible(tmp_path) == []
    site.statuses = [503]
    download(site.url(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY


def test_silence_and_absence_end(site, tmp_path):
    site.stalls = True
    with pytest.raises(KitError, match="timed out"):
        download(site.url(), tmp_path / "out", tries=1, timeout=0.1)
    with Site() as gone:
        url = gone.url()
    with pytest.raises(KitError, match="could not be fetched .*refused"):
        download(url, tmp_path / "out", tries=1)
    with pytest.raises(KitError, match="no address that can be fetched"):
        download("body.bin", tmp_path / "out", tries=1)


# The registry


def test_every_dataset_has_addresses_and_hashes_of_the_right_form():
    for name, dataset in DATASETS.items():
        for file, (url, published) in dataset.files.items():
            assert url.startswith("https://") and Path(file).name == file, name
            assert published is None or re.fullmatch(
                "md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", published
            )
    assert {n for n, d in DATASETS.items() if d.read} == {"samples", "sst2", "imdb"}
    assert list(DATASETS["sst2"].files) == ["train.csv", "dev.csv", "test.csv"]
    assert (
        len(DATASETS["openai-2017"].files) == 15
        and sum(n.startswith("amazon/") for n in DATASETS) == 24
    )


def test_names_that_do_not_exist_name_those_that_do():
    with pytest.raises(
        KitError,
        match="known: samples, sst2, imdb, amazon-2014, amazon/<category>, openai-2017. For",
    ):
        load_dataset("imbd")
    with pytest.raises(KitError, match="known: amazon/Amazon_Instant_Video, .*amazon/Baby"):
        fetch_dataset("amazon/Babies")
    with pytest.raises(KitError, match="no labels"):
        load_dataset("amazon-2014")
    assert fetch_dataset("samples") == [SAMPLES]


def test_a_dataset_is_fetched_once_and_checked_each_time(site, tmp_path, monkeypatch):
    monkeypatch.setenv("SENTIMENT_KIT_CACHE", str(tmp_path / "env"))
    registry = site.dataset(hash=SHA)
    for cache in None, tmp_path / "given":
        for _ in range(2):
            assert fetch_dataset("it", cache, registry) == [
                (cache or tmp_path / "env") / "it" / "body.bin"
            ]
    assert len(site.asked) == 2
    path = tmp_path / "env" / "it" / "body.bin"
    path.write_bytes(b"mine")
    with pytest.raises(KitError, match=re.escape(f"{path} has not the expected {SHA}; delete it")):
        fetch_dataset("it", None, registry)
    assert path.read_bytes() == b"mine"  # not ours to throw away


def test_a_wrong_hash_is_named_and_nothing_is_kept(site, tmp_path):
    registry = site.dataset(hash=SHA)
    site.files["body.bin"] = b"<html>Log in to the hotel's network</html>"
    with pytest.raises(
        KitError, match=f"{site.url()}.*expected {SHA} but got .*put the right file at .*body.bin"
    ):
        fetch_dataset("it", tmp_path, registry)
    assert visible(tmp_path / "it") == []
    site.files["body.bin"] = BODY
    assert fetch_dataset("it", tmp_path, registry)[0].read_bytes() == BODY


def test_without_a_network_the_error_says_where_to_put_the_file(site, tmp_path):
    registry, path = site.dataset(hash=SHA), tmp_path / "it" / "body.bin"
    site.statuses = [403]
    with pytest.raises(
        KitError, match=f"{site.url()} .*403: Forbidden.*again .*, or put the file at {path}$"
    ):
        fetch_dataset("it", tmp_path, registry)
    path.write_bytes(BODY)
    assert fetch_dataset("it", tmp_path, registry) == [path] and len(site.asked) == 1


def test_a_hash_nobody_published_is_recorded_and_a_change_refused(site, tmp_path):
    registry, record = site.dataset(), tmp_path / "it" / "first_use.json"
    [path] = fetch_dataset("it", tmp_path, registry)
    assert json.loads(record.read_text()) == {"body.bin": SHA}
    path.unlink()
    site.files["body.bin"] = b"something else"
    with pytest.raises(KitError, match=f"expected {SHA} but got .* delete {record}"):
        fetch_dataset("it", tmp_path, registry)
    assert not path.exists()
    path.write_bytes(b"by hand")
    with pytest.raises(KitError, match=f"{path} has not the expected {SHA}.* delete {record}"):
        fetch_dataset("it", tmp_path, registry)
    record.unlink()
    assert fetch_dataset("it", tmp_path, registry) == [path]
    assert json.loads(record.read_text()) == {
        "body.bin": "sha256:" + hashlib.sha256(b"by hand").hexdigest()
    }


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(100, np.float32))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "file,content",
    [
        ("a.jsonl.gz", gzip.compress(BODY)[:-9]),
        ("a.jsonl.gz", gzip.compress(BODY)[:-20] + b"x" * 20),
        ("a.jsonl.gz", b"<html>moved</html>"),
        ("a.jsonl.gz", b""),
        ("0.npy", npy()[:-4]),
        ("0.npy", b"version https://git-lfs.github.com/spec/v1"),
    ],
)
def test_a_file_that_is_not_whole_is_never_recorded(site, tmp_path, file, content):
    site.files, site.length = {file: content}, False  # it does not even tell how long the file is
    registry = site.dataset()
    with pytest.raises(KitError, match=f"{file} is damaged .* set aside as {file}.damaged"):
        fetch_dataset("it", tmp_path, registry)
    assert visible(tmp_path / "it") == [f"{file}.damaged"]
    site.files[file] = npy() if file == "0.npy" else gzip.compress(b'{"reviewText": "fine"}\n')
    [path] = fetch_dataset("it", tmp_path, registry)
    assert file == "0.npy" or next(read_reviews(path)).text == "fine"


def test_a_cache_that_cannot_be_one(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cannot be used .*SENTIMENT_KIT_CACHE"):
        fetch_dataset("it", tmp_path / "file", site.dataset())


FETCH = """
import sys
from sentiment_kit.data.datasets import Dataset, fetch_dataset
url, sha, cache = sys.argv[1:]
[path] = fetch_dataset("it", cache, {"it": Dataset("", {"body.bin": (url, sha)})})
print(len(path.read_bytes()))
"""


def start(site, cache):
    command = [sys.executable, "-c", FETCH, site.url(), SHA, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_at_once_take_turns_and_a_killed_one_is_continued(site, tmp_path):
    site.pause = 0.05  # a second for the whole file
    killed, deadline = start(site, tmp_path), time.monotonic() + 60
    part = tmp_path / "it" / ".body.bin.part"
    while not (part.exists() and part.stat().st_size > 50_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    others = [start(site, tmp_path) for _ in range(2)]
    assert [p.communicate(timeout=60)[0] for p in others] == ["200000\n"] * 2
    assert len(site.asked) == 2 and int(site.asked[1][6:-1]) >= 50_000
    assert (tmp_path / "it" / "body.bin").read_bytes() == BODY


# Archives


def archive(*members, mode="w:gz"):
    "A tar of (name, content or TarInfo fields)."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, what in members:
            member = tarfile.TarInfo(name)
            vars_ = what if isinstance(what, dict) else dict(size=len(what))
            for key, value in vars_.items():
                setattr(member, key, value)
            tar.addfile(member, None if isinstance(what, dict) else io.BytesIO(what))
    return buffer.getvalue()


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "members,reason",
    [
        ([("../evil", b"x")], "outside"),
        ([("a/../../evil", b"x")], "outside"),
        ([("a/..", dict(type=tarfile.DIRTYPE))], "outside"),
        ([("..\\evil", b"x")], "outside"),
        ([("C:\\evil", b"x")], "outside"),
        ([("{outside}/evil", b"x")], "outside"),
        ([("door", dict(type=LINK, linkname="{outside}")), ("door/evil", b"x")], "link"),
        ([("door", dict(type=LINK, linkname="..")), ("door/evil", b"x")], "link"),
        ([("good", dict(type=LINK, linkname="a"))], "link"),
        ([("copy", dict(type=HARD, linkname="{outside}/secret"))], "link"),
        ([("copy", dict(type=HARD, linkname="../secret"))], "link"),
        ([("dev", dict(type=tarfile.CHRTYPE, devmajor=1, devminor=5))], "device"),
        ([("pipe", dict(type=tarfile.FIFOTYPE))], "device"),
        ([("odd", dict(type=b"Z"))], "device"),
        ([("nul\0", b"x"), ("big", b"x" * 5000)], "limits"),
        ([(f"{n}", b"") for n in range(20)], "limits"),
    ],
)
def test_hostile_archives_leave_nothing_anywhere(tmp_path, members, reason):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in inside, outside:
        folder.mkdir()
    (outside / "secret").write_text("s")

    def fill(x):
        return x.replace("{outside}", str(outside)) if isinstance(x, str) else x

    members = [
        (fill(n), {k: fill(v) for k, v in w.items()} if isinstance(w, dict) else w)
        for n, w in members
    ]
    path = inside / "a.tar.gz"
    path.write_bytes(archive(("a/first.txt", b"fine"), *members))
    with pytest.raises(KitError, match=f"^{path} was not unpacked: its member .* {reason}|limits"):
        unpack(path, inside / "new", max_files=20, max_bytes=5000)
    assert visible(inside) == ["a.tar.gz"] and visible(outside) == ["secret"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        archive(("a", b"x" * 9000))[:-30],
        gzip.compress(b"not a tar"),
        archive(("a", b"x"))[:-1] + b"?",
    ],
    ids=["empty", "page", "cut", "no tar", "checksum"],
)
def test_damaged_archives_are_named(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(KitError, match="a.tar.gz could not be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "new")
    assert visible(tmp_path) == ["a.tar.gz"]


def test_an_archive_of_many_files(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(archive(*[(f"{n}.txt", b"%d" % n) for n in range(1200)]))
    unpack(tmp_path / "a.tar.gz", tmp_path / "new")
    assert all((tmp_path / "new" / f"{n}.txt").read_text() == str(n) for n in range(1200))


def test_an_old_python_refuses(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(KitError, match="cannot unpack safely; use 3.10.12"):
        unpack(tmp_path / "a.tar", tmp_path / "new")


DIES = """
import os, sys, tarfile
from sentiment_kit.data.archives import unpack
extract, calls = tarfile.TarFile.extract, []
def counted(self, *args, **kwargs):
    calls.append(args)
    return os._exit(9) if len(calls) == 3 else extract(self, *args, **kwargs)
tarfile.TarFile.extract = counted
unpack(*sys.argv[1:])
"""


def test_a_killed_unpacking_leaves_the_old_folder_whole(tmp_path):
    (tmp_path / "a.tar").write_bytes(archive(*[(f"{n}.txt", b"new") for n in range(5)], mode="w"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old.txt").write_text("old")
    died = subprocess.run([sys.executable, "-c", DIES, tmp_path / "a.tar", tmp_path / "new"])
    assert died.returncode == 9 and visible(tmp_path / "new") == ["old.txt"]
    unpack(tmp_path / "a.tar", tmp_path / "new")
    assert visible(tmp_path / "new") == [f"{n}.txt" for n in range(5)]
    (tmp_path / "like").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "like").stat().st_mode


# What is in them


def imdb():
    members = [
        (f"aclImdb/{split}/{name}/{n}_{stars}.txt", f"{split} {name} {n} é<br />".encode())
        for split in ("train", "test")
        for name, stars in (("neg", 2), ("pos", 9))
        for n in range(20)
    ]
    return archive(
        ("aclImdb", dict(type=tarfile.DIRTYPE)), *members, ("aclImdb/train/unsup/0_0.txt", b"unsup")
    )


def test_imdb_from_the_archive_to_three_splits(site, tmp_path):
    site.files = {"aclImdb_v1.tar.gz": imdb()}
    registry = site.dataset(read=DATASETS["imdb"].read)
    left = tmp_path / "it" / ".unpacked.1.tmp"  # of a process that was killed
    left.mkdir(parents=True)
    data, again = (load_dataset("it", tmp_path, registry) for _ in range(2))
    assert len(site.asked) == 1 and not left.exists()
    assert {k: (len(d), Counter(d.labels.tolist())) for k, d in data.items()} == {
        "train": (36, {0: 18, 1: 18}),
        "valid": (4, {0: 2, 1: 2}),
        "test": (40, {0: 20, 1: 20}),
    }
    assert all(data[k].texts == again[k].texts for k in data)
    for split, d in data.items():
        for text, label in zip(d.texts, d.labels, strict=True):
            assert re.fullmatch(
                f"{'test' if split == 'test' else 'train'} {['neg', 'pos'][label]} \\d+ é<br />",
                text,
            )
    assert len({*data["train"].texts, *data["valid"].texts}) == 40
    unpacked = tmp_path / "it" / "unpacked"
    first, *others = sorted((unpacked / "aclImdb" / "test" / "pos").iterdir())
    content = first.read_bytes()

    def planted(name):
        (unpacked / name).write_text("planted")

    changes = (
        others[0].unlink,
        partial(planted, "aclImdb/test/pos/x.txt"),
        partial(planted, first),
    )
    for change in changes:  # a folder that is not as it was made is unpacked again
        change()
        assert load_dataset("it", tmp_path, registry)["test"].texts == data["test"].texts
    (tmp_path / "it" / "unpacked.json").unlink()  # a folder that came from elsewhere
    first.write_bytes(content[::-1])
    assert load_dataset("it", tmp_path, registry)["test"].texts == data["test"].texts
    first.write_bytes(content[::-1])
    with pytest.raises(KitError, match="was changed; delete its folder"):
        load_dataset("it", tmp_path, registry)


def test_a_download_has_a_largest_size(site, tmp_path):
    site.files = {"a.bin": bytes(3000)}
    url = site.dataset()["it"].files["a.bin"][0]
    with pytest.raises(KitError, match="has over 2,999 bytes; raise max_bytes"):
        download(url, tmp_path / "a.bin", max_bytes=2999)
    assert not list(tmp_path.iterdir()), "nothing of it is kept"
    download(url, tmp_path / "a.bin", max_bytes=3000)
    assert (tmp_path / "a.bin").stat().st_size == 3000


def test_sst_is_read_in_the_order_of_its_splits(site, tmp_path):
    for split in "train", "dev", "test":
        site.files[f"{split}_binary_sent.csv"] = (
            f'label,sentence\n1,"{split}, good"\n0,bad\n'.encode()
        )
    real = DATASETS["sst2"]
    files = {name: (site.url(url.rsplit("/", 1)[1]), None) for name, (url, _) in real.files.items()}
    data = load_dataset("sst2", tmp_path, {"sst2": replace(real, files=files)})
    assert {k: d.texts for k, d in data.items()} == {
        k: [f"{s}, good", "bad"] for k, s in dict(train="train", valid="dev", test="test").items()
    }


def test_hold_out_depends_on_texts_and_seed_alone():
    rng = np.random.default_rng(0)
    texts = [f"text {n}" for n in range(200)] + ["twice", "twice"]
    data = Texts(texts, np.array([0] * 150 + [1] * 52))
    rest, held = split_off(data, share=0.2)
    assert Counter(held.labels.tolist()) == {0: 30, 1: 10} and Counter(
        rest.texts + held.texts
    ) == Counter(texts)
    order = rng.permutation(len(data))
    shuffled = split_off(Texts([texts[n] for n in order], data.labels[order]), share=0.2)[1]
    assert (
        sorted(shuffled.texts)
        == sorted(held.texts)
        != sorted(split_off(data, 0.2, seed=1)[1].texts)
    )
    assert split_off(data)[1].texts == [t for t in texts if t in set(split_off(data)[1].texts)]
