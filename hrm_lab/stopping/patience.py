"""Stopping inside one run: the goal is reached, or the watched metric has not improved for long enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrm_lab.config import StoppingConfig


class Patience:
    """Counts evaluations without improvement of one metric."""

    def __init__(self, config: StoppingConfig) -> None:
        self.config = config
        self.best: float | None = None
        self.waited = 0

    def update(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Take one evaluation; the reason to stop, or None. A metric that is missing decides nothing."""
        config, value = self.config, metrics.get(self.config.metric)
        if value is None:
            return None
        sign = 1.0 if config.mode == "max" else -1.0
        if self.best is None or sign * (value - self.best) > config.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if config.goal is not None and sign * (value - config.goal) >= 0:
            return f"goal reached at step {step}: {config.metric} = {value:.4g}, goal {config.goal:g}"
        if config.patience is not None and self.waited >= config.patience:
            return (
                f"no improvement at step {step}: {config.metric} stayed at or worse than {self.best:.4g} "
                f"for {self.waited} evaluations"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.best, self.waited = state["best"], state["waited"]
