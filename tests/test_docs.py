"""The static pages: complete, without a network, without a dead link."""

import re
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import open_tab
from sync import ROOT, notebooks
from test_hygiene import MACHINE_PATH

pytestmark = pytest.mark.slow
LOOK = """() => {
    const all = selector => [...document.querySelectorAll(selector)];
    return {
        figures: all('.plotly-graph-div').length,
        drawn: all('.plotly-graph-div .main-svg:first-of-type').length,
        equations: all('math').map(e => e.textContent).join(' '),
        text: document.body.innerText,
        ids: all('[id]').map(e => e.id),
        links: all('[href], [src]').map(e => e.href || e.src),
    };
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site, with one run notebook as `sentiment-kit run` leaves it."
    from pages import build

    run = tmp_path_factory.mktemp("runs") / "first_look"
    (run / "notebooks").mkdir(parents=True)
    notebook, told = (
        nbformat.read(ROOT / "nbs/runs/61_train.ipynb", 4),
        dict(tags=["injected-parameters"]),
    )
    notebook.cells.insert(
        2, nbformat.v4.new_code_cell('run = "/home/somebody/out/first_look"', metadata=told)
    )
    nbformat.write(notebook, run / "notebooks" / "61_train.ipynb")
    site = tmp_path_factory.mktemp("docs") / "site"
    made = build(site, [run])
    assert len(made) == len(notebooks()) + 3  # the run's, the recipes, the live page
    assert {site / page for page in made} == set(site.rglob("*.html"))
    return site


def test_every_page_opens_from_the_disk_with_the_network_off(site):
    known, linked, figures = {}, {}, 0
    with open_tab() as tab:
        for path in sorted(site.rglob("*.html")):
            name = str(path.relative_to(site))
            tab.page.goto(path.as_uri())
            assert (tab.errors, tab.outside) == ([], []), name
            seen = tab.page.evaluate(LOOK)
            assert seen["drawn"] == seen["figures"], name
            assert "\\" not in seen["equations"] and not re.search(r"\$\$|\$\\", seen["text"]), name
            assert not MACHINE_PATH.search(seen["text"]), name
            known[path], linked[path] = set(seen["ids"]), set(seen["links"])
            figures += seen["figures"]
    assert figures > 20
    for path, links in linked.items():
        for link in links:
            parts = urlsplit(link)
            target = site / unquote(parts.path)
            assert parts.scheme in ("file", "https"), f"{path.name}: {link}"
            if parts.scheme == "file":
                assert target.is_relative_to(site) and target.is_file(), f"{path.name}: {link}"
                assert parts.fragment in known.get(target, set()) | {""}, f"{path.name}: {link}"


def test_shared_parts_are_there_once(site):
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    large = {path.name for path, size in sizes.items() if size > 1_000_000}
    assert large == {"plotly.min.js", "play.html"}
    live = sizes.pop(site / "play.html")  # the one page with a model in it
    pages = [size for path, size in sizes.items() if path.suffix == ".html"]
    assert sum(pages) / len(pages) < 80_000 and live < 5_000_000


def test_the_live_page_reads(site):
    with open_tab() as tab:
        tab.page.goto((site / "index.html").as_uri())
        tab.page.get_by_role("link", name="play", exact=True).click()
        tab.page.locator("html[data-live]").wait_for(state="attached", timeout=60_000)
        tab.page.locator(".skl textarea").fill("What a good page!")
        tab.page.locator(".skl-verdict", has_text="bits a character").wait_for()
        shown = tab.page.locator(".skl .skh-view").inner_text()
        assert "What a good page!" in shown.replace("\n", " ") and tab.errors == tab.outside == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_accessible(site, dark):
    with open_tab(dark) as tab:
        for name in (
            "index",
            "play",
            "tour/91_inside_the_mlstm",
            "lib/looking/20_heatmap",
            "runs/63_map_the_neuron",
        ):
            tab.page.goto((site / f"{name}.html").as_uri())
            assert tab.axe() == [], name
            tab.screenshot(f"docs_{name.split('/')[-1]}_{'dark' if dark else 'light'}")
