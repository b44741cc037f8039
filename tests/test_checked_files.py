"""Files that are opened are checked: weights are numbers, corpora are whole, fields fit."""

import json
import shutil
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_stranger_files import GAP, NEURON, TINY, TRANSFER, nvidia_tensors

from sentiment_kit.cli import main
from sentiment_kit.data import shard_checks
from sentiment_kit.data.checked_arrays import map_npy
from sentiment_kit.data.checksums import manifest_text, read_manifest
from sentiment_kit.data.corpus import open_corpus, write_shard
from sentiment_kit.data.files import (
    JSON_BYTES,
    KitError,
    digest,
    read_json,
    sha256_file,
    write_json,
)
from sentiment_kit.data.loader import ShardLoader
from sentiment_kit.data.plain_yaml import read_yaml
from sentiment_kit.data.text import encode
from sentiment_kit.evidence.gap_report import read_gap
from sentiment_kit.model.convert import load_nvidia, load_openai, save_openai
from sentiment_kit.model.language_model import LanguageModel
from sentiment_kit.model.mlstm import MLSTMState
from sentiment_kit.training.checkpoint import find_model, load_checkpoint, save_checkpoint
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.evaluate import evaluate
from sentiment_kit.training.saved_arrays import read_numbers
from sentiment_kit.transfer.classifier import TextClassifier
from sentiment_kit.transfer.finetune import FinetuneConfig
from sentiment_kit.transfer.neuron_file import read_neuron
from sentiment_kit.transfer.run_results import read_result


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LanguageModel(TINY)


@pytest.fixture
def folder(model, tmp_path):
    return model.save_pretrained(tmp_path / "model")


@pytest.fixture(scope="module")
def classifier(model, tmp_path_factory):
    words = ["good", "bad", "great", "poor"]
    made = TextClassifier(model, FinetuneConfig(mode="frozen"))
    made.fit(words, [1, 0] * 2, words, [1, 0] * 2)
    return made.save_pretrained(tmp_path_factory.mktemp("classifier") / "c")


def change(path, change_tensors):
    "Rewrite a file of weights."
    tensors = load_file(path)
    change_tensors(tensors)
    save_file(tensors, path)


def vouch(folder):
    "Write the checksums of a model or a classifier anew, as a stranger would."
    said = read_json(folder / "config.json")
    said["sha256"] = {"model.safetensors": sha256_file(folder / "model.safetensors")}
    write_json(folder / "config.json", said)
    if (folder / "classifier.json").exists():
        said = read_json(folder / "classifier.json")
        said["sha256"] = {name: sha256_file(folder / name) for name in said["sha256"]}
        write_json(folder / "classifier.json", said)


