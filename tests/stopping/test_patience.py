"""Stopping rules on short histories."""

from __future__ import annotations

import pytest

from hrm_lab.config import StoppingConfig
from hrm_lab.stopping.patience import Patience

METRIC = "eval/exact_accuracy"


def stops_at(config: StoppingConfig, values: list[float]) -> int | None:
    rule = Patience(config)
    for step, value in enumerate(values):
        state, rule = rule.state_dict(), Patience(config)
        rule.load_state_dict(state)  # a restart between any two evaluations changes nothing
        if rule.update(step, {METRIC: value}):
            return step
    return None


@pytest.mark.parametrize(
    ("config", "values", "expected"),
    [
        (StoppingConfig(), [0.5, 0.4, 0.3, 0.2], None),
        (StoppingConfig(patience=2), [0.1, 0.5, 0.4, 0.5, 0.6], 3),
        (StoppingConfig(patience=2, min_delta=0.05), [0.5, 0.52, 0.54, 0.9], 2),
        (StoppingConfig(patience=2, mode="min"), [1.0, 0.9, 0.8, 0.7], None),
        (StoppingConfig(goal=0.9), [0.5, 0.9], 1),
        (StoppingConfig(goal=0.1, mode="min"), [0.5, 0.05], 1),
    ],
)
def test_rule(config: StoppingConfig, values: list[float], expected: int | None) -> None:
    assert stops_at(config, values) == expected


def test_a_missing_metric_decides_nothing_and_the_reason_has_its_numbers() -> None:
    rule = Patience(StoppingConfig(patience=1))
    assert rule.update(1, {"eval/accuracy": 0.1}) is None
    assert rule.update(2, {METRIC: 0.25}) is None
    reason = rule.update(3, {METRIC: 0.2})
    assert reason is not None
    assert all(part in reason for part in ("step 3", METRIC, "0.25", "1 evaluations"))
