"""Runs as pandas frames: one row for each run of one or several sweeps, and their curves as tidy rows.

Read from the run folders' journals, which hold every number whether or not a store was there to take it; every journal
is read once, however many tables and pictures are made of it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrm_lab.analysis.keys import SEED, differing, with_data
from hrm_lab.analysis.metrics import EVAL, Target
from hrm_lab.analysis.runs import Curves, Run, best_step, read_run, target_of, watched_by, watched_series
from hrm_lab.config import FINAL, FINAL_BEST
from hrm_lab.errors import UserError
from hrm_lab.manifest import Manifest, load_manifest
from hrm_lab.run_folder import RunFolder

log = logging.getLogger("hrm_lab")


@dataclass(frozen=True)
class Results:
    """All that was read of some sweeps."""

    manifests: tuple[Manifest, ...]
    runs: list[Run]
    metric: str | None = None  # what was asked for as the best; None: what the runs watched

    @cached_property
    def target(self) -> Target:
        """What the runs are ranked by."""
        return target_of(self.runs, self.metric)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """See `load_sweep`."""
        return _frame(self.runs, self.target)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """See `load_curves`."""
        return _tidy(self.runs)

    def settled(self) -> Results:
        """These; by a metric that all were evaluated by where they watched different ones and nobody said which."""
        if self.metric is not None or len(watched_by(self.runs)) < 2:
            return self
        evaluated = [{key for key in run.curves if key.startswith(EVAL)} for run in self.runs if run.curves]
        shared = sorted(set.intersection(*evaluated)) if evaluated else []
        metric = next((key for key in shared if key.endswith("exact_accuracy")), next(iter(shared), None))
        if metric is not None:
            log.warning("the runs watched different metrics: ranked by %s; --metric NAME takes another", metric)
        return replace(self, metric=metric)


def load_sweep(*sweeps: str | Manifest, outputs: str | Path = "outputs", metric: str | None = None) -> pd.DataFrame:
    """One row for each run, best first; runs that have not been evaluated yet stand last.

    Args:
        sweeps: names, or manifests.
        metric: what is best (`eval/accuracy`, `lm_loss`, ...); by default what the runs watched, stopping.metric.

    Columns:
        sweep, point: where it belongs; a run that several sweeps share is one row.
        model.H_cycles, ...: every setting that can change a result and differs between the runs, by its dotted key.
        seed: always.
        metric, mode: what `best` means, `max` or `min`.
        best_step, best_exact_accuracy, best_lm_loss, ...: all metrics of the evaluation that was best.
        last_step, last_exact_accuracy, ...: those of the last evaluation.
        final_exact_accuracy, final_best_exact_accuracy, ...: of the last and of the best weights on whole test sets,
            where evaluations looked at training.eval_puzzles only.
        act_depth: ACT steps that every evaluated sequence takes (model.halt_max_steps).
        act_steps: mean ACT steps that training sequences took before they halted, in the last logged window.
        samples_per_s, mfu: training speed, and share of the device's peak where that is known.
        wall_s, gpu_h: seconds at the last evaluation; GPU-hours of all attempts.
        state, detail: where it truly stands, and why it failed or stopped early.
        whole: whether it was trained to an end of its own; what a comparison with its siblings has cut was not.
        run_id, folder, signature: its MLflow run and its folder.

    Raises:
        UserError: for an unknown sweep or metric.
    """
    return read_results(*sweeps, outputs=outputs, metric=metric).frame


def load_curves(*sweeps: str | Manifest, outputs: str | Path = "outputs") -> pd.DataFrame:
    """Every logged value as tidy rows: sweep, point, seed, run (its signature), step, metric, value."""
    return read_results(*sweeps, outputs=outputs).curves


def read_results(*sweeps: str | Manifest, outputs: str | Path = "outputs", metric: str | None = None) -> Results:
    """Read every run of these sweeps once: `frame` and `curves` come out of the same reading.

    Raises:
        UserError: as `load_sweep`.
    """
    if not sweeps:
        raise UserError("no sweep was named\n  way out: name one or more; `hrm-lab sweeps` lists them")
    manifests = tuple(load_manifest(Path(outputs), sweep) if isinstance(sweep, str) else sweep for sweep in sweeps)
    points: dict[Path, list[tuple[str, str]]] = {}
    for manifest in manifests:
        for entry, folder in manifest.grid():
            points.setdefault(folder.path, []).append((manifest.name, entry.label))
    runs = [read_run(RunFolder(path), found) for path, found in points.items()]
    return Results(manifests, runs, metric)


def setting_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that are settings, without the seed: those with a dotted name."""
    return [name for name in frame.columns if "." in name]


