"""A module with Triton kernels decides when it is read whether they are interpreted: copies
that are read anew."""

import importlib.util
import sys
from types import ModuleType

import pytest


def private_copy(module: ModuleType) -> ModuleType:
    "The same source once more, under the environment of now."
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_copy", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def interpreted(*modules: ModuleType) -> ModuleType:
    """A copy of the last, whose kernels are interpreted on the CPU; it imports copies of
    those before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in modules:
            copy = private_copy(module)
            patch.setitem(sys.modules, module.__name__, copy)
    return copy
