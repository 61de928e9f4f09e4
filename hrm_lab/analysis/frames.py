"""Runs as pandas frames: one row for each point of a sweep, and curves as tidy rows.

Read from the run folders' journals, which hold every number whether or not a store was there to take it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import INTERRUPTED, RUNNING, RunFolder, State
from hrm_lab.tracking.journal import read_journal


def load_sweep(manifest: Manifest) -> pd.DataFrame:
    """One row for each point, best first.

    Columns: `point`, its label; every override by its key, as text; `best_exact` and `best_step` (the best evaluation);
    `exact_accuracy`, `accuracy` and `lm_loss` of the last evaluation; `act_steps`, the mean number of ACT steps that
    training sequences took before they halted; `samples_per_s`; `wall_s`; `state`; `detail` (why it failed or stopped
    early); `run_id`; `folder`. Points that have not been evaluated yet stand last.
    """
    runs = manifest.grid()
    rows = []
    for entry, folder in runs:
        state = _true_state(folder)
        curves = journal_curves(folder.journal)
        metrics = curves.groupby("metric")["value"].last().to_dict()
        rows.append(
            {
                "point": entry.label,
                **_overrides(entry.overrides),
                **_best(curves),
                "exact_accuracy": metrics.get("eval/exact_accuracy"),
                "accuracy": metrics.get("eval/accuracy"),
                "lm_loss": metrics.get("eval/lm_loss"),
                "act_steps": metrics.get("train/steps"),
                "samples_per_s": metrics.get("perf/mean_samples_per_s"),
                "wall_s": metrics.get("perf/wall_s"),
                "state": state.status if state else "WAITING",
                "detail": state.detail if state else "",
                "run_id": folder.run_id,
                "folder": str(folder.path),
            }
        )
    frame = pd.DataFrame(rows)
    frame = frame.sort_values("best_exact", ascending=False, na_position="last", kind="stable", ignore_index=True)
    frame.attrs["overrides"] = list(dict.fromkeys(key for entry, _ in runs for key in _overrides(entry.overrides)))
    return frame


def journal_curves(path: Path) -> pd.DataFrame:
    """A run's journal as tidy rows: step, metric, value."""
    rows = [
        (entry["step"], key, value)
        for entry in read_journal(path)
        if "metrics" in entry
        for key, value in entry["metrics"].items()
    ]
    return pd.DataFrame(rows, columns=["step", "metric", "value"])


def sweep_curves(manifest: Manifest) -> dict[str, pd.DataFrame]:
    """Curves of every point that has any, by label."""
    curves = {entry.label: journal_curves(folder.journal) for entry, folder in manifest.grid()}
    return {label: frame for label, frame in curves.items() if len(frame)}


def _true_state(folder: RunFolder) -> State | None:
    """The written state, unless it says RUNNING and nobody runs."""
    state = folder.state
    if state is not None and state.status == RUNNING and not folder.attempts.is_alive():
        return State(INTERRUPTED, "its process is gone; the same command goes on")
    return state


def swept_columns(frame: pd.DataFrame) -> list[str]:
    """The overrides that differ between the points of a frame, in the order of the grid."""
    return [key for key in frame.attrs["overrides"] if frame[key].nunique(dropna=False) > 1]


def _overrides(texts: list[str]) -> dict[str, str]:
    pairs = (text.partition("=") for text in texts)
    return {key: value for key, _, value in pairs}


def _best(curves: pd.DataFrame) -> dict[str, Any]:
    """Best exact accuracy of all evaluations, and its step."""
    exact = curves[curves["metric"] == "eval/exact_accuracy"]
    if exact.empty:
        return {"best_exact": None, "best_step": None}
    best = exact.sort_values(["value", "step"], ascending=[False, True]).iloc[0]
    return {"best_exact": float(best["value"]), "best_step": int(best["step"])}
