"""How long it takes to give SLURM a grid, ours and Hydra's stock path side by side, and to ask how it stands.

    make cluster-up; .venv/bin/python tests/bench/bench_submit.py [POINTS] [--stock-points N]

Every job is submitted held, so nothing but the submission is measured. The stock launcher blocks until its last job
has ended; its clock is stopped when SLURM has its array, and it is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hrm_lab.attempts import Attempt, Job
from hrm_lab.files import write_json
from hrm_lab.manifest import load_manifest
from hrm_lab.run_folder import COMPLETED, RUNNING, State

CLUSTER = Path(__file__).parents[2] / "launch/slurm/cluster.sh"
COMMON = ["+experiment=demo", "hydra.sweeper.params=null", "tracking=none", "name=bench"]


def grid(points: int) -> list[str]:
    """Overrides that make so many points out of two keys."""
    seeds = 10 if points >= 10 else 1
    rates = ",".join(f"{(1 + index) * 1e-5:.5f}" for index in range(points // seeds))
    return [f"optim.lr={rates}", f"seed={','.join(map(str, range(seeds)))}"]


def tasks_in_queue() -> int:
    """Of all users."""
    return len(subprocess.run(["squeue", "-h", "-r"], capture_output=True, text=True, check=True).stdout.splitlines())


def ours(folder: Path, points: int) -> float:
    """Seconds until the command has returned."""
    words = ["sweep", "demo", "--on", "slurm_dev", *COMMON[1:], *grid(points), "+hydra.launcher.sbatch.hold=true"]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "hrm_lab.cli", *words], cwd=folder, check=True, capture_output=True)
    return time.monotonic() - began


def stock(folder: Path, points: int, limit_s: float = 1200) -> float:
    """Seconds until SLURM has the stock launcher's array."""
    before = tasks_in_queue()
    words = ["-m", "hydra/launcher=submitit_slurm", "hydra/sweeper=basic", *COMMON, *grid(points)]
    words += ["+hydra.launcher.additional_parameters={hold: true}", "hydra.launcher.array_parallelism=1000"]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "hrm_lab.hydra_app", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while tasks_in_queue() < before + points:
        time.sleep(0.1)
        assert process.poll() is None, "the stock launcher has ended"
        assert time.monotonic() - began < limit_s
    elapsed = time.monotonic() - began
    process.kill()
    return elapsed


def status(folder: Path) -> float:
    """Seconds for `status` when half of the points run and half are done, each with a journal and an attempt."""
    manifest = load_manifest(folder / "outputs", "bench")
    values = {"train/lm_loss": 0.5, "train/exact_accuracy": 0.25, "eval/exact_accuracy": 0.5}
    for number, (_, run) in enumerate(manifest.runs()):
        lines = [json.dumps({"begin": 0, "total_steps": 2000})]
        lines += [json.dumps({"step": 10 * n, "ms": 1000 * n, "metrics": values}) for n in range(200)]
        run.journal.write_text("\n".join(lines) + "\n")
        run.attempts.folder.mkdir()
        attempt = Attempt(1, "node1", os.getpid(), 0.0, 60.0, 0, Job("1_0", gpus=1))
        path = run.attempts.path_of(1)
        write_json(path, vars(attempt) | {"job": vars(attempt.job)})
        run.state = State(COMPLETED if number % 2 else RUNNING, best_value=0.5)
    began = time.monotonic()
    command = [sys.executable, "-m", "hrm_lab.cli", "status", "bench"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    elapsed = time.monotonic() - began
    assert f"{len(manifest.points) // 2} COMPLETED" in done.stdout, done.stdout[:300]
    return elapsed


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=int, nargs="?", default=1000)
    parser.add_argument("--stock-points", type=int, help="a smaller grid for the stock path; default: the same")
    chosen = parser.parse_args(arguments)
    for pair in subprocess.run([CLUSTER, "env"], capture_output=True, text=True, check=True).stdout.split()[1:]:
        name, _, value = pair.partition("=")
        os.environ[name] = value
    with tempfile.TemporaryDirectory() as scratch:
        mine, theirs = Path(scratch) / "ours", Path(scratch) / "stock"
        mine.mkdir()
        theirs.mkdir()
        try:
            seconds = ours(mine, chosen.points)
            print(f"hydra/launcher=slurm           {chosen.points:5d} points submitted in {seconds:6.1f} s", flush=True)
            print(
                f"hrm-lab status                 {chosen.points:5d} points shown in     {status(mine):6.1f} s",
                flush=True,
            )
            count = chosen.stock_points or chosen.points
            other = stock(theirs, count)
            print(f"hydra/launcher=submitit_slurm  {count:5d} points submitted in {other:6.1f} s")
            print(f"a point takes the stock path {other / count / (seconds / chosen.points):.0f} times as long")
        finally:
            subprocess.run(["scancel", "--me"], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
