"""What a step's matrix products and attention take alone on this CPU, as torch computes them.

    python -m tests.bench.bench_products [--cases a b] [--dtypes float32 bfloat16] [--repeats 5]

An eager step of ours is watched; each kind of call that it makes is then made alone, by one thread, with tensors of the
same shapes and strides, and its least time counts as often as the step made it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.bench.eager_cases import loops, parse

ATEN = torch.ops.aten
KINDS = {
    ATEN.mm.default: "products",
    ATEN.bmm.default: "products",
    ATEN.addmm.default: "products",
    ATEN._scaled_dot_product_flash_attention_for_cpu.default: "attention",
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward.default: "attention",
}
Call = tuple[Any, tuple[Any, ...]]  # the operator, and its arguments: tensors by shape, strides and dtype


class Watch(TorchDispatchMode):
    """Counts calls of KINDS."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Call] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in KINDS:
            self.calls[func, tuple(_form(value) for value in args)] += 1
        return func(*args, **(kwargs or {}))


def _form(value: Any) -> Any:
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _made(form: Any) -> Any:
    return torch.empty_strided(*form[:2], dtype=form[2]).normal_() if isinstance(form, tuple) else form


def least(call: Call, repeats: int) -> float:
    """Seconds of a call."""
    operator, forms = call
    args, seconds = [_made(form) for form in forms], []
    for _ in range(repeats + 1):
        began = time.process_time()
        operator(*args)
        seconds.append(time.process_time() - began)
    return min(seconds[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    chosen = parse(__doc__, arguments)
    table = Table("case", "products, s", "attention, s", "together", "GFLOP/s of the products", box=None)
    for case, dtype, loop in loops(chosen):
        with Watch() as watch:
            loop.step()
        seconds, flops = Counter[str](), 0
        with torch.no_grad():
            for call, count in watch.calls.items():
                seconds[KINDS[call[0]]] += count * least(call, chosen.repeats)  # type: ignore[assignment]
                if call[0] is ATEN.mm.default:
                    (rows, inner), (_, columns) = call[1][0][0], call[1][1][0]
                    flops += 2 * rows * inner * columns * count
        products, attention = seconds["products"], seconds["attention"]
        rate = f"{flops / products / 1e9:,.0f}"
        table.add_row(f"{case} {dtype}", f"{products:.3f}", f"{attention:.3f}", f"{products + attention:.3f}", rate)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
