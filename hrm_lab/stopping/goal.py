"""A goal: the run has what it was started for."""

from __future__ import annotations

from collections.abc import Mapping

from hrm_lab.best import order
from hrm_lab.config import StoppingConfig
from hrm_lab.decision import Decision


class Goal:
    """Stops as soon as the watched metric is as good as `stopping.goal`."""

    def __init__(self, config: StoppingConfig) -> None:
        self.config = config

    def update(self, step: int, values: Mapping[str, float]) -> Decision | None:
        """Take one evaluation."""
        metric, goal, value = self.config.metric, self.config.goal, values.get(self.config.metric)
        if goal is None or value is None or order(self.config.mode, value) > order(self.config.mode, goal):
            return None
        reason = f"goal reached at step {step}: {metric} = {value:.4g}, goal {goal:g}"
        return Decision(step, "goal", True, reason, {"metric": metric, "value": value, "threshold": goal})
