"""Our training step beside the plain loop (plain_loop.py), and beside what both took when last measured.

    python -m tests.bench.bench_step [--cases a b c] [--ways eager compiled] [--dtypes float32 bfloat16] [--repeats 7]
                                     [--published CLONE]

(a) hidden 128, 4 heads, 2+2 layers, batch 32; (b) hidden 512, 8 heads, 4+4 layers, batch 16, both on the CPU; (c) the
full recipe at batch 384 and 768 on CUDA, where `compiled` is captured too. Each loop has a process of its own, with one
thread, and they take turns. With a clone of github.com/sapientinc/HRM the published implementation itself takes its
turns too (published_loop.py). Results are appended to tests/bench/results/step.jsonl with --keep.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hrm_lab.config import ModelConfig
from hrm_lab.training.throughput import device_peak, step_flops
from tests.bench import trend
from tests.bench.our_step import SEQ_LEN, OurLoop, seconds
from tests.bench.plain_loop import PlainLoop

SMALL = ModelConfig(hidden_size=128, num_heads=4, H_layers=2, L_layers=2, puzzle_emb_ndim=128)
CASES = {
    "a": (SMALL, 32, "cpu"),
    "b": (ModelConfig(), 16, "cpu"),
    "c384": (ModelConfig(), 384, "cuda"),
    "c768": (ModelConfig(), 768, "cuda"),
}


# ------------------------------------------------------------------------------------------ in the child


def serve(case: str, dtype: str, way: str, loop: str, cache: str, clone: str) -> None:
    """Build a loop, say how long that took, and then take as many steps as each line asks for."""
    torch.set_num_threads(1)
    model, batch, name = CASES[case]
    model.forward_dtype = dtype
    device, compiled = torch.device(name), way == "compiled"
    with tempfile.TemporaryDirectory() as folder:
        if loop == "ours":
            execution = ("captured" if name == "cuda" else "compiled") if compiled else "eager"
            steps: Any = OurLoop(model, batch, device, execution, Path(cache))
        else:
            published = Path(clone) if loop == "published" else None
            steps = PlainLoop(model, batch, Path(folder), device, compiled, published)
        first = seconds(steps.step, device)
        for _ in range(4 if name == "cuda" else 1):
            steps.step()
        answer({"first_step_s": first})
        for line in sys.stdin:
            began, count = time.process_time(), int(line)
            wall = seconds(lambda count=count: [steps.step() for _ in range(count)], device) / count
            answer({"wall": wall, "cpu": (time.process_time() - began) / count, "peak_gb": peak_memory(name)})


def peak_memory(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def answer(said: dict[str, float]) -> None:
    print(json.dumps(said), flush=True)


# ----------------------------------------------------------------------------------------- in the parent


class Child:
    """A loop in a process of its own."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "tests.bench.bench_step", "--child", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first_step_s = self.heard()["first_step_s"]
        self.said: list[dict[str, float]] = []

    def heard(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a benchmark process ended: {self.process.args}")
        heard: dict[str, float] = json.loads(line)
        return heard

    def steps(self, count: int) -> None:
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        self.said.append(self.heard())

    def entry(self, key: dict[str, str], model: ModelConfig, batch: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        # A shared CPU is measured by what it gave this process, a GPU by the clock.
        by = "wall" if key["case"].startswith("c") else "cpu"
        entry = trend.measured(key, [said[by] for said in self.said])
        flops = step_flops(model, SEQ_LEN, batch)
        peak = device_peak(key["machine"], key["dtype"])
        return entry | {
            "by": by,
            "wall_s": statistics.median(said["wall"] for said in self.said),
            "cpu_s": statistics.median(said["cpu"] for said in self.said),
            "samples_per_s": batch / entry["seconds"],
            "flops": flops,
            "mfu": flops / entry["seconds"] / peak if peak else None,
            "peak_gb": self.said[-1]["peak_gb"],
            "first_step_s": self.first_step_s,
        }


def compare(case: str, dtype: str, way: str, repeats: int, cache: str, clone: str) -> list[dict[str, Any]]:
    """All loops, in turn; ours is the last."""
    model, batch, device = CASES[case]
    loops = ("published", "plain", "ours") if clone else ("plain", "ours")
    children = {loop: Child(case, dtype, way, loop, cache, clone) for loop in loops}
    count = 20 if device == "cuda" else 2 if case == "a" else 1
    for _ in range(repeats):
        for child in children.values():
            child.steps(count)
    key = {"case": case, "dtype": dtype, "way": way, "machine": trend.machine(device)}
    return [child.entry(key | {"loop": loop}, model, batch) for loop, child in children.items()]


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep."""
    if arguments and arguments[0] == "--child":
        serve(*arguments[1:])
        return
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = ["c384", "c768"] if torch.cuda.is_available() else ["a", "b"]
    parser.add_argument("--cases", nargs="+", default=here, choices=CASES)
    parser.add_argument("--ways", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--published", default="", metavar="CLONE", help="of github.com/sapientinc/HRM: measured too")
    parser.add_argument("--keep", action="store_true", help="append to tests/bench/results/step.jsonl")
    chosen = parser.parse_args(arguments)
    console = Console(width=170)
    columns = ("case", "loop", "s a step", "quartiles", "wall", "samples/s", "TFLOP/s", "MFU", "peak GB", "first step")
    table, fresh = Table(*columns, "ours is", box=None), []
    with tempfile.TemporaryDirectory() as cache:
        for case in chosen.cases:
            for way in chosen.ways:
                for dtype in chosen.dtypes:
                    console.print(f"{case}, {dtype}, {way} ...")
                    *others, ours = compare(case, dtype, way, chosen.repeats, cache, chosen.published)
                    for entry in (*others, ours):
                        fresh.append(entry)
                        loop, factor = entry["key"]["loop"], entry["seconds"] / ours["seconds"]
                        table.add_row(
                            f"{case} {dtype} {way}",
                            loop,
                            f"{entry['seconds']:.4f} ({entry['by']})",
                            "{:.4f} to {:.4f}".format(*entry["quartiles"]),
                            f"{entry['wall_s']:.4f}",
                            f"{entry['samples_per_s']:.1f}",
                            f"{entry['flops'] / entry['seconds'] / 1e12:.2f}",
                            f"{entry['mfu']:.1%}" if entry["mfu"] else "",
                            f"{entry['peak_gb']:.2f}",
                            f"{entry['first_step_s']:.1f} s",
                            "" if entry is ours else f"{factor:.2f} times as fast",
                        )
    console.print(table)
    for said in trend.report("step", fresh, chosen.keep):
        console.print(f"[bold red]{said}")


if __name__ == "__main__":
    main(sys.argv[1:])
