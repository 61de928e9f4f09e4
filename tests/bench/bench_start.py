"""What a job costs before its first step, and what it would cost if one process loaded everything.

    .venv/bin/python tests/bench/bench_start.py [REPEATS]

Prints the least of several repeats, in seconds. The job is a real one: a run folder, trained through `run`, tracked in
SQLite by its mirror process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hrm_lab.data.build import ensure_dataset
from hrm_lab.run_folder import Point, RunFolder
from tests.small import small_config

LOADS = {
    "python alone": "pass",
    "what a job loads before torch": "import hrm_lab.sweep.array_task",
    "torch": "import torch",
    "MLflow's client": "from mlflow import MlflowClient",
    "torch and MLflow in one process": "import torch; from mlflow import MlflowClient",
    "torch with its compiler": "import torch, torch._dynamo",
}
JOB = """
import sys, time
from pathlib import Path
from hrm_lab.sweep import array_task
from hrm_lab.progress import PlainProgress
from hrm_lab.run import Watch, run
from hrm_lab.run_folder import RunFolder

class FirstStep(PlainProgress):
    def tick(self, step):
        if step == 1:
            print(time.time())

folder = RunFolder(Path(sys.argv[1]))
with Watch().listening() as watch:
    run(folder.config(), folder, FirstStep(), watch)
"""


def least(repeats: int, measure: object) -> float:
    """The least of several measurements."""
    return min(measure() for _ in range(repeats))  # type: ignore[operator]


def load(code: str) -> float:
    """Seconds of a process that only imports."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - began


def first_step() -> float:
    """Seconds from the start of a job's process to the end of its first training step."""
    with tempfile.TemporaryDirectory() as scratch:
        config = small_config(Path(scratch))
        config.tracking.enabled = True
        ensure_dataset(config.data, config.paths.data)
        folder = RunFolder.of(config)
        folder.prepare(config, Point("bench"))
        began = time.time()
        command = [sys.executable, "-c", JOB, str(folder.path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert json.loads((folder.path / "tracking.json").read_text())["state"]["status"] == "COMPLETED"
        return float(done.stdout.split()[0]) - began


def main() -> None:
    """Measure and print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name, code in LOADS.items():
        print(f"{name:34s} {least(repeats, lambda code=code: load(code)):6.2f} s", flush=True)
    print(f"{'a job, to the end of its first step':34s} {least(repeats, first_step):6.2f} s")


if __name__ == "__main__":
    main()
