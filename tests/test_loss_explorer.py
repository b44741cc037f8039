"""Metrics read while they are written, no peak lost by thinning, all drawn from one message."""

import csv
import json
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict

import numpy as np
import pytest
from hostile import HOSTILE

from sentiment_kit.data.files import NOTED, KitError, write_json
from sentiment_kit.evidence.gap_report import check_gap
from sentiment_kit.looking.gap_bar import gap_html
from sentiment_kit.looking.loss_curves import (
    PANELS,
    find_runs,
    name_runs,
    plot_losses,
)
from sentiment_kit.looking.loss_explorer import (
    LossExplorer,
    answer_browser,
    losses_csv,
    losses_page,
    save_losses,
)
from sentiment_kit.looking.loss_picture import losses_svg, short, ticks
from sentiment_kit.looking.loss_state import (
    MODULES,
    SCRIPT,
    STYLE_SHEET,
    look_at_runs,
    loss_choices,
    pack_columns,
)
from sentiment_kit.looking.page_parts import STATIC, join_modules, static_text
from sentiment_kit.looking.run_settings import differing, run_settings, seed_groups
from sentiment_kit.looking.smoothing import band, best_so_far, mean_points, smooth, thin
from sentiment_kit.training.config import TrainConfig
from sentiment_kit.training.log import cut_back
from sentiment_kit.training.metrics import NUMBERS, Metrics, read_metrics


def row(step, **more):
    return (
        dict(step=step, bytes=step * 100, epoch=step / 10, seconds=step * 36.0, loss_bits=8 / step)
        | more
    )


def write(run, rows, mode="w"):
    run.mkdir(exist_ok=True)
    with open(run / "metrics.jsonl", mode) as f:
        f.write("".join(json.dumps(r) + "\n" for r in rows))
    return run


def add(run, text):
    with open(run / "metrics.jsonl", "a") as f:
        f.write(text)


VALID = dict(valid_bits=3.5, split="valid", reset="shard", lanes=8)


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", [row(1), row(2, **VALID), row(3, loss_bits=None, skipped=True)])


def test_columns(run):
    m = read_metrics(run)
    assert set(NUMBERS) <= set(m) and {len(column) for column in m.values()} == {3}
    np.testing.assert_array_equal(m["valid_bits"], [np.nan, 3.5, np.nan])
    np.testing.assert_array_equal(m["loss_bits"], [8, 4, np.nan])
    np.testing.assert_array_equal(m["skipped"], [np.nan, np.nan, 1])
    assert m["reset"].tolist() == ["", "shard", ""]
    for name, column in read_metrics(str(run / "metrics.jsonl")).items():
        np.testing.assert_array_equal(column, m[name])


def test_every_prefix_of_a_file_can_be_read_and_read_on_from(run):
    data = (run / "metrics.jsonl").read_bytes()
    ends = [i for i in range(len(data)) if data[i : i + 1] == b"\n"]
    for n in range(len(data)):
        (run / "metrics.jsonl").write_bytes(data[:n])
        metrics = Metrics(run)
        assert metrics.look() == (n >= ends[0]) and len(metrics.columns["step"]) == sum(
            end <= n for end in ends
        )
        (run / "metrics.jsonl").write_bytes(data)
        assert metrics.look() == (n < ends[-1]) and metrics.columns["step"].tolist() == [1, 2, 3]
        assert not metrics.look()


def test_only_what_was_appended_is_read(run):
    metrics = Metrics(write(run, [row(step) for step in range(1, 201)]))
    metrics.look()
    with open(run / "metrics.jsonl", "r+") as f:
        f.write("#" * 50)  # nobody may look here again
    add(run, json.dumps(row(201, machine="laptop", probe_all=0.8)) + "\n")
    assert metrics.look() and metrics.columns["step"][[0, -1]].tolist() == [1, 201]
    assert metrics.columns["machine"][[0, -1]].tolist() == ["", "laptop"]
    np.testing.assert_array_equal(metrics.columns["probe_all"][[0, -1]], [np.nan, 0.8])
    add(run, '{"step": 202\n{"step": 203}\n')
    assert metrics.look() and metrics.columns["step"][-1] == 203
    assert [said.partition(", ")[2] for said in metrics.broken] == [
        "line 202: not JSON; the line is left out"
    ]


