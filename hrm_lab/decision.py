"""What was decided about a run: when, by which rule, on what evidence. Every stop is one, and every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PROMOTION = "promotion"  # the rule by which a stopped run goes on
BUDGET, TIME_BUDGET = "budget", "time budget"  # of steps; of hours, which are spent at another step another time


@dataclass(frozen=True)
class Decision:
    """One decision of one rule.

    Args:
        step: optimizer steps done.
        rule: `patience`, `goal`, `overfitting`, `budget`, `time budget`, `divergence`, `asha`, `median`,
            `percentile`, `promotion`.
        stops: whether the run ends by it.
        reason: in words, for whoever finds the run stopped.
        evidence: what it was decided on, for machines: metric, value, threshold, and of a comparison with siblings the
            rung, the bracket and the peers' values by name.
    """

    step: int
    rule: str
    stops: bool
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Promotion:
    """A person's word that a run goes on which a comparison has stopped at `step`."""

    step: int
    reason: str
