"""Runs as their folders have them: settings, state, cost, and all that their journals hold."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hrm_lab.analysis.keys import Settings, identity_settings
from hrm_lab.analysis.metrics import EVAL, TRAIN, Target, best_index, mode_of
from hrm_lab.config import FINAL, FINAL_BEST, PRUNERS, TRAIN_MEAN
from hrm_lab.decision import Decision
from hrm_lab.errors import UserError
from hrm_lab.run_folder import FINISHED, PENDING, RUNNING, STOPPED, RunFolder, State
from hrm_lab.tracking.journal import read_journal


class Series(NamedTuple):
    """One metric of one run, in order of steps."""

    steps: list[int]
    values: list[float]


Curves = dict[str, Series]  # by metric


class Made(NamedTuple):
    """A decision, and when it was made: milliseconds since 1970."""

    ms: int
    decision: Decision


@dataclass
class Record:
    """What a journal holds."""

    curves: Curves = field(default_factory=dict)
    decisions: list[Made] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)  # files in the run's folder: evaluations/step_00000100.npz
    total_steps: int = 0  # planned

    @property
    def last_stop(self) -> Decision | None:
        """The decision that nothing has followed, if it stops the run."""
        last = self.decisions[-1].decision if self.decisions else None
        return last if last is not None and last.stops else None


@dataclass(frozen=True)
class Run:
    """One run. `sweep` names all the sweeps that it is a point of."""

    sweep: str
    point: str
    folder: RunFolder
    settings: Settings
    data: str | None  # fingerprint
    state: State
    gpu_hours: float  # of all attempts, those that were lost included
    hours: float  # the same on the clock, with or without a GPU
    record: Record

    @property
    def curves(self) -> Curves:
        """Every metric."""
        return self.record.curves

    @property
    def cut_by(self) -> Decision | None:
        """The comparison that has stopped it, if one has."""
        return cut_by(self.state.status, self.record)

    @property
    def is_whole(self) -> bool:
        """Trained to an end of its own: its last epoch, or a rule that looks at no other run.

        Only these make a mean: what a comparison has cut would have become better, and nobody knows how much.
        """
        return self.state.status in FINISHED and self.cut_by is None


def cut_by(status: str, record: Record) -> Decision | None:
    """The comparison that has stopped a run; None for one that goes on, is complete, or was stopped by another rule."""
    stop = record.last_stop if status == STOPPED else None
    return stop if stop is not None and stop.rule in PRUNERS else None


def is_failure(status: str) -> bool:
    """Whether a run has ended without being finished: failed, lost, cancelled, ..."""
    return status not in (*FINISHED, RUNNING, PENDING)


def read_run(folder: RunFolder, points: Sequence[tuple[str, str]]) -> Run:
    """One run.

    Args:
        points: sweep and label of each point that it is.
    """
    stored = read_stored(folder.path / "config.json")  # the point is asked for though somebody deleted the folder
    data = folder.dataset_info()
    attempts = folder.attempts.all()
    return Run(
        ", ".join(dict.fromkeys(sweep for sweep, _ in points)),
        points[0][1],
        folder,
        identity_settings(stored) if stored else {},
        data["fingerprint"] if data else None,
        folder.true_state(),
        sum(attempt.gpu_seconds for attempt in attempts) / 3600,
        sum(attempt.seen - attempt.began for attempt in attempts) / 3600,
        read_record(folder.journal),
    )


def read_stored(path: Path) -> dict[str, Any]:
    """A JSON file of a run; empty where it is missing or damaged, so that one run does not hide all the others."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stored


def read_record(path: Path) -> Record:
    """All that a journal holds."""
    record = Record()
    curves = record.curves
    for entry in read_journal(path):
        if "decision" in entry:
            record.decisions.append(Made(entry["ms"], Decision(**entry["decision"])))
        if "artifact" in entry:
            record.artifacts.append(entry["artifact"])
        record.total_steps = entry.get("total_steps", record.total_steps)
        for key, value in entry.get("metrics", {}).items():
            series = curves.get(key)
            if series is None:
                series = curves[key] = Series([], [])
            series.steps.append(entry["step"])
            series.values.append(value)
    return record


def watched_series(curves: Curves, metric: str) -> Series | None:
    """A metric at the evaluations; of `train/METRIC`, which has steps of its own, the value that was logged last."""
    logged = curves.get(metric)
    if logged is None or not metric.startswith(TRAIN):
        return logged
    evaluated = sorted({step for key, series in curves.items() if key.startswith(EVAL) for step in series.steps})
    places = [(step, bisect_right(logged.steps, step) - 1) for step in evaluated]
    known = [(step, logged.values[place]) for step, place in places if place >= 0]
    return Series([step for step, _ in known], [value for _, value in known])


def best_step(curves: Curves, target: Target) -> int | None:
    """Of the evaluation at which a run was best."""
    series = watched_series(curves, target.metric)
    best = best_index(series.values, target.mode) if series is not None else None
    return None if series is None or best is None else series.steps[best]


def watched_by(runs: Sequence[Run]) -> set[Target]:
    """What the runs themselves watched."""
    return {Target(run.settings["stopping.metric"], run.settings["stopping.mode"]) for run in runs if run.settings}


def target_of(runs: Sequence[Run], metric: str | None = None) -> Target:
    """What runs are ranked by: what they watched, or what is asked for.

    Raises:
        UserError: where they watched different metrics, or none has this one.
    """
    watched = watched_by(runs) or {Target("eval/exact_accuracy", "max")}
    if metric is None:
        if len(watched) > 1:
            names = ", ".join(sorted(f"{target.metric} ({target.mode})" for target in watched))
            raise UserError(f"the runs watched different metrics: {names}\n  way out: --metric NAME compares by one")
        return watched.pop()
    metric = metric if metric.startswith((EVAL, TRAIN, TRAIN_MEAN, FINAL, FINAL_BEST)) else EVAL + metric
    group = metric.partition("/")[0] + "/"
    known = sorted({key for run in runs for key in run.curves if key.startswith(group)})
    if known and metric not in known:
        raise UserError(f"metric={metric}: no run was evaluated by it\n  way out: take {', '.join(known)}")
    return Target(metric, mode_of(metric, watched))
