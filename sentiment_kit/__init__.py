"""Byte-level language models of reviews, and the unit in them that follows sentiment.

`import sentiment_kit as sk` offers the names below. Each is imported from its module when it is
first used, so the import itself costs nothing and leaves torch alone.
This file is written by hand; nbdev keeps only the version in step.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

HOMES = {  # name: the module that defines it
    "make_shards": "data.shards",
    "open_corpus": "data.corpus",
    "read_reviews": "data.reviews",
    "load_dataset": "data.datasets",
    "LanguageModel": "model.language_model",
    "LanguageModelConfig": "model.language_model",
    "generate": "model.generate",
    "TrainConfig": "training.config",
    "train": "training.trainer",
    "ByteFeaturizer": "transfer.features",
    "record_states": "transfer.features",
    "SentimentProbe": "transfer.probe",
    "find_sentiment_neuron": "transfer.neuron",
    "TextClassifier": "transfer.classifier",
    "heatmap_html": "looking.heatmap",
    "HeatmapWidget": "looking.heatmap_widget",
    "plot_losses": "looking.loss_curves",
    "LossExplorer": "looking.loss_explorer",
    "NeuronMap": "looking.neuron_map",
    "SteeringPanel": "looking.steering",
    "TextTable": "looking.text_table",
    "look": "looking.text_table",
    "name_unit": "transfer.unit_notes",
    "play": "looking.play",
}

__all__ = [  # spelled out, because type checkers read only a literal list
    "ByteFeaturizer",
    "HeatmapWidget",
    "LanguageModel",
    "LanguageModelConfig",
    "LossExplorer",
    "NeuronMap",
    "SentimentProbe",
    "SteeringPanel",
    "TextClassifier",
    "TextTable",
    "TrainConfig",
    "find_sentiment_neuron",
    "generate",
    "heatmap_html",
    "load_dataset",
    "look",
    "make_shards",
    "name_unit",
    "open_corpus",
    "play",
    "plot_losses",
    "read_reviews",
    "record_states",
    "train",
]

if TYPE_CHECKING:  # the same names for type checkers and editors: they do not run this file
    from .data.corpus import open_corpus
    from .data.datasets import load_dataset
    from .data.reviews import read_reviews
    from .data.shards import make_shards
    from .looking.heatmap import heatmap_html
    from .looking.heatmap_widget import HeatmapWidget
    from .looking.loss_curves import plot_losses
    from .looking.loss_explorer import LossExplorer
    from .looking.neuron_map import NeuronMap
    from .looking.play import play
    from .looking.steering import SteeringPanel
    from .looking.text_table import TextTable, look
    from .model.generate import generate
    from .model.language_model import LanguageModel, LanguageModelConfig
    from .training.config import TrainConfig
    from .training.trainer import train
    from .transfer.classifier import TextClassifier
    from .transfer.features import ByteFeaturizer, record_states
    from .transfer.neuron import find_sentiment_neuron
    from .transfer.probe import SentimentProbe
    from .transfer.unit_notes import name_unit
else:  # hidden from them, for with it they would take any name for one of ours

    def __getattr__(name: str) -> object:
        "A name of the front door; Python asks here only for what this module does not have yet."
        if name not in HOMES:
            raise AttributeError(_missing(name))
        value = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
        globals()[name] = value
        return value


def _missing(name: str) -> str:
    "What is said of a name that is not here, with the nearest that is."
    from difflib import get_close_matches

    said = f"module {__name__!r} has no attribute {name!r}"
    if near := get_close_matches(name, HOMES, n=1):
        return f"{said}: did you mean {near[0]!r}?"
    return f"{said}: it offers {', '.join(__all__)}; all else is in its sub-packages"


def __dir__() -> list[str]:
    "What `dir()` and completion list: also the names that were not used yet."
    return sorted({*globals(), *HOMES})
