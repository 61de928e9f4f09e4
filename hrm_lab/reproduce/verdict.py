"""What came out the second time against what was logged the first time, to the last bit."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hrm_lab.tracking.logged import Place, Values

IDENTICAL, DIFFERENT, DERIVED = "identical", "different", "derived"


@dataclass(frozen=True)
class Difference:
    """A value that is not the same; None where there is none."""

    step: int
    metric: str
    logged: float | None
    now: float | None

    def __str__(self) -> str:
        then, now = ("no value" if value is None else repr(value) for value in (self.logged, self.now))
        apart = self.relative
        size = "" if apart is None else f" (relative difference {apart:.2g})"
        return f"{self.metric} at step {self.step} was {then} and is {now}{size}"

    @property
    def relative(self) -> float | None:
        """Of the larger of the two."""
        if self.logged is None or self.now is None:
            return None
        if not (math.isfinite(self.logged) and math.isfinite(self.now)):
            return None
        return abs(self.logged - self.now) / max(abs(self.logged), abs(self.now))


@dataclass(frozen=True)
class Comparison:
    """All values that were compared, and those that differ, by step and name."""

    total: int
    differences: list[Difference]


@dataclass(frozen=True)
class Weights:
    """Hashes of the final weights, or why they were not compared."""

    logged: str = ""
    now: str = ""
    why_not: str = ""

    @property
    def differ(self) -> bool:
        """Only where both are known."""
        return not self.why_not and self.logged != self.now

    def __str__(self) -> str:
        if self.why_not:
            return f"weights not compared ({self.why_not})"
        return "weights differ" if self.differ else "weights equal"


@dataclass(frozen=True)
class Verdict:
    """The answer. `notes` are limits that it has: where it was stopped, how far the logged run had got."""

    comparison: Comparison
    weights: Weights
    changes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """In a word."""
        if self.changes:
            return DERIVED
        return DIFFERENT if self.comparison.differences or self.weights.differ else IDENTICAL

    @property
    def line(self) -> str:
        """In a line."""
        found, total = self.comparison.differences, self.comparison.total
        ends = "".join(f"; {note}" for note in self.notes)
        if self.kind == IDENTICAL:
            return f"identical: {total:,} values, {self.weights}{ends}"
        if found:
            more = f"{len(found):,} of {total:,} values differ, {self.weights}"
            told = f"{found[0]}; {more}" if len(found) > 1 or total > 1 else f"{found[0]}; {self.weights}"
        else:
            told = f"{total:,} values are equal, {self.weights}"
        head = f"derived ({', '.join(self.changes)})" if self.changes else "different"
        return f"{head}: {told}{ends}"

    def to_dict(self) -> dict[str, Any]:
        """For verdict.json."""
        first = self.comparison.differences[:1]
        return {
            "verdict": self.line,
            "kind": self.kind,
            "values": self.comparison.total,
            "differ": len(self.comparison.differences),
            "first": {**vars(first[0]), "relative": first[0].relative} if first else None,
            "weights": {"logged": self.weights.logged, "now": self.weights.now, "why_not": self.weights.why_not},
            "changes": list(self.changes),
            "notes": self.notes,
        }


def compare(logged: Mapping[Place, float], now: Mapping[Place, float], until: int | None) -> Comparison:
    """Compare every value, in both directions.

    Args:
        until: the last step that counts, where one of the two was stopped there; None = both came to their end. At its
            last step the one that was stopped may lack what the other went on to record there (an evaluation).
    """
    if until is not None:
        reached = min(max((step for step, _ in values), default=-1) for values in (logged, now))
        edge = reached if reached <= until else until + 1
        logged, now = _up_to(edge, until, logged, now), _up_to(edge, until, now, logged)
    keys = sorted(logged.keys() | now.keys())
    pairs = [Difference(step, key, logged.get((step, key)), now.get((step, key))) for step, key in keys]
    return Comparison(len(keys), [pair for pair in pairs if not _same(pair.logged, pair.now)])


def _up_to(edge: int, until: int, values: Mapping[Place, float], others: Mapping[Place, float]) -> Values:
    counts = {place: value for place, value in values.items() if place[0] <= until}
    return {
        place: value for place, value in counts.items() if place[0] < edge or (place[0] == edge and place in others)
    }


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return _stored(one) == _stored(other)


def _stored(value: float) -> float:
    """As MLflow's database holds it, which knows no infinity."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))
