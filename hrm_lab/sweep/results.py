"""How the points of a sweep ended, as whoever asked for the sweep is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrm_lab.errors import PointFailed
from hrm_lab.run_folder import FAILED, FINISHED, RunFolder


@dataclass(frozen=True)
class Result:
    """One point; one that is still on its way has no value yet and no error either."""

    folder: Path
    best_value: float | None
    error: PointFailed | None


def result(folder: RunFolder, waited: bool) -> Result:
    """How a point ended.

    Args:
        waited: whether the sweep was waited for, so that a point which has not finished is an error.
    """
    state = folder.state
    if state is not None and state.status in FINISHED:
        return Result(folder.path, state.best_value, None)
    if not waited or (folder.attempts.is_alive() and state is not None and state.status != FAILED):
        return Result(folder.path, None, None)
    word = f"{state.status.lower()}: {state.detail}" if state else "never started"
    label = folder.point().label if state else folder.path.name
    return Result(folder.path, None, PointFailed(f"{label} {word}\n  log: {folder.log}"))