def flip(path, at, bit=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


# Weights


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_found_by_whoever_opens_the_file(
    model, folder, classifier, tmp_path, bad
):
    def spoil(tensors, name="head.bias"):
        tensors[name].view(-1)[3 % tensors[name].numel()] = bad

    change(folder / "model.safetensors", spoil)
    vouch(folder)
    with pytest.raises(KitError, match=r"model.safetensors: head.bias has 1 of 256 values"):
        LanguageModel.from_pretrained(folder)
    copy = shutil.copytree(classifier, tmp_path / "c")
    change(copy / "head.safetensors", lambda tensors: spoil(tensors, "weight"))
    vouch(copy)
    with pytest.raises(KitError, match=r"head.safetensors: weight has 1 of 8 values"):
        TextClassifier.from_pretrained(copy)
    save_openai(model, tmp_path / "openai")
    array = np.load(tmp_path / "openai" / "14.npy")
    array[3] = bad
    np.save(tmp_path / "openai" / "14.npy", array)
    with pytest.raises(KitError, match="head.bias has 1 of 256 values"):
        load_openai(tmp_path / "openai")
    tensors = nvidia_tensors(model)
    tensors["decoder.bias"] = tensors["decoder.bias"].clone()
    tensors["decoder.bias"][3] = bad
    torch.save(tensors, tmp_path / "nvidia.pt")
    with pytest.raises(KitError, match="head.bias has 1 of 256 values"):
        load_nvidia(tmp_path / "nvidia.pt", "ifgo")


def test_large_numbers_that_add_up_to_infinity_are_numbers(folder):
    change(folder / "model.safetensors", lambda tensors: tensors["embed.weight"].fill_(3e38))
    vouch(folder)
    assert LanguageModel.from_pretrained(folder).embed.weight.max() == 3e38


def test_every_flipped_bit_of_weights_is_found(model, folder):
    path = folder / "model.safetensors"
    size = path.stat().st_size
    for n in range(25):
        at = size - 1 - n * (size // 30)
        flip(path, at)
        with pytest.raises(KitError, match="not as it was written|cannot be read|does not fit"):
            LanguageModel.from_pretrained(folder)
        flip(path, at)
    assert torch.equal(LanguageModel.from_pretrained(folder).head.bias, model.head.bias)


def test_folders_without_checksums_still_open_but_not_with_an_empty_table(model, folder):
    said = read_json(folder / "config.json")
    del said["sha256"]
    write_json(folder / "config.json", said)
    assert torch.equal(LanguageModel.from_pretrained(folder).head.bias, model.head.bias)
    for table in ({}, [], None, {"model.safetensors": 1}, {"/dev/zero": 64 * "0"}):
        write_json(folder / "config.json", said | {"sha256": table})
        with pytest.raises(KitError, match="sha256|checksum"):
            LanguageModel.from_pretrained(folder)


def test_verify_takes_a_model_and_a_classifier_too(folder, classifier, tmp_path, capsys):
    copy = shutil.copytree(classifier, tmp_path / "c")
    for place, name in ((folder, "model.safetensors"), (copy, "head.safetensors")):
        assert main(["verify", str(place)]) == 0
        flip(place / name, (place / name).stat().st_size - 1)
        assert main(["verify", str(place)]) == 2
        assert f"{name} is missing or not as it was written" in capsys.readouterr().err


def checkpoint_of(model, path):
    optimizer = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    state = MLSTMState(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
    return save_checkpoint(path, model, optimizer, state, {"step": 1})


def test_a_checkpoint_opened_by_its_folder_is_verified(tmp_path):
    saved = checkpoint_of(LanguageModel(TINY), tmp_path)
    sizes = {path.name: path.stat().st_size for path in saved.iterdir()}
    for name in ("config.json", "model.safetensors", "manifest.json", "optimizer.safetensors"):
        for n in range(1, 6):
            flip(saved / name, sizes[name] * n // 6)
            with pytest.raises(KitError, match="missing or damaged"):
                find_model(saved)
            if name != "optimizer.safetensors":  # which is not opened
                with pytest.raises(KitError):
                    LanguageModel.from_pretrained(saved)
            flip(saved / name, sizes[name] * n // 6)
    assert LanguageModel.from_pretrained(find_model(saved)).config == TINY


@pytest.mark.parametrize(
    "name, wrong, told",
    [
        ("state.safetensors", {"h_LBH": torch.zeros(1, 2, 9)}, "h_LBH is"),
        ("state.safetensors", {"rng": torch.zeros(3)}, "no random state"),
        ("state.safetensors", {"rng": torch.zeros(3, dtype=torch.uint8)}, "random state is none"),
        ("state.safetensors", {"c_LBH": torch.full((1, 2, 8), torch.nan)}, "no numbers"),
        (
            "optimizer.safetensors",
            {"x.exp_avg": torch.zeros(3)},
            "has 'x.exp_avg', of nothing here",
        ),
        ("optimizer.safetensors", {"head.bias.exp_avg": torch.zeros(3)}, "head.bias.exp_avg is"),
        ("model.safetensors", {"head.bias": torch.full((256,), torch.inf)}, "no numbers"),
    ],
)
def test_arrays_of_a_checkpoint_that_somebody_vouched_for(tmp_path, name, wrong, told):
    model = LanguageModel(TINY)
    saved = checkpoint_of(model, tmp_path)
    change(saved / name, lambda tensors: tensors.update(wrong))
    files = read_json(saved / "manifest.json")["files"]
    files[name] = {"bytes": (saved / name).stat().st_size, "sha256": sha256_file(saved / name)}
    (saved / "manifest.json").write_text(manifest_text(files))
    with pytest.raises(KitError, match=told):
        load_checkpoint(saved, model, torch.optim.Adam(model.parameters()), range(2))


@pytest.mark.parametrize("files", [{}, [], None, {"../x": {"bytes": 1, "sha256": 64 * "0"}}])
def test_a_manifest_without_the_files_it_is_there_for_is_refused(tmp_path, files):
    path = tmp_path / "manifest.json"
    for text in (manifest_text(files), json.dumps({"version": 1, "files": files})):
        path.write_text(text)
        with pytest.raises(KitError, match="checksum"):
            read_manifest(path, ["model.safetensors"])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_not_floating_point_are_refused(model, folder, tmp_path, dtype):
    change(
        folder / "model.safetensors", lambda t: t.update({"head.bias": t["head.bias"].to(dtype)})
    )
    vouch(folder)
    with pytest.raises(KitError, match="head.bias holds numbers of type"):
        LanguageModel.from_pretrained(folder)
    tensors = nvidia_tensors(model)
    torch.save(tensors | {"decoder.bias": tensors["decoder.bias"].to(dtype)}, tmp_path / "n.pt")
    with pytest.raises(KitError, match="decoder.bias holds"):
        load_nvidia(tmp_path / "n.pt", "ifgo")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_point_weights_are_converted(model, folder, dtype):
    change(folder / "model.safetensors", lambda t: t.update({k: v.to(dtype) for k, v in t.items()}))
    vouch(folder)
    read = LanguageModel.from_pretrained(folder).head.bias
    assert read.dtype == torch.float32
    assert torch.equal(read, model.head.bias.to(dtype).float())


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 1_000_000},
        {"embed_size": 1_000_000},
        {"vocab_size": 1_000_000},
        {"n_layers": 1000},
    ],
)
def test_nothing_is_allocated_for_sizes_that_the_weights_have_not(folder, monkeypatch, wrong):
    said = read_json(folder / "config.json")
    write_json(folder / "config.json", said | wrong)
    monkeypatch.setattr(torch.nn.Module, "to_empty", None)
    with pytest.raises(KitError, match="does not fit its config.json"):
        LanguageModel.from_pretrained(folder)


def test_tensors_that_a_file_has_no_room_for_are_refused(model, tmp_path):
    tensors = nvidia_tensors(model)
    torch.save(tensors | {"decoder.bias": torch.zeros(1).expand(10**10)}, tmp_path / "n.pt")
    with pytest.raises(KitError, match="claims 40,000,.* far more than its size"):
        load_nvidia(tmp_path / "n.pt", "ifgo")


# Corpora


@pytest.fixture
def corpus(tmp_path):
    "A corpus of one shard a split, written by hand."
    texts = [encode(f"Review {n}, good or bad.") for n in range(40)]
    from sentiment_kit.data.corpus import META

    meta = np.zeros(40, META)
    splits = {
        s: [write_shard(tmp_path, f"{s}/00000", texts, meta)] for s in ("train", "valid", "test")
    }
    manifest = {"format": "sentiment_kit corpus", "version": 1, "preset": {"name": "openai"}}
    manifest |= {
        "options": {"order": "shuffle_then_shard"},
        "reader": {},
        "sources": [{"name": "a"}],
    }
    write_manifest(tmp_path, manifest | {"categories": ["books"], "splits": splits})
    return tmp_path


def write_manifest(folder, manifest):
    manifest.pop("digest", None)
    write_json(folder / "manifest.json", manifest | {"digest": digest(manifest)})


READERS = {
    "loader": lambda c: list(ShardLoader(c, "train", 4, 16)),
    "starts": lambda c: list(ShardLoader(c, "train", 4, 16, reset="review")),
    "evaluate": lambda c: evaluate(LanguageModel(TINY), c, "train", "review"),
    "reviews": lambda c: list(c.split("train")[0].encoded_reviews()),
    "meta": lambda c: c.split("train")[0].meta,
}


@pytest.mark.parametrize(
    "reader, part",
    [
        ("loader", "bin"),
        ("evaluate", "bin"),
        ("reviews", "bin"),
        ("starts", "idx.npy"),
        ("evaluate", "idx.npy"),
        ("reviews", "idx.npy"),
        ("meta", "meta.npy"),
    ],
)
def test_a_flipped_bit_of_a_corpus_is_found_when_it_is_used(corpus, reader, part):
    path = corpus / f"train/00000.{part}"
    for at in (64, 130, path.stat().st_size - 1):
        flip(path, at, 32)
        with pytest.raises(KitError, match="checksum|damaged"):
            READERS[reader](open_corpus(corpus))
        flip(path, at, 32)
    READERS[reader](open_corpus(corpus))


def test_a_text_is_compared_with_its_crc_once_not_in_every_epoch(corpus, monkeypatch):
    read = []
    monkeypatch.setattr(
        shard_checks.zlib, "crc32", lambda data, *a: read.append(len(data)) or zlib_crc32(data, *a)
    )
    loader = ShardLoader(open_corpus(corpus), "train", 4, 16, reset="review")
    for _ in range(3):
        list(loader)
    assert loader.epoch == 3 and len(read) == 1


zlib_crc32 = zlib.crc32


@pytest.mark.parametrize(
    "part, wrong, told",
    [
        ("idx.npy", lambda a: a[::-1], "do not rise"),
        ("idx.npy", lambda a: a + np.uint64(1), "do not rise"),
        ("idx.npy", lambda a: a * np.uint64(99), "do not rise"),
        ("idx.npy", lambda a: a.astype(np.int64), "missing or damaged"),
        ("idx.npy", lambda a: a[:-1], "missing or damaged"),
        ("meta.npy", lambda a: a.astype("<f8") if a.dtype.names is None else a["row"], "damaged"),
    ],
)
def test_arrays_of_a_corpus_that_somebody_vouched_for(corpus, part, wrong, told):
    path = corpus / f"train/00000.{part}"
    np.save(path, wrong(np.load(path)))
    manifest = read_json(corpus / "manifest.json")
    manifest["splits"]["train"][0]["sha256"][part] = sha256_file(path)
    write_manifest(corpus, manifest)
    shard = open_corpus(corpus).split("train")[0]
    with pytest.raises(KitError, match=told):
        shard.starts, shard.meta  # noqa: B018


def test_a_category_that_the_manifest_has_not_is_refused(corpus):
    path = corpus / "train/00000.meta.npy"
    meta = np.load(path)
    meta["category"][3] = 7
    np.save(path, meta)
    manifest = read_json(corpus / "manifest.json")
    manifest["splits"]["train"][0]["sha256"]["meta.npy"] = sha256_file(path)
    write_manifest(corpus, manifest)
    with pytest.raises(KitError, match="category 7 is not in the manifest"):
        open_corpus(corpus).split("train")[0].meta  # noqa: B018


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"name": "../../x"}, "no name of a shard"),
        ({"name": "/dev/zero"}, "no name of a shard"),
        ({"name": "valid/00000"}, "no name of a shard of train"),
        ({"bytes": "9"}, "bytes is '9'"),
        ({"bytes": -1}, "bytes is -1"),
        ({"reviews": True}, "reviews is True"),
        ({"sha256": {}}, "no checksum of bin"),
        ({"sha256": None}, "sha256 is None"),
    ],
)
def test_fields_of_a_manifest_that_somebody_vouched_for(corpus, wrong, told):
    manifest = read_json(corpus / "manifest.json")
    manifest["splits"]["train"][0] |= wrong
    write_manifest(corpus, manifest)
    with pytest.raises(KitError, match=told):
        open_corpus(corpus)


