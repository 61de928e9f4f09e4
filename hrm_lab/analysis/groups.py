"""Runs that differ in nothing but the seed, best group first, with the numbers of the table and the runs themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hrm_lab.analysis.aggregate import aggregate
from hrm_lab.analysis.frames import Results, setting_columns
from hrm_lab.analysis.keys import short_names
from hrm_lab.analysis.runs import Run


@dataclass(frozen=True)
class Group:
    """One group. `mean` and `error` are those of the best evaluations of the `n` runs that were trained to
    an end of their own.

    Both are None where nothing was evaluated; `error`, the standard error of the mean, also for a single run.
    """

    label: str  # H_cycles=2 L_cycles=1
    runs: tuple[Run, ...]  # best first
    n: int
    mean: float | None
    error: float | None

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that the mean is over."""
        return tuple(run for run in self.runs if run.is_whole)


def groups_of(results: Results) -> list[Group]:
    """All groups, best mean first; those without a finished run stand last."""
    frame, best = results.frame, f"best_{results.target.short}"
    keys = setting_columns(frame)
    names = short_names(keys)
    by_name = {run.folder.path.name: run for run in results.runs}
    members: dict[tuple[str, ...], list[Run]] = {}
    for identity, name in zip(_identities(frame, keys), frame["signature"], strict=True):
        members.setdefault(identity, []).append(by_name[name])
    table = aggregate(frame)
    columns = (table[name] for name in ("n", f"{best}_mean", f"{best}_se"))
    rows = zip(_identities(table, keys), _values(table, keys), *columns, strict=True)
    return [
        Group(
            " ".join(f"{names[key]}={as_given(value)}" for key, value in zip(keys, values, strict=True)) or "all runs",
            tuple(members[identity]),
            int(n),
            number(mean),
            number(error),
        )
        for identity, values, n, mean, error in rows
    ]


def as_given(value: Any) -> str:
    """A setting's value as the command line takes it."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def number(value: Any) -> float | None:
    """A cell of a frame; None where it is empty."""
    return None if pd.isna(value) else float(value)


def _values(table: pd.DataFrame, keys: list[str]) -> list[tuple[Any, ...]]:
    """Of these settings, by row, as they are: a row of a frame would make 2.0 of a 2."""
    return list(zip(*(table[key] for key in keys), strict=True)) if keys else [()] * len(table)


def _identities(table: pd.DataFrame, keys: list[str]) -> list[tuple[str, ...]]:
    return [tuple(map(repr, values)) for values in _values(table, keys)]
