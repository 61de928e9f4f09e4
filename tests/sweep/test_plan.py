"""Standings and plans: pure functions, every row of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm_lab.attempts import Attempt, Job
from hrm_lab.run_folder import (
    CANCELLED,
    COMPLETED,
    FAILED,
    INTERRUPTED,
    LOST,
    PENDING,
    PREEMPTED,
    RUNNING,
    STOPPED,
    TIMEOUT,
    State,
)
from hrm_lab.sweep.plan import Action, decide
from hrm_lab.sweep.slurm import Ended, Queued, minutes
from hrm_lab.sweep.standing import GRACE_S, Standing, join
from hrm_lab.sweep.submission import split


@pytest.mark.parametrize(
    ("standing", "rerun_failed", "action"),
    [
        (Standing(PENDING), False, Action.START),
        (Standing(PENDING, is_active=True), True, Action.SKIP_ACTIVE),
        (Standing(PREEMPTED, is_active=True), True, Action.SKIP_ACTIVE),
        (Standing(PENDING, is_active=True, is_held=True), True, Action.SKIP_HELD),
        (Standing(RUNNING, is_active=True), True, Action.SKIP_ACTIVE),
        (Standing(COMPLETED), True, Action.SKIP_DONE),
        (Standing(STOPPED), True, Action.SKIP_DONE),
        (Standing(FAILED), True, Action.RETRY),
        (Standing(FAILED), False, Action.SKIP_FAILED),
        (Standing(LOST), False, Action.RESUME),
        (Standing(TIMEOUT), False, Action.RESUME),
        (Standing(CANCELLED), False, Action.RESUME),
    ],
)
def test_decide(standing: Standing, rerun_failed: bool, action: Action) -> None:
    assert decide(standing, True, rerun_failed) is action
    assert decide(standing, False, rerun_failed) is Action.OUT_OF_GRID


RUNS, WAITS = Queued("RUNNING", "node1", "None"), Queued("PENDING", "", "Priority")
ENDING = Queued("COMPLETING", "node1", "None")


@pytest.mark.parametrize(
    ("written", "queued", "ended", "tried", "status", "active"),
    [
        (None, None, None, False, LOST, False),
        (None, WAITS, None, False, PENDING, True),
        (State(PENDING), WAITS, None, True, PREEMPTED, True),
        (State(RUNNING), WAITS, None, True, PREEMPTED, True),
        (State(RUNNING), RUNS, None, True, RUNNING, True),
        (State(RUNNING), ENDING, None, True, RUNNING, True),
        (State(PENDING), RUNS, None, False, RUNNING, True),
        # SLURM's word is nothing against the run's own.
        (State(FAILED), None, Ended("COMPLETED", "node1", 9.0), True, FAILED, False),
        (State(COMPLETED), None, Ended("FAILED", "node1", 9.0), True, COMPLETED, False),
        (State(STOPPED), ENDING, None, True, STOPPED, False),
        # The second before a requeue.
        (State(RUNNING), None, Ended("NODE_FAIL", "node1", 1.0), True, PREEMPTED, True),
        (State(RUNNING), None, Ended("NODE_FAIL", "node1", GRACE_S + 1), True, LOST, False),
        (State(RUNNING), None, Ended("CANCELLED", "node1", 9.0), True, CANCELLED, False),
        (None, None, Ended("CANCELLED", "", 9.0), False, CANCELLED, False),
        (State(RUNNING), None, Ended("TIMEOUT", "node1", 9.0), True, TIMEOUT, False),
        (State(RUNNING), None, Ended("OUT_OF_MEMORY", "node1", 9.0), True, FAILED, False),
        (State(RUNNING), None, Ended("COMPLETED", "node1", 9.0), True, LOST, False),
        (State(RUNNING), None, Ended("RUNNING", "node1", 0.0), True, RUNNING, True),  # accounting lags
        (State(PENDING), None, Ended("RUNNING", "node1", 0.0), False, LOST, False),
        (State(INTERRUPTED), None, None, True, LOST, False),
        (State(CANCELLED), None, None, True, CANCELLED, False),
    ],
)
def test_join(
    written: State | None, queued: Queued | None, ended: Ended | None, tried: bool, status: str, active: bool
) -> None:
    attempts = (Attempt(1, "node1", 1, 0.0, 0.0, 0, Job("7_0")),) if tried else ()
    standing = join(written, "7_0", queued, ended, attempts, "", now=10.0)
    assert (standing.status, standing.is_active) == (status, active)


@given(st.integers(1, 5000), st.integers(1, 1001), st.none() | st.integers(1, 64))
def test_arrays_hold_every_task_once_and_share_the_parallelism(
    tasks: int, max_array: int, parallelism: int | None
) -> None:
    chunks = split("job", tasks, max_array, parallelism)
    assert [task for chunk in chunks for task in range(chunk.first, chunk.first + chunk.count)] == list(range(tasks))
    assert all(chunk.count <= max_array for chunk in chunks)
    if parallelism is not None:
        first_lane = [chunk for chunk in chunks if chunk.after is None]
        assert sum(chunk.parallelism or 0 for chunk in first_lane) == (parallelism if len(chunks) >= 1 else 0)
        shares = {chunk.name: chunk.parallelism for chunk in chunks}
        # An array that waits for another takes its share.
        assert all(shares[chunk.after] == chunk.parallelism for chunk in chunks if chunk.after)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1-00:00:00", 1440), ("02:30:00", 150), ("30:00", 30), ("45", 45), ("UNLIMITED", float("inf"))],
)
def test_slurm_times(text: str, expected: float) -> None:
    assert minutes(text) == expected
