"""Numbers are addresses: imports go downhill, and training and featurising need almost nothing."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name
from sync import ROOT, cells, default_exp, module_path, notebooks

STAGES = ["data", "model", "training", "transfer", "evidence", "looking"]
BELOW = ["figures"]  # modules of no stage: below all, in this order
ABOVE = ["recipes", "start_checks", "terminal", "standard_input", "options", "model_commands"]
ABOVE += ["text_commands", "page_command", "cli"]  # and above all


def address(module):
    "Place of a module in the order of imports: its stage, then its number."
    stage, _, name = module.rpartition(".")
    if stage:
        return STAGES.index(stage), PLACE[module]
    return (-1, PLACE[module]) if name in BELOW else (len(STAGES), ABOVE.index(name))


PLACE = {default_exp(path): int(path.stem[:2]) for path in notebooks("lib")}
NUMBER = {module: address(module) for module in PLACE}
BARE = [
    "data.files",
    "data.text",
    "data.corpus",
    "data.records",
    "data.build_plan",
    "data.build_tasks",
    "data.shards",
    "data.loader",
    "transfer.features",
]
BARE += [name for name in NUMBER if name.split(".")[0] in ("model", "training")]
LIGHT = {
    "torch",
    "numpy",
    "safetensors",
    "tqdm",
    "triton",
}  # all that a training machine has; triton where there is CUDA
IMPORT_NAME = {"scikit-learn": "sklearn"}  # where it is not the name of the distribution
DEV_ONLY = {"nbdev", "fastcore", "execnb", "ghapi", "fastgit"}


def tree(module):
    return ast.parse(module_path(module).read_text(encoding="utf-8"))


def imported(nodes, module=""):
    "Full names of what these syntax nodes of `module` import; nbdev writes `..data.files`."
    package = ["sentiment_kit", *module.split(".")[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), "no `import *`"
            above = package[: len(package) + 1 - node.level] if node.level else []
            name = ".".join([*above, *filter(None, [node.module])])
            names = [f"{name}.{alias.name}" for alias in node.names]
            yield from [name, *names] if name.startswith("sentiment_kit") else [name]


def at_top(module):
    "Syntax nodes that run on import: everything outside functions."
    pending = list(tree(module).body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", NUMBER)
def test_imports_go_downhill(module):
    names = imported(ast.walk(tree(module)), module)
    ours = {name.removeprefix("sentiment_kit.") for name in names} & set(NUMBER)
    assert {name for name in ours if NUMBER[name] >= NUMBER[module]} == set()


def test_the_order_is_that_of_the_numbers():
    "In a folder, and of the modules of no stage, imports go as the listing does."
    top = [module for module in PLACE if "." not in module]
    assert top == sorted(top, key=NUMBER.get) and set(top) == {*BELOW, *ABOVE}
    assert {module.partition(".")[0] for module in PLACE if "." in module} == set(STAGES)


@pytest.mark.parametrize("module", NUMBER)
def test_users_need_no_nbdev(module):
    assert {
        name.split(".")[0] for name in imported(ast.walk(tree(module)), module)
    } & DEV_ONLY == set()


@pytest.mark.parametrize("module", BARE)
def test_bare_modules_import_only_the_light_packages(module):
    allowed = LIGHT | sys.stdlib_module_names | {"sentiment_kit"}
    names = {name for name in imported(at_top(module), module) if name.split(".")[0] not in allowed}
    assert names <= {"sklearn.base", "sklearn.utils.validation"}, (
        "an estimator's base classes are all"
    )


def missing_on_a_gpu_machine():
    "Names under which the kit's other dependencies are imported."
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    wanted = " ".join(
        settings["DEFAULT"][key] for key in ("requirements", "lab_requirements", "dev_requirements")
    )
    named = {re.split(r"[<>=!~\[]", requirement)[0] for requirement in wanted.split()}
    others = {"IPython", "yaml", "pandas"}
    return {IMPORT_NAME.get(name, name) for name in named} - LIGHT | others


def run_without(absent, lines):
    "A Python in which these packages cannot be imported."
    lines = [
        "import importlib, sys",
        f"sys.modules.update(dict.fromkeys({sorted(absent)}))",
        *lines,
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_bare_modules_import_where_the_rest_is_missing():
    "In a Python where every other dependency is missing, as on a GPU machine."
    missing = missing_on_a_gpu_machine()
    needs_sklearn = [
        m for m in BARE if any(name.startswith("sklearn") for name in imported(at_top(m), m))
    ]
    for modules, absent in (
        (set(BARE) - set(needs_sklearn), missing),
        (set(needs_sklearn), missing - {"sklearn"}),
    ):
        lines = [f"importlib.import_module('sentiment_kit.{module}')" for module in sorted(modules)]
        run_without(absent, lines)


@pytest.mark.slow
def test_the_training_leg_of_make_gpu_needs_no_more(tmp_path):
    "From the samples to a trained model, on the CPU; orjson and the others cannot be imported."
    said = run_without(
        missing_on_a_gpu_machine(),
        [
            "from pathlib import Path; from types import SimpleNamespace",
            "sys.path.insert(0, 'tests'); import gpu, torch",
            "gpu.DEVICE = 'cpu'; torch.cuda.reset_peak_memory_stats = lambda: None",
            "torch.cuda.max_memory_allocated = lambda: 0",
            f"how = dict(out=Path({str(tmp_path)!r}), corpus=None, lanes=32, hidden=16, lr=0.05)",
            "args = SimpleNamespace(**how, minutes=0.05)",
            "assert gpu.section_leg({}, lambda: None, args, None)",
        ],
    )
    assert "bytes/s of whole training steps" in said


def test_every_import_is_of_a_pinned_package():
    "What a notebook, a test or a module imports is what `make setup` installs."
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {
        canonicalize_name(line.split("==")[0])
        for line in lines
        if "==" in line and not line.startswith("#")
    }
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in [*(ROOT / "tests").glob("*.py")]
    }
    sources |= {module: module_path(module).read_text(encoding="utf-8") for module in NUMBER}
    for path in notebooks():
        code = "\n".join(cell["source"] for cell in cells(path, "code"))
        sources[path.name] = re.sub(r"^\s*[%!].*$", "", code, flags=re.M)
    own = {
        "sentiment_kit",
        *(path.stem for path in (ROOT / "tests").glob("*.py")),
    } | sys.stdlib_module_names
    of = packages_distributions()
    for name, source in sources.items():
        for package in {
            full.split(".")[0] for full in imported(ast.walk(ast.parse(source)), name)
        } - own:
            made_by = {
                canonicalize_name(distribution) for distribution in of.get(package, [package])
            }
            assert made_by & pinned, f"{name} imports {package}, which constraints.txt does not pin"
