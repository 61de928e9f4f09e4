"""How long the report of many runs takes, by its parts.

    .venv/bin/python -m tests.bench.bench_report [RUNS] [--keep PAGE]

RUNS (default 300) are three seeds of each point of a grid, with 100 evaluations and 1000 training values each, arrays,
some that fail and some that were stopped.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hrm_lab.analysis.curves import draw_curves
from hrm_lab.analysis.depth import draw_depth, draw_ratings, judged
from hrm_lab.analysis.frames import read_results
from hrm_lab.analysis.groups import groups_of
from hrm_lab.analysis.heat_map import draw_axes
from hrm_lab.analysis.pareto import draw_pareto
from hrm_lab.analysis.report import write_report
from hrm_lab.config import Config
from hrm_lab.run_folder import COMPLETED, FAILED, STOPPED, State
from tests.synthetic import Metrics, add_evaluation, append, make_sweep

SEEDS = 3
CYCLES = (1, 2, 3, 4, 6)


def skill(config: Config) -> float:
    """How good a run gets: more cycles help less and less, and there is a best learning rate."""
    cycles = 1 - math.exp(-0.4 * config.model.H_cycles - 0.15 * config.model.L_cycles)
    rate = math.exp(-((math.log10(config.optim.lr) + 2.2) ** 2))
    return 0.95 * cycles * rate + 0.03 * math.sin(7.0 * config.seed + 3 * config.model.H_cycles)


def state(config: Config) -> State:
    """One in twenty fails, one in ten is stopped."""
    number = round(1e4 * config.optim.lr) + 7 * config.model.H_cycles + 3 * config.model.L_cycles + config.seed
    if number % 20 == 0:
        return State(FAILED, "TrainingDiverged: train/lm_loss is nan at step 700")
    return State(STOPPED, "asha: worse than the rest") if number % 10 == 3 else State(COMPLETED)


def curves(config: Config) -> Metrics:
    """Noise around a learning curve, as far as the run got."""
    found: dict[int, dict[str, float]] = {}
    for line in range(1, (1000 if state(config).status == COMPLETED else 400) + 1):
        value = skill(config) * (1 - math.exp(-line / 250)) + math.sin(line * (config.seed + 1.7)) / 80
        found[10 * line] = {"train/lm_loss": 2 - 1.5 * value, "train/steps": 3 - value, "train/exact_accuracy": value}
        if line % 10 == 0:
            found[10 * line] |= {
                "eval/exact_accuracy": max(0.0, value),
                "eval/accuracy": 0.5 + value / 2,
                "eval/lm_loss": 2 - value,
                "perf/wall_s": line * 0.1 * config.model.H_cycles,
            }
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=300)
    parser.add_argument("--keep", type=Path, help="where to leave the page, to be looked at")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        rates = [round(1e-3 * 3**place, 6) for place in range(-(-chosen.runs // (SEEDS * len(CYCLES) * 5)))]
        points = [
            {"model.H_cycles": high, "model.L_cycles": low, "optim.lr": rate, "seed": seed}
            for rate in rates
            for high in CYCLES
            for low in CYCLES
            for seed in range(SEEDS)
        ][: chosen.runs]
        manifest = make_sweep(Path(scratch), points, curves, state)
        for _, folder in manifest.runs():
            config = folder.config()
            steps = max(curves(config))
            for step in range(100, steps + 1, 100):
                add_evaluation(folder, step, max(0.0, skill(config) * step / steps))
            if state(config).status == STOPPED:
                decision = {"step": steps, "rule": "asha", "stops": True, "reason": "worse than the rest of its rung"}
                append(folder, {"step": steps, "ms": 0, "decision": decision | {"evidence": {}}})
            seconds = 60.0 * config.model.H_cycles + 20 * config.model.L_cycles
            (folder.path / "attempts").mkdir()
            (folder.path / "attempts/0001.json").write_text(
                f'{{"number": 1, "host": "a", "pid": 1, "began": 0, "seen": {seconds}, "step": 0, "job": {{}}}}'
            )

        def timed(words: str, part: Callable[[], Any]) -> Any:
            began, busy = time.perf_counter(), time.process_time()
            made = part()
            wall, cpu = time.perf_counter() - began, time.process_time() - busy
            print(f"  {words:34s}{wall:8.2f} s{cpu:8.2f} s", flush=True)
            return made

        print(f"{len(points)} runs{'on the clock':>36s}{'CPU':>10s}", flush=True)
        results = timed("every journal, once", lambda: read_results(manifest))
        groups = timed("frame and groups", lambda: groups_of(results))
        timed("heat map", lambda: draw_axes(results))
        timed("learning curves", lambda: draw_curves(groups, results.target))
        models = timed("arrays of the best", lambda: judged(groups, results.target))
        timed("accuracy by ACT steps", lambda: draw_depth(models))
        timed("accuracy and steps by rating", lambda: draw_ratings(models))
        timed("cost against accuracy", lambda: draw_pareto(groups, results.target))
        page = timed("hrm-lab report, reading included", lambda: write_report(read_results(manifest)))[0]
        print(f"  the page has {page.stat().st_size / 1e6:.1f} MB")
        if chosen.keep:
            shutil.copy(page, chosen.keep)


if __name__ == "__main__":
    main(sys.argv[1:])
