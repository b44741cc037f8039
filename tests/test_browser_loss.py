"""The loss explorer in a real JupyterLab: page, kernel, and how long it takes."""

import json
import statistics

import numpy as np
import pytest
from browser import open_lab, open_tab
from hostile import HOSTILE

from sentiment_kit.looking.loss_curves import plot_losses
from sentiment_kit.looking.loss_explorer import losses_page

pytestmark = pytest.mark.slow
START = "from sentiment_kit.looking.loss_explorer import LossExplorer\n"
START += "explorer = LossExplorer({}, every=0.2, {})"
PLOT = "document.querySelector('.losses .js-plotly-plot')"
DRAWN = """() => [...document.querySelectorAll('.losses .js-plotly-plot')].some(
    plot => plot.data?.length)"""
# Milliseconds from a choice of points to smooth over to the frame that says it, in window.smoothed.
SMOOTHED = """() => {
    window.smoothed = [];
    document.addEventListener('change', async event => {
        const start = performance.now();
        const words = 'about ' + event.target.selectedOptions[0].text.replace('\\u00a0', ' ');
        const legends = () => [...document.querySelectorAll('.losses .legend')];
        const told = () => legends().some(legend => legend.textContent.includes(words));
        while (!told()) await new Promise(requestAnimationFrame);
        window.smoothed.push(performance.now() - start);
    }, true);
}"""
# Milliseconds from each movement of the mouse to the hover it brings, kept in window.hovers.
HOVER = """() => {
    const plot = document.querySelector('.losses .js-plotly-plot');
    window.hovers = [];
    let moved = 0;
    plot.addEventListener('mousemove', () => { moved = performance.now(); }, true);
    plot.on('plotly_hover', () => requestAnimationFrame(() =>
        window.hovers.push(performance.now() - moved)));
}"""