def test_a_file_cut_back_and_written_on_is_read_anew(run):
    metrics = Metrics(write(run, [row(step) for step in range(1, 31)]))
    metrics.look()
    for steps, again in (
        (10, 1.0),
        (50, 2.0),
    ):  # shorter than it was; longer, and other from the middle on
        write(
            run,
            [
                row(step, seconds=step if step <= 5 else step + again)
                for step in range(1, steps + 1)
            ],
        )
        assert metrics.look() and metrics.columns["step"].tolist() == list(range(1, steps + 1))
        assert metrics.columns["seconds"][-1] == steps + again


BROKEN = {
    '{"step":a85, "loss_bits": 2}': "not JSON",
    '{"step": 4': "not JSON",
    '{"step": "four"}': "step is 'four'",
    '{"step": 4, "loss_bits": [1]}': "loss_bits is",
    '{"step": 4, "machine": {}}': "machine is",
    '{"step": 4, "lr": 1%s}' % (400 * "0"): "lr is '1000",
    '{"lr": 4}': "it has no step",
    "[1]": "not a JSON object",
    "4" + 5000 * "[": "not JSON",
    "\udcff": "not JSON",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_left_out_and_told_by_every_reader(run, line, capsys):
    "By who draws, sums, looks live, and by the run that goes on: the same sentence."
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole + line.encode(errors="surrogateescape") + b"\n")
    add(run, json.dumps(row(5)) + "\n")
    told = re.escape(f"line 4: {BROKEN[line]}")
    for read in (read_metrics, lambda run: plot_losses(run).data and read_metrics(run)):
        NOTED.clear()
        assert read(run)["step"].tolist() == [1, 2, 3, 5]
        assert re.search(told, capsys.readouterr().err)
    changed, notes, _, _ = look_at_runs({"run": Metrics(run)})
    assert re.search(told, notes["run"][0]) and changed
    cut_back(run / "metrics.jsonl", 5, logged=3)
    assert (run / "metrics.jsonl").read_bytes() == whole
    assert re.search(told, capsys.readouterr().out)


def test_lines_that_ought_to_be_there_are_missed_aloud(run, capsys):
    cut_back(run / "metrics.jsonl", 100, logged=3)
    assert capsys.readouterr().out == ""
    cut_back(run / "metrics.jsonl", 100, logged=70)
    assert "lacks lines up to step 70" in capsys.readouterr().out


def test_a_file_without_a_single_line_of_a_run_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{]\n[1]\n")
    with pytest.raises(KitError, match="line 1: not JSON.*as all others"):
        read_metrics(tmp_path)


def test_not_a_run(tmp_path):
    for read in (read_metrics, plot_losses):
        with pytest.raises(KitError, match="run/metrics.jsonl does not exist yet"):
            read(tmp_path / "run")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(KitError, match="cannot be read"):
        read_metrics(tmp_path)


def test_smooth():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 25), 3.0)
    values = np.random.default_rng(0).normal(size=400)
    np.testing.assert_allclose(smooth(values, 1), values)
    held = smooth(np.insert(values, 200, np.nan), 10)
    np.testing.assert_allclose(np.delete(held, 200), smooth(values, 10))
    assert held[200] == held[199]
    assert np.isnan(smooth(np.array([np.nan, 1.0]), 5)).tolist() == [True, False]
    assert len(smooth(np.array([]), 5)) == 0


@pytest.mark.parametrize("log", [False, True])
def test_thinning_keeps_every_peak(log):
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.exponential(size=50_000)), rng.normal(size=50_000)
    spikes = rng.choice(50_000, 100, replace=False)
    y[spikes] += 100 * rng.choice([-1, 1], 100)
    y[rng.choice(50_000, 100, replace=False)] = np.nan
    kept = thin(x, y, 2_000, log)
    assert len(kept) <= 2_000 and (np.diff(kept) > 0).all() and np.isfinite(y[kept]).all()
    assert np.nanmin(y) in y[kept] and np.nanmax(y) in y[kept]
    at, edges = (
        (np.log(x), np.linspace(*np.log(x[[0, -1]]), 501))
        if log
        else (x, np.linspace(*x[[0, -1]], 501))
    )
    column = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, 499)
    for k in np.unique(column[spikes]):  # what is drawn in each column reaches as high and as low
        inside, drawn = y[(column == k) & np.isfinite(y)], y[kept][column[kept] == k]
        assert (inside.min(), inside.max()) == (drawn.min(), drawn.max())


