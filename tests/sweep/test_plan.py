"""What a sweep does with each state a point can be in."""

from __future__ import annotations

import pytest

from hrm_lab.run_folder import COMPLETED, FAILED, INTERRUPTED, RUNNING, STOPPED, State
from hrm_lab.sweep.plan import Action, decide


@pytest.mark.parametrize(
    ("status", "is_running", "rerun_failed", "expected"),
    [
        (None, False, True, Action.START),
        (RUNNING, True, True, Action.SKIP_RUNNING),
        (RUNNING, False, True, Action.RESUME),
        (INTERRUPTED, False, True, Action.RESUME),
        (COMPLETED, False, True, Action.SKIP_DONE),
        (STOPPED, False, True, Action.SKIP_DONE),
        (FAILED, False, True, Action.RETRY),
        (FAILED, False, False, Action.SKIP_FAILED),
    ],
)
def test_decision(status: str | None, is_running: bool, rerun_failed: bool, expected: Action) -> None:
    state = None if status is None else State(status)
    assert decide(state, is_running, rerun_failed) is expected