def make_run(folder, steps, seed=0, floor=1.0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.jsonl", "w") as f:
        for step in range(1, steps + 1):
            row = dict(
                step=step, bytes=step * 16_384, epoch=step / steps, seconds=step * 0.5, lr=5e-4
            )
            row |= dict(
                loss_bits=floor + 5 * step**-0.4 + rng.normal(0, 0.05) + 2 * (step == 31_415)
            )
            if step % (steps // 10) == 0:
                row |= dict(
                    valid_bits=floor + 5 * step**-0.4,
                    split="valid",
                    reset="shard",
                    lanes=8,
                    probe_all=0.8,
                )
            f.write(json.dumps(row) + "\n")
    return folder


def show(lab, runs, options=""):
    page = lab.run([START.format(runs, options), "explorer"])
    page.wait_for_function(DRAWN, timeout=60_000)
    lab.wait("explorer.figure._view_count == 1")
    page.wait_for_timeout(1_000)
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_jupyterlab(tmp_path, dark):
    make_run(tmp_path / "runs/small", 300)
    make_run(tmp_path / "runs/large", 3_000, seed=1, floor=0.8)
    gap = {"bits": -0.02, "low": -0.03, "high": -0.01}
    gap = {
        "version": 1,
        "level": 0.95,
        "gap": gap,
        "terms": [{"name": "moving weights"} | gap],
        "words": "Made up.",
    }
    (tmp_path / "runs/large/gap.json").write_text(json.dumps(gap))
    with open_lab(tmp_path, dark=dark, size=(1400, 1200)) as lab:
        page = show(lab, "['runs/small', 'runs/large', 'runs/next']")
        out = lab.output(1)
        assert "next: runs/next/metrics.jsonl does not exist yet" in out.inner_text()
        assert "moving weights" in out.inner_text()
        width = page.evaluate(f"{PLOT}.querySelector('.main-svg').getBoundingClientRect().width")
        assert abs(width - out.bounding_box()["width"]) < 20  # as wide as its place

        # one hover tells every run
        plot = out.locator(".js-plotly-plot .nsewdrag").first
        box = plot.bounding_box()
        page.mouse.move(box["x"] + 25, box["y"] + 60)
        page.mouse.move(box["x"] + box["width"] * 0.08, box["y"] + 60)
        page.wait_for_selector(".hoverlayer .legend")
        told = page.locator(".hoverlayer").text_content()
        assert "small" in told and "large" in told and "bytes read" in told
        assert lab.axe(".jp-OutputArea-output .losses") == []
        lab.screenshot(f"loss_explorer_{'dark' if dark else 'light'}", out)
        ink = page.evaluate("getComputedStyle(document.querySelector('.losses .xtick text')).fill")
        assert (
            sum(map(int, ink.strip("rgba()").split(",")[:3])) > 380
        ) == dark  # light ink on a dark page

        # controls
        out.get_by_role("button", name="steps").click()
        page.wait_for_function(f"{PLOT}.layout.xaxis.title.text === 'steps'")
        out.get_by_label("gradient norm").check()
        page.wait_for_function(f"{PLOT}._fullLayout.yaxis4?.visible")
        out.get_by_label("mean of").select_option("100 points")
        page.wait_for_function(
            "document.querySelector('.losses .legend').textContent.includes('about 100 points')"
        )
        assert lab.python(
            "[explorer.controls[name].value for name in ('x', 'grad_norm', 'smoothing')]"
        ) == [
            "steps",
            True,
            100,
        ]

        # zoomed, then followed: new points come, the range stays
        box = plot.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=4)
        page.mouse.up()
        zoomed = lab.wait("explorer.figure.layout.xaxis.range")
        before = page.evaluate(f"{PLOT}.data.length")
        page.evaluate(f"window.kept = {PLOT}.querySelector('.main-svg')")
        with open(tmp_path / "runs/small/metrics.jsonl", "a") as f:
            f.write(
                json.dumps(dict(step=301, bytes=301 * 16_384, seconds=151, loss_bits=1.2345)) + "\n"
            )
        make_run(tmp_path / "runs/next", 200, seed=2)
        page.wait_for_function("document.querySelector('.losses').innerText.includes('step 301')")
        page.wait_for_function(
            f"{PLOT}.data.some(line => line.name === 'next' && line.x.length === 200)"
        )
        assert page.evaluate(f"{PLOT}.data.length") == before and page.evaluate(
            f"kept === {PLOT}.querySelector('.main-svg')"
        )
        assert page.evaluate(f"[...{PLOT}.layout.xaxis.range]") == pytest.approx(list(zoomed))

        # kept: written by the kernel, and the camera of the browser
        out.get_by_label("save as").fill("kept.html")
        out.get_by_role("button", name="save").click()
        page.wait_for_function(
            "document.querySelector('.losses').innerText.includes('kept.html written')"
        )
        with page.expect_download() as download:
            out.locator("[data-title^='Download plot']").first.click()
        assert download.value.path().read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert lab.errors == [] and lab.outside == []
        saved = lab.save()
        assert "widgets" not in saved.metadata and len(json.dumps(saved)) < 20_000
    with open_tab(dark=dark) as tab:
        tab.page.goto((tmp_path / "kept.html").as_uri())
        tab.page.wait_for_selector(".scatterlayer .trace")
        assert tab.page.evaluate(f"{PLOT}.data.length") > 10 and tab.axe("main") == []
        tab.screenshot(f"losses_page_{'dark' if dark else 'light'}")
        assert tab.errors == [] and tab.outside == []


def test_50_000_points_stay_fluid(tmp_path, capsys):
    runs = [f"runs/{n}" for n in range(4)]
    for n, run in enumerate(runs):
        make_run(tmp_path / run, 50_000, seed=n, floor=1 + n / 10)
    with open_lab(tmp_path, size=(1400, 1000)) as lab:
        page = show(lab, repr(runs), "live=False")
        assert page.evaluate(f"Math.max(...{PLOT}.data.map(line => line.x.length))") <= 2_000
        peak = page.evaluate(f"Math.max(...{PLOT}.data[0].y.slice(1000))")
        assert peak > 2.5  # the spike of a single step

        page.evaluate(HOVER)
        box = lab.output(1).locator(".js-plotly-plot .nsewdrag").first.bounding_box()
        for k in range(20):
            page.mouse.move(box["x"] + box["width"] * (k + 1) / 22, box["y"] + 40)
            page.wait_for_timeout(150)
        hovers = page.evaluate("window.hovers")
        assert len(hovers) > 10
        hover = statistics.median(hovers)
        page.evaluate(SMOOTHED)
        for n, points in enumerate((100, 5, 250, 50, 10)):
            lab.output(1).get_by_label("mean of").select_option(f"{points} points")
            page.wait_for_function(f"window.smoothed.length === {n + 1}")
            page.wait_for_timeout(500)
        times = {"hover": hover, "smoothing": page.evaluate("window.smoothed")}
        with capsys.disabled():
            print(
                "\n4 runs of 50,000 lines, ms:", {k: np.round(v).tolist() for k, v in times.items()}
            )
        assert hover < 100 and statistics.median(times["smoothing"]) < 1_500
        assert lab.errors == []


def test_hostile_names_change_nothing_but_the_picture(tmp_path):
    run = make_run(tmp_path / "run", 50)
    figure = plot_losses({f"{n} {text[:200]}": run for n, text in enumerate(HOSTILE.values())})
    (tmp_path / "page.html").write_text(
        losses_page(figure, title=HOSTILE["end of a script"]), "utf-8"
    )
    with open_tab() as tab:
        tab.page.goto((tmp_path / "page.html").as_uri())
        tab.page.wait_for_selector(".legend .traces")
        assert (
            tab.page.evaluate("window.hacked") is None
            and tab.page.locator("h1, img, iframe, a[href^=java]").count() == 0
        )
        assert "<script>window.hacked = 1</script>" in tab.page.locator(".legend").text_content()
        assert tab.errors == [] and tab.outside == []
