"""The nine records behind the page of the sentiment neuron: made, kept, gone on with, refused."""

import json
import shutil
from datetime import date

import numpy as np
import papermill
import pytest
import torch
from fill_page import CONTROLS, PAGE, figures_of, page_figures
from forks import fork_kernels
from sync import ROOT, cells
from test_hygiene import MACHINE_PATH

from sentiment_kit.data.corpus import open_corpus
from sentiment_kit.data.files import NOTED, KitError, read_json, write_json
from sentiment_kit.data.shards import make_shards
from sentiment_kit.data.starred import labelled_by_stars, reviews_by_stars
from sentiment_kit.evidence import area_records as areas_room
from sentiment_kit.evidence.area_records import RecordPlan, Subjects
from sentiment_kit.evidence.finished_runs import (
    open_run,
    starred_reviews,
    subject_of,
    subject_of_run,
)
from sentiment_kit.evidence.held_figures import shuffled_moves
from sentiment_kit.evidence.ladder import sample_reviews
from sentiment_kit.evidence.neuron_records import RECORDS
from sentiment_kit.evidence.run_records import (
    keep_record,
    kept,
    plain,
    read_records,
    weights_digest,
)
from sentiment_kit.evidence.run_way import way_of
from sentiment_kit.looking.record_pictures import held_picture, units_picture, votes_picture
from sentiment_kit.model.language_model import LanguageModel, LanguageModelConfig
from sentiment_kit.recipes import plan_run, read_recipe
from sentiment_kit.training.checkpoint import find_model

STORED = ROOT / "nbs" / "pages" / "records"
TEXT = "A good lamp, but it broke."
TINY = dict(places=2, permutations=2, repeats=6, points=1, push_places=6, after=[5, 30, 100])
TINY |= dict(pairs=6, lags=[0, 10], shuffles=20, mode_windows=6, mode_bytes=15, modes=4)
TINY |= dict(bootstraps=2, phrases=["the "], rest_windows=6, starts=2, steps=3, text=TEXT)
RIGHT = dict(value=0.7, low=0.6, high=0.8, n=40)


def one_sentence(call, told):
    with pytest.raises(KitError, match=told) as error:
        call()
    assert "\n" not in str(error.value)


def save_model(folder, seed, H, unit, **config):
    torch.manual_seed(seed)
    model = LanguageModel(LanguageModelConfig(hidden_size=H, embed_size=4, **config))
    model.save_pretrained(folder)
    write_json(folder / "neuron.json", dict(unit=unit, sign=-1, threshold=0.01))


