"""What it brings on a CPU that norm, rotary encoding and SwiGLU are written out with their gradients (model/layers.py).

    python -m tests.bench.bench_written_out [--cases a b] [--dtypes float32 bfloat16] [--repeats 5]

Our eager step as it is, and with the formulae left to torch and its autograd: in turn, in one process with one thread;
the median of the repeats' ratios, by the processor's seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from hrm_lab.model import layers
from tests.bench.eager_cases import loops, parse
from tests.bench.our_step import OurLoop


def cpu_seconds(loop: OurLoop, steps: int) -> float:
    """Of a step."""
    began = time.process_time()
    for _ in range(steps):
        loop.step()
    return (time.process_time() - began) / steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    chosen = parse(__doc__, arguments)
    table = Table("case", "left to autograd, s", "written out, s", "least to most", "as fast", box=None)
    for case, dtype, loop in loops(chosen):
        pairs, steps = list[tuple[float, float]](), 3 if case == "a" else 1
        for _ in range(chosen.repeats):
            with patch.object(layers, "_written_out", lambda x: False):
                left = cpu_seconds(loop, steps)
            pairs.append((left, cpu_seconds(loop, steps)))
        ratios = sorted(left / ours for left, ours in pairs)
        columns = (f"{statistics.median(column):.3f}" for column in zip(*pairs, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        table.add_row(f"{case} {dtype}", *columns, spread, f"{statistics.median(ratios):.2f} times")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