def test_thinning_of_little():
    assert thin(np.array([]), np.array([])).tolist() == []
    assert thin(np.zeros(3), np.array([1, np.nan, 2])).tolist() == [0, 2]
    assert thin(np.arange(3), np.ones(3), log=True).tolist() == [1, 2]
    assert len(thin(np.zeros(5_000), np.arange(5_000.0))) == 2  # all on one place


@pytest.mark.parametrize(
    "x, last", [("steps", 3), ("bytes", 300), ("hours", 0.03), ("epochs", 0.3)]
)
def test_axes(run, x, last):
    figure = plot_losses(run, x=x)
    raw, line = figure.data[:2]
    valid = next(trace for trace in figure.data if trace.name.endswith("validation"))
    np.testing.assert_allclose([valid.x[0] * 1.5, line.x[-1] * 1.5], last)
    assert len(raw.x) == 0  # of so few points the line itself is the raw one
    assert (
        valid.text[0] == " (valid, reset shard, 8 lanes)"
        and figure.layout.yaxis.title.text == "bits per byte"
    )
    assert plot_losses(run, x=x, log_x=True, log_y=True).layout.xaxis.type == "log"


def test_everything_in_one_picture(tmp_path):
    more = dict(lr=5e-4, grad_norm=0.2, clipped=0.0, loss_scale=2.0**16, skipped=2, bytes_per_s=2e4)
    probe = dict(probe_all=0.8, probe_one=0.7, probe_unit=7)
    runs = {
        "a": write(tmp_path / "a", [row(1, **more), row(2, **more, **probe)]),
        "b": write(tmp_path / "b", [row(1)]),
    }
    figure = plot_losses(runs, panels=list(PANELS))
    at = {trace.name: trace for trace in figure.data}
    assert at["a, skipped steps"].y.tolist() == [
        2,
        4,
    ]  # counted since the start, not since the line before
    assert (
        at["a, probe, one unit"].text[0] == " (unit 7)" and at["a, probe, all units"].yaxis == "y2"
    )
    assert figure.layout.yaxis2.visible and not plot_losses(runs["b"]).layout.yaxis2.visible
    axes = [figure.layout[f"yaxis{k}"] for k in ("", *range(3, 9))]
    domains = sorted(axis.domain for axis in axes if axis.visible is not False)
    assert all(low[1] < high[0] for low, high in zip(domains, domains[1:], strict=False))
    assert all(
        axis.domain[0] > 0.99 for axis in axes if axis.visible is False
    )  # nothing painted over the loss
    assert figure.layout.hovermode == "x unified" and figure.layout.hoversubplots == "axis"
    assert {trace.xaxis for trace in figure.data} == {None}  # all over one axis, so one hover
    for unknown in (dict(x="days"), dict(panels=["loss"])):
        with pytest.raises(KitError, match="is not known; take one of"):
            plot_losses(runs, **unknown)


def test_a_late_spike_is_in_sight_and_the_start_is_not(tmp_path):
    loss = np.r_[8.0, np.random.default_rng(0).uniform(2, 3, 999)]
    loss[700] = 5.0
    run = write(tmp_path / "run", [row(n + 1, loss_bits=bits) for n, bits in enumerate(loss)])
    assert 5 < plot_losses(run).layout.yaxis.autorangeoptions.clipmax < 8
    assert plot_losses(run, log_x=True).layout.yaxis.autorangeoptions.clipmax > 8
    with_detail = plot_losses(run, window=(0, 20_000), points=40)
    assert len(plot_losses(run, points=40).data[0].x) <= 40 < len(with_detail.data[0].x) <= 80


def test_runs_keep_their_colours_and_names(run, tmp_path):
    other = write(tmp_path / "other", [row(1)])
    two = plot_losses({"a": run, "b": other})
    colours = {trace.legendgroup: trace.line.color for trace in two.data}
    assert len(set(colours.values())) == 2 == len({(t.legendgroup, t.line.color) for t in two.data})
    assert plot_losses({"a": run}).data[0].line.color == colours["a"]
    many = plot_losses({str(n): read_metrics(run) for n in range(13)}).data
    assert len({(t.line.color, t.line.dash) for t in many}) == 13
    assert list(name_runs(["p/fp32", "q/fp32/metrics.jsonl"])) == ["p/fp32", "q/fp32"]
    assert list(find_runs(tmp_path)) == ["other", "run"] and name_runs([]) == {}


