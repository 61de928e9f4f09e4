"""What is better of two values, and the best so far of a run: the one place that reads `stopping.mode`."""

from __future__ import annotations

import math
from typing import Any


def order(mode: str, value: float) -> float:
    """A key to sort by, the best first; what is no number stands last."""
    if math.isnan(value):
        return math.inf
    return -value if mode == "max" else value


class Best:
    """The best value so far of a metric, and its step. A value that is no number is never it.

    Args:
        mode: `max` or `min`, whether more or less is better.
        min_delta: nothing is taken for better that is not so by more than this.
    """

    def __init__(self, mode: str, min_delta: float = 0.0) -> None:
        self.mode, self.min_delta = mode, min_delta
        self.value: float | None = None
        self.step: int | None = None

    def take(self, step: int, value: float) -> bool:
        """Whether this evaluation is the best so far."""
        better = not math.isnan(value) and (self.value is None or -self.lead(value) > self.min_delta)
        if better:
            self.value, self.step = value, step
        return better

    def lead(self, value: float) -> float:
        """How much worse than the best a value is; infinitely so where it is no number."""
        return 0.0 if self.value is None else order(self.mode, value) - order(self.mode, self.value)

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {"value": self.value, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.value, self.step = state["value"], state["step"]
