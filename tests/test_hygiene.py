"""What keeps the notebooks readable, small and the same on every machine."""

import ast
import re
import shutil
import subprocess
from statistics import median

import pytest
from papermill import inspect_notebook
from sync import ROOT, SCRIPTS, cells, default_exp, notebooks

LIBRARY = ROOT / "nbs" / "lib"


def module_of(path):
    "`data/80_shards.ipynb` makes `data.shards`."
    return ".".join([*path.parent.relative_to(LIBRARY).parts, path.stem[3:]])


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


ALL = [pytest.param(path, id=name_of(path)) for path in notebooks()]
LIB = [pytest.param(path, id=name_of(path)) for path in notebooks("lib")]
RUNS = [pytest.param(path, id=name_of(path)) for path in notebooks("runs")]
TOUR = [pytest.param(path, id=name_of(path)) for path in notebooks("tour")]
PACKED = re.compile(r"^\s+[A-Za-z_.]+(, ?[A-Za-z_.]+)+ ?= ")  # a, b = …, inside a function
MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:work|root|home|Users|tmp|private|mnt|opt|var/folders)/[\w.\-]+"
)


def exported(cell):
    return bool(re.search(r"^#\|\s*exports?\b", cell["source"], re.M))


def code_lines(cell):
    "Lines of a cell that are neither blank nor a directive."
    return [
        line for line in cell["source"].splitlines() if line.strip() and not line.startswith("#|")
    ]


def texts(value):
    "All strings in a piece of JSON but pictures; a list of lines is one string, as in notebooks."
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield "".join(value)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key.startswith("image/"):
                yield from texts(item)


def test_there_is_something_to_test():
    assert len(LIB) >= 20 and len(RUNS) >= 4 and len(TOUR) >= 1


@pytest.mark.parametrize("path", LIB)
def test_name_number_and_module_agree(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
    assert default_exp(path) == module_of(path)
    assert "auto" not in path.stem, "nbdev leaves such a notebook out of its index"


def test_no_two_notebooks_share_a_module_or_a_number():
    modules = [default_exp(path) for path in notebooks() if default_exp(path)]
    numbers = [(path.parent, path.stem[:2]) for path in notebooks("lib", "runs", "tour")]
    assert len(modules) == len(set(modules)) and len(numbers) == len(set(numbers))
    assert all(default_exp(path) is None for path in notebooks("runs", "tour"))


@pytest.mark.parametrize("path", LIB)
def test_opening(path):
    first, second = cells(path)[:2]
    assert first["source"].strip() == f"#| default_exp {module_of(path)}"
    assert second["cell_type"] == "markdown" and re.match(r"# .+\n+> .+", second["source"])


def only_imports(cell):
    nodes = ast.parse(cell["source"]).body
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)


def exported_cells(path):
    "The cells that make the module; those with nothing but imports do not count."
    return [cell for cell in cells(path, "code") if exported(cell) and not only_imports(cell)]


def exported_lines(path):
    return [line for cell in cells(path, "code") if exported(cell) for line in code_lines(cell)]


@pytest.mark.parametrize("path", LIB)
def test_cells_are_short(path):
    sizes = {cell["source"]: len(code_lines(cell)) for cell in exported_cells(path)}
    for source, size in sizes.items():
        assert size <= 50, f"longer than 50 lines: {source[:80]!r}"
    assert len(sizes) < 4 or median(sizes.values()) <= 15, sorted(sizes.values())
    wide = [line for line in exported_lines(path) if len(line) > 100]
    assert wide == []


def test_half_of_all_cells_are_of_twelve_lines_at_most():
    found = [cell for path in notebooks("lib") for cell in exported_cells(path)]
    assert median(len(code_lines(cell)) for cell in found) <= 12


@pytest.mark.parametrize("path", LIB)
def test_an_example_stands_after_every_second_cell(path):
    "Not a sentence, not a cell that shows nothing: code that was executed, with its output stored."
    row = 0
    for cell in cells(path, "code"):
        if not exported(cell):
            row = 0 if cell["outputs"] else row
        elif not only_imports(cell):
            row += 1
            assert row <= 2, f"three exported cells without an example: {cell['source'][:80]!r}"


@pytest.mark.parametrize("path", LIB)
def test_little_is_hidden(path):
    found = cells(path)
    hidden = sum(bool(re.search(r"^#\|\s*hide\b", cell["source"], re.M)) for cell in found)
    assert hidden < 0.1 * len(found)


def test_no_room_is_too_large():
    sizes = {name_of(path): len(exported_lines(path)) for path in notebooks("lib")}
    assert {name: size for name, size in sizes.items() if size > 300} == {}
    large = {name: size for name, size in sizes.items() if size > 250}
    assert len(large) <= 2, large


