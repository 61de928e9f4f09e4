"""What a metric is: where more of it is better, which value is the best, and how values are written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hrm_lab.best import order

EVAL = "eval/"
TRAIN = "train/"  # means over log windows, which do not end with the evaluations


class Target(NamedTuple):
    """What runs are ranked by: a metric, and whether more (max) or less (min) of it is better."""

    metric: str
    mode: str

    @property
    def short(self) -> str:
        """As it stands in the columns' names: best_SHORT, last_SHORT."""
        return self.metric.removeprefix(EVAL)


class Scale(NamedTuple):
    """How values are written: times `factor`, with so many digits, before the unit."""

    factor: float
    digits: int
    unit: str


def scale_of(metric: str) -> Scale:
    """Accuracies are shares, and stand in percent."""
    return Scale(100.0, 1, " %") if _is_share(metric) else Scale(1.0, 4, "")


def measured(value: float, error: float | None, metric: str) -> str:
    """`89.8 ± 1.2 %` for an accuracy, `0.1234 ± 0.0012` for anything else."""
    factor, digits, unit = scale_of(metric)
    spread = "" if error is None else f" ± {factor * error:.{digits}f}"
    return f"{factor * value:.{digits}f}{spread}{unit}"


def mode_of(metric: str, watched: Iterable[Target]) -> str:
    """As the runs that watch it have it; else accuracies are better high, losses and steps low."""
    known = {target.mode for target in watched if target.metric == metric}
    return known.pop() if len(known) == 1 else "max" if _is_share(metric) else "min"


def best_index(values: Sequence[float], mode: str) -> int | None:
    """Where the best value stands, the first of equals, as the trainer keeps it. NaN is never it."""
    best = min(range(len(values)), key=lambda index: order(mode, values[index]), default=None)
    return None if best is None or math.isnan(values[best]) else best


def _is_share(metric: str) -> bool:
    return re.search(r"(accuracy|pass_at_\d+(_mean)?)$", metric) is not None