def save_run(folder, corpus, seed, H, unit, **config):
    "What the chain leaves behind, as far as it is read."
    save_model(folder / "bundle", seed, H, unit, **config)
    for mb in (1, 2, 3):
        save_model(folder / "snapshots" / f"{mb:04}MB", seed + mb, H, unit, **config)
    area = dict(last=RIGHT, inside=RIGHT)
    rows = [dict(reads=f"unit {unit}, the carrier", unit=unit, chosen=0.71234567, **area)]
    others = [name for name, column in CONTROLS.items() if column == "inside"]
    others += ["all units", "word counts"]
    rows += [dict(reads=name, unit=None, chosen=0.6, **area) for name in others]
    drawn = [name for name, column in CONTROLS.items() if column == "chosen"]
    rows += [dict(reads=n, unit=None, chosen=RIGHT, last=None, inside=None) for n in drawn]
    sets = dict(labels=dict(test=RIGHT), stars=dict(test=RIGHT))
    swings = [
        dict(held=held, judge="n-grams", swing=0.3, half_width=0.06)
        for held in (f"unit {unit}", "random direction 0")
    ]
    parameters = {"63_map_the_neuron": dict(doses=[-8.0, 8.0], seed=0), "69_bundle": dict(seed=0)}
    files = {
        "bundle": dict(title="x", all_units=sets, one_unit=sets, ngrams=sets),
        "transfer": dict(carrier_controls=rows, labels=dict(names=["a.csv"]))
        | dict(sizes=dict(train=9, test=4)),
        "neuron_map": dict(steering=dict(points=[], swings=swings)),
        "run": dict(
            parameters=parameters,
            environment=dict(processor="a chip", gpu=None, threads=1, torch="2"),
        ),
        "environment": dict(corpus=corpus.digest),
        "train": dict(bytes=4_000_000),
    }
    for name, found in files.items():
        write_json(folder / f"{name}.json", found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Three tiny models, two runs, and a corpus."
    folder = tmp_path_factory.mktemp("neuron_records")
    corpus = make_shards(sample_reviews(), folder / "corpus", (2, 1, 1))
    save_model(folder / "small", 0, 12, 3)
    save_run(folder / "text", corpus, 10, 16, 13)
    save_run(folder / "stars", corpus, 20, 12, 3, template="{text}\n{stars} {summary}")
    return folder


def subjects(folder, text="text", stars="stars"):
    runs = open_run(folder / text), open_run(folder / stars)
    how = ((), 60)
    return Subjects(
        subject_of("reviews-small", folder / "small", folder / "corpus", *how),
        subject_of_run("reviews", runs[0], folder / "corpus", *how),
        subject_of_run("reviews-stars", runs[1], folder / "corpus", *how),
        *runs,
    )


def make_all(asked, out):
    plan = RecordPlan(str(out / "records"), str(out / "parts"), **TINY)
    for make in RECORDS.values():
        make(asked, plan)
    return read_records(out / "records")


@pytest.fixture(scope="module")
def made(folder):
    return make_all(subjects(folder), folder / "out")


def files_of(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.json")}


# ---------------------------------------------------------------- what they hold


def kinds(value, depth=0):
    "The form of figures: keys that are no units, names of texts or numbers of units, and kinds."
    if isinstance(value, dict):
        named = {k: v for k, v in value.items() if not any(c.isdigit() for c in k)}
        return {k: kinds(v) for k, v in named.items()}
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_has_the_form_of_the_one_that_stands(made, name):
    "What page and pictures read of the stored records is there under the same keys."
    stored = kinds(json.loads((STORED / f"{name}.json").read_text())["figures"])
    found = kinds(json.loads(json.dumps(made[name].figures)))

    def covered(stored, found, at):
        if isinstance(stored, dict) and isinstance(found, dict):
            lacking = set(stored) - set(found)
            free = at.endswith((".rest", "reviews", "reviews-stars"))  # phrases, held directions
            assert not lacking or free and name in ("rest", "steering"), f"{at} lacks {lacking}"
            for key in set(stored) & set(found):
                covered(stored[key], found[key], f"{at}.{key}")
        elif isinstance(stored, list) and stored and found:
            covered(stored[0], found[0], f"{at}[0]")
        elif ".share" not in at:  # of a probe without weights no share can be told
            assert stored == found, at

    covered(stored, found, name)


def test_pictures_can_be_drawn_from_them(made):
    pictures = [votes_picture(made["text"]), units_picture(made["units"], made["training"])]
    pictures += [held_picture(made["pushes"], made["patches"], "reviews-stars")]
    assert all(picture.startswith("<svg") for picture in pictures)
    assert "unit 13" in pictures[0] and "unit 13" in pictures[1]


def test_the_page_can_be_filled_from_them(made):
    "With the ladder, which is another notebook's: as many figures as the page has, of these units."
    both = made | dict(ladder=read_records(STORED)["ladder"])
    found = page_figures(both)
    assert len(found) == len(figures_of([cell["source"] for cell in cells(PAGE)]))
    assert {"13", "70 [60, 80]", "0.30 ± 0.06"} <= set(found)


def test_units_are_those_that_the_models_name(made):
    units = {name: found["unit"] for name, found in made["units"].figures.items()}
    assert units == {"reviews-small": 3, "reviews": 13, "reviews-stars": 3}
    curves = made["pushes"].figures["curves"]
    names = [(curve["name"], curve["model"]) for curve in curves]
    assert names == [
        ("carrier, with stars", "reviews-stars"),
        ("a slow unit beside it", "reviews-stars"),
        ("carrier, text alone", "reviews-small"),
        ("slowest unit, untrained", "untrained"),
    ]
    like = f"unit {curves[1]['unit']} alone"
    patches = made["patches"].figures
    assert list(patches["reviews-stars"]["patches"])[3] == like and like != "unit 3 alone"
    assert [patches[name]["readout"] for name in patches] == ["stars", "log-odds of a probe"]


def test_carriers_of_start_and_end_are_followed(made, folder):
    text, stars = made["training"].figures.values()
    assert [(point["mb"], list(point["units"])) for point in text] == [
        *((0.0, ["3"]), (2.0, ["13", "3"]), (4.0, ["13", "3"])),
    ]
    assert [list(point["units"]) for point in stars] == [["3"]] * 3
    row = made["controls"].figures["reviews"][0]
    assert text[-1]["units"]["13"] == dict(last=row["last"], inside=row["inside"])
    snapshot = folder / "text" / "snapshots" / "0002MB"
    assert made["training"].models["reviews at 2.0 MB"] == weights_digest(snapshot)


def test_no_path_and_no_review_is_in_them(made, folder):
    reviews = [
        text for _, _, text in reviews_by_stars(open_corpus(folder / "corpus").split("test"))
    ]
    for path in (folder / "out" / "records").iterdir():
        told = path.read_text(encoding="utf-8")
        assert not MACHINE_PATH.search(told) and str(folder) not in told, path.name
        assert not any(review[:40] in told for review in reviews if len(review) > 40), path.name


def test_shuffled_labels_move_what_a_plain_loop_says():
    rng = np.random.default_rng(1)
    moved_LN, sign_N = rng.normal(size=(2, 6)), np.repeat([1, -1], 3)
    [first, second] = shuffled_moves(moved_LN, sign_N, 50, 0)
    rng, means = np.random.default_rng(0), []
    for _ in range(50):
        other_N = rng.permutation(sign_N)
        means.append(
            [
                sum(m * a * b for m, a, b in zip(row, sign_N, other_N, strict=True)) / 6
                for row in moved_LN
            ]
        )
    assert np.allclose([first.value, second.value], np.mean(means, 0)) and first.n == 50
    assert np.allclose([first.low, first.high], np.quantile(np.array(means)[:, 0], [0.025, 0.975]))


# ---------------------------------------------------------------- kept, and gone on with


def test_what_stands_is_not_measured_again(made, folder, capsys):
    before = files_of(folder / "out")
    make_all(subjects(folder), folder / "out")
    assert files_of(folder / "out") == before and capsys.readouterr().out == ""


def test_a_run_that_was_stopped_goes_on(made, folder, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    asked = subjects(folder)
    with monkeypatch.context() as patched:
        patched.setattr(areas_room, "areas_of", stop)
        with pytest.raises(KeyboardInterrupt):
            make_all(asked, tmp_path)
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert {path.stem for path in parts} >= {"controls", "units-reviews", "units"}
    assert make_all(asked, tmp_path) == made
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_other_weights_are_measured_again_and_nothing_else(made, folder, tmp_path):
    out = shutil.copytree(folder / "out", tmp_path / "out")
    shutil.copytree(folder / "text", tmp_path / "text")
    save_model(tmp_path / "text" / "bundle", 77, 16, 13)
    for name in ("small", "stars", "corpus"):
        (tmp_path / name).symlink_to(folder / name)
    parts = {path.name: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    found = make_all(subjects(tmp_path), out)
    digest = weights_digest(tmp_path / "text" / "bundle")
    for name in RECORDS:
        if name in ("pushes", "patches", "rest"):  # they are not about it
            assert found[name] == made[name]
        else:
            assert digest in found[name].models.values() and found[name] != made[name]
    again = {p.name for p in (out / "parts").iterdir() if p.stat().st_mtime_ns != parts.get(p.name)}
    assert again == {"units-reviews.json", *(f"at-{mb}MB-reviews.json" for mb in (0.0, 2.0, 4.0))}


def test_what_runs_have_judged_is_told_by_their_own_numbers(made):
    "However few reviews are asked here."
    for name in ("accuracy", "controls"):
        assert made[name].data["reviews"].endswith(": 40 reviews of test, by stars")
    assert "60 of test" in made["controls"].data["reviews-small"]
    assert made["accuracy"].machine == "a chip, 1 thread, torch 2"


def test_small_numbers_keep_their_digits_and_nan_is_null():
    found = plain(
        dict(q=6.3123456e-11, left=np.array([0.123456789, 1e-7]), no=float("nan"), n=1340)
    )
    assert found == dict(q=6.3123e-11, left=[0.12346, 1e-7], no=None, n=1340)


def test_other_settings_are_another_statement(tmp_path):
    path = tmp_path / "part.json"
    assert kept(path, dict(n=1, lags=(0, 1)), lambda: dict(a=np.float32(0.5))) == dict(a=0.5)
    assert kept(path, dict(n=1, lags=[0, 1]), lambda: dict(a=2)) == dict(a=0.5)
    assert kept(path, dict(n=2, lags=[0, 1]), lambda: dict(a=2)) == dict(a=2)
    path.write_text('{"statement": ')
    one_sentence(lambda: kept(path, dict(n=2), dict), "part.json is not valid JSON")
    stated = dict(about="a", made_by="b", models={"m": "1"}, data={"d": "2"}, seeds={"s": 0})
    how = (tmp_path / "record.json", stated | dict(intervals="c"))
    first = keep_record(*how, lambda: dict(x=1.23456789))
    assert first.figures == dict(x=1.2346) and keep_record(*how, dict) == first


# ---------------------------------------------------------------- inputs


def test_what_is_wrong_with_a_run_is_said_in_a_sentence(folder, tmp_path):
    for name in ("bundle", "transfer", "neuron_map", "run"):
        run = shutil.copytree(folder / "text", tmp_path / name)
        (run / f"{name}.json").unlink()
        one_sentence(lambda run=run: open_run(run), rf"has no {name}\.json, so its chain")
    run = shutil.copytree(folder / "text", tmp_path / "other")
    write_json(run / "transfer.json", read_json(run / "transfer.json") | dict(sizes=3))
    one_sentence(lambda: open_run(run), "transfer.json: sizes is 3, not an object")
    write_json(run / "transfer.json", dict(labels={}, sizes={}))
    one_sentence(lambda: open_run(run), "lacks the field 'carrier_controls'")
    write_json(run / "transfer.json", dict(labels={}, sizes={}, carrier_controls=[]))
    one_sentence(lambda: open_run(run), "has no carrier with controls")
    bundle = read_json(run / "bundle.json")
    del bundle["one_unit"]["stars"]
    write_json(run / "bundle.json", bundle)
    one_sentence(lambda: open_run(run), "bundle.json has no answers on stars")


def test_a_corpus_that_the_run_has_not_read_is_refused(folder, tmp_path):
    other = make_shards(sample_reviews(), tmp_path / "other", (1, 1, 1))
    run = open_run(folder / "text")
    told = f"is corpus {other.digest[:12]}, but reviews was trained on"
    one_sentence(lambda: subject_of_run("reviews", run, other.folder), told)
    (tmp_path / "bare").mkdir()
    shutil.copy(folder / "small" / "config.json", tmp_path / "bare")
    shutil.copy(folder / "small" / "model.safetensors", tmp_path / "bare")
    bare = tmp_path / "bare"
    one_sentence(lambda: subject_of("x", bare, other.folder), "names no carrier")
    one_sentence(lambda: starred_reviews(other, ["amazon_"]), "no reviews with 1 or 2")


def test_a_text_that_cannot_be_coloured_is_refused(folder, tmp_path):
    for text in ("Café", "two\nlines", ""):
        plan = RecordPlan(str(tmp_path), str(tmp_path), **TINY | dict(text=text))
        asked = subjects(folder)
        one_sentence(lambda p=plan, a=asked: RECORDS["text"](a, p), "ASCII in one line")


def test_places_along_a_run_are_found_and_spread(folder, tmp_path):
    run = folder / "text"
    assert list(way_of([run], 4.0, 2)) == [1.0, 3.0] and list(way_of([run], 4.0, 9)) == [1, 2, 3]
    assert list(way_of([run / "snapshots", [0.5, run / "bundle"]], 4.0, 9)) == [0.5, 1, 2, 3]
    step = shutil.copytree(run / "bundle", tmp_path / "checkpoints" / "step-000000007")
    one_sentence(lambda: way_of([tmp_path], 4.0, 2), "does not say how much it has read")
    write_json(step / "trainer.json", dict(bytes=2_500_000, step=7))
    assert way_of([tmp_path], 4.0, 2) == {2.5: step} and way_of([tmp_path], 2.5, 2) == {}
    one_sentence(lambda: way_of([tmp_path / "none"], 4.0, 2), "holds no model")


def test_reviews_of_some_sources_are_those_of_their_own(tmp_path):
    texts = {name: [f"{name} {kind} {n}" for kind in "ab" for n in range(30)] for name in "xy"}
    for name, many in texts.items():
        rows = [dict(text=t, stars=1 + 4 * (" a " in t)) for t in many]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [str(tmp_path / f"{name}.jsonl") for name in "xy"]
    shards = make_shards(files, tmp_path / "c", (1, 0, 0)).split("train")
    some = labelled_by_stars(shards, within="category", sources={1})
    assert len(some) == 60 and all(text.startswith("y") for text in some.texts)
    every, asked = (labelled_by_stars(shards, sources=s) for s in (None, {0, 1}))
    assert every.texts == asked.texts and len(every) == 120
    with pytest.raises(KitError, match=r"write a list, such as \['x'\]"):
        starred_reviews(open_corpus(tmp_path / "c"), "x")


# ---------------------------------------------------------------- what a record depends on


def edit(path, **fields):
    write_json(path, read_json(path) | fields)


def copied(folder, tmp_path):
    "The models, runs and corpus, and the records of them, to change."
    for name in ("small", "text", "stars"):
        shutil.copytree(folder / name, tmp_path / name)
    if (folder / "out").exists():
        shutil.copytree(folder / "out", tmp_path / "out")
    (tmp_path / "corpus").symlink_to(folder / "corpus")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "records"),
    [
        (dict(after=[5, 60, 100]), {"pushes"}),
        (dict(phrases=["and ", "zz "]), {"rest"}),
        (dict(places=3), {"controls", "units", "training", "patches"}),
        (dict(starts=1), {"rest"}),
    ],
)
def test_another_number_makes_the_records_that_it_is_in(made, folder, tmp_path, changed, records):
    at = copied(folder, tmp_path)
    plan = RecordPlan(str(at / "out/records"), str(at / "out/parts"), **TINY | changed)
    for make in RECORDS.values():
        make(subjects(at), plan)
    found = read_records(at / "out/records")
    assert {name for name in RECORDS if found[name] != made[name]} == records
    for name in records:
        [key] = changed
        assert changed[key] in (
            found[name].settings.get(key),
            found[name].settings.get("asked", {}).get("reviews-small", {}).get(key),
        )


def right_of(path, value):
    bundle = read_json(path / "bundle.json")
    bundle["all_units"]["stars"]["test"]["value"] = value
    return dict(all_units=bundle["all_units"])


ABOUT_TEXT = {"accuracy", "steering", "text", "controls", "units", "training"}


@pytest.mark.parametrize(
    ("change", "records"),
    [
        (lambda run: edit(run / "bundle.json", **right_of(run, 0.99)), {"accuracy"}),
        (
            lambda run: edit(run / "neuron_map.json", steering=dict(swings=[])),
            {"steering"},
        ),
        (
            lambda run: edit(run / "transfer.json", sizes=dict(train=8, test=4)),
            {"accuracy", "controls", "training"},
        ),
        (lambda run: edit(run / "bundle" / "neuron.json", threshold=0.01000001), ABOUT_TEXT),
        (lambda run: edit(run / "bundle" / "neuron.json", sign=1), ABOUT_TEXT),
        (lambda run: edit(run / "bundle" / "config.json", template="{summary} {text}"), ABOUT_TEXT),
    ],
)
def test_another_file_of_a_run_makes_its_records(made, folder, tmp_path, change, records):
    at = copied(folder, tmp_path)
    change(at / "text")
    asked = make_all(subjects(at), at / "out")
    assert {name for name in RECORDS if asked[name] != made[name]} == records


def test_another_carrier_of_the_start_is_followed(made, folder, tmp_path):
    at = copied(folder, tmp_path)
    edit(at / "small" / "neuron.json", unit=5)
    found = make_all(subjects(at), at / "out")
    same = {name for name in RECORDS if found[name] == made[name]}
    assert same == {"accuracy", "steering"}


def test_records_without_settings_are_read_and_made_anew(made, folder, tmp_path):
    at = copied(folder, tmp_path)
    stored = read_json(at / "out/records/text.json")
    del stored["settings"]
    write_json(at / "out/records/text.json", stored)
    assert read_records(at / "out/records")["text"].settings == {}
    assert make_all(subjects(at), at / "out") == made
    write_json(at / "out/records/text.json", stored | dict(seeds=3))
    one_sentence(lambda: make_all(subjects(at), at / "out"), "text.json: seeds is 3.*; delete it,")


def test_a_part_without_figures_is_measured(tmp_path):
    write_json(tmp_path / "part.json", dict(statement=dict(n=1)))
    assert kept(tmp_path / "part.json", dict(n=1), lambda: 3) == 3
    assert kept(tmp_path / "part.json", dict(n=1 + 1e-9), lambda: 4) == 4


def test_numbers_of_runs_are_their_own(folder, tmp_path):
    at = copied(folder, tmp_path)
    run = read_json(at / "text" / "run.json")
    told = dict(places=3, permutations=1, seed=5)
    edit(at / "text" / "run.json", parameters=run["parameters"] | {"62_transfer": told})
    other = run["environment"] | dict(processor="another chip")
    edit(at / "stars" / "run.json", environment=other)
    found = make_all(subjects(at), at / "out")
    controls = found["controls"]
    assert controls.settings["asked"]["reviews"] == told | dict(by="62_transfer")
    assert controls.seeds["places, shuffles, rotation, untrained: reviews"] == 5
    for name in ("controls", "accuracy", "steering"):
        assert "reviews: a chip, 1 thread" in found[name].machine
        assert "reviews-stars: another chip, 1 thread" in found[name].machine
    assert (
        found["accuracy"].date
        == date.fromtimestamp(
            max((at / run / "bundle.json").stat().st_mtime for run in ("text", "stars"))
        ).isoformat()
    )


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        *(
            (dict(after=n), "^after is")
            for n in ([], ["30"], [1.5], [0, 30], [-1, 30], [30, 5], 30)
        ),
        *((dict(lags=n), "^lags is") for n in ([], [10, 0], [-5], [0, 0], "10", [True])),
        *(
            ({name: n}, rf"^{name} is {n}; use at least")
            for name, n in dict(
                pairs=1, push_places=1, mode_windows=0, shuffles=0, bootstraps=0, modes=0
            ).items()
        ),
        *(
            ({name: n}, rf"^{name} is {n}; use at least")
            for name, n in dict(
                mode_bytes=0, starts=0, points=-3, repeats=0, places=0, permutations=0, seed=-1
            ).items()
        ),
        (dict(modes=2.5), "^modes is 2.5; use a whole number"),
        *((dict(phrases=p), "^phrases is") for p in ([5], [""], "the ", ["a", "a"])),
        (dict(starts=50), "from the 6 windows of rest_windows"),
        (dict(text=5), "^text is 5"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path, wrong, told):
    one_sentence(lambda: RecordPlan(str(tmp_path), str(tmp_path), **TINY | wrong), told)


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path):
    path = write_json(tmp_path / "file", {})
    for name in ("records", "parts"):
        folders = dict(records=str(tmp_path), parts=str(tmp_path)) | {name: str(path / "in")}
        one_sentence(lambda f=folders: RecordPlan(**f, **TINY), rf"^{name} is .* is a file")


def row_of(run, **fields):
    rows = read_json(run / "transfer.json")["carrier_controls"]
    edit(run / "transfer.json", carrier_controls=[rows[0] | fields, *rows[1:]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: row_of(run, unit=7), "about unit 7, but bundle/neuron.json names unit 13"),
        (lambda run: row_of(run, unit=None), "has no carrier with controls"),
        (lambda run: row_of(run, inside=None), "has no carrier with controls"),
        (lambda run: edit(run / "bundle/neuron.json", state="tanh_cell"), "state tanh_cell, but"),
        (lambda run: edit(run / "bundle/neuron.json", layer=3), "of layer 3"),
        (
            lambda run: (edit(run / "bundle/neuron.json", unit=99), row_of(run, unit=99)),
            "names unit 99 of layer -1, state cell, but the model has 16 units",
        ),
        (lambda run: edit(run / "train.json", bytes=0), "bytes is 0; use at least 1"),
        (lambda run: edit(run / "run.json", environment={}), "environment lacks the field 'proc"),
        (
            lambda run: edit(
                run / "run.json", parameters={"62_transfer": dict(inside_on="labels")}
            ),
            "controls on labelled texts",
        ),
        (
            lambda run: edit(run / "transfer.json", carrier=dict(texts="labelled texts: x")),
            "controls on labelled texts",
        ),
        (lambda run: (run / "bundle/model.safetensors").unlink(), "has no model.safetensors"),
        (lambda run: save_model(run / "bundle", 0, 16, 13, n_layers=2), "has 2 layers"),
    ],
)
def test_a_run_that_does_not_fit_together_is_refused(folder, tmp_path, change, told):
    at = copied(folder, tmp_path)
    change(at / "text")
    one_sentence(lambda: subjects(at), told)


