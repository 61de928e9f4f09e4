"""What is to be done about each point: what is asked for, compared with what is there."""

from __future__ import annotations

import logging
from collections import Counter
from enum import Enum

from hrm_lab.manifest import Entry, Manifest
from hrm_lab.run_folder import FAILED, FINISHED, PENDING, RunFolder
from hrm_lab.sweep.standing import Standing, look

log = logging.getLogger("hrm_lab")
NAMED = 20  # points of one kind that a plan lists by name


class Action(Enum):
    """What a sweep does with a point, and why."""

    START = "new"
    RESUME = "goes on"
    RETRY = "failed before, runs again"
    SKIP_DONE = "done"
    SKIP_ACTIVE = "running or queued, left alone"
    SKIP_HELD = "queued and held, left alone"
    SKIP_FAILED = "failed before, left alone"
    OUT_OF_GRID = "no longer in the grid, left alone"

    @property
    def submits(self) -> bool:
        """Whether a job is started for it."""
        return self in (Action.START, Action.RESUME, Action.RETRY)


Plan = list[tuple[Entry, RunFolder, Action]]


def decide(standing: Standing, in_grid: bool, rerun_failed: bool) -> Action:
    """The action for one point.

    Args:
        standing: where it is.
        in_grid: whether it is asked for.
        rerun_failed: whether failed points are to run again.
    """
    if not in_grid:
        return Action.OUT_OF_GRID
    if standing.status in FINISHED:
        return Action.SKIP_DONE
    if standing.is_active:
        return Action.SKIP_HELD if standing.is_held else Action.SKIP_ACTIVE
    if standing.status == FAILED:
        return Action.RETRY if rerun_failed else Action.SKIP_FAILED
    return Action.START if standing.status == PENDING and not standing.attempts else Action.RESUME


def make_plan(manifest: Manifest, rerun_failed: bool) -> Plan:
    """What is to be done about each point."""
    runs = manifest.runs()
    standings = look([folder for _, folder in runs])
    return [
        (entry, folder, decide(standing, entry.in_grid, rerun_failed))
        for (entry, folder), standing in zip(runs, standings, strict=True)
    ]


def show_plan(plan: Plan) -> None:
    """Say how many points of each kind there are, and which."""
    counts = Counter(action for _, _, action in plan)
    for action in Action:
        if not counts[action]:
            continue
        names = [entry.label for entry, _, other in plan if other is action]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        log.info("%5d  %-34s %s%s", counts[action], action.value, ", ".join(names[:NAMED]), more)
    if counts[Action.SKIP_HELD]:
        log.info("       `hrm-lab status` says why they are held, and what to do")
    if counts[Action.SKIP_FAILED]:
        log.info("       failed points run again with --retry-failed, or `hrm-lab retry`")
