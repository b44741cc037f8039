"""A chain is looked through before its first notebook starts; every value is used or refused."""

import json
from pathlib import Path

import pytest

from sentiment_kit import start_checks
from sentiment_kit.cli import RunOptions, given_values, main
from sentiment_kit.data.datasets import DATASETS
from sentiment_kit.data.files import KitError
from sentiment_kit.recipes import RUN_CHAIN, plan_run, read_recipe, runs_folder
from sentiment_kit.start_checks import imported_packages, named_inputs, read_labels

ROWS = [{"text": f"review {n}", "label": n % 2, "stars": 1 + n % 5} for n in range(20)]


def write_rows(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    "The sentence with which `run` refuses, before any notebook was begun."
    monkeypatch.chdir(tmp_path)

    def run(recipe, *words):
        if ":" in recipe:
            (tmp_path / "own.yaml").write_text(recipe)
            recipe = "own.yaml"
        assert main(["run", recipe, "--out", "out", "--name", "r", *map(str, words)]) == 2
        assert not Path("out/r").exists()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    return run


CHAINS = ["../../evil", "/tmp/evil", "61_train.ipynb", "recipes/../61_train", ".", "", "evil"]


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_names_only_notebooks_of_the_runs_folder(refused, tmp_path, name):
    for place in ("evil", "out/evil", "../evil"):
        path = (tmp_path / f"{place}.ipynb").resolve()
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    assert "no run notebook" in refused(f"chain: ['{name}']\n")
    assert (tmp_path / "evil.ipynb").read_text() == "{}"


@pytest.mark.parametrize(
    "recipe, words, told",
    [
        ("smoke", ["--set", "chain=[62_transfer]"], "chain cannot be set"),
        ("smoke", ["--set", "run=elsewhere"], "no notebook of this run has a parameter 'run'"),
        ("smoke", ["--set", "name=x"], "has a parameter 'name'"),
        ("smoke", ["--data", "samples", "--set", "data=x.csv"], "data is given twice"),
        ("smoke", ["--set", "counts=5"], "counts is 5, but it must be a list"),
        ("smoke", ["--set", "unit=many"], "unit is 'many', but it must be int"),
        ("smoke", ["--set", "text_key=body"], "text_key is given, but data is samples"),
        ("smoke", ["--set", "labels_key=y"], "labels_key is given, but labels is a dataset's name"),
        ("smoke", ["--set", "start_from=reviews-small"], "given, but start_from brings its own"),
        ("chain: [61_train, 61_train]\n", [], "61_train is there twice"),
        ("chain: [60_make_shards]\nlr: 0.1\n", [], "no notebook of this run has a parameter 'lr'"),
    ],
)
def test_a_value_that_nobody_would_read_is_refused(refused, recipe, words, told):
    assert told in refused(recipe, *words)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--labels", "sst-2"], "no dataset 'sst-2'; known"),
        (["--labels", "a.csv", "b.csv", "c.csv"], "a.csv"),
        (["--labels", "a.csv", "b.csv"], "2 entries"),
        (["--set", "model=reviews-smal"], "reviews-smal"),
        (["--set", "judge_model=nowhere"], "nowhere"),
        (["--set", "rule=bset"], "rule is 'bset'; use one of"),
        (["--set", "state=cel"], "state is 'cel'"),
        (["--set", "judge_labels=star"], "judge_labels is 'star'"),
        (["--set", "precision=fp8"], "precision is 'fp8'"),
        (["--set", "cell=gru"], "gru"),
        (["--set", "lr=.nan"], "lr is nan"),
        (["--set", "nproc=3"], "3 processes cannot share"),
        (["--set", "device=tpu"], "tpu"),
        (["--set", "seed=null"], "60_make_shards: a seed is None; use a whole number"),
        (["--set", "seed=-1"], "a seed is -1; use a whole number"),
        (["--set", "patience=2", "valid_every=0"], "patience is 2"),
        (["--set", "part_weights={headline: 3}"], "part_weights has 'headline', which is no part"),
        (["--set", "part_weights={stars: 60}"], "the corpus has the parts frame, text"),
        (["--set", "part_weights=60"], "part_weights is 60; use parts and numbers"),
        (["--set", 'template="{text} {rating}"'], "no field {rating}"),
    ],
)
def test_what_a_later_notebook_would_refuse_is_refused_at_once(refused, words, told):
    assert told in refused("smoke", *words)


@pytest.mark.parametrize("seed", ["null", "-1"])
@pytest.mark.parametrize("name", ["62_transfer", "69_bundle", "71_neuron_records"])
def test_a_seed_is_a_number_in_every_notebook(name, seed, tmp_path):
    plan = plan_run({"chain": [name]}, {"seed": None if seed == "null" else int(seed)}, tmp_path)
    with pytest.raises(KitError, match=f"{name}: a seed is"):
        start_checks.check_seeds(plan)