def test_a_run_of_no_steps_is_an_empty_picture(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    figure = plot_losses([tmp_path], panels=["lr"], log_x=True)
    assert all(len(trace.x) == 0 for trace in figure.data) and figure.layout.annotations[0].visible


GAP = {
    "version": 1,
    "level": 0.95,
    "gap": {"bits": -0.02, "low": -0.03, "high": -0.01},
    "terms": [
        {"name": "moving weights", "bits": -0.015, "low": -0.018, "high": -0.012},
        {"name": "which block", "bits": -0.005, "low": -0.015, "high": 0.003},
    ],
    "words": "Mostly the weights.",
}


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(version=2), "version is 2, not 1"),
        (dict(terms="none"), "terms is 'none', not a list"),
        (dict(terms=[{"bits": 1}]), "lacks the field 'low'"),
        (dict(gap=None), "gap holds None"),
        (
            dict(gap={"bits": -0.02, "low": -0.01, "high": -0.03}),
            "gap needs numbers low <= bits <= high",
        ),
        (dict(gap={"bits": float("nan"), "low": -0.01, "high": -0.03}), "gap: bits is nan"),
        (dict(terms=GAP["terms"][:1]), r"add up to -0.01500 and the gap is -0.02000"),
        (dict(level=95), "level"),
        (dict(words=None), "words"),
    ],
)
def test_a_gap_that_is_not_one_is_refused(change, told):
    assert check_gap(GAP) is GAP
    with pytest.raises(KitError, match=f"^here: .*{told}|^here is .*{told}"):
        check_gap(GAP | change, "here")


def test_the_gap_is_told_with_its_intervals(run):
    write_json(run / "gap.json", GAP)
    page = gap_html(run)
    assert (
        "-0.0200" in page
        and "-0.0300 to -0.0100" in page
        and "75%" in page
        and "Mostly the weights." in page
    )
    assert page.count('fill="none"') == 1  # the block: its interval holds zero
    sure = {"bits": -0.02, "low": -0.03, "high": 0.01}
    assert "75%" not in gap_html({"a": GAP | {"gap": sure}})  # no shares of what may be nothing
    for text in HOSTILE.values():
        told = gap_html(
            {
                text: GAP
                | {
                    "words": text,
                    "terms": [GAP["terms"][0] | {"name": text, "bits": -0.02, "low": -1}],
                }
            }
        )
        assert set(re.findall(r"<\W*(\w+)", told)) <= set(
            "table caption b tr th td svg rect path".split()
        )


def test_numbers_and_pages(run, tmp_path):
    lines = list(csv.DictReader(losses_csv({"a, b": run}).splitlines()))
    assert [line["loss_bits"] for line in lines] == ["8.0", "4.0", ""] and {
        line["run"] for line in lines
    } == {"a, b"}
    page = save_losses(run, tmp_path / "a.html").read_text("utf-8")
    assert (
        page.startswith("<!doctype html>") and "<script src" not in page and "bits per byte" in page
    )
    assert save_losses(run, tmp_path / "a.csv").read_text("utf-8") == losses_csv(run)
    with pytest.raises(KitError, match="ends in none of"):
        save_losses(run, tmp_path / "a.gif")


def test_names_stay_text(run):
    figure = plot_losses({text[:100]: read_metrics(run) for text in HOSTILE.values()})
    assert not any("<" in trace.name for trace in figure.data)
    page = losses_page(figure, title=HOSTILE["script"])
    body = page[page.index('<div id="') :].replace("</script>", "", 1)
    assert "<script>window.hacked" not in page and "<img" not in body


@pytest.fixture
def explorer(run, tmp_path):
    explorer = LossExplorer([run, tmp_path / "next"], live=False)
    yield explorer
    explorer.close()


def drawn(explorer, name, field):
    "A column of a run as the browser gets it."
    [run] = [run for run in explorer.data["runs"] if run["name"] == name]
    wide = len(run["columns"][field]) == 8 * run["rows"]
    return np.frombuffer(run["columns"][field], "<f8" if wide else "<f4")


