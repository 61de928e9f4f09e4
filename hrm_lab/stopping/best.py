"""The best value so far of the watched metric: what patience and overfitting measure against."""

from __future__ import annotations

import math
from typing import Any

from hrm_lab.config import StoppingConfig


class Best:
    """The best value of `stopping.metric`, and its step. A value that is no number is never it."""

    def __init__(self, config: StoppingConfig, min_delta: float = 0.0) -> None:
        """Take nothing for better that is not so by more than `min_delta`."""
        self.sign = 1.0 if config.mode == "max" else -1.0
        self.min_delta = min_delta
        self.value: float | None = None
        self.step: int | None = None

    def take(self, step: int, value: float) -> bool:
        """Whether this evaluation is the best so far."""
        better = not math.isnan(value) and (self.value is None or self.sign * (value - self.value) > self.min_delta)
        if better:
            self.value, self.step = value, step
        return better

    def lead(self, value: float) -> float:
        """How much worse than the best a value is; NaN of a value that is no number."""
        return 0.0 if self.value is None else self.sign * (self.value - value)

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.value, self.step = state["value"], state["step"]
