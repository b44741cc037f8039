"""`import sentiment_kit as sk`: all names of the front door, none of the cost before their use."""

import pickle
import re
import subprocess
import sys
from importlib import import_module

import pytest
from sync import ROOT

import sentiment_kit as sk

NAMES = """
    LanguageModel LanguageModelConfig TrainConfig train make_shards open_corpus read_reviews
    load_dataset ByteFeaturizer SentimentProbe find_sentiment_neuron TextClassifier
    generate record_states heatmap_html HeatmapWidget NeuronMap
    SteeringPanel LossExplorer plot_losses TextTable look name_unit play
""".split()


def fresh(*lines):
    "What a new interpreter prints for these lines."
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_names_are_the_promised_ones():
    assert set(sk.HOMES) == set(sk.__all__) == set(NAMES)
    assert sk.__all__ == sorted(sk.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_object_of_its_home(name):
    value = getattr(sk, name)
    assert value is getattr(import_module(f"sentiment_kit.{sk.HOMES[name]}"), name)
    assert callable(value), "the function or class, not a module of the same name"
    assert value.__module__ == f"sentiment_kit.{sk.HOMES[name]}", "its home is where it is defined"
    assert pickle.loads(pickle.dumps(value)) is value


def test_an_instance_reached_through_the_front_door_is_pickled():
    config = sk.LanguageModelConfig(hidden_size=8, embed_size=4)
    assert pickle.loads(pickle.dumps(config)) == config


def test_editors_and_dir_see_the_names():
    source = (ROOT / "sentiment_kit" / "__init__.py").read_text(encoding="utf-8")
    for name in NAMES:
        assert name in dir(sk)
        imported = rf"from \.{sk.HOMES[name]} import .*\b{name}\b"
        assert re.search(imported, source), "type checkers read it under TYPE_CHECKING"
    listed = fresh(
        "import sentiment_kit, sys",
        "print(*dir(sentiment_kit))",
        "assert 'torch' not in sys.modules",
    )
    assert set(NAMES) <= set(listed.split()) and "__version__" in listed.split()


def test_the_import_costs_nothing():
    "Under 50 ms and without torch; the shortest of a few tries, for the machine has other work."
    lines = [
        "import sys, time",
        "start = time.perf_counter()",
        "import sentiment_kit",
        "seconds = time.perf_counter() - start",
        "heavy = {'torch', 'numpy', 'sklearn', 'plotly'} & set(sys.modules)",
        "print(seconds, *heavy)",
    ]
    seen = [fresh(*lines).split() for _ in range(3)]
    assert all(len(words) == 1 for words in seen), "a heavy package was imported"
    assert min(float(words[0]) for words in seen) < 0.050


def test_star_import_brings_them_all():
    lines = [
        "from sentiment_kit import *",
        f"print(all(callable(n) for n in ({', '.join(NAMES)})))",
    ]
    assert fresh(*lines) == "True\n"


def test_modules_of_the_same_names_do_not_take_their_place():
    "`generate` is a module of `model` and a function here, whichever is imported first."
    lines = [
        "import sentiment_kit.model.generate, sentiment_kit.training.trainer",
        "import sentiment_kit as sk",
        "print(sk.generate.__name__, type(sk.generate).__name__, type(sk.train).__name__)",
    ]
    assert fresh(*lines) == "generate function function\n"
    assert fresh(*lines[1:]) == "generate function function\n"


def test_a_missing_name_gets_a_hint():
    with pytest.raises(AttributeError, match="'LanguageModle'.*did you mean 'LanguageModel'"):
        sk.LanguageModle  # noqa: B018
    with pytest.raises(AttributeError, match="it offers ByteFeaturizer, .*sub-packages"):
        sk.xyzzy  # noqa: B018
    assert not hasattr(sk, "__wrapped__")
    with pytest.raises(ImportError, match="LanguageModle"):
        from sentiment_kit import LanguageModle  # noqa: F401
    from sentiment_kit import cli, data  # sub-modules are still found

    assert cli.main and data.__name__ == "sentiment_kit.data"
