"""What accuracy costs: every group by the time of its runs, and the front that nothing else beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hrm_lab.analysis.groups import Group
from hrm_lab.analysis.metrics import Target
from hrm_lab.analysis.style import COLOURS, Picture, picture, plain, show_metric, title_of

LETTERED = 12  # points of the front that are labelled, evenly spread


class Priced(NamedTuple):
    """A group and the mean cost of one of its finished runs, in hours."""

    group: Group
    hours: float
    value: float
    error: float


def has_gpu(groups: Sequence[Group]) -> bool:
    """Whether any run had a GPU, so that cost is counted in GPU-hours."""
    return any(run.gpu_hours for group in groups for run in group.runs)


def front(priced: Sequence[Priced], mode: str) -> list[Priced]:
    """Those that nothing beats in both cost and value, cheapest first."""
    sign = 1 if mode == "max" else -1
    best, kept = -math.inf, []
    for one in sorted(priced, key=lambda one: (one.hours, -sign * one.value)):
        if sign * one.value > best:
            best = sign * one.value
            kept.append(one)
    return kept


def draw_pareto(groups: Sequence[Group], target: Target) -> Picture | None:
    """Cost of one run against its best evaluation; None where nothing has finished."""
    on_gpu = has_gpu(groups)
    priced = _priced(groups, on_gpu)
    if not priced:
        return None
    scale, unit = _unit(max(one.hours for one in priced))
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(
        [one.hours * scale for one in priced],
        [one.value for one in priced],
        yerr=[one.error for one in priced],
        fmt="o",
        color="0.55",
        ecolor="0.6",
        markersize=5,
        capsize=3,
        zorder=1,
    )
    best = front(priced, target.mode)
    axis.plot(
        [one.hours * scale for one in best],
        [one.value for one in best],
        "-",
        drawstyle="steps-post",
        color=COLOURS[1],
        linewidth=1.2,
        zorder=2,
    )
    lettered = [best[place] for place in np.unique(np.linspace(0, len(best) - 1, LETTERED).round().astype(int))]
    for index, one in enumerate(lettered):
        letter, place = chr(ord("A") + index), (one.hours * scale, one.value)
        label = f"{letter}  {plain(one.group.label)}"
        axis.plot(*place, "o", color=COLOURS[1], markersize=14, markeredgecolor="white", zorder=3, label=label)
        axis.annotate(letter, place, ha="center", va="center", color="white", weight="bold", fontsize=9, zorder=4)
    figure.legend(
        loc="outside right upper", handlelength=0, handletextpad=0, markerscale=0, title="Pareto front, cheapest first"
    )
    what = "GPU time" if on_gpu else "process time"
    axis.set_xlabel(f"{what} of one run, all attempts ({unit})")
    axis.set_ylabel(title_of(target.metric))
    show_metric(axis, target.metric)
    axis.set_xlim(left=0)
    axis.margins(y=0.15)
    axis.grid(alpha=0.3)
    caption = (
        f"Mean {what} of one finished run against the mean of the best evaluations ± standard error. On the line: what "
        "no other group beats in both. Time on the clock depends on the machine and on what else ran there."
    )
    return picture(figure, "pareto", f"Cost against {title_of(target.metric)}, {len(priced)} groups", caption)


def _priced(groups: Sequence[Group], on_gpu: bool) -> list[Priced]:
    priced = []
    for group in groups:
        if group.mean is not None:
            hours = [run.gpu_hours if on_gpu else run.hours for run in group.finished]
            priced.append(Priced(group, sum(hours) / len(hours), group.mean, group.error or 0.0))
    return priced


def _unit(hours: float) -> tuple[float, str]:
    if hours >= 2:
        return 1.0, "h"
    return (60.0, "min") if hours > 1 / 30 else (3600.0, "s")