@pytest.mark.parametrize(
    ("name", "notebook"), [("accuracy", "69_bundle"), ("steering", "63_map_the_neuron")]
)
def test_a_seed_is_not_guessed(folder, tmp_path, name, notebook):
    at = copied(folder, tmp_path)
    for given in ({}, {notebook: dict(seed=None)}):
        edit(at / "stars" / "run.json", parameters=given)
        plan = RecordPlan(str(at / "records"), str(at / "parts"), **TINY)
        one_sentence(lambda p=plan: RECORDS[name](subjects(at), p), f"the seed of {notebook}")
    assert not (at / "records").exists()


def test_what_is_no_run_is_said():
    one_sentence(lambda: open_run(None), "None is no finished run; name its folder")
    one_sentence(lambda: open_run("/nope"), "/nope is no folder of a run")


def test_runs_in_each_others_places_are_refused(folder):
    one_sentence(lambda: subjects(folder, "stars", "text"), "stars/bundle has read stars, but")
    runs = [open_run(folder / name) for name in ("text", "text")]
    one = subject_of_run("reviews", runs[0], folder / "corpus", (), 60)
    Subjects(one, one, one, *runs)  # to try the machinery out
    other = subject_of("reviews-stars", folder / "small", folder / "corpus", (), 60)
    one_sentence(lambda: Subjects(one, one, other, *runs), "small has read no stars")