def test_a_shard_without_text_is_no_error(tmp_path):
    from sentiment_kit.data.corpus import META, Shard

    shard = Shard(tmp_path, write_shard(tmp_path, "train/00000", [], np.zeros(0, META)))
    shard.verify()
    assert len(shard.data) == 0 and list(shard.encoded_reviews()) == []


# JSON, NumPy's files, YAML


RUN = {"step": 4, "bytes": 800, "seconds": 1.5, "loader": {"epoch": 0, "step": 4}, "corpus": "0"}
RUN |= {"config": {"model": {}, "epochs": 1}, "callbacks": {}, "valid_bits": {"4": float("nan")}}
BOTH = {
    "neuron": (NEURON, read_neuron),
    "trainer": (RUN, read_numbers),
    "transfer": (TRANSFER, lambda path: read_result(path.parent, "transfer")),
    "gap": (GAP, read_gap),
}


@pytest.mark.parametrize(
    "name, wrong, told",
    [
        ("neuron", {"unit": None}, "unit is None, not a whole number"),
        ("neuron", {"unit": -1}, "unit is -1; use at least 0"),
        ("neuron", {"unit": 10**400}, None),
        ("neuron", {"sign": True}, "sign is True, not 1 or -1"),
        ("neuron", {"threshold": float("nan")}, "threshold is nan, not a finite number"),
        ("neuron", {"state": "\ud800"}, "state is '.*ud800', not 'cell'"),
        ("trainer", {"step": 0.5}, "step is 0.5, not a whole number"),
        ("trainer", {"loader": {"epoch": -1, "step": 0}}, "epoch is -1"),
        ("trainer", {"config": None}, "config holds None"),
        ("trainer", {"scaler": {"scale": "x"}}, r"scaler\['scale'\] is 'x'"),
        ("trainer", {"valid_bits": {"x": 1.0}}, "valid_bits"),
        ("transfer", {"features": {"n_units": "<b>"}}, "n_units is '<b>', not a whole number"),
        ("transfer", {"ngrams": {"test": {"value": 0.5}}}, "lacks the field 'low'"),
        ("gap", {"terms": [{}]}, "lacks the field"),
        ("gap", {"gap": [1, 2]}, "in place of fields"),
    ],
)
def test_fields_have_types_and_bounds(tmp_path, name, wrong, told):
    good, read = BOTH[name]
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(good | {"more": 1}))
    read(path)
    path.write_text(json.dumps(good | wrong))
    if told is None:
        assert read(path).unit == 10**400
        return
    with pytest.raises(KitError, match=f"{name}.json.*{told}") as caught:
        read(path)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":' * 9999, b"9" * 5000, b"\xff", b"", b" " * (JSON_BYTES + 1)]
)
def test_files_that_are_no_json_are_one_sentence(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(KitError, match="a.json is"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("wrong", [{"lr": "x"}, {"epochs": True}, {"seed": None}, {"reset": []}])
def test_a_training_configuration_from_a_file_has_types(wrong):
    from sentiment_kit.data.checked_json import config_from_json

    good = {"corpus": "c", "out": "o", "model": {"hidden_size": 8}, "lr": 1}
    assert config_from_json(TrainConfig, good, "a.json").model.hidden_size == 8
    with pytest.raises(KitError, match=f"a.json: {next(iter(wrong))} is"):
        config_from_json(TrainConfig, good | wrong, "a.json")


def npy(shape, descr="<f4"):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "data",
    [npy((2**62,)), npy((-1,)), npy((2**40, 2**40)), npy((3,), "O"), npy((3,), "x"), b"PK\3\4" * 9]
    + [b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", b"", b"\x93NUMPY"],
)
def test_files_that_are_no_array_are_one_sentence(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(KitError, match="a.npy is no plain NumPy array"):
        map_npy(tmp_path / "a.npy")


BOMB = "".join(f"k{n}: &k{n} [{', '.join(9 * [f'*k{n - 1}' if n else 'x'])}]\n" for n in range(9))


@pytest.mark.parametrize(
    "text, told",
    [
        (BOMB, "more than 20,000 values"),
        ("a: &a [*a]", "holds itself"),
        ("[" * 3000, "nested too deeply"),
        ("a: 1\na: 2", "'a' stands there twice"),
        ("a: !!python/name:os.system x", "no plain value"),
        ("a: !!binary eA==", "no plain value"),
        ("a: &b {c: 1}\nd:\n  <<: *b", "no plain value"),
        ("? [a]\n: 1", "a key is not"),
        ("a: [1", "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
        ("x" * 200_000, "longer than"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(text, told):
    with pytest.raises(KitError, match=f"r.yaml is not YAML.*{told}|{told}"):
        read_yaml(text, "r.yaml")


def test_yaml_keeps_dates_and_times_as_text_and_aliases_within_bounds():
    text = "day: 2020-01-01\ntime: 12:30\nat: 2020-01-01 10:00:00\nlr: 0.5\nn: 3\non: [yes, null]"
    said = read_yaml(text, "r.yaml")
    assert said["day"] == "2020-01-01" and said["time"] == "12:30"
    assert said["at"] == "2020-01-01 10:00:00" and said["lr"] == 0.5 and said["n"] == 3
    assert read_yaml("a: &a [1, 2]\nb: *a", "r.yaml") == {"a": [1, 2], "b": [1, 2]}
    assert read_yaml("", "r.yaml") is None
