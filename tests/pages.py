"""`make docs`: the notebooks, as last executed, as static pages in out/docs, without a network.

python tests/pages.py [out/RUN …]: with the executed notebooks of these runs. Plotly is there once,
for all pages; equations are turned into MathML, which browsers draw themselves. One page is alive:
play.html holds the bundled model, with a byte a weight, so that the site stays small; pages with a
heatmap that was alive in the notebook open it where they stand. index.html says what to open first;
the README is readme.html. The search is pages.js with the index of pages_search.py.
"""

import html
import os
import re
import shutil
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from itertools import count, groupby
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from pages_search import opening, page_entry, search_index
from plotly.io import to_html
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter
from pygments.styles import get_style_by_name
from pygments.token import STANDARD_TYPES, Text, Whitespace
from sync import ROOT, notebooks

from sentiment_kit.data.files import publish_folder
from sentiment_kit.looking.live_page import save_live_page

PLAY = Path("play.html")  # the live page
START, README = Path("index.html"), Path("readme.html")
NBS, OUT = ROOT / "nbs", ROOT / "out" / "docs"
STAGES = ("data", "model", "training", "transfer", "evidence", "looking")
SECTIONS = {
    "pages": "About",
    "tour": "Tour",
}  # folder of nbs/ and heading, in the navigation's order
SECTIONS |= {f"lib/{stage}": f"Library: {stage}" for stage in STAGES}
SECTIONS |= {"lib": "Library: above and below", "runs": "Run notebooks"}
CODE_STYLES = ("default", "github-dark")  # for a light and for a dark page
PLOTLY = "application/vnd.plotly.v1+json"
SVG = "image/svg+xml"
FIRST = {  # what to open first: a picture of nbs/images, or the page's own first figure
    "play.html": "heatmap.png",
    "pages/sentiment_neuron.html": "carrier_units.svg",
    "tour/93_the_sentiment_neuron.html": "map.png",
    "tour/91_inside_the_mlstm.html": None,
    "readme.html": "loss.png",
}
STAGE_CARDS = {  # a stage: its picture and what is in it
    "data": ("data_flow.svg", "from files to texts, from texts to a corpus, from there to batches"),
    "model": ("sizes.png", "the mLSTM, slow and fast; the language model; writing"),
    "training": ("speed.png", "checkpoints, half precision, several processes, the budget"),
    "transfer": ("neuron.png", "features, the probe, the neuron, the classifier"),
    "evidence": ("gap.png", "controls, intervals, steering judged from outside, the loss gap"),
    "looking": ("map.png", "ledger, heatmap, loss explorer, map of units"),
}
LIVE = re.compile(
    r"\bHeatmap(?:Widget|View) object|^SteeringPanel\("
)  # what stands for a widget in plain text
SEARCH = """<form role="search" hidden><label for="search">Search <kbd>/</kbd></label>
<input id="search" type="search" autocomplete="off" spellcheck="false" aria-controls="found">
<p id="found-said" role="status"></p><ul id="found"></ul></form>"""  # search.js shows it
PAGE = """{%- extends 'lab/base.html.j2' -%}
{%- block header -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ resources.title | e }}</title>
<link rel="stylesheet" href="{{ resources.up }}style.css">
{% if resources.plotly %}<script src="{{ resources.up }}plotly.min.js"></script>{% endif %}
</head>
{%- endblock -%}
{%- block body_header -%}
<body><a class="skip" href="#main">To the text</a>
<nav aria-label="Pages">
{{ resources.search }}
{{ resources.nav }}</nav><main id="main" tabindex="-1">
{%- endblock -%}
{%- block body_footer -%}</main>
<script src="{{ resources.up }}search.js" data-root="{{ resources.up }}"></script>
</body>{%- endblock -%}
{%- block footer -%}</html>{%- endblock -%}
"""


class Renderer(IPythonRenderer):
    "Markdown with equations as MathML; links to notebooks lead to pages, those to files to copies."

    def __init__(self, page: Path, site: Path):
        super().__init__(escape=False, anchor_link_text="¶")
        self.page, self.site = page, site

    def inline_math(self, body: str, display: str = "inline") -> str:
        return convert(
            body.replace(r"\arg", r"\operatorname{arg}"), display=display
        )  # \arg is not known there

    def block_math(self, body: str) -> str:
        return self.inline_math(body, "block").replace(
            "<math", '<math tabindex="0"', 1
        )  # a wide one can be scrolled

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, self.target(url), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super().image(text, self.target(url), title)

    def target(self, url: str) -> str:
        if ":" in url or url.startswith("#"):
            return url
        name, mark, anchor = url.partition("#")
        source = (NBS / self.page.parent / name).resolve()
        if source == NBS / "index.ipynb":
            return os.path.relpath(README, self.page.parent) + mark + anchor
        if source.is_dir() and any(source.glob("*.ipynb")):
            source = min(source.glob("*.ipynb"))  # a stage: its first room
        place = source.relative_to(NBS) if source.is_relative_to(NBS) else Path(source.name)
        if source.suffix == ".ipynb" or source.is_dir():
            place = place.with_suffix(".html")
        else:
            (self.site / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, self.site / place)
        return os.path.relpath(place, self.page.parent) + mark + anchor


