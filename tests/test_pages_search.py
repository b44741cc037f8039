"""What the search of the static pages knows of a notebook."""

import json
from pathlib import Path

import nbformat
from pages_search import exported_names, opening, page_entry, search_index

NOTEBOOK = nbformat.v4.new_notebook(
    cells=[
        nbformat.v4.new_markdown_cell(
            "# Half *precision*\n> What `fp16` breaks.\n\nUnderflow is [a loss](x)."
        ),
        nbformat.v4.new_code_cell("#| export\nLIMIT: int = 3\nclass Scaler:\n    size = 2"),
        nbformat.v4.new_code_cell("#| export\ndef shrink(x):\n    y = x\n    return y"),
        nbformat.v4.new_code_cell("def shown_only(): ..."),
    ]
)
HTML = '<h2 id="A-&amp;-B">A &amp; <em>B</em><a class="anchor-link" href="#A-&amp;-B">¶</a></h2>'


def read_index(script):
    head, _, text = script.partition(" = ")
    assert head == "window.searchIndex" and text.endswith(";\n")
    return json.loads(text[:-2])


def test_a_page_is_known_by_its_opening_its_headings_and_its_names(tmp_path):
    assert opening(NOTEBOOK) == ("Half precision", "What fp16 breaks.")
    assert exported_names(NOTEBOOK) == ["LIMIT", "Scaler", "shrink"]
    entry = page_entry(tmp_path / "fp16.html", NOTEBOOK, HTML)
    assert entry["heads"] == [("A-&-B", "A & B")]
    assert {"underflow", "loss"} <= entry["words"] and "x" not in entry["words"]


def test_words_of_many_pages_are_left_out_and_nothing_else_is():
    entries = [
        page_entry(Path(f"{n}.html"), NOTEBOOK, HTML) | dict(words={"everywhere", f"only{n}"})
        for n in range(8)
    ]
    read = read_index(search_index(entries))
    assert [page["words"] for page in read] == [f"only{n}" for n in range(8)]
    assert read[3]["path"] == "3.html" and read[3]["title"] == "Half precision"
