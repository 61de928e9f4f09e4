"""How long it takes to compare many runs: read, seeds put together, table, picture, tidy curves.

    .venv/bin/python -m tests.bench.bench_compare [RUNS] [LINES]

Every run has a journal of LINES lines (default 600) of 20 values, as a training of some hours leaves it.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hrm_lab.analysis.comparison import compare, comparison_table, draw
from hrm_lab.analysis.export import FORMS
from hrm_lab.analysis.frames import read_results
from hrm_lab.config import Config
from tests.synthetic import Metrics, make_sweep

SEEDS = 5
EVAL = ("exact_accuracy", "accuracy", "q_halt_accuracy", "steps", "lm_loss", "q_halt_loss")
TRAIN = (*EVAL, "q_continue_loss", "lr", *(f"part_{number}" for number in range(10)))


def curves(config: Config, lines: int) -> Metrics:
    """Noise around a learning curve; an evaluation every 20 lines."""
    found: dict[int, dict[str, float]] = {}
    for line in range(1, lines + 1):
        value = 1 - math.exp(-line / lines * 3 * config.optim.lr) + math.sin(line * (config.seed + 1.7)) / 50
        found[10 * line] = {f"train/{key}": value + place / 100 for place, key in enumerate(TRAIN)}
        found[10 * line] |= {"perf/samples_per_s": 700 + value, "perf/mean_samples_per_s": 700.5}
        if line % 20 == 0:
            found[10 * line + 1] = {f"eval/{key}": value + place / 50 for place, key in enumerate(EVAL)}
            found[10 * line + 1] |= {"perf/wall_s": line * 3.0}
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=300)
    parser.add_argument("lines", type=int, nargs="?", default=600)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        groups = range(1, chosen.runs // SEEDS + 1)
        points = [{"optim.lr": group / 100, "seed": seed} for group in groups for seed in range(SEEDS)]
        manifest = make_sweep(Path(scratch), points, lambda config: curves(config, chosen.lines))
        size = sum(folder.journal.stat().st_size for _, folder in manifest.runs()) / 1e6
        print(f"{len(points)} runs, {size:.0f} MB of journals", flush=True)
        began = last = time.perf_counter()

        def lap(words: str) -> None:
            nonlocal last
            now = time.perf_counter()
            print(f"{words:30s}{now - last:8.2f} s", flush=True)
            last = now

        results = read_results(manifest)
        lap("every journal read")
        frame = results.frame
        lap("a row for each run")
        comparison = compare(frame)
        assert len(comparison.data) == len(groups)
        lap("seeds put together")
        comparison_table(comparison)
        for form in FORMS.values():
            form(comparison)
        lap("table, CSV, Markdown, LaTeX")
        draw(results)
        lap("picture")
        print(f"{'hrm-lab compare, all of it':30s}{time.perf_counter() - began:8.2f} s", flush=True)
        values = len(results.curves)
        lap(f"load_curves: {values:,} values")


if __name__ == "__main__":
    main(sys.argv[1:])
