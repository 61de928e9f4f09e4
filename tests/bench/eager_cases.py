"""Our eager step on a CPU in the cases and dtypes that a command line chooses, for the benchmarks that look into it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch

from tests.bench.bench_step import CASES
from tests.bench.our_step import OurLoop


def parse(description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """`cases`, `dtypes` and `repeats`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["a", "b"], choices=["a", "b"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


def loops(chosen: argparse.Namespace) -> Iterator[tuple[str, str, OurLoop]]:
    """Case, dtype, and a loop of one thread that has taken its first step."""
    torch.set_num_threads(1)
    for case in chosen.cases:
        for dtype in chosen.dtypes:
            model, batch, _ = CASES[case]
            model.forward_dtype = dtype
            loop = OurLoop(model, batch, torch.device("cpu"), "eager")
            loop.step()
            yield case, dtype, loop
