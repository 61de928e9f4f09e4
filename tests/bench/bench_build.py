"""Builds sets twice, each time by a process of its own in a folder of its own: how long it takes, and whether the bytes
are the same.

    python -m tests.bench.bench_build [NAME[,OVERRIDE...]] ...
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

SETS = ["sudoku_4x4", "sudoku_6x6", "sudoku_9x9", "maze_10x10", "maze_30x30", "arc1", "arc2", "arc_small"]


def build(name: str, *overrides: str) -> tuple[float, str]:
    """Seconds of the whole command, and the fingerprint that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hrm_lab.cli", "data", "build", name, f"paths.data={folder}", *overrides]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        spent = time.perf_counter() - began
    found = re.search(r"fingerprint\W+([0-9a-f]{12})", done.stdout)
    assert found is not None, done.stdout
    return spent, found[1]


def main(words: list[str]) -> None:
    """A row for each set."""
    table = Table("set", "s", "s", "fingerprint", "again", title="built twice")
    for word in words or SETS:
        (first, one), (second, other) = (build(*word.split(",")) for _ in range(2))
        table.add_row(word, f"{first:.1f}", f"{second:.1f}", one, "the same" if one == other else other)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
