"""All rules that a run is stopped by, asked together after each evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrm_lab.config import StoppingConfig
from hrm_lab.decision import Decision
from hrm_lab.stopping.patience import Patience


class Rules:
    """A trainer's Stopper."""

    def __init__(self, config: StoppingConfig) -> None:
        self.patience = Patience(config)

    def is_spent(self, step: int, seconds: float, gpu_seconds: float) -> bool:
        """Whether a budget is used up."""
        return False

    def update(self, step: int, values: Mapping[str, float]) -> list[Decision]:
        """What the rules decide."""
        reason = self.patience.update(step, values)
        return [Decision(step, "patience", True, reason)] if reason else []

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {"patience": self.patience.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.patience.load_state_dict(state["patience"])
