"""All rules that a run is stopped by, asked together after each evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrm_lab.config import StoppingConfig
from hrm_lab.decision import PROMOTION, Decision, Promotion
from hrm_lab.stopping.budget import Budget
from hrm_lab.stopping.comparison import Comparison, Siblings
from hrm_lab.stopping.goal import Goal
from hrm_lab.stopping.overfitting import Overfitting
from hrm_lab.stopping.patience import Patience


class Rules:
    """A trainer's Stopper. A rule whose settings are null says nothing.

    Args:
        siblings: the other runs of the sweep; None where there is no sweep.
        promotion: why a run that was stopped is to go on after all, and from which step.
    """

    def __init__(
        self, config: StoppingConfig, siblings: Siblings | None = None, promotion: Promotion | None = None
    ) -> None:
        self.comparison, self.promotion = Comparison(config, siblings), promotion
        self.goal, self.budget = Goal(config), Budget(config)
        self.overfitting, self.patience = Overfitting(config), Patience(config)

    def is_spent(self, step: int, seconds: float, gpu_seconds: float) -> bool:
        """Whether a budget is used up."""
        return self.budget.is_spent(step, seconds, gpu_seconds)

    def update(self, step: int, values: Mapping[str, float], is_last: bool = False) -> list[Decision]:
        """What the rules decide. Each sees every evaluation; of several that would stop the run, the first does.

        After the last step only the goal has something to say: there is nothing to stop any more.
        """
        rules = (self.goal,) if is_last else (self.goal, self.budget, self.overfitting, self.patience)
        stops = [decision for rule in rules if (decision := rule.update(step, values))][:1]
        self.comparison.note(step, values)
        if stops or is_last:
            return stops
        compared = self.comparison.decide(step)
        if compared is None:
            return []
        # A promoted run comes here again where it goes on from an earlier checkpoint, because that one was damaged.
        promoted = self.revive(step) if compared.stops else None
        return [promoted or compared]

    def revive(self, step: int) -> Decision | None:
        """The promotion, if it is one from this step."""
        if self.promotion is None or self.promotion.step != step:
            return None
        return Decision(step, PROMOTION, False, self.promotion.reason)

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {
            "overfitting": self.overfitting.state_dict(),
            "patience": self.patience.state_dict(),
            "comparison": self.comparison.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.overfitting.load_state_dict(state["overfitting"])
        self.patience.load_state_dict(state["patience"])
        self.comparison.load_state_dict(state["comparison"])
