"""What an evaluation takes for a batch: as it is done, compiled, and as it would be with weights cast at every use.

    python -m tests.bench.bench_evaluation [--batch 64] [--repeats 5] [--keep]

The small model on a CPU, the full recipe's on CUDA (batch 768 there by default), in bfloat16; 16 ACT steps. In turn; on
a CPU by the processor's seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch

from hrm_lab.config import ModelConfig
from hrm_lab.model.hrm import HRM
from hrm_lab.training.depth import think
from tests.bench import trend
from tests.bench.bench_step import SMALL
from tests.bench.our_step import SEQ_LEN, VOCAB_SIZE, OurLoop, seconds


def timed(work: Callable[[], object], device: torch.device) -> float:
    """A shared CPU is measured by what it gave this process, a GPU by the clock."""
    began = time.process_time()
    wall = seconds(work, device)
    return wall if device.type == "cuda" else time.process_time() - began


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep."""
    from rich.console import Console
    from rich.table import Table

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128 if device.type == "cuda" else 64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="append to tests/bench/results/evaluation.jsonl")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = ModelConfig() if device.type == "cuda" else SMALL
    config.forward_dtype = "bfloat16"
    loops = {way: OurLoop(config, chosen.batch, device, way) for way in ("eager", "compiled")}
    uncast: Any = patch.object(HRM, "weights_cast_once", lambda self: nullcontext())
    graph, inference = torch.enable_grad, torch.inference_mode
    ways: dict[str, tuple[str, Any, Any]] = {
        "as it is, eager": ("eager", inference, nullcontext()),
        "as it is, compiled": ("compiled", inference, nullcontext()),
        "weights cast at every use": ("eager", inference, uncast),
        "with autograd's state": ("eager", graph, nullcontext()),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, float] = {}
    for repeat in range(chosen.repeats + 1):
        for way, (loop, mode, other) in ways.items():
            model, batch = loops[loop].model.eval(), loops[loop].batches[0]
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with mode(), other:
                spent = timed(lambda m=model, b=batch: think(m, b, config.halt_max_steps), device)
            memory[way] = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
            if repeat:  # the first compiles
                taken[way].append(spent)
    table, entries = Table("evaluation of a batch", "seconds", "quartiles", "puzzles/s", "peak GB", box=None), []
    for way, times in taken.items():
        key = {"way": way, "batch": chosen.batch, "machine": trend.machine(device.type)}
        entry = trend.measured(key, times, peak_gb=memory[way])
        entries.append(entry)
        quartiles = "{:.4f} to {:.4f}".format(*entry["quartiles"])
        pace = f"{chosen.batch / entry['seconds']:.1f}"
        table.add_row(way, f"{entry['seconds']:.4f}", quartiles, pace, f"{memory[way]:.2f}" if memory[way] else "")
    Console(width=120).print(table, f"{SEQ_LEN} cells, {VOCAB_SIZE} tokens, {config.halt_max_steps} ACT steps")
    for said in trend.report("evaluation", entries, chosen.keep):
        print(said)


if __name__ == "__main__":
    main(sys.argv[1:])