def test_the_corpus_of_a_card_is_asked_for(folder, tmp_path):
    bundled = find_model("reviews-small")
    told = "but reviews-small was trained on 17ce59714fee"
    one_sentence(lambda: subject_of("reviews-small", bundled, folder / "corpus"), told)
    step = shutil.copytree(folder / "small", tmp_path / "checkpoints" / "step-000000007")
    write_json(tmp_path / "environment.json", dict(corpus="0123456789abcdef"))
    one_sentence(lambda: subject_of("x", step, folder / "corpus"), "trained on 0123456789ab")


@pytest.mark.parametrize(
    "entry", [None, ["a", "x"], [1.0], [1.0, "x", 3], [-1, "x"], [float("nan"), "x"], [1.0, None]]
)
def test_an_entry_that_is_no_place_is_refused(entry):
    one_sentence(lambda: way_of([entry], 4.0, 2), "is no place along a run; write a folder")


def test_places_along_a_run_are_not_mixed_up(folder, tmp_path, capsys):
    at = copied(folder, tmp_path)
    run = at / "text"
    one_sentence(lambda: way_of(str(run), 4.0, 2), "is no way of a run; write a list")
    one_sentence(lambda: way_of([[1.0, run]], 4.0, 2), "holds 3 models; name the one of 1 MB")
    twice = [run, [2, run / "snapshots" / "0001MB"]]
    one_sentence(lambda: way_of(twice, 4.0, 2), "are both said to have read 2 MB")
    shutil.copytree(run / "snapshots" / "0001MB", run / "snapshots" / ".0001MB.123.tmp")
    assert list(way_of([run], 4.0, 9)) == [1, 2, 3]
    plan = RecordPlan(str(at / "records"), str(at / "parts"), **TINY | dict(points=9))
    for old, new in (("0001MB", "0.01MB"), ("0002MB", "0.02MB"), ("0003MB", "0.11MB")):
        (run / "snapshots" / old).rename(run / "snapshots" / new)
    edit(run / "train.json", bytes=120_000)
    assert list(areas_room.places_along(subjects(at), plan)["reviews"]) == [
        0,
        0.01,
        0.02,
        0.11,
        0.12,
    ]
    save_model(run / "snapshots" / "0.02MB", 5, 7, 3)
    one_sentence(lambda: areas_room.places_along(subjects(at), plan), "0.02MB has 7 units, but")
    shutil.rmtree(run / "snapshots" / "0.02MB")
    NOTED.clear()
    areas_room.places_along(subjects(at), plan)
    assert "reviews: 9 points along its run were asked for, 2 found" in capsys.readouterr().err
    (run / "snapshots" / "0.01MB" / "model.safetensors").unlink()
    one_sentence(lambda: RECORDS["training"](subjects(at), plan), "0.01MB has no model.safetensors")