def _frame(runs: list[Run], target: Target) -> pd.DataFrame:
    known = [run for run in runs if run.settings]
    settings = with_data([run.settings for run in known], [run.data for run in known])
    by_run = dict(zip((run.folder.path for run in known), settings, strict=True))
    mine = [by_run.get(run.folder.path, {}) for run in runs]
    metrics = sorted({key for run in runs for key in run.curves if key.startswith(EVAL)} | {target.metric})
    best = [best_step(run.curves, target) for run in runs]
    last = [_last_step(run.curves) for run in runs]
    columns: dict[str, Any] = {"sweep": [run.sweep for run in runs], "point": [run.point for run in runs]}
    for key in [*differing(settings), SEED]:
        # As they are: pandas would make 2.0 of a 2 beside a null.
        columns[key] = pd.Series([values.get(key) for values in mine], dtype=object)
        if not columns[key].isna().any():
            columns[key] = columns[key].infer_objects()
    columns |= {"metric": target.metric, "mode": target.mode}
    for name, steps in {"best": best, "last": last}.items():
        columns[f"{name}_step"] = pd.array(steps, dtype="Int64")
        for metric in metrics:
            values = [_at(run.curves, metric, step) for run, step in zip(runs, steps, strict=True)]
            columns[f"{name}_{metric.removeprefix(EVAL)}"] = _numbers(values)
    whole = sorted({key for run in runs for key in run.curves if key.startswith((FINAL, FINAL_BEST))})
    columns |= {key.replace("/", "_"): _numbers([_last_value(run.curves, key) for run in runs]) for key in whole}
    columns |= {
        "act_depth": pd.array([values.get("model.halt_max_steps") for values in mine], dtype="Int64"),
        **{
            name: _numbers([_last_value(run.curves, key) for run in runs])
            for name, key in {
                "act_steps": "train/steps",
                "samples_per_s": "perf/mean_samples_per_s",
                "mfu": "perf/mfu",
                "wall_s": "perf/wall_s",
            }.items()
        },
        "gpu_h": _numbers([run.gpu_hours for run in runs]),
        "state": [run.state.status for run in runs],
        "whole": [run.is_whole for run in runs],
        "detail": [run.state.detail for run in runs],
        "run_id": [run.folder.run_id for run in runs],
        "folder": [str(run.folder.path) for run in runs],
        "signature": [run.folder.path.name for run in runs],
    }
    return best_first(pd.DataFrame(columns), f"best_{target.short}", target.mode)


def best_first(frame: pd.DataFrame, column: str, mode: str) -> pd.DataFrame:
    """The frame sorted; what has no value stands last, and equals keep their order."""
    return frame.sort_values(column, ascending=mode == "min", na_position="last", kind="stable", ignore_index=True)


def _numbers(values: list[Any]) -> pd.Series[float]:
    return pd.Series(values, dtype=float)


def _last_step(curves: Curves) -> int | None:
    return max((series.steps[-1] for key, series in curves.items() if key.startswith(EVAL)), default=None)


def _last_value(curves: Curves, metric: str) -> float | None:
    return curves[metric].values[-1] if metric in curves else None


def _at(curves: Curves, metric: str, step: int | None) -> float | None:
    series = watched_series(curves, metric)
    if series is None or step is None or step not in series.steps:
        return None
    return series.values[series.steps.index(step)]


def _tidy(runs: list[Run]) -> pd.DataFrame:
    """All at once and by columns: names are categories, so that a million values take a few bytes each."""
    metrics = list(dict.fromkeys(key for run in runs for key in run.curves))
    number = {key: index for index, key in enumerate(metrics)}
    pieces = [(index, number[key], series) for index, run in enumerate(runs) for key, series in run.curves.items()]
    lengths = [len(series.steps) for _, _, series in pieces]
    rows = np.repeat(np.array([index for index, _, _ in pieces], dtype=np.int64), lengths)

    def named(values: list[Any]) -> pd.Categorical:
        codes, categories = pd.factorize(pd.Series(values, dtype=object))
        return pd.Categorical.from_codes(codes[rows], categories=categories)

    return pd.DataFrame(
        {
            "sweep": named([run.sweep for run in runs]),
            "point": named([run.point for run in runs]),
            "seed": pd.array([run.settings.get(SEED) for run in runs], dtype="Int64")[rows],
            "run": named([run.folder.path.name for run in runs]),
            "step": np.array([step for _, _, series in pieces for step in series.steps], dtype=np.int64),
            "metric": pd.Categorical.from_codes(
                np.repeat(np.array([metric for _, metric, _ in pieces], dtype=np.int64), lengths),
                categories=pd.Index(metrics),
            ),
            "value": np.array([value for _, _, series in pieces for value in series.values], dtype=np.float64),
        }
    )
