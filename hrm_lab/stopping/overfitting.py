"""Overfitting: the training set is solved, and the test set worse and worse.

The published training flow advises to stop there by hand on Sudoku with 1,000 puzzles: late in training, with the
training accuracy near 100 %, it becomes unstable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrm_lab.best import Best
from hrm_lab.config import TRAINED, StoppingConfig
from hrm_lab.decision import Decision


class Overfitting:
    """Counts evaluations in a row on which the watched metric lay below its best while training had nothing to learn.

    An evaluation on which either of them is missing or no number decides nothing.
    """

    def __init__(self, config: StoppingConfig) -> None:
        self.config = config
        self.best = Best(config.mode)
        self.fallen = 0

    def update(self, step: int, values: Mapping[str, float]) -> Decision | None:
        """Take one evaluation.

        Args:
            values: of the evaluation, and the training's means since the one before.
        """
        config, value, trained = self.config, values.get(self.config.metric), values.get(TRAINED)
        if value is None or value != value:
            return None
        self.best.take(step, value)
        if config.overfit_accuracy is None or trained is None or trained != trained:
            return None
        drop = self.best.lead(value)
        falls = trained >= config.overfit_accuracy and drop > config.overfit_drop
        self.fallen = self.fallen + 1 if falls else 0
        if self.fallen < config.overfit_evaluations:
            return None
        evidence = {
            "metric": config.metric,
            "value": value,
            "best": self.best.value,
            "best_step": self.best.step,
            "drop": drop,
            "threshold": config.overfit_drop,
            TRAINED: trained,
            "train_threshold": config.overfit_accuracy,
            "evaluations": self.fallen,
        }
        reason = (
            f"overfitting at step {step}: {TRAINED} is {trained:.4g}, and {config.metric} = {value:.4g} is worse than "
            f"its best, {self.best.value:.4g} at step {self.best.step}, for {self.fallen} evaluations"
        )
        return Decision(step, "overfitting", True, reason, evidence)

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {"best": self.best.state_dict(), "fallen": self.fallen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.best.load_state_dict(state["best"])
        self.fallen = state["fallen"]
