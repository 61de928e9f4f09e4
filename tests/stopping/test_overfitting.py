"""The overfitting guard: training has nothing to learn, and the evaluation falls."""

from __future__ import annotations

import math

import pytest

from hrm_lab.config import TRAINED, StoppingConfig
from hrm_lab.stopping.overfitting import Overfitting

METRIC = "eval/exact_accuracy"
CONFIG = StoppingConfig(overfit_accuracy=0.99, overfit_drop=0.02, overfit_evaluations=2)
DONE, LEARNING = 0.995, 0.6


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([(DONE, 0.5), (DONE, 0.49), (DONE, 0.48), (DONE, 0.49)], None),  # not by more than 0.02
        ([(DONE, 0.5), (DONE, 0.47), (DONE, 0.45)], 2),
        ([(LEARNING, 0.5), (DONE, 0.47), (DONE, 0.45)], 2),  # the best may be of earlier
        ([(DONE, 0.5), (DONE, 0.47), (DONE, 0.49), (DONE, 0.47), (DONE, 0.47)], 4),  # in a row
        ([(DONE, 0.5), (LEARNING, 0.4), (DONE, 0.4), (LEARNING, 0.3)], None),  # both at once
        ([(DONE, 0.5), (DONE, 0.4), (DONE, math.nan), (math.nan, 0.4), (None, 0.4), (DONE, 0.4)], 5),
        ([(DONE, math.nan), (DONE, 0.5), (DONE, 0.6), (DONE, 0.7)], None),
    ],
)
def test_rule(history: list[tuple[float | None, float]], expected: int | None) -> None:
    rule = Overfitting(CONFIG)
    for step, (trained, value) in enumerate(history):
        values = {METRIC: value} | ({} if trained is None else {TRAINED: trained})
        decision = rule.update(step, values)
        assert (decision is not None) == (step == expected)


def test_less_can_be_better_and_the_evidence_has_both_sides() -> None:
    config = StoppingConfig(metric="eval/lm_loss", mode="min", overfit_accuracy=0.9, overfit_evaluations=1)
    rule = Overfitting(config)
    assert rule.update(1, {"eval/lm_loss": 0.5, TRAINED: 1.0}) is None
    assert rule.update(2, {"eval/lm_loss": 0.4, TRAINED: 1.0}) is None
    decision = rule.update(3, {"eval/lm_loss": 0.6, TRAINED: 1.0})
    assert decision is not None
    evidence = decision.evidence
    assert (evidence["value"], evidence["best"], evidence["best_step"], evidence["threshold"]) == (0.6, 0.4, 2, 0.02)
    assert (evidence[TRAINED], evidence["train_threshold"]) == (1.0, 0.9)
    assert all(part in decision.reason for part in ("step 3", TRAINED, "eval/lm_loss", "0.4 at step 2"))
