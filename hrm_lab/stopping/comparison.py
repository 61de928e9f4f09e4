"""The rule that compares a run with its siblings: keeps what the run has reported, and asks when it is due."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hrm_lab.config import StoppingConfig
from hrm_lab.decision import Decision
from hrm_lab.stopping.pruning import History, decide, is_due


class Siblings(Protocol):
    """Knows what the other runs of the sweep have reported of the watched metric."""

    signature: str  # of the run that asks
    name: str

    def ask(self) -> Mapping[str, History] | None:
        """Histories by signature; None where there was no answer in time."""


class Comparison:
    """One run among its siblings; without any it says nothing."""

    def __init__(self, config: StoppingConfig, siblings: Siblings | None) -> None:
        self.config, self.siblings = config, siblings
        self.values: dict[int, float] = {}

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Remember what the run has reported."""
        if self.config.metric in values:
            self.values[step] = values[self.config.metric]

    def decide(self, step: int) -> Decision | None:
        """Every comparison is a decision, also one that lets the run go on; None where none is due."""
        config, siblings = self.config, self.siblings
        if siblings is None or step not in self.values or not is_due(config, siblings.signature, self.values):
            return None
        others = siblings.ask()
        if others is None:
            words = f"{config.pruner} at step {step}: the tracking store gave no answer; goes on"
            return Decision(step, config.pruner, False, words, {"metric": config.metric, "value": self.values[step]})
        own = {siblings.signature: History(siblings.name, self.values)}
        return decide(config, siblings.signature, {**others, **own})

    def state_dict(self) -> dict[str, Any]:
        """What the next evaluation needs."""
        return {"values": sorted(self.values.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off."""
        self.values = {int(step): value for step, value in state["values"]}
