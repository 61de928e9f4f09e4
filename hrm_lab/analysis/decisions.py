"""What was decided about the points of a sweep, from their journals: every comparison, stop and promotion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from hrm_lab.config import PRUNERS
from hrm_lab.decision import PROMOTION, Decision
from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import STOPPED, RunFolder
from hrm_lab.tracking.journal import read_journal


@dataclass(frozen=True)
class Decided:
    """One decision about one point; `ms` since 1970."""

    point: str
    ms: int
    decision: Decision

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"point": self.point, "ms": self.ms, **self.decision.to_dict()}


def decisions(manifest: Manifest) -> list[Decided]:
    """Of all points, in the order in which they were made."""
    found = [
        Decided(entry.label, ms, decision) for entry, folder in manifest.runs() for ms, decision in decisions_of(folder)
    ]
    return sorted(found, key=lambda decided: decided.ms)


def decisions_of(folder: RunFolder) -> list[tuple[int, Decision]]:
    """Of one run, with their times."""
    entries = read_journal(folder.journal)
    return [(entry["ms"], Decision(**entry["decision"])) for entry in entries if "decision" in entry]


def cut_by(folder: RunFolder) -> Decision | None:
    """The comparison that has stopped a run; None for one that goes on, is complete, or was stopped by another rule."""
    made = [decision for _, decision in decisions_of(folder)] if folder.status == STOPPED else []
    last = made[-1] if made else None
    return last if last is not None and last.stops and last.rule in PRUNERS else None


def decisions_table(made: Iterable[Decided]) -> Table:
    """For a terminal. `rank`: the place that the value has among those of the siblings and its own."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for heading in ("point", "step", "rule", "value", "needed", "rank", "decision", "reason"):
        is_number = heading in ("step", "value", "needed")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for decided in made:
        decision, evidence = decided.decision, decided.decision.evidence
        word = "stops" if decision.stops else "promoted" if decision.rule == PROMOTION else "goes on"
        rank = f"{evidence['rank']} of {len(evidence['peers']) + 1}" if "rank" in evidence else ""
        figures = [_figure(evidence.get(key)) for key in ("value", "threshold")]
        cells = (decided.point, str(decision.step), decision.rule, *figures, rank, word, decision.reason)
        table.add_row(*cells, style="red" if decision.stops else "green" if word == "promoted" else None)
    return table


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""
