"""`make docs`: the notebooks, as last executed, as static pages in out/docs, without a network.

python tests/pages.py [out/RUN …]: with the executed notebooks of these runs. Plotly is there once,
for all pages; equations are turned into MathML, which browsers draw themselves. One page is alive:
play.html holds the bundled model, with a byte a weight, so that the site stays small.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from plotly.io import to_html
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter
from pygments.styles import get_style_by_name
from pygments.token import STANDARD_TYPES, Text, Whitespace
from sync import ROOT, notebooks

from sentiment_kit.data.files import publish_folder
from sentiment_kit.looking.live_page import save_live_page

PLAY = Path("play.html")  # the live page
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
<body><nav aria-label="Pages">{{ resources.nav }}</nav><main>
{%- endblock -%}
{%- block body_footer -%}</main></body>{%- endblock -%}
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


def prepare(notebook: nbformat.NotebookNode) -> bool:
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
    "Links to all pages, a heading for each folder."
    lines, folder = [], Path()
    for page in pages:
        if page.parent != folder:
            folder = page.parent
            lines.append(f"<h2>{SECTIONS.get(folder.as_posix(), f'run {folder.name}')}</h2>")
        current = ' aria-current="page"' if page == here else ""
        lines.append(f'<a href="{os.path.relpath(page, here.parent)}"{current}>{page.stem}</a>')
    return "\n".join([*lines, "<p>Code with such an edge is exported to the package.</p>"])


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
    found = {Path("index.html"): NBS / "index.ipynb"}
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
    unmarked = without_plain_spans()
    pages = read_notebooks(runs)
    listed = [*pages][:1] + [PLAY] + [*pages][1:]
    save_live_page("reviews-small", site / PLAY, bits=8)
    for page, notebook in pages.items():
        renderer = Renderer(page, site)
        exporter.register_filter("markdown2html", MarkdownWithMath(renderer=renderer).render)
        shown = dict(
            title=f"{page.stem} · sentiment_kit",
            up="../" * (len(page.parts) - 1),
            plotly=prepare(notebook),
        )
        html, _ = exporter.from_notebook_node(notebook, shown | dict(nav=navigation(listed, page)))
        (site / page).parent.mkdir(parents=True, exist_ok=True)
        (site / page).write_text(unmarked(html), encoding="utf-8")
    return listed


if __name__ == "__main__":
    new = OUT.with_name("docs.new")
    shutil.rmtree(new, ignore_errors=True)
    pages = build(new, [Path(run) for run in sys.argv[1:]])
    print(f"{len(pages)} pages: {publish_folder(new, OUT) / 'index.html'}")
