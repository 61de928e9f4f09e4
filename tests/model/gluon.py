"""Gluon, imitated in Python, so that its kernels run on a CPU and without triton: each warp group is a thread.

Shared memory is a tensor, full of NaN at first; a copy happens when it is asked for; barriers are waited for in
earnest, and who waits in vain fails. How values lie in registers and in memory is not imitated.
"""

from __future__ import annotations

import math
import sys
import threading
import types
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

PATIENCE = 20.0  # seconds


class Registers(torch.Tensor):
    """Values of a group: a tensor with Gluon's own methods."""

    type = MagicMock()  # its layout

    def split(self) -> Any:  # type: ignore[override]
        return self.unbind(-1)


def registers(tensor: Tensor) -> Any:
    return tensor.as_subclass(Registers)


class Shared:
    """Shared memory, or a part of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.shape = tensor, tuple(tensor.shape)
        self.index = lambda at: Shared(tensor[at])
        self.reshape = lambda shape: Shared(tensor.view(shape))
        self.permute = lambda order: Shared(tensor.permute(order))
        self.slice = lambda start, length, dim=0: Shared(tensor.narrow(dim, start, length))
        self.load = lambda layout: registers(tensor.clone())

    def store(self, values: Tensor) -> None:
        assert values.shape == self.tensor.shape
        self.tensor.copy_(values)


class Barrier:
    """Counts arrivals and bytes; a phase ends when all are there."""

    def __init__(self) -> None:
        self.change, self.count, self.missing, self.bytes, self.ended = threading.Condition(), 0, 0, 0, 0

    def note(self, arrivals: int, size: int) -> None:
        with self.change:
            self.missing, self.bytes = self.missing - arrivals, self.bytes + size
            assert self.missing >= 0, "more arrivals than are expected"
            if self.missing == 0 and self.bytes == 0:
                self.ended, self.missing = self.ended + 1, self.count
                self.change.notify_all()

    def init(self, count: int) -> None:
        self.count = self.missing = count

    def wait(self, parity: int) -> None:
        with self.change:
            assert self.change.wait_for(lambda: self.ended % 2 != parity, PATIENCE), "waited in vain"


class Descriptor:
    """A tensor that is copied in blocks; `written` counts how often each place was."""

    def __init__(self, tensor: Tensor, block: list[int]) -> None:
        self.tensor, self.written, self.layout = tensor, torch.zeros(tensor.shape, dtype=torch.int), None
        self.block_type = types.SimpleNamespace(shape=tuple(block), nbytes=math.prod(block) * tensor.itemsize)

    def places(self, at: list[Any]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """In the tensor and in the block, of what lies within the tensor."""
        sizes = [
            max(0, min(size, bound - int(start)))
            for start, size, bound in zip(at, self.block_type.shape, self.tensor.shape, strict=True)
        ]
        outer = tuple(slice(int(start), int(start) + size) for start, size in zip(at, sizes, strict=True))
        return outer, tuple(slice(size) for size in sizes)

    def read(self, at: list[Any], barrier: Barrier, to: Shared) -> None:
        assert to.shape == self.block_type.shape
        outer, inner = self.places(at)
        to.tensor.zero_()
        to.tensor[inner] = self.tensor[outer]
        barrier.note(0, -self.block_type.nbytes)

    def write(self, at: list[Any], source: Shared) -> None:
        assert source.shape == self.block_type.shape
        outer, inner = self.places(at)
        self.tensor[outer] = source.tensor[inner]
        self.written[outer] += 1


class Pointer:
    """An address, or many: a tensor and what is to be added."""

    def __init__(self, tensor: Tensor, at: Any = 0) -> None:
        self.tensor, self.at = tensor, at

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.tensor, self.at + more)


class Language:
    """`triton.experimental.gluon.language`: of one program at a time."""

    constexpr = object
    bfloat16, float32, int64 = torch.bfloat16, torch.float32, torch.int64
    static_range = range
    arange = staticmethod(lambda start, end, layout=None: registers(torch.arange(start, end)))
    zeros = staticmethod(lambda shape, dtype, layout=None: registers(torch.zeros(shape)))
    full = staticmethod(lambda shape, value, dtype, layout=None: registers(torch.full(tuple(shape), value)))
    join = staticmethod(lambda one, other: torch.stack((one, other), -1))
    minimum = staticmethod(lambda x, bound: x.clamp(max=bound))
    rsqrt = staticmethod(torch.rsqrt)
    sum = staticmethod(lambda x, axis: x.sum(axis))
    convert_layout = staticmethod(lambda x, layout: x)
    thread_barrier = staticmethod(lambda: None)
    constexpr_function = staticmethod(lambda function: function)

    def __init__(self) -> None:
        self.program, self.programs = 0, 1
        self.program_id, self.num_programs = lambda axis: self.program, lambda axis: self.programs

    def __getattr__(self, name: str) -> Any:
        if name.endswith("Layout"):
            return MagicMock()
        raise AttributeError(name)

    def allocate_shared_memory(self, dtype: Any, shape: list[int], layout: Any) -> Any:
        if layout == "barriers":
            barriers = [Barrier() for _ in range(shape[0])]
            return types.SimpleNamespace(index=lambda at: barriers[at])
        return Shared(torch.full(tuple(shape), float("nan"), dtype=dtype))

    def load(self, place: Pointer, mask: Any = True, other: float = 0.0) -> Any:
        there = torch.as_tensor(mask).expand(place.at.shape)
        found = place.tensor.flatten()[torch.where(there, place.at, 0)]
        return registers(torch.where(there, found, other))

    def store(self, place: Pointer, values: Tensor, mask: Any) -> None:
        place.tensor.view(-1)[place.at[mask]] = values[mask].to(place.tensor.dtype)

    def inline_asm_elementwise(self, asm: str, constraints: str, args: list[Tensor], *more: Any, **named: Any) -> Any:
        known = {"rcp": torch.sigmoid, "ex2": torch.exp2, "cos": torch.cos, "sin": torch.sin}
        return next(function for name, function in known.items() if name in asm)(*args)

    def warp_specialize(self, groups: list[Any], warps: list[int], registers: list[int]) -> None:
        failed: list[BaseException] = []

        def run(function: Callable[..., None], args: tuple[Any, ...]) -> None:
            try:
                function(*args)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=group) for group in groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]


def _multiply(a: Any, b: Shared, sums: Tensor, use_acc: bool = True, is_async: bool = False) -> Any:
    product = (a.tensor if isinstance(a, Shared) else a).float() @ b.tensor.float()
    assert product.shape == sums.shape
    return registers(sums + product if use_acc else product)


class Kernel:
    """A function of the device: called by another, or launched as `kernel[grid](...)`.

    Attributes:
        written: how often each place was, of what the last launch wrote by copies.
    """

    def __init__(self, function: Callable[..., Any], language: Language) -> None:
        self.function, self.language, self.written = function, language, list[Tensor]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            given = {k: v for k, v in kwargs.items() if k not in ("num_warps", "maxnreg")}
            pointers = [Pointer(x) if isinstance(x, Tensor) else x for x in args]
            self.language.programs = grid[0]
            for self.language.program in range(grid[0]):
                self.function(*pointers, **given)
            self.written = [x.written for x in args if isinstance(x, Descriptor) and x.written.any()]

        return launch


def imitate(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Have these, which import triton, import the imitation; they are imported anew."""
    language = Language()

    def jit(function: Any = None, **options: Any) -> Any:
        return Kernel(function, language) if function else lambda function: Kernel(function, language)

    def module(name: str, **members: Any) -> None:
        made = types.ModuleType(name)
        made.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, made)

    barrier = types.SimpleNamespace(
        MBarrierLayout=lambda: "barriers",
        init=lambda barrier, count: barrier.init(count),
        wait=lambda barrier, parity: barrier.wait(int(parity)),
        expect=lambda barrier, size: barrier.note(1, size),
        arrive=lambda barrier, pred=True: barrier.note(1, 0) if pred else None,
    )
    tma = types.SimpleNamespace(
        async_copy_global_to_shared=lambda tensor, at, barrier, to: tensor.read(at, barrier, to),
        async_copy_shared_to_global=lambda tensor, at, source: tensor.write(at, source),
        store_wait=lambda pending: None,
    )
    descriptor = types.SimpleNamespace(from_tensor=lambda tensor, block, layout=None: Descriptor(tensor, block))
    gluon = types.SimpleNamespace(jit=jit, constexpr_function=lambda function: function, language=language)
    next_power_of_2 = lambda n: 1 << (n - 1).bit_length()  # noqa: E731
    module("triton", jit=jit, cdiv=lambda a, b: -(-a // b), next_power_of_2=next_power_of_2, language=object())
    module("triton.language")
    module("triton.tools")
    module("triton.tools.tensor_descriptor", TensorDescriptor=descriptor)
    module("triton.experimental", gluon=gluon)
    module("triton.experimental.gluon", **vars(gluon))
    module("triton.experimental.gluon.nvidia")
    module("triton.experimental.gluon.nvidia.hopper", TensorDescriptor=descriptor)
    module("triton.experimental.gluon.language.nvidia")
    module("triton.experimental.gluon.language")
    module(
        "triton.experimental.gluon.language.nvidia.hopper",
        fence_async_shared=lambda: None,
        mbarrier=barrier,
        tma=tma,
        warpgroup_mma=_multiply,
        warpgroup_mma_wait=lambda pending, deps: deps[0] if len(deps) == 1 else deps,
    )
    for name in modules:
        package, leaf = name.rsplit(".", 1)
        # Set first, so that monkeypatch knows to take away what comes of the import.
        monkeypatch.setattr(sys.modules[package], leaf, None, raising=False)
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        del sys.modules[name]
