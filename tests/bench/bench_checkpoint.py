"""How long training stands still for a checkpoint: written while it waits (sync), and while it goes on (async).

python tests/bench/bench_checkpoint.py [--repeats 5] [OVERRIDES ...]

All kinds of steps are measured in turn in one process. `slowed` is how much longer the steps take that are computed
while a checkpoint is being written, summed over them: the writer needs a core too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hrm_lab.compose import compose_config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.distributed import connect
from hrm_lab.training.protocols import Uncontrolled, Unrecorded
from hrm_lab.training.trainer import Trainer

MODELS = {
    "demo (hrm_tiny, batch 64)": ["+experiment=demo"],
    "HRM 27 M, batch 8": ["model=hrm", "data=sudoku_9x9", "training.global_batch_size=8"],
}


def timed(work: Callable[[], object]) -> float:
    """Seconds, what a GPU still has to do included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(trainer: Trainer, repeats: int) -> dict[str, float]:
    """Medians in seconds, and the bytes of a checkpoint."""
    checkpoints = trainer.checkpoints
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    checkpoints.wait()
    steps, sync, stall, slowed = [], [], [], []
    for _ in range(repeats):
        plain = [timed(trainer.train_step) for _ in range(4)]
        steps += plain
        sync.append(timed(lambda: (trainer.save(), checkpoints.wait())))
        timed(trainer.train_step)
        stall.append(timed(trainer.save))
        beside = []
        while checkpoints.written < checkpoints.begun:
            beside.append(timed(trainer.train_step))
        slowed.append(sum(beside) - len(beside) * statistics.median(plain))
    folder = max(checkpoints.folder.glob("step_*"))
    return {
        "bytes": float(sum(file.stat().st_size for file in folder.iterdir())),
        "step": statistics.median(steps),
        "sync": statistics.median(sync),
        "stall": statistics.median(stall),
        "slowed": statistics.median(slowed),
    }


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="a config to measure in place of the two usual ones")
    chosen = parser.parse_args(arguments)
    table = Table(
        "run", "checkpoint", "step", "sync: stands still", "async: stands still", "and is slowed by", box=None
    )
    for name, overrides in ({"as asked": chosen.overrides} if chosen.overrides else MODELS).items():
        with tempfile.TemporaryDirectory() as scratch:
            config = compose_config([*overrides, f"paths.data={scratch}/data"])
            dataset = ensure_dataset(config.data, config.paths.data)
            ranks, folder = connect(config.training), Path(scratch) / "run"
            trainer = Trainer(config, dataset, folder, Unrecorded(), Rules(config.stopping), ranks, Uncontrolled())
            found = measure(trainer, chosen.repeats)
            trainer.checkpoints.close()
        step = found["step"]
        row = [
            f"{found[key] * 1000:,.0f} ms ({found[key] / step:.0%} of a step)" for key in ("sync", "stall", "slowed")
        ]
        table.add_row(name, f"{found['bytes'] / 1e6:,.1f} MB", f"{step * 1000:,.0f} ms", *row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
