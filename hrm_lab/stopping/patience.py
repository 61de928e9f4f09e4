"""Patience: the watched metric has not improved for long enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hrm_lab.best import Best
from hrm_lab.config import StoppingConfig
from hrm_lab.decision import Decision


class Patience:
    """Counts evaluations in a row without improvement of one metric.

    A metric that is missing decides nothing; a value that is no number is no improvement.
    """

    def __init__(self, config: StoppingConfig) -> None:
        self.config = config
        self.best = Best(config.mode, config.min_delta)
        self.waited = 0

    def update(self, step: int, values: Mapping[str, float]) -> Decision | None:
        """Take one evaluation."""
        config, value = self.config, values.get(self.config.metric)
        if value is None:
            return None
        self.waited = 0 if self.best.take(step, value) else self.waited + 1
        if config.patience is None or self.waited < config.patience:
            return None
        evidence = {
            "metric": config.metric,
            "value": None if math.isnan(value) else value,
            "best": self.best.value,
            "best_step": self.best.step,
            "min_delta": config.min_delta,
            "waited": self.waited,
            "threshold": config.patience,
        }
        best = "never a number" if self.best.value is None else f"{self.best.value:.4g} at step {self.best.step}"
        reason = f"no improvement at step {step}: {config.metric} best {best}, not better for {self.waited} evaluations"
        return Decision(step, "patience", True, reason, evidence)

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {"best": self.best.state_dict(), "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.best.load_state_dict(state["best"])
        self.waited = state["waited"]
