"""What was decided about the points of a sweep, from their journals: every comparison, stop and promotion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from hrm_lab.analysis import runs
from hrm_lab.decision import PROMOTION, Decision
from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import STOPPED, RunFolder


@dataclass(frozen=True)
class Decided:
    """One decision about one point; `ms` since 1970."""

    point: str
    ms: int
    decision: Decision

    @property
    def changed_something(self) -> bool:
        """Whether the run was stopped by it, or goes on by it."""
        return self.decision.stops or self.decision.rule == PROMOTION

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"point": self.point, "ms": self.ms, **self.decision.to_dict()}


def decisions(manifest: Manifest) -> list[Decided]:
    """Of all points, in the order in which they were made."""
    found = [
        Decided(entry.label, ms, decision)
        for entry, folder in manifest.runs()
        for ms, decision in runs.read_record(folder.journal).decisions
    ]
    return sorted(found, key=lambda decided: decided.ms)


def cut_by(folder: RunFolder) -> Decision | None:
    """The comparison that has stopped a run, if one has; the journal of one that has not stopped is not read."""
    return runs.cut_by(STOPPED, runs.read_record(folder.journal)) if folder.status == STOPPED else None


def decisions_table(made: Iterable[Decided]) -> Table:
    """For a terminal of 80 columns. `rank`: the place of the value among those of the siblings and its own.

    Reasons stand only where no figures do: else they would say the same again.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for heading in ("point", "step", "rung", "rule", "value", "needed", "rank", "decision"):
        is_number = heading in ("step", "rung", "value", "needed")
        is_long = heading in ("point", "decision")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=not is_long)
    for decided in made:
        decision, evidence = decided.decision, decided.decision.evidence
        word = "stops" if decision.stops else "promoted" if decision.rule == PROMOTION else "goes on"
        rank = f"{evidence['rank']} of {len(evidence['peers']) + 1}" if "rank" in evidence else ""
        figures = [_figure(evidence.get(key)) if rank else "" for key in ("value", "threshold")]
        words = word if rank else decision.reason
        rung = _figure(evidence.get("rung"))
        cells = (decided.point, str(decision.step), rung, decision.rule, *figures, rank, words)
        table.add_row(*cells, style="red" if decision.stops else "green" if word == "promoted" else None)
    return table


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""
