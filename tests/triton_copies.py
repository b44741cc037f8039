"""A module with Triton kernels decides when it is read whether they are interpreted: copies
that are read anew."""

import importlib.util
import inspect
import sys
from types import ModuleType

import pytest


def private_copy(module: ModuleType) -> ModuleType:
    "The same source once more, under the environment of now."
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_copy", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def interpreted(*modules: ModuleType) -> list[ModuleType]:
    """Copies whose kernels are interpreted on the CPU; each imports the copies of those
    before."""
    copies = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for module in modules:
            copies.append(private_copy(module))
            patch.setitem(sys.modules, module.__name__, copies[-1])
    return copies


def compiled(fn, types: dict[str, str], constants: dict[str, int], aligned: list[int]) -> str:
    "PTX of a kernel for compute capability 9; the arguments `aligned` are multiples of 16."
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    if "constexprs" not in inspect.signature(ASTSource).parameters:
        pytest.skip("this Triton (before 3.3) is asked in another way")
    attrs = {(k,): [["tt.divisibility", 16]] for k in aligned}
    source = ASTSource(fn, types, constexprs=constants, attrs=attrs)
    return compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
