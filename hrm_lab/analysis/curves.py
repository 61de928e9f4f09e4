"""Learning curves of groups: the mean over seeds with a band of its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hrm_lab.analysis.groups import Group
from hrm_lab.analysis.metrics import EVAL, Target
from hrm_lab.analysis.runs import Run, Series, read_run, target_of
from hrm_lab.analysis.style import (
    GREY,
    TOLD_APART,
    Picture,
    add_legend,
    look,
    picture,
    show_metric,
    title_of,
    told_apart,
)
from hrm_lab.run_folder import PENDING, RUNNING, RunFolder

PANELS = {
    "eval/accuracy": "test cells right",
    "train/lm_loss": "training loss per sequence",
    "train/steps": "ACT steps before halting (training)",
}
POINTS = 40  # a training curve is smoothed to about so many
MARKED = 15  # points of a line


def draw_curves(groups: Sequence[Group], target: Target) -> Picture | None:
    """Up to four panels: what is compared, cells right, training loss, ACT steps. None where there is no curve.

    Args:
        groups: best first.
    """
    logged = {key for group in groups for run in group.runs for key in run.curves}
    wanted = {target.metric: title_of(target.metric), **PANELS}
    panels = {metric: name for metric, name in wanted.items() if metric in logged}
    if not panels:
        return None
    rows, columns = (len(panels) + 1) // 2, min(2, len(panels))
    figure = Figure(figsize=(5.5 * columns, 3.4 * rows + 0.8), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (metric, name) in zip(axes, panels.items(), strict=False):
        for index, group in enumerate(groups):
            _draw_group(axis, group, metric, index)
        axis.set_title(name)
        axis.grid(alpha=0.3)
        show_metric(axis, metric)
    for axis in axes[len(panels) - columns : len(panels)]:
        axis.set_xlabel("optimizer step")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    add_legend(figure, {place: group.label for place, group in enumerate(groups[:TOLD_APART])})
    caption = (
        "Mean over the seeds that were trained to the end, with a band of ± one standard error; a run that has not got "
        "as far is a line of its own, with a cross where it ended. Training values are smoothed."
    )
    alt = f"Learning curves of {len(groups)} groups of runs: {', '.join(panels.values())}"
    return picture(figure, "learning_curves", alt, caption + told_apart(len(groups)))


def draw_run(folder: RunFolder) -> Picture | None:
    """The same of a single run."""
    point = folder.point()
    run = read_run(folder, [(point.sweep or "", point.label)])
    return draw_curves([Group(point.label, (run,), 1, None, None)], target_of([run]))


def common_steps(series: Sequence[Series]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps that all of them have, and their values there, (series, steps)."""
    steps = sorted(set.intersection(*(set(one.steps) for one in series)))
    tables = [dict(zip(one.steps, one.values, strict=True)) for one in series]
    return np.array(steps, dtype=np.int64), np.array([[table[step] for step in steps] for table in tables])


def _draw_group(axis: Axes, group: Group, metric: str, index: int) -> None:
    whole, others = _by_end([run for run in group.runs if metric in run.curves], metric)
    is_named, is_judged = index < TOLD_APART, metric.startswith(EVAL)
    style = look(index) if is_named else GREY
    style = style | ({"markersize": 4} if is_judged else {"marker": ""})
    if whole:
        steps, values = common_steps([run.curves[metric] for run in whole])
        values = values if is_judged else _smooth(values)
        mean = values.mean(axis=0)
        every = max(1, len(steps) // MARKED)
        axis.plot(steps, mean, markevery=(index % every, every), **style)
        if len(whole) > 1 and is_named:
            error = values.std(axis=0, ddof=1) / np.sqrt(len(whole))
            axis.fill_between(steps, mean - error, mean + error, color=style["color"], alpha=0.2, linewidth=0)
    thin = {"linewidth": 0.7, "marker": ""} if whole else {}
    for run in others:
        has_ended = run.state.status not in (RUNNING, PENDING)
        _draw_alone(axis, run, metric, style | thin, is_marked=is_named and has_ended)


def _by_end(runs: Sequence[Run], metric: str) -> tuple[list[Run], list[Run]]:
    """Those trained to the end, which make one line, and all others: a goal, for one, is not reached by all at once."""
    end = max((run.curves[metric].steps[-1] for run in runs if run.is_whole), default=0)
    whole = [run for run in runs if run.is_whole and run.curves[metric].steps[-1] == end]
    return whole, [run for run in runs if run not in whole]


def _draw_alone(axis: Axes, run: Run, metric: str, style: dict[str, Any], is_marked: bool) -> None:
    steps, values = run.curves[metric]
    smooth = np.array([values]) if metric.startswith(EVAL) else _smooth(np.array([values]))
    every = max(1, len(steps) // MARKED)
    axis.plot(steps, smooth[0], markevery=every, **style)
    if is_marked:
        axis.plot(steps[-1:], smooth[0][-1:], marker="x", markersize=7, markeredgewidth=1.8, color=style["color"])


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the values up to now, as many as make a curve quiet; (curves, steps)."""
    width = max(1, values.shape[1] // POINTS)
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, values.shape[1] + 1)
    starts = np.maximum(0, ends - width)
    smooth: NDArray[np.float64] = (sums[:, ends] - sums[:, starts]) / (ends - starts)
    return smooth