def listing(folder: Path) -> nbformat.NotebookNode:
    "The text files of a folder as one notebook."
    texts = [
        f"## {path.name}\n```yaml\n{path.read_text(encoding='utf-8')}```"
        for path in sorted(folder.iterdir())
    ]
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("\n\n".join([f"# {folder.name}", *texts]))]
    )


def described(svg: str) -> str:
    "A stored SVG as a picture; whoever does not see it is told its title."
    title = re.search(r"<title>(.*?)</title>", svg, re.S)
    told = title[1] if title else "a picture without a title"
    return f'<img alt="{told}" src="data:{SVG};base64,{b64encode(svg.encode()).decode()}">'


def prepare(notebook: nbformat.NotebookNode, up: str = "") -> bool:
    "Drop directives and machine paths, tag exported cells, turn figures into HTML. Are there any?"
    numbers = count()
    notebook.cells = [
        cell for cell in notebook.cells if not cell.source.startswith(("#| default_exp", "#| hide"))
    ]
    for cell in notebook.cells:
        if cell.source.startswith("#| export"):
            cell.source = cell.source.partition("\n")[2]
            cell.metadata.tags = [*cell.metadata.get("tags", []), "export"]
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(
                r'"/[^"\n]*/(?=[^"/\n]+")', '"…/', cell.source
            )  # what was where on some machine
        for output in cell.get("outputs", []):
            if LIVE.search(output.get("data", {}).get("text/plain", "")):
                output.data["text/html"] = output.data.get("text/html", "") + live_frame(up)
            if svg := output.get("data", {}).pop(SVG, None):
                output.data["text/html"] = described(svg)
            if figure := output.get("data", {}).pop(PLOTLY, None):
                parts = dict(
                    include_plotlyjs=False,
                    full_html=False,
                    validate=False,
                    div_id=f"figure-{next(numbers)}",
                )
                output.data["text/html"] = to_html(
                    {k: figure[k] for k in ("data", "layout")}, **parts
                )
    return next(numbers) > 0


def navigation(pages: list[Path], here: Path) -> str:
    "Links to all pages; of the folders, the one that is read and the short ones are open."
    parts = []
    for folder, group in groupby(pages, lambda page: page.parent):
        links = []
        for page in group:
            current = ' aria-current="page"' if page == here else ""
            name = dict(index="start").get(page.stem, page.stem)
            links.append(f'<a href="{os.path.relpath(page, here.parent)}"{current}>{name}</a>')
        if folder == Path():
            parts += links
            continue
        heading = SECTIONS.get(folder.as_posix(), f"run {folder.name}")
        is_open = " open" if folder == here.parent or folder.name in ("pages", "tour") else ""
        listed = "\n".join(links)
        parts.append(f"<details{is_open}><summary>{heading}</summary>\n{listed}\n</details>")
    return "\n".join([*parts, "<p>Code with such an edge is exported to the package.</p>"])


def card(link: str, title: str, line: str, picture: str) -> str:
    "A link with a picture that only repeats what the words say."
    words = f"<b>{html.escape(title)}</b><span>{html.escape(line)}</span>"
    return f'<a class="card" href="{link}"><img src="{picture}" alt="">{words}</a>'


def first_picture(notebook: nbformat.NotebookNode, path: Path) -> str:
    "Write the PNG of a notebook's first figure; its address in the site."
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    png = next(o.data["image/png"] for o in outputs if "image/png" in o.get("data", {}))
    path.write_bytes(b64decode(png))
    return f"images/{path.name}"


