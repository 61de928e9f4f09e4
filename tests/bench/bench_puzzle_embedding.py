"""What a puzzle embedding with a million rows costs, beside one of ten rows: each step, each evaluation, each save.

python -m tests.bench.bench_puzzle_embedding [--rows 960961] [--batch 768] [--device cpu]

960 tasks in 1,001 variants each are ARC-AGI-1 with ConceptARC as published. Each table is measured in a process of its
own; `peak` is how much memory that process has needed on the host up to then, less what it had before the table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from hrm_lab.config import ModelConfig, TrainingConfig
from hrm_lab.model.hrm import HRM
from hrm_lab.optim.sign_sgd import sign_sgd_
from hrm_lab.training.checkpoint import Checkpoints
from hrm_lab.training.distributed import connect
from hrm_lab.training.divergence import Vitals

FEW, REPEATS = 10, 30
UNITS = {"ms": 1e3, "GB": 1e-9, "MB": 1e-6, "s": 1.0}


def timed(work: Callable[[], object]) -> float:
    """Seconds, what a GPU still has to do included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def host_peak() -> float:
    """Bytes that this process has needed at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def measure(rows: int, batch: int, device: str) -> dict[str, tuple[float, str]]:
    """What is done with a table of so many rows, in seconds and bytes."""
    ranks = connect(TrainingConfig(device=device))
    before = host_peak()
    found: dict[str, tuple[float, str]] = {}
    model = HRM(ModelConfig(H_layers=1, L_layers=1, hidden_size=64, num_heads=2), 12, 900, rows).to(ranks.device)
    table = model.puzzle_emb
    assert table is not None
    found["table"] = (table.weights.numel() * 4.0, "MB")
    vitals = Vitals(model, ranks.device)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(rows, (batch,), generator=generator).to(ranks.device) for _ in range(REPEATS + 3)]
    grads = torch.randn(batch, table.weights.shape[1], generator=generator).to(ranks.device)

    def step(ids: torch.Tensor) -> None:
        table.gather(ids)
        sign_sgd_(table.weights, ids, grads, 1e-2, 0.1)

    found["step: gather and sign-SGD"] = (statistics.median([timed(lambda i=ids: step(i)) for ids in draws][3:]), "ms")
    found["check for NaN, each evaluation and save"] = (timed(lambda: vitals.damaged_weights(1)), "ms")
    found["peak until then"] = (host_peak() - before, "GB")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoints = Checkpoints(folder, TrainingConfig(keep_checkpoints=1), ranks, lambda: None)
        state = {"model": model.state_dict()}
        checkpoints.save(0, 0, {"model": {"H_init": state["model"]["H_init"]}}, lambda: None)  # loads what it needs
        checkpoints.wait()
        found["checkpoint: training stands still"] = (timed(lambda: checkpoints.save(1, 1, state, lambda: None)), "ms")
        found["checkpoint: until it is written"] = (timed(checkpoints.wait), "s")
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found["checkpoint: size"] = (float(size), "MB")
        found["peak with a checkpoint"] = (host_peak() - before, "GB")
        best = folder / "best.safetensors"
        found["best weights: training stands still"] = (
            timed(lambda: checkpoints.keep_weights(model.state_dict(), best)),
            "ms",
        )
        found["best weights: until they are written"] = (timed(checkpoints.wait), "s")
        found["peak with the best weights"] = (host_peak() - before, "GB")
        loaded = timed(lambda: model.load_state_dict((checkpoints.load() or {})["model"]))
        found["resume: check, read and copy"] = (loaded, "s")
        found["peak with resuming"] = (host_peak() - before, "GB")
        checkpoints.close()
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=960 * 1001 + 1)
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    sizes, found = (FEW, chosen.rows), []
    for rows in sizes:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            found.append(process.submit(measure, rows, chosen.batch, chosen.device).result())
    table = Table("", *(f"{rows:,} rows" for rows in sizes), box=None)
    for name, (_, unit) in found[0].items():
        table.add_row(name, *(f"{some[name][0] * UNITS[unit]:,.2f} {unit}" for some in found))
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
