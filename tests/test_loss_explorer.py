"""Metrics read while they are written, no peak lost by thinning, a picture changed in place."""

import csv
import json
import re
import time

import numpy as np
import pytest
from hostile import HOSTILE

from sentiment_kit.data.files import KitError, write_json
from sentiment_kit.evidence.gap_report import check_gap
from sentiment_kit.looking.gap_bar import gap_html
from sentiment_kit.looking.loss_curves import (
    PANELS,
    find_runs,
    name_runs,
    plot_losses,
    smooth,
    thin,
)
from sentiment_kit.looking.loss_explorer import (
    LossExplorer,
    losses_csv,
    losses_page,
    save_losses,
    tell_runs,
)
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
        with pytest.warns(UserWarning, match=told):
            assert read(run)["step"].tolist() == [1, 2, 3, 5]
    [_, said], changed, _ = tell_runs({"run": Metrics(run)})
    assert re.search(told, said) and changed
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
    raw, smoothed = figure.data[:2]
    valid = next(trace for trace in figure.data if trace.name.endswith("validation"))
    np.testing.assert_allclose([valid.x[0] * 1.5, raw.x[-1] * 1.5], last)
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


def test_the_explorer_changes_in_place(explorer, run, tmp_path):
    figure, traces = explorer.figure, explorer.figure.data
    assert "next: " in explorer.told.value and "does not exist yet" in explorer.told.value
    assert (
        "run: step 3, 300 bytes, 4.0000 bits per byte in training, 3.5000 in validation"
        in explorer.told.value
    )
    figure.layout.xaxis.range = (100, 250)  # as the browser reports a zoom
    write(tmp_path / "next", [row(1), row(2)])
    add(run, json.dumps(row(4)) + "\n")
    explorer.refresh()
    assert explorer.figure.data == traces and figure.layout.xaxis.range == (100, 250)
    lines = {trace.name: trace for trace in figure.data}
    assert lines["run"].x.tolist() == [100, 200, 300, 400] and lines["next"].x.tolist() == [
        100,
        200,
    ]
    write(run, [row(1)])  # cut back
    explorer.refresh()
    assert lines["run"].x.tolist() == [100]
    (run / "metrics.jsonl").write_text("{]\n" * 2)
    explorer.refresh()
    assert "line 1: not JSON" in explorer.told.value


def test_the_controls_of_the_explorer(explorer, run, tmp_path):
    controls, figure, traces = explorer.controls, explorer.figure, explorer.figure.data
    figure.layout.xaxis.range = (100, 250)
    controls["x"].value = "steps"
    assert figure.layout.xaxis.range is None and figure.layout.xaxis.autorange
    assert figure.data[1].x.tolist() == [1, 2, 3] and figure.layout.xaxis.title.text == "steps"
    controls["log_y"].value = controls["lr"].value = True
    assert figure.layout.yaxis.type == "log" and figure.layout.yaxis3.visible
    controls["lr"].value, controls["smoothing"].value = False, 1
    assert not figure.layout.yaxis3.visible and len(figure.data[0].x) == 0 < len(figure.data[1].x)
    assert figure.data == traces  # whatever is chosen, they only change
    explorer.file.value = str(tmp_path / "all.csv")
    explorer.button.click()
    assert (tmp_path / "all.csv").exists() and "all.csv written" in explorer.saved.value
    explorer.file.value = "all.gif"
    explorer.button.click()
    assert "ends in none of" in explorer.saved.value
    write_json(run / "gap.json", GAP)
    explorer.refresh()
    assert "moving weights" in explorer.gap.value
    write_json(run / "gap.json", GAP | {"words": 1})
    explorer.refresh()
    assert "words" in explorer.told.value and explorer.gap.value == ""


def test_live(run):
    explorer = LossExplorer(run, every=0.02, smoothing=33, panels=["lr"])
    try:
        assert explorer.controls["smoothing"].value == 33 and explorer.controls["lr"].value
        for live, steps in ((True, 4), (False, 5)):
            explorer.live.value = live
            add(run, json.dumps(row(steps)) + "\n")
            end = time.monotonic() + (10 if live else 0.3)
            while f"step {steps}" not in explorer.told.value and time.monotonic() < end:
                time.sleep(0.01)
            assert (f"step {steps}" in explorer.told.value) == live
    finally:
        explorer.close()