@pytest.mark.parametrize("seeds", [None, [None], [0, 0.5], ["1"]])
def test_so_are_several(seeds, tmp_path):
    plan = plan_run({"chain": ["66_model_size"]}, {"seeds": seeds}, tmp_path)
    with pytest.raises(KitError, match="66_model_size: a seed is"):
        start_checks.check_seeds(plan)


def test_labels_are_read_before_anything_is_trained(refused, tmp_path):
    files = [write_rows(tmp_path / f"{split}.jsonl") for split in ("train", "valid", "test")]
    write_rows(tmp_path / "test.jsonl", [*ROWS, {"text": "none"}])
    assert "test.jsonl, row 21" in refused("smoke", "--labels", *files)
    write_rows(tmp_path / "test.jsonl")
    assert "'grade'" in refused("smoke", "--labels", *files, "--set", "labels_key=grade")


def test_stars_that_the_last_notebook_needs(refused, tmp_path):
    data = write_rows(tmp_path / "a.jsonl", [{"reviewText": "good", "mark": 3}])
    assert "63_map_the_neuron learns from" in refused("smoke", "--data", data)


def test_room_and_packages(refused, monkeypatch):
    real = start_checks.find_spec
    gone = {"plotly"}
    monkeypatch.setattr(start_checks, "find_spec", lambda p: None if p in gone else real(p))
    assert "60_make_shards needs the package plotly: pip install" in refused("smoke")
    gone.clear()
    big = ["hidden_size=60000", "embed_size=8", "global_batch=32"]
    assert "make room" in refused("smoke", "--set", *big)


def test_a_chain_that_would_find_nothing_to_read(refused):
    assert "60_make_shards makes" in refused("chain: [61_train]\n")
    assert "62_transfer makes" in refused("chain: [60_make_shards, 63_map_the_neuron]\n")


def test_addresses_and_names_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (
        "https://host/a.jsonl.gz",
        "s3://b/*.csv",
        "file:///x.json",
        "zip://a.csv::x.zip",
        "a.csv",
    )
    assert named_inputs(words) == [*words[:4], str(tmp_path / "a.csv")]
    assert named_inputs(("samples",)) == "samples"
    assert {name: named_inputs((name,)) for name in DATASETS if name != "samples"} == {
        name: [name] for name in DATASETS if name != "samples"
    }
    (tmp_path / "sst2").write_text("a file of one's own")
    assert named_inputs(("sst2",)) == [str(tmp_path / "sst2")]
    given = given_values(RunOptions("smoke", data=("file:///x.json",), labels=("imdb",)))
    assert given == {"data": ["file:///x.json"], "labels": ["imdb"]}


def test_a_published_set_is_fetched_before_the_training(monkeypatch):
    read = []
    monkeypatch.setattr("sentiment_kit.data.datasets.load_splits", lambda *args: read.append(args))
    keys = dict(labels_text_key=None, labels_key=None)
    both = {"61_train": dict(labels="imdb", probe_every=0, **keys)}
    read_labels(both)
    assert read == []
    both["62_transfer"] = dict(labels=["sst2"], stars_key=None, **keys)
    read_labels(both)
    assert read == [(("sst2",), None, None)]


@pytest.mark.parametrize(
    "name", ["smoke", "small_cpu", "reviews_small", "reviews", "reviews_stars", "demo", "bench"]
)
def test_shipped_recipes_pass(name, tmp_path):
    recipe = read_recipe(name)
    data = write_rows(tmp_path / "a.jsonl", [{"reviewText": "good", "overall": 5}])
    left = {key: [data] for key, value in recipe.items() if value is None}
    start_checks.check_start(plan_run(recipe, left, tmp_path / "run"), tmp_path / "run")


def test_the_starred_recipe_gives_corpus_and_model_one_template(tmp_path):
    said = {"data": "samples"}
    plan = plan_run(read_recipe("reviews_stars"), said, tmp_path)
    made, trained = plan["60_make_shards"], plan["61_train"]
    assert made["template"] == trained["template"] == "{text}\n{stars} {summary}"
    assert trained["part_weights"] == {"stars": 150, "summary": 3}
    assert trained["start_from"] == "reviews-small"
    start_checks.check_used(plan)


def test_imports_are_read_from_every_cell():
    assert {"plotly", "numpy", "sentiment_kit"} <= imported_packages(
        runs_folder() / f"{RUN_CHAIN[0]}.ipynb"
    )
