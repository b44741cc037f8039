"""The index that the pages of `make docs` search: titles, headings, exported names, rare words."""

import json
import re
from collections import Counter
from html import unescape
from pathlib import Path

import nbformat

COMMON = 0.25  # a word on more than this share of the pages tells none of them apart
HEADING = re.compile(r'<h([2-4]) id="([^"]*)"[^>]*>(.*?)<a class="anchor-link"', re.S)


def opening(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    "Title and the line below it, as text."
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", prose, re.M)
    line = re.search(r"^> (.+)$", prose, re.M)
    return tuple(re.sub(r"[*`]", "", found[1]) if found else "" for found in (title, line))


def exported_names(notebook: nbformat.NotebookNode) -> list[str]:
    "Functions, classes and constants of exported cells."
    source = "\n".join(
        cell.source for cell in notebook.cells if cell.source.startswith("#| export")
    )
    return re.findall(r"^(?:def |class )?([A-Za-z]\w+)(?=[(:]|\s*=)", source, re.M)


def words_of(notebook: nbformat.NotebookNode) -> set[str]:
    "The words of its prose, in small letters."
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    return {word.lower() for word in re.findall(r"[^\W\d_][\w’'-]{2,}", prose)}


def page_entry(path: Path, notebook: nbformat.NotebookNode, html: str) -> dict:
    "What is known of one page; its words are thinned out later."
    title, line = opening(notebook)
    heads = [
        (unescape(anchor), unescape(re.sub(r"<[^>]+>", "", text)).strip())
        for _, anchor, text in HEADING.findall(html)
    ]
    names = " ".join(dict.fromkeys(exported_names(notebook)))
    about = dict(path=path.as_posix(), title=title or path.stem, line=line)
    return about | dict(heads=heads, names=names, words=words_of(notebook))


def search_index(entries: list[dict]) -> str:
    "All pages as a script; words that many of them have are left out."
    often = Counter(word for entry in entries for word in entry["words"])
    rare = {word for word, n in often.items() if n <= max(1, COMMON * len(entries))}
    kept = [entry | dict(words=" ".join(sorted(entry["words"] & rare))) for entry in entries]
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    return f"window.searchIndex = {text};\n"
