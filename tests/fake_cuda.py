"""A GPU that is not there, for tests on any machine.

Under `FakeGpu` every tensor asked for on "cuda:0" is a `FarTensor`: torch takes it for one on that
device, its numbers are in a CPU tensor behind it (or nowhere: near="meta", for large shapes). Each
operation is noted as a launch on the current stream. What a GPU would refuse is refused here:
operands on two devices, precisions in `forbidden` (MPS has no float64), waiting for the device
while a stream records. A recording is made as CUDA makes one: nothing runs, and `replay` runs it on
the same addresses.

    with FakeGpu() as gpu:
        x = torch.ones(3, device="cuda:0")
        y = (x + 1).cpu()  # gpu.launches: full of fill_, add; gpu.waits: one copy to the CPU
"""

import contextlib
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from sentiment_kit.model import gpu_pool, triton_support

VIEWS = set(
    "view split t detach slice expand transpose _unsafe_view select unsqueeze squeeze unbind alias "
    "as_strided _reshape_alias permute lift_fresh split_with_sizes unfold".split()
)
EMPTY = set("empty new_empty empty_like empty_strided new_empty_strided".split())


class FarTensor(torch.Tensor):
    "A tensor whose numbers are in `near`, on another device."

    @staticmethod
    def __new__(cls, near: torch.Tensor, place: torch.device):
        far = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device="meta",
        )
        far.near, far.place = near, place
        return far

    device = property(lambda self: self.place)
    is_cuda = property(lambda self: self.place.type == "cuda")
    is_meta = property(lambda self: False)

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} of a tensor on a fake GPU that is gone")


class Launch(NamedTuple):
    "One operation on the device."

    name: str
    stream: str
    n_bytes: int  # of what it wrote
    recorded: bool  # into a graph; else it ran


class Stream:
    "What torch.cuda.Stream is used for: a name, and whom it waits for."

    def __init__(self, gpu, name):
        self.gpu, self.name = gpu, name

    def wait_stream(self, other):
        self.gpu.order.append((self.name, "waits for", other.name))


