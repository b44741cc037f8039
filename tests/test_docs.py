"""The static pages: complete, without a network, without a dead link."""

import re
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import open_tab
from pages import FIRST, SEARCH, STAGES
from pages_search import search_index
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
    assert len(made) == len(notebooks()) + 4  # the run's, the recipes, the live page, the start
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
            if link.startswith("data:image/"):  # a picture that is in the page itself
                continue
            parts = urlsplit(link)
            target = site / unquote(parts.path)
            assert parts.scheme in ("file", "https"), f"{path.name}: {link[:200]}"
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


def test_what_was_found_fits_two_screens(site):
    "Of 1280 by 1000 pixels; letters here are wider than in most systems."
    with open_tab(size=(1280, 1000)) as tab:
        tab.page.goto((site / "pages/sentiment_neuron.html").as_uri())
        assert tab.page.evaluate("document.documentElement.scrollHeight") <= 2000


def test_the_start_page_leads_everywhere(site):
    with open_tab() as tab:
        tab.page.goto((site / "index.html").as_uri())
        cards = tab.page.locator(".card")
        links = cards.evaluate_all("cards => cards.map(card => card.getAttribute('href'))")
        assert links[0] == "play.html" and len(links) == len(FIRST) + len(STAGES)
        assert all((site / link).is_file() for link in links)
        drawn = "cards => cards.map(card => card.querySelector('img').naturalWidth)"
        assert min(cards.evaluate_all(drawn)) > 100


def test_a_live_heatmap_stands_in_a_tour(site):
    with open_tab() as tab:
        tab.page.goto((site / "tour/93_the_sentiment_neuron.html").as_uri())
        urls = {frame.url for frame in tab.page.frames[1:]}
        assert urls <= {"", "about:blank"}  # 4 MB that nobody asked for yet
        tab.page.locator("details.live summary").click()
        frame = tab.page.frame_locator("details.live iframe")
        frame.locator("html[data-live]").wait_for(state="attached", timeout=60_000)
        frame.locator(".skl textarea").fill("What a good page!")
        frame.locator(".skl-verdict", has_text="bits a character").wait_for()
        assert tab.errors == tab.outside == []


def test_search_by_keyboard(site):
    with open_tab() as tab:
        page = tab.page
        page.goto((site / "tour/90_follow_one_review.html").as_uri())
        page.keyboard.press("/")
        page.keyboard.type("loss scaler")
        page.locator("#found a").first.wait_for()
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.matches('#found a')")
        page.keyboard.press("Escape")
        assert page.input_value("#search") == "" and page.locator("#found a").count() == 0
        page.keyboard.type("DynamicLossScaler")
        page.locator("#found a").first.wait_for()
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/lib/training/00_fp16\.html"))
        page.keyboard.press("/")
        page.keyboard.type("nothinghasthisword")
        page.get_by_text("0 pages").wait_for()
        assert tab.errors == tab.outside == []


def test_search_shows_hostile_text_as_text(tmp_path):
    text = "<img src=x onerror=\"document.title = 'broken'\"></script>\u2028 & <b>bold</b>"
    entry = dict(path="a b.html", title=text, line=text, heads=[(text, text)], names="")
    (tmp_path / "search-index.js").write_text(search_index([entry | dict(words={"word"})]))
    (tmp_path / "search.js").write_text((ROOT / "tests/pages.js").read_text(encoding="utf-8"))
    script = '<script src="search.js" data-root=""></script>'
    (tmp_path / "page.html").write_text(f"<meta charset=utf-8><title>whole</title>{SEARCH}{script}")
    with open_tab() as tab:
        tab.page.goto((tmp_path / "page.html").as_uri())
        for asked in ("word", text, "<b>bold"):
            tab.page.locator("#search").fill(asked)
            tab.page.locator("#found-said", has_text="1 page").wait_for()
            assert tab.page.locator("#found b").inner_text().startswith("<img src=x")
        assert tab.page.locator("#found img, #found b b").count() == 0
        assert tab.page.title() == "whole" and tab.errors == tab.outside == []


SCREENS = {  # width and height in CSS pixels, device pixels for each
    "small": ((600, 900), 1),
    "usual": ((1280, 900), 1),
    "zoomed to 150%": ((853, 600), 1.5),
    "wide": ((1920, 1080), 1),
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_accessible(site, screen, dark):
    size, scale = SCREENS[screen]
    with open_tab(dark, size=size, device_scale_factor=scale) as tab:
        for name in (
            "index",
            "play",
            "tour/91_inside_the_mlstm",
            "tour/93_the_sentiment_neuron",
            "lib/looking/20_heatmap",
            "runs/63_map_the_neuron",
        ):
            tab.page.goto((site / f"{name}.html").as_uri())
            assert tab.axe() == [], name
            beside = "document.documentElement.scrollWidth - innerWidth"
            assert tab.page.evaluate(beside) <= 0, f"{name} is wider than the window"
            look = f"{screen.split()[0]}_{'dark' if dark else 'light'}"
            tab.screenshot(f"docs_{name.split('/')[-1]}_{look}")