# ---------------------------------------------------------------- the notebook


def test_the_recipe_says_every_size_and_leaves_the_folders_to_the_caller(tmp_path):
    one_sentence(lambda: plan_run(read_recipe("neuron_records"), {}, tmp_path), "small_corpus")
    given = {name: "x" for name in ("small_corpus", "text_run", "stars_run")}
    asked = plan_run(read_recipe("neuron_records"), given, tmp_path)["71_neuron_records"]
    sizes = {name: asked[name] for name in TINY}
    assert RecordPlan("", "", **sizes) == RecordPlan("", "", asked["text"])


@pytest.mark.slow
def test_the_notebook_makes_all_nine_and_the_next_one_draws_them(folder, tmp_path, monkeypatch):
    fork_kernels(monkeypatch)
    runs = ROOT / "nbs" / "runs"
    given = dict(run=str(tmp_path / "out"), records=str(tmp_path / "records"), **TINY)
    given |= dict(small=str(folder / "small"), small_corpus=str(folder / "corpus"), reviews=60)
    for name in ("text", "stars"):
        given |= {f"{name}_run": str(folder / name), f"{name}_corpus": str(folder / "corpus")}
    copy = tmp_path / "71.ipynb"
    papermill.execute_notebook(
        runs / "71_neuron_records.ipynb", copy, given, cwd=tmp_path, progress_bar=False
    )
    assert set(read_records(tmp_path / "records")) == set(RECORDS)
    drawn = dict(run=str(tmp_path / "images"), records=str(tmp_path / "records"))
    papermill.execute_notebook(
        runs / "72_sentiment_neuron.ipynb", copy, drawn, cwd=tmp_path, progress_bar=False
    )
    assert len(list((tmp_path / "images").glob("*.svg"))) == 3