class FakeGpu(TorchDispatchMode):
    "A device of any name; as a context it is there."

    def __init__(
        self,
        device: str = "cuda:0",
        near: str = "cpu",  # where the numbers are; "meta" has none
        capability: tuple[int, int] = (9, 0),
        memory: int = 80 * 10**9,
        forbidden: tuple[torch.dtype, ...] = (),
        triton: str | None = "no Triton on a fake GPU",  # why there is none; None: there is
        refuse_recording: str | None = None,  # the error that ends a recording
    ):
        super().__init__()
        self.place, self.where = torch.device(device), near
        self.capability, self.memory, self.forbidden = capability, memory, forbidden
        self.triton, self.refuse_recording = triton, refuse_recording
        self.launches: list[Launch] = []
        self.waits: list[str] = []  # operations for whose result the CPU waited
        self.order: list[tuple] = []  # of streams, recordings and replays
        self.main = self.stream = Stream(self, "main")
        self.recording: list | None = None

    def clear(self) -> None:
        "Forget what was noted."
        for noted in (self.launches, self.waits, self.order):
            noted.clear()

    def count(self) -> Counter:
        "How often each operation was launched."
        return Counter(launch.name for launch in self.launches)

    # -- tensors

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        given = pytree.arg_tree_leaves(*args, **kwargs)
        far = [x for x in given if isinstance(x, FarTensor)]
        target = kwargs.get("device")
        # autograd takes a far tensor's device for "meta" where it makes zeros
        ours = (self.place.type, "meta")
        here = bool(far) if target is None else torch.device(target).type in ours
        if not far and not here:
            return func(*args, **kwargs)
        moves = name in ("copy_", "_to_copy")
        for x in given if far and not moves else ():
            if isinstance(x, torch.Tensor) and not isinstance(x, FarTensor):
                assert not x.dim(), f"{func} mixes devices"
        near_args, near_kwargs = pytree.tree_map_only(FarTensor, lambda x: x.near, (args, kwargs))
        if target is not None:
            near_kwargs["device"] = torch.device(self.where) if here else torch.device(target)
        leaves = moves and isinstance(args[0], FarTensor) and not here
        leaves |= name == "copy_" and not isinstance(args[0], FarTensor)
        if leaves or name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"):
            self.waits.append(name)
            assert self.recording is None, f"{name} waits for the device inside a recording"
        if self.where == "meta" and leaves:
            return torch.zeros(args[0].shape, dtype=near_kwargs.get("dtype") or args[0].dtype)
        if self.where == "meta" and name == "_local_scalar_dense":
            return 1.0 if args[0].is_floating_point() else 1
        near = self.run(func, near_args, near_kwargs, name)
        if name == "copy_" and not isinstance(args[0], FarTensor):
            return args[0]
        if leaves or not isinstance(near, torch.Tensor | list | tuple):
            return near
        out = pytree.tree_map_only(torch.Tensor, lambda x: FarTensor(x, self.place), near)
        self.refuse(func, out)
        return return_and_correct_aliasing(func, args, kwargs, out)

    def refuse(self, func, out) -> None:
        "Precisions that the device does not have."
        for x in pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.dtype in self.forbidden:
                raise TypeError(f"{func}: {self.place.type} has no {x.dtype}")

    def run(self, func, args, kwargs, name):
        "Do it, or note it for the replay."
        if str(func) == "aten.mm.dtype":
            func = self.product_to_fp32
        if name in VIEWS or name in EMPTY:
            return func(*args, **kwargs)
        if self.recording is None:
            out = func(*args, **kwargs)
        elif getattr(func, "_schema", None) and func._schema.is_mutable:
            self.recording.append(lambda: func(*args, **kwargs))
            written = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.is_write]
            out = kwargs.get("out", written[0] if written else None)
        else:
            out = func(*args, **kwargs)  # only for its shape
            self.recording.append(lambda: out.copy_(func(*args, **kwargs)))
        n_bytes = sum(x.nbytes for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor))
        self.launches.append(Launch(name, self.stream.name, n_bytes, self.recording is not None))
        return out

    def product_to_fp32(self, a, b, dtype):
        "torch.mm(…, out_dtype=torch.float32), which a CPU does not have."
        if a.dtype == torch.bfloat16 and self.capability < (8, 0):
            raise RuntimeError("bf16 into fp32 wants compute capability 8")
        return a.to(dtype) @ b.to(dtype)

    # -- torch.cuda

    @contextlib.contextmanager
    def on(self, stream):
        before, self.stream = self.stream, stream
        yield
        self.stream = before  # as in torch: not after an exception in a recording

    def set_stream(self, stream) -> None:
        self.stream = stream

    @contextlib.contextmanager
    def graph(self, graph, stream=None, capture_error_mode="global"):
        self.order.append(("record", stream.name, torch.is_inference_mode_enabled()))
        self.stream, self.recording = stream, []
        try:
            yield
        finally:
            graph.steps, self.recording = self.recording, None
        if self.refuse_recording:
            raise RuntimeError(self.refuse_recording)  # and the stream stays
        self.stream = self.main

    def new_graph(self):
        gpu = self

        class Graph:
            def replay(self):
                gpu.order.append(("replay", gpu.stream.name))
                for step in self.steps:
                    step()

        return Graph()

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        cuda = dict(
            _lazy_init=lambda: None,
            device=lambda device: contextlib.nullcontext(),
            device_of=lambda tensor: contextlib.nullcontext(),
            current_device=lambda: 0,
            current_stream=lambda *device: self.stream,
            stream=self.on,
            set_stream=self.set_stream,
            Stream=lambda *device: Stream(self, "side"),
            CUDAGraph=self.new_graph,
            graph=self.graph,
            get_device_capability=lambda *device: self.capability,
        )
        for name, stand_in in cuda.items():
            self.patch.setattr(torch.cuda, name, stand_in)
        memory = float("inf") if self.place.type != "cuda" else self.memory / 4
        self.patch.setattr(gpu_pool, "idle_bytes", lambda device: memory)
        self.patch.setattr(triton_support, "_trouble_of", lambda device: self.triton)
        gpu_pool.side_stream.cache_clear()
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        gpu_pool.side_stream.cache_clear()
        return super().__exit__(*error)
