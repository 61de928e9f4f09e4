"""What more processes bring: samples/s of one and of two on gloo, and on paper of 8 and 64 GPUs.

    python -m tests.bench.bench_scaling [--repeats 5] [--batch 32] [--keep]     (the small model, one thread a process)

In turn: one process; two with the same global batch; two with the same batch each; gradients in float32 and bfloat16.
Each process wants a core to itself: on a machine with two, and something else at work, the clock says little, so the
processor's seconds a step are told too. Efficiency is samples/s of two over twice those of one; by CPU seconds, what a
sequence costs one over what it costs two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from hrm_lab.training.distributed import Ranks
from tests.bench import trend
from tests.bench.bench_step import SMALL
from tests.bench.our_step import OurLoop, seconds
from tests.small import free_port

STEPS = 3  # in one go

# -------------------------------------------------------------------------------------------- on paper

PARAMETERS = 27.3e6
PASSES, BACKWARD = 64, 16  # layer passes of a step; those of the backward, which the sum may hide behind
# Of one layer pass by batch, measured on an H200 in bfloat16 (tests/gpu/check_step.py, part `layer`).
PASS_S = {48: 89e-6, 96: 151e-6, 192: 278e-6, 384: 529e-6}
FIXED_S = 3e-3  # optimizers, head, loss, casts: does not shrink with the batch
# What an all-reduce of 50 to 110 MB is assumed to reach, as nccl-tests counts it (bus bandwidth), and to wait for.
NODE, NICS, NIC = ("8 GPUs, NVLink", 300e9, 20e-6), ("64, 8 x 400 Gb/s a node", 200e9, 60e-6), ("", 45e9, 60e-6)
LINKS = {8: [NODE], 64: [NICS, ("64, 1 x 400 Gb/s a node", NIC[1], NIC[2])]}


def on_paper() -> list[tuple[str, ...]]:
    """Rows: where, batch a GPU, gradients, MB sent, sum, hidden, step, efficiency."""
    rows = []
    for gpus, links in LINKS.items():
        for name, bandwidth, latency in links:
            for batch, pass_s in PASS_S.items():
                for dtype, width in (("float32", 4), ("bfloat16", 2)):
                    size = PARAMETERS * width
                    buckets = -(-size // (25 * 2**20))
                    summing = 2 * (gpus - 1) / gpus * size / bandwidth + buckets * latency
                    # The high-level module's half is sent during the low-level one's backward: half of all of it.
                    hidden = min(summing / 2, BACKWARD / 2 * pass_s)
                    alone = PASSES * pass_s + FIXED_S
                    rows.append(
                        (
                            name,
                            f"{batch} ({batch * gpus})",
                            dtype,
                            f"{2 * (gpus - 1) / gpus * size / 1e6:.0f}",
                            f"{summing * 1e3:.2f} ms",
                            f"{hidden * 1e3:.2f} ms",
                            f"{(alone + summing - hidden) * 1e3:.1f} ms",
                            f"{alone / (alone + summing - hidden):.0%}",
                            f"{alone / (alone + summing):.0%}",
                        )
                    )
    return rows


# ------------------------------------------------------------------------------------------ in the child


def serve(world_size: int, rank: int, port: str, batch: int, gradient_dtype: str) -> None:
    """Take so many steps for each line, and say how long they took."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if world_size > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        dist.init_process_group("gloo", rank=rank, world_size=world_size)
    SMALL.forward_dtype = "float32"
    loop = OurLoop(SMALL, batch, device, "eager", ranks=Ranks(device, rank, world_size), gradient_dtype=gradient_dtype)
    rows = loop.compute.puzzle_gradient()
    loop.step()
    sent = loop.compute.gradients.bytes_sent + sum(tensor.nbytes for tensor in rows) // world_size
    print(json.dumps({"bytes": sent if world_size > 1 else 0}), flush=True)
    for line in sys.stdin:
        began = time.process_time()
        wall = seconds(lambda line=line: [loop.step() for _ in range(int(line))], device) / int(line)
        print(json.dumps({"wall": wall, "cpu": (time.process_time() - began) / int(line)}), flush=True)


