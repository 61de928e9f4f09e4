"""What is to be done about each point: a pure comparison of what is asked for with what is there."""

from __future__ import annotations

from enum import Enum

from hrm_lab.run_folder import FAILED, FINISHED, State


class Action(Enum):
    """What a sweep does with a point, and why."""

    START = "new"
    RESUME = "goes on from its checkpoint"
    RETRY = "failed before, runs again"
    SKIP_DONE = "done"
    SKIP_RUNNING = "running elsewhere"
    SKIP_FAILED = "failed before, left alone"

    @property
    def submits(self) -> bool:
        """Whether a job is started for it."""
        return self in (Action.START, Action.RESUME, Action.RETRY)


def decide(state: State | None, is_running: bool, rerun_failed: bool) -> Action:
    """The action for one point.

    Args:
        state: as last written in the run's folder, or None.
        is_running: whether a live process holds the folder.
        rerun_failed: whether failed points are to run again.
    """
    if is_running:
        return Action.SKIP_RUNNING
    if state is None:
        return Action.START
    if state.status in FINISHED:
        return Action.SKIP_DONE
    if state.status == FAILED:
        return Action.RETRY if rerun_failed else Action.SKIP_FAILED
    return Action.RESUME  # interrupted, or RUNNING without a process: it was killed