def test_all_that_is_drawn_lies_in_the_first_message(explorer):
    "What the browser gets when it opens the line: nothing is to be asked for."
    state = explorer.get_state()
    first, second = state["data"]["runs"]
    assert state["data"]["serial"] == 1 and {"x", "choices", "_esm", "_css"} <= set(state)
    assert (first["name"], first["rows"], second["rows"]) == ("run", 3, 0)
    assert "does not exist yet" in second["notes"][0] and first["notes"] == []
    np.testing.assert_array_equal(drawn(explorer, "run", "bytes"), [100, 200, 300])
    np.testing.assert_array_equal(drawn(explorer, "run", "loss_bits"), [8, 4, np.nan])
    assert first["points"]["valid_bits"]["told"] == "(valid, reset shard, 8 lanes)"
    assert "lr" not in first["columns"]  # of which there is no number


def test_the_explorer_follows_its_files(explorer, run, tmp_path):
    write(tmp_path / "next", [row(1), row(2)])
    add(run, json.dumps(row(4)) + "\n")
    explorer.refresh()
    assert explorer.data["serial"] == 2
    assert drawn(explorer, "run", "bytes").tolist() == [100, 200, 300, 400]
    assert drawn(explorer, "next", "step").tolist() == [1, 2]
    explorer.refresh()
    assert explorer.data["serial"] == 2  # nothing is sent where nothing has changed
    write(run, [row(1)])  # cut back
    explorer.refresh()
    assert drawn(explorer, "run", "bytes").tolist() == [100]
    (run / "metrics.jsonl").write_text("{]\n" * 2)
    explorer.refresh()
    assert "line 1: not JSON" in explorer.data["runs"][0]["notes"][0]


def test_gaps_and_settings_of_the_explorer(explorer, run):
    write_json(run / "gap.json", GAP)
    explorer.refresh()
    assert explorer.data["runs"][0]["gap"]["terms"][0]["name"] == "moving weights"
    write_json(run / "gap.json", GAP | {"words": 1})
    (run / "train_config.json").write_text("[]")
    explorer.refresh()
    [note] = explorer.data["runs"][0]["notes"]
    assert "train_config.json holds no settings of a run" in note
    (run / "train_config.json").unlink()
    explorer.refresh()
    [note] = explorer.data["runs"][0]["notes"]
    assert "words" in note and explorer.data["runs"][0]["gap"] is None


def test_what_the_explorer_draws_can_be_saved(explorer, tmp_path):
    explorer.set_trait("x", "steps")
    explorer.log_y = True
    explorer.panels = ["lr"]
    explorer.window = [1, 2]
    figure = explorer.figure
    assert figure.layout.xaxis.title.text == "steps" and figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis3.visible
    sent = []
    explorer.send = lambda message: sent.append(message["told"])
    for name in ("all.csv", "all.gif"):
        answer_browser(explorer, dict(kind="save", path=str(tmp_path / name)), [])
    assert (tmp_path / "all.csv").exists() and "all.csv written" in sent[0]
    assert "ends in none of" in sent[1]
    explorer.hidden = ["run"]
    assert explorer.save(tmp_path / "next.csv").read_text().count("\n") == 1  # the heads alone
    for wrong in (dict(x="days"), dict(panels=["loss"])):
        with pytest.raises(KitError, match="is not known; take one of"):
            LossExplorer([], live=False, **wrong)


def test_live(run):
    explorer = LossExplorer(run, every=0.02, smoothing=33, panels=["lr"])
    try:
        assert explorer.smoothing == 33 and explorer.panels == ["lr"]
        for live, steps in ((True, 4), (False, 5)):
            explorer.live = live
            add(run, json.dumps(row(steps)) + "\n")
            end = time.monotonic() + (10 if live else 0.3)
            while explorer.data["runs"][0]["rows"] < steps and time.monotonic() < end:
                time.sleep(0.01)
            assert (explorer.data["runs"][0]["rows"] == steps) == live
    finally:
        explorer.close()


def test_what_nobody_draws_is_sent_again(run, monkeypatch):
    monkeypatch.setattr("sentiment_kit.looking.loss_explorer.WAIT", 0.05)
    explorer = LossExplorer(run, every=0.01)
    sent = []
    explorer.send_state = lambda key=None: sent.append(key)
    try:
        end = time.monotonic() + 10
        while len(sent) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        answer_browser(explorer, dict(kind="drawn", serial=explorer.serial), [])
        time.sleep(0.05)
        before = len(sent)
        time.sleep(0.3)
        assert before == len(sent) >= 2 and set(sent) == {"data"}
        answer_browser(explorer, dict(kind="empty"), [])  # a view without data asks for them
        assert len(sent) == before + 1
    finally:
        explorer.close()