# ----------------------------------------------------------------------------------------- in the parent


class Group:
    """The processes of one run."""

    def __init__(self, world_size: int, batch: int, gradient_dtype: str) -> None:
        self.world_size, self.batch, self.gradient_dtype = world_size, batch, gradient_dtype
        port = str(free_port())
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.bench_scaling", "--child"]
                + [str(world_size), str(rank), port, str(batch), gradient_dtype],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]
        self.bytes = max(int(said["bytes"]) for said in self.heard())
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def heard(self) -> list[dict[str, float]]:
        """A line of each."""
        lines = [process.stdout.readline() for process in self.processes if process.stdout is not None]
        return [json.loads(line) for line in lines]

    def steps(self) -> None:
        """Have them take some."""
        for process in self.processes:
            assert process.stdin is not None
            print(STEPS, file=process.stdin, flush=True)
        said = self.heard()
        self.wall.append(max(one["wall"] for one in said))
        self.cpu.append(sum(one["cpu"] for one in said))

    def close(self) -> None:
        """No more."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait()

    def entry(self) -> dict[str, Any]:
        """For the results."""
        key = {"processes": self.world_size, "batch": self.batch, "gradients": self.gradient_dtype}
        more = {"cpu_s": trend.spread(self.cpu)[0], "bytes": self.bytes}
        entry = trend.measured(key | {"machine": trend.machine("cpu")}, self.wall, **more)
        return entry | {"samples_per_s": self.batch / entry["seconds"]}


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep."""
    if arguments and arguments[0] == "--child":
        world_size, rank, port, batch, gradient_dtype = arguments[1:]
        serve(int(world_size), int(rank), port, int(batch), gradient_dtype)
        return
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--paper", action="store_true", help="only what is on paper")
    parser.add_argument("--keep", action="store_true", help="append to tests/bench/results/scaling.jsonl")
    chosen = parser.parse_args(arguments)
    console = Console(width=150)
    columns = ("where", "batch a GPU (global)", "gradients", "MB sent", "sum", "hidden", "step")
    paper = Table(*columns, "efficiency", "nothing hidden (captured)", box=None)
    for row in on_paper():
        paper.add_row(*row)
    console.print(paper)
    if chosen.paper:
        return
    small = chosen.batch
    plans = [(1, small, "float32"), (2, small, "float32"), (2, 2 * small, "float32"), (2, 2 * small, "bfloat16")]
    groups = [Group(*plan) for plan in plans]
    for _ in range(chosen.repeats):
        for group in groups:
            group.steps()
    for group in groups:
        group.close()
    entries = [group.entry() for group in groups]
    table = Table(
        "processes",
        "global batch",
        "gradients",
        "s a step",
        "CPU s",
        "samples/s",
        "efficiency",
        "by CPU s",
        "MB a process",
    )
    for entry in entries:
        key, alone = entry["key"], entries[0]["samples_per_s"]
        work = entries[0]["cpu_s"] / entries[0]["key"]["batch"] / (entry["cpu_s"] / entry["key"]["batch"])
        table.add_row(
            str(key["processes"]),
            str(key["batch"]),
            key["gradients"],
            "{:.3f} ({:.3f} to {:.3f})".format(entry["seconds"], *entry["quartiles"]),
            f"{entry['cpu_s']:.3f}",
            f"{entry['samples_per_s']:.1f}",
            f"{entry['samples_per_s'] / alone / key['processes']:.0%}",
            f"{work:.0%}",
            f"{entry['bytes'] / 1e6:.2f}",
        )
    console.print(table)
    for said in trend.report("scaling", entries, chosen.keep):
        console.print(f"[bold red]{said}")


if __name__ == "__main__":
    main(sys.argv[1:])