def start_page(pages: dict[Path, nbformat.NotebookNode], site: Path) -> nbformat.NotebookNode:
    "What to open first, then the stages of the library, as a notebook of one cell."
    told = {page.as_posix(): opening(notebook) for page, notebook in pages.items()}
    told["play.html"] = ("Play", "Type a review, and see what the units of a model make of it.")
    title, line = told["readme.html"]
    told["readme.html"] = (
        "The whole story",
        "What it is, two commands, five results, its limits.",
    )
    first = []
    for link, name in FIRST.items():
        own = site / "images" / Path(link).with_suffix(".png").name
        picture = f"images/{name}" if name else first_picture(pages[Path(link)], own)
        first.append(card(link, *told[link], picture))
    stages = [
        card(next(p for p in told if p.startswith(f"lib/{stage}/")), stage, words, f"images/{name}")
        for stage, (name, words) in STAGE_CARDS.items()
    ]
    source = [
        f"# {title}\n\n> {line}\n\n## Open first\n",
        f'<div class="cards">{"".join(first)}</div>\n',
    ]
    wide = f'<div class="cards wide">{"".join(stages)}</div>'
    source += ["## The library, stage by stage\n", wide]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("\n".join(source))])


def live_frame(up: str) -> str:
    "The live page, where a heatmap was alive in the notebook; search.js loads it when opened."
    link = f'<a href="{up}{PLAY}">in a window of its own</a>'
    about = f"<p>The bundled model, 8 bits a weight, all in this page; also {link}.</p>"
    return f'<details class="live"><summary>Type into it</summary>{about}</details>'


def without_plain_spans() -> Callable[[str], str]:
    "Take away the marks of code that both styles draw like any text: half of all that pages weigh."
    looks = [get_style_by_name(style).style_for_token for style in CODE_STYLES]
    plain = [
        name
        for token, name in STANDARD_TYPES.items()
        if token in Whitespace or all(look(token) == look(Text) for look in looks)
    ]
    marks = re.compile(rf'<span class="(?:{"|".join(filter(None, plain))})">([^<]*)</span>')
    return lambda html: marks.sub(r"\1", html)


def read_notebooks(runs: list[Path]) -> dict[Path, nbformat.NotebookNode]:
    "All that becomes a page, in the order of the navigation, by the page's path in the site."
    found = {README: NBS / "index.ipynb"}
    found |= {
        path.relative_to(NBS).with_suffix(".html"): path
        for folder in SECTIONS
        for path in notebooks(folder)
        if path.parent == NBS / folder
    }
    found |= {
        Path(run.name, f"{path.stem}.html"): path
        for run in runs
        for path in sorted(run.glob("notebooks/*.ipynb"))
    }
    pages = {page: nbformat.read(path, as_version=4) for page, path in found.items()}
    return pages | {Path("runs/recipes.html"): listing(NBS / "runs" / "recipes")}


def build(site: Path, runs: list[Path] = ()) -> list[Path]:
    "Write all pages, and what they share, into a new folder."
    site.mkdir(parents=True)
    exporter = HTMLExporter(
        template_file="page.html.j2", extra_loaders=[DictLoader({"page.html.j2": PAGE})]
    )
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.register_filter(
        "clean_html", lambda html: html
    )  # nothing here needs it, and it takes half of the time
    colours = [HtmlFormatter(style=style).get_style_defs(".highlight") for style in CODE_STYLES]
    dark = f"@media (prefers-color-scheme: dark) {{\n{colours[1]}\n}}"
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    (site / "style.css").write_text("\n".join([colours[0], dark, style]), encoding="utf-8")
    (site / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    shutil.copy(Path(__file__).with_suffix(".js"), site / "search.js")
    shutil.copytree(NBS / "images", site / "images")
    unmarked = without_plain_spans()
    pages = read_notebooks(runs)
    pages = {START: start_page(pages, site)} | pages
    listed = [START, PLAY, *list(pages)[1:]]
    save_live_page("reviews-stars", site / PLAY, bits=8)
    entries = []
    for page, notebook in pages.items():
        renderer = Renderer(page, site)
        exporter.register_filter("markdown2html", MarkdownWithMath(renderer=renderer).render)
        up = "../" * (len(page.parts) - 1)
        read = nbformat.from_dict(notebook)
        shown = dict(title=f"{page.stem} · sentiment_kit", up=up, plotly=prepare(read, up))
        shown |= dict(nav=navigation(listed, page), search=SEARCH)
        text, _ = exporter.from_notebook_node(read, shown)
        text = unmarked(text)
        (site / page).parent.mkdir(parents=True, exist_ok=True)
        (site / page).write_text(text, encoding="utf-8")
        if page != START:
            entries.append(page_entry(page, notebook, text))
    (site / "search-index.js").write_text(search_index(entries), encoding="utf-8")
    return listed


if __name__ == "__main__":
    new = OUT.with_name("docs.new")
    shutil.rmtree(new, ignore_errors=True)
    pages = build(new, [Path(run) for run in sys.argv[1:]])
    print(f"{len(pages)} pages: {publish_folder(new, OUT) / 'index.html'}")