def test_the_notebook_keeps_a_picture(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "sentiment_kit.looking.loss_explorer.display",
        lambda bundle, **how: shown.append((bundle, how)),
    )
    explorer._ipython_display_()
    (still, how), (live, _) = shown
    assert how["display_id"] == explorer.key == explorer.data["still"]
    picture = ElementTree.fromstring(still["image/svg+xml"])
    assert picture.get("id") == explorer.key and len(still["image/svg+xml"]) < 10_000
    assert "3.5000 in validation" in still["text/plain"] and "next: no step" in still["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in live and "image/svg+xml" not in live
    monkeypatch.setattr("sentiment_kit.looking.loss_explorer.RENEWED", 0)
    write(explorer.runs["next"].path.parent, [row(1)])
    explorer.refresh()
    assert shown[2][1]["update"] and "next: step 1" in shown[2][0]["text/plain"]


def test_pictures_of_anything(run, tmp_path):
    "Of no run, of an empty one, of one point, of names that are no markup."
    m = read_metrics(run)
    one = {field: column[:1] for field, column in m.items()}
    empty = {field: column[:0] for field, column in m.items()}
    for columns in ({}, {"a": empty}, {"a": one}, {text[:300]: m for text in HOSTILE.values()}):
        for log in (False, True):
            picture = losses_svg(columns, x="time", log_x=log, log_y=log)
            parsed = ElementTree.fromstring(picture)
            tags = {node.tag.rpartition("}")[2] for node in parsed.iter()}
            assert tags <= {"svg", "title", "style", "rect", "path", "text"}
            assert "nan" not in re.sub("<title>.*?</title>", "", picture.lower().split("<rect")[-1])


def test_a_mean_never_runs_over_more_than_a_tenth(tmp_path):
    "On a short run a mean over 25 points drew training above what was measured."
    assert [mean_points(n, 25) for n in (0, 99, 100, 180, 5_000)] == [1, 1, 10, 18, 25]
    assert mean_points(5_000, 1) == 1 and mean_points(5_000, 1_000) == 500
    for steps, points in ((60, 1), (150, 15)):
        rows = [row(n + 1, loss_bits=1 + 8 * (n + 1) ** -0.5) for n in range(steps)]
        run = write(tmp_path / "run", rows)
        loss = read_metrics(run)["loss_bits"]
        raw, mean = plot_losses(run, smoothing=25).data[:2]
        assert len(raw.x) == (steps if points > 1 else 0)
        np.testing.assert_allclose(mean.y, smooth(loss, points))
        late = slice(steps // 5, None)
        assert np.abs(mean.y - loss)[late].max() < 0.03
        assert f"of up to {points} points" in str(plot_losses(run).layout.legend) or points == 1


def test_the_best_so_far_is_marked(tmp_path):
    values = [3.0, 2.5, 2.75, 2.5, 2.25]
    run = write(tmp_path / "run", [row(n + 1, valid_bits=bits) for n, bits in enumerate(values)])
    best = [True, True, False, False, True]
    assert best_so_far(np.array(values)).tolist() == best
    assert best_so_far(np.array([])).tolist() == []
    [trace] = [t for t in plot_losses(run).data if t.name == "run, validation"]
    assert [symbol == "diamond" for symbol in trace.marker.symbol] == best


def seeds(tmp_path, **more):
    for seed in range(3):
        rows = [row(n, loss_bits=4 / n + seed) for n in range(1, 6 + seed)]
        run = write(tmp_path / f"seed{seed}", rows)
        write_json(run / "train_config.json", asdict(TrainConfig("c", str(run), seed=seed, **more)))
    return find_runs(tmp_path)


def test_bands_over_seeds(tmp_path):
    runs = seeds(tmp_path)
    figure = plot_losses(runs, x="steps", bands=True)
    low, high, mean = figure.data[-3:]
    assert mean.name == "seed0, mean of 3 seeds" and high.fill == "tonexty"
    assert mean.x.tolist() == [1, 2, 3, 4, 5]  # where all of them have been
    np.testing.assert_allclose(low.y, 4 / mean.x)
    np.testing.assert_allclose([high.y - low.y, mean.y - low.y], [[2] * 5, [1] * 5])
    assert {trace.line.color for trace in figure.data} == {low.line.color}
    assert len(plot_losses(runs).data) == len(figure.data) - 3
    assert [part.tolist() for part in band([(np.array([]), np.array([]))])] == [[]] * 4
    explorer = LossExplorer(runs, live=False, bands=True)
    assert {run["group"] for run in explorer.data["runs"]} == {0}
    assert explorer.figure.data[-1].name == mean.name
    explorer.close()


def test_the_settings_in_which_runs_differ(tmp_path):
    runs = seeds(tmp_path)
    settings = {name: run_settings(run) for name, run in runs.items()}
    assert differing(settings) == {f"seed{n}": {"seed": n} for n in range(3)}
    changed = settings["seed2"] | dict(lr=1e-3, save_every=7, hidden_size=64)
    told = differing(settings | {"seed2": changed})
    assert told["seed2"] == dict(lr=1e-3, seed=2, save_every=7, hidden_size=64)
    assert seed_groups(settings | {"seed2": changed}) == [["seed0", "seed1"], ["seed2"]]
    assert seed_groups(settings | {"seed2": settings["seed2"] | dict(keep=9)}) == [[*settings]]
    old = {name: value for name, value in settings["seed2"].items() if name != "chrono_share"}
    assert seed_groups(settings | {"seed2": old}) == [[*settings]]  # it had the default
    assert seed_groups({"a": {}, "b": {}}) == [["a"], ["b"]]
    assert differing({"a": {}, "b": {}}) == {"a": {}, "b": {}}


@pytest.mark.parametrize(
    "seconds, title, last",
    [
        (100, "time (seconds)", 100),
        (600, "time (minutes)", 10),
        (3 * 3600, "time (hours)", 3),
        (10 * 86_400, "time (days)", 10),
    ],
)
def test_a_time_axis_in_the_unit_that_suits(tmp_path, seconds, title, last):
    run = write(tmp_path / "run", [row(1), row(2, seconds=seconds)])
    figure = plot_losses(run, x="time")
    assert figure.layout.xaxis.title.text == title and figure.data[1].x[-1] == last


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    "A function: what a line of JavaScript gives, with the modules of the explorer and some values."
    if not (command := shutil.which("node")):
        pytest.skip("node is missing: the browser's tests draw with the same modules")
    folder = tmp_path_factory.mktemp("node")
    names = [module for module in MODULES if not module.endswith(("tables", "explorer"))]
    script = join_modules([static_text(f"{name}.js") for name in names])
    script += """
const plain = (_, x) => (Number.isNaN(x) ? 'nan' : ArrayBuffer.isView(x) ? [...x] : x);
const bare = (value) => JSON.stringify(value, plain);
"""

    def run(line, **values):
        given = json.dumps(values).replace("NaN", '"nan"')
        head = f"const given = JSON.parse({json.dumps(given)}, (_, x) => x === 'nan' ? NaN : x);\n"
        (folder / "run.mjs").write_text(f"{script}{head}console.log(bare({line}));\n")
        done = subprocess.run([command, folder / "run.mjs"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.replace('"nan"', "NaN"))

    return run


def test_the_browser_computes_as_python_does(node):
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=300), 3)
    values[[0, 50, 299]] = np.nan
    curves = [(np.arange(20.0), values[1:21]), (np.arange(3.0, 40, 2), values[60:79])]
    given = dict(
        values=values.tolist(), curves=[dict(x=x.tolist(), y=y.tolist()) for x, y in curves]
    )
    counts = [0, 99, 100, 180, 5_000]
    pairs = [(0, 4.9e6), (1.2, 3.4), (-0.5, 0.5), (1e-5, 3e-4)]
    logs = [(0.5, 900), (1.5, 8.0), (1e-6, 10)]
    numbers = [0, 5e6, 1500, 0.25, 12.3456, 999_999, 2e13]
    got = node(
        "({ smooth: [1, 2, 25].map((p) => smooth(given.values, p)),"
        " best: bestSoFar(given.values.filter(Number.isFinite)), band: band(given.curves),"
        " counts: given.counts.map((n) => meanPoints(n, 25)), short: given.numbers.map(short),"
        " ticks: given.pairs.map(([a, b]) => ticks(a, b, false, 7)),"
        " logs: given.logs.map(([a, b]) => ticks(a, b, true, 7)) })",
        **given,
        counts=counts,
        pairs=pairs,
        logs=logs,
        numbers=numbers,
    )
    for points, smoothed in zip((1, 2, 25), got["smooth"], strict=True):
        np.testing.assert_allclose(smoothed, smooth(values, points), atol=1e-12)
    assert got["best"] == best_so_far(values[np.isfinite(values)]).tolist()
    for part, want in zip(("x", "low", "mean", "high"), band(curves), strict=True):
        np.testing.assert_allclose(got["band"][part], want, atol=1e-12)
    assert got["counts"] == [mean_points(n, 25) for n in counts]
    assert got["short"] == [short(value) for value in numbers]
    for (low, high), found in zip(pairs, got["ticks"], strict=True):
        np.testing.assert_allclose(found, ticks(low, high), atol=1e-12)
    for (low, high), found in zip(logs, got["logs"], strict=True):
        np.testing.assert_allclose(found, ticks(low, high, log=True))


def test_many_points_on_a_pixel_are_its_lowest_and_highest(node):
    "50,000 points become four for each column of pixels, and no spike is lost."
    rng = np.random.default_rng(0)
    y = rng.normal(size=50_000)
    y[31_415] = 50
    got = node(
        "[...places(given.y.map((_, n) => n), given.y, scaleOf(0, 50000, 0, 900, false),"
        " scaleOf(0, 1, 0, 1, false), 900)]",
        y=y.tolist(),
    )
    assert len(got) <= 4 * 901 and max(place[1] for place in got) == 50
    columns = np.floor(np.arange(50_000) * 900 / 50_000).astype(int)
    found = np.floor([place[0] for place in got]).astype(int)
    tops = np.array([place[1] for place in got])
    for k in range(0, 900, 100):
        inside = y[columns == k]
        assert (tops[found == k].min(), tops[found == k].max()) == (inside.min(), inside.max())


def test_a_run_in_the_browser(node, tmp_path):
    "Columns arrive to the bit, lines and the unit of time are those of Python."
    rows = [row(n, grad_norm=0.1 * n, skipped=n % 2) for n in range(1, 201)]
    m = read_metrics(write(tmp_path / "run", rows))
    columns = {name: list(raw) for name, raw in pack_columns(m).items()}
    got = node(
        "(() => { const sent = Object.entries(given.columns).map(([name, raw]) =>"
        " [name, new DataView(Uint8Array.from(raw).buffer)]);"
        " const run = new Run({ name: 'a', rows: 200, line: {}, group: 0, points: {},"
        " columns: Object.fromEntries(sent) });"
        " const axis = axisOf(given.axes, 'time', [run]);"
        " const how = { axis, smoothing: 25, bands: false, averaged: true };"
        " const lines = panelLines([run], 'loss_bits', how);"
        " return { title: axis.title, x: lines[1].x, y: lines[1].y, points: lines[1].points,"
        " raw: lines[0].y, skipped: run.raw('skipped') }; })()",
        columns=columns,
        axes=loss_choices()["axes"],
    )
    assert (got["title"], got["points"]) == ("time (minutes)", 20)
    np.testing.assert_allclose(got["x"], m["seconds"] / 60)
    np.testing.assert_allclose(got["raw"], m["loss_bits"], rtol=1e-6)
    np.testing.assert_allclose(got["y"], smooth(m["loss_bits"], 20), rtol=1e-6)
    np.testing.assert_allclose(got["skipped"], np.cumsum(m["skipped"]))


def test_the_script_is_local_and_safe():
    "Nothing from a network, no markup out of text, no name declared twice."
    whole = SCRIPT + STYLE_SHEET
    assert set(re.findall(r"https?://[^\s\"]+", whole)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\bimport\b|@import|url\(|fetch\(|XMLHttp", whole)
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|</script"
    assert not re.search(markup, SCRIPT)
    names = [module.removeprefix("losses/") for module in MODULES[1:]]
    assert {path.stem for path in (STATIC / "losses").iterdir()} == set(names)
    declared = re.findall(r"^(?:async )?(?:const|let|function\*?|class) (\w+)", SCRIPT, re.M)
    assert len(declared) == len(set(declared)) > 50
    for module in MODULES[1:]:
        source = static_text(f"{module}.js")
        assert source.startswith("// ") and max(map(len, source.splitlines())) <= 100
