"""Reading metrics while they are written, damage named by file and line, and what the picture holds."""

import json

import numpy as np
import pytest

from sentiment_kit.files import KitError
from sentiment_kit.loss_explorer import NUMBERS, plot_losses, read_metrics, smooth


def row(step, **more):
    return dict(step=step, bytes=step * 100, epoch=step / 10, seconds=step * 36.0, loss_bits=8 / step) | more


@pytest.fixture
def run(tmp_path):
    rows = [row(1), row(2, valid_bits=3.5, split="valid", reset="shard", lanes=8), row(3, loss_bits=None, skipped=True)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "run"


def add(run, text):
    with open(run / "metrics.jsonl", "a") as f:
        f.write(text)


def test_columns(run):
    m = read_metrics(run)
    assert set(NUMBERS) <= set(m) and {len(column) for column in m.values()} == {3}
    np.testing.assert_array_equal(m["valid_bits"], [np.nan, 3.5, np.nan])
    np.testing.assert_array_equal(m["loss_bits"], [8, 4, np.nan])
    np.testing.assert_array_equal(m["skipped"], [np.nan, np.nan, 1])
    assert m["reset"].tolist() == ["", "shard", ""]
    for name, column in read_metrics(str(run / "metrics.jsonl")).items():
        np.testing.assert_array_equal(column, m[name])


def test_every_prefix_of_a_file_can_be_read(run):
    data = (run / "metrics.jsonl").read_bytes()
    ends = [i for i in range(len(data)) if data[i : i + 1] == b"\n"]
    for n in range(len(data)):
        (run / "metrics.jsonl").write_bytes(data[:n])
        assert len(read_metrics(run)["step"]) == sum(end <= n for end in ends)


@pytest.mark.parametrize(
    "text, told", [('{"step": 4\n{"step": 5}\n', "line 4"), ('{"step": "four"}\n', "line 4: step is")]
)
def test_damage_is_named(run, text, told):
    add(run, text)
    with pytest.raises(KitError, match=f"metrics.jsonl, {told}"):
        read_metrics(run)


def test_not_a_run(tmp_path):
    with pytest.raises(KitError, match="metrics.jsonl cannot be read"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("[1, 2]\n")
    with pytest.raises(KitError, match="not JSON objects"):
        read_metrics(tmp_path)


def test_later_fields_become_columns(run):
    add(run, json.dumps(row(4, probe_accuracy=0.8, machine="laptop")) + "\n")
    m = read_metrics(run)
    assert m["probe_accuracy"][3] == 0.8 and m["machine"].tolist() == ["", "", "", "laptop"]


def test_smooth():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 25), 3.0)
    values = np.random.default_rng(0).normal(size=400)
    np.testing.assert_allclose(smooth(values, 1), values)
    held = smooth(np.insert(values, 200, np.nan), 10)
    np.testing.assert_allclose(np.delete(held, 200), smooth(values, 10))
    assert held[200] == held[199]
    assert np.isnan(smooth(np.array([np.nan, 1.0]), 5)).tolist() == [True, False]


@pytest.mark.parametrize("x, last", [("steps", 3), ("bytes", 300), ("hours", 0.03), ("epochs", 0.3)])
def test_axes(run, x, last):
    figure = plot_losses(run, x=x)
    raw, smoothed, valid = figure.data
    np.testing.assert_allclose([raw.x[-1], smoothed.x[-1], valid.x[0] * 1.5], last)
    assert valid.text[0] == "valid, reset shard, 8 lanes" and figure.layout.yaxis.title.text == "bits per byte"


def test_runs_keep_their_colours(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text(json.dumps(row(1)) + "\n")
    two = plot_losses({"a": run, "b": other})
    colours = {trace.legendgroup: trace.line.color for trace in two.data}
    assert len(set(colours.values())) == 2 == len({(t.legendgroup, t.line.color) for t in two.data})
    assert plot_losses({"a": run}).data[0].line.color == colours["a"]


def test_a_run_of_no_steps_is_an_empty_picture(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert all(len(trace.x) == 0 for trace in plot_losses([tmp_path]).data)
    with pytest.raises(KitError, match="take one of: steps, bytes"):
        plot_losses([tmp_path], x="days")
