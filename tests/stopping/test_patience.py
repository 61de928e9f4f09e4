"""Patience and goal, on short histories and against a plain reference."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm_lab.config import StoppingConfig
from hrm_lab.stopping.goal import Goal
from hrm_lab.stopping.patience import Patience

METRIC = "eval/exact_accuracy"
NAN = math.nan


def stops_at(rule: Goal | Patience, values: list[float]) -> int | None:
    decided = (step for step, value in enumerate(values) if rule.update(step, {METRIC: value}))
    return next(decided, None)


@pytest.mark.parametrize(
    ("config", "values", "expected"),
    [
        (StoppingConfig(), [0.5, 0.4, 0.3, 0.2], None),
        (StoppingConfig(patience=2), [0.1, 0.5, 0.4, 0.5, 0.6], 3),
        (StoppingConfig(patience=2, min_delta=0.05), [0.5, 0.52, 0.54, 0.9], 2),
        (StoppingConfig(patience=2, mode="min"), [1.0, 0.9, 0.8, 0.7], None),
        (StoppingConfig(patience=2), [NAN, 0.5, NAN, 0.6, NAN, NAN], 5),
        (StoppingConfig(patience=2), [NAN, NAN], 1),
    ],
)
def test_patience(config: StoppingConfig, values: list[float], expected: int | None) -> None:
    assert stops_at(Patience(config), values) == expected


@pytest.mark.parametrize(
    ("config", "values", "expected"),
    [
        (StoppingConfig(), [1.0], None),
        (StoppingConfig(goal=0.9), [0.5, NAN, 0.9], 2),
        (StoppingConfig(goal=0.1, mode="min"), [0.5, 0.05], 1),
    ],
)
def test_goal(config: StoppingConfig, values: list[float], expected: int | None) -> None:
    assert stops_at(Goal(config), values) == expected


@given(st.lists(st.floats(0, 1), max_size=20), st.integers(1, 4), st.sampled_from([0.0, 0.1]))
def test_patience_stops_at_the_first_stretch_without_a_new_best(
    values: list[float], patience: int, min_delta: float
) -> None:
    best, expected, last = -math.inf, None, 0
    for step, value in enumerate(values):
        if value - best > min_delta:
            best, last = value, step
        if step - last >= patience:
            expected = step
            break
    config = StoppingConfig(patience=patience, min_delta=min_delta)
    assert stops_at(Patience(config), values) == expected


def test_a_missing_metric_decides_nothing_and_the_reason_has_its_numbers() -> None:
    rule = Patience(StoppingConfig(patience=1))
    assert rule.update(1, {"eval/accuracy": 0.1}) is None
    assert rule.update(2, {METRIC: 0.25}) is None
    assert rule.update(3, {}) is None
    decision = rule.update(4, {METRIC: 0.2})
    assert decision is not None
    assert all(part in decision.reason for part in ("step 4", METRIC, "0.25 at step 2", "1 evaluations"))
    assert decision.evidence["metric"] == METRIC
    assert (decision.evidence["value"], decision.evidence["best"], decision.evidence["threshold"]) == (0.2, 0.25, 1)