def test_one_statement_a_line():
    "`a, b = …` is for one value that is taken apart."
    lines = [line for path in notebooks("lib") for line in exported_lines(path)]
    packed = [line.strip() for line in lines if PACKED.match(line)]
    assert len(packed) <= 0.02 * len(lines), packed
    assert len(lines) > 5000


@pytest.mark.parametrize("path", LIB)
def test_every_library_notebook_shows_what_it_made(path):
    "Stored outputs stay: nbdev_clean must not strip them; readers without Jupyter see them."
    assert any(cell["outputs"] for cell in cells(path, "code"))


@pytest.mark.parametrize("path", RUNS)
def test_run_notebook_has_one_parameters_cell_that_papermill_understands(path):
    tagged = [
        cell for cell in cells(path, "code") if "parameters" in cell["metadata"].get("tags", [])
    ]
    assert len(tagged) == 1, (
        "exactly one code cell tagged `parameters` (a cleaner may have stripped it)"
    )
    body = ast.parse(tagged[0]["source"]).body
    assert all(isinstance(node, ast.AnnAssign) for node in body), "annotated assignments only"
    defaults = {
        node.target.id: ast.literal_eval(node.value) for node in body
    }  # plain values: the command line reads them
    assert isinstance(defaults["run"], str), "every run notebook is told its run folder"
    seen = inspect_notebook(str(path))
    assert set(seen) == set(defaults), (
        "papermill reads a line with a second `=` or a `|` wrongly: reword it"
    )
    assert all(parameter["help"] for parameter in seen.values()), "one comment a parameter"


@pytest.mark.parametrize("path", RUNS)
def test_run_notebooks_hold_only_calls(path):
    source = "\n".join(
        re.sub(r"^[%!].*$", "", cell["source"], flags=re.M) for cell in cells(path, "code")
    )
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    assert [
        ast.unparse(node)[:60] for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)
    ] == []


@pytest.mark.parametrize("path", ALL)
def test_no_widget_state_and_no_stray_metadata(path):
    text = path.read_text(encoding="utf-8")
    assert "application/vnd.jupyter.widget-" not in text and '"widgets"' not in text
    for cell in cells(path):
        assert set(cell["metadata"]) <= {"tags"}, (
            "nbdev_clean with allowed_cell_metadata_keys = tags"
        )
        assert cell["cell_type"] != "code" or cell["execution_count"] is None
        assert not any(output["output_type"] == "error" for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", ALL)
def test_no_machine_paths(path):
    for cell in cells(path):
        for text in texts([cell["source"], cell.get("outputs", [])]):
            assert not MACHINE_PATH.search(text), MACHINE_PATH.search(text)[0]


@pytest.mark.parametrize("path", TOUR)
def test_a_tour_fits_its_window_and_is_never_silent(path):
    "88 characters at 1,280 pixels beside the sidebar; a training tells how it gets on."
    found = cells(path, "code")
    wide = [line for cell in found for line in cell["source"].splitlines() if len(line) > 88]
    assert wide == []
    assert not any('progress="none"' in cell["source"] for cell in found)


LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = [ROOT / "README.md", *sorted((ROOT / "sentiment_kit" / "weights").glob("*/README.md"))]


@pytest.mark.parametrize("path", ALL + [pytest.param(path, id=path.parent.name) for path in PAGES])
def test_every_link_to_a_file_finds_it(path):
    prose = (
        [cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown"]
        if path.suffix == ".ipynb"
        else [path.read_text(encoding="utf-8")]
    )
    links = {link.split("#")[0] for text in prose for link in LINK.findall(text)}
    local = {link for link in links if link and not re.match(r"[a-z]+:", link)}
    assert not [link for link in local if not (path.parent / link).exists()]


def test_ruff_has_nothing_to_say():
    for check in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [SCRIPTS / "ruff", *check, "nbs", "tests", "setup.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"run `make sync`\n{done.stdout}"


def test_nbdev_clean_has_nothing_to_do(tmp_path):
    "No addresses, counts or editor's metadata: a notebook changes when its content does."
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    subprocess.run([SCRIPTS / "nbdev_clean"], cwd=tmp_path, check=True)
    changed = [
        p.stem
        for p in notebooks()
        if p.read_bytes() != (tmp_path / p.relative_to(ROOT)).read_bytes()
    ]
    assert changed == [], "run `make sync`"


def test_notebooks_stay_small():
    assert (
        sum(path.stat().st_size for path in (ROOT / "nbs").rglob("*") if path.is_file()) < 9_000_000
    )
