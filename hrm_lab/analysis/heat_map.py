"""Which settings matter: means over the two axes of a grid that move the result most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hrm_lab.analysis.frames import Results, setting_columns
from hrm_lab.analysis.groups import as_given, number
from hrm_lab.analysis.keys import short_names
from hrm_lab.analysis.metrics import Target, measured
from hrm_lab.analysis.style import COLOURS, Picture, picture, plain, show_metric, title_of

MOST_VALUES = 12  # of an axis of the heat map; more of them are drawn as dots
CROWDED = 24  # tick labels


class Axis(NamedTuple):
    """One swept setting, its values in order, and how far apart the means of its values lie."""

    key: str
    name: str
    values: list[Any]
    spread: float


class Mean(NamedTuple):
    """Of some runs' best evaluations."""

    value: float
    error: float | None  # standard error; None for one run
    n: int


def draw_axes(results: Results) -> Picture | None:
    """A heat map of the two axes with the largest spread; dots for one axis; None where nothing was swept and measured.

    Means are over seeds and over all other axes, of runs that have finished.
    """
    frame, target = results.frame, results.target
    runs = frame[frame["whole"] & frame[f"best_{target.short}"].notna()]
    axes = axes_by_spread(runs, target)
    coarse = [axis for axis in axes if len(axis.values) <= MOST_VALUES]
    if len(coarse) > 1:
        return _heat_map(runs, target, coarse[0], coarse[1], len(axes) - 2)
    return _dots(runs, target, axes[0], len(axes) - 1) if axes else None


def axes_by_spread(runs: pd.DataFrame, target: Target) -> list[Axis]:
    """The swept settings, those first whose values' means lie farthest apart."""
    keys = setting_columns(runs)
    names = short_names(keys)
    axes = []
    for key in keys:
        means = runs.groupby(runs[key].map(as_given))[f"best_{target.short}"].mean()
        if len(means) > 1:
            axes.append(Axis(key, names[key], _in_order(runs[key]), float(means.max() - means.min())))
    return sorted(axes, key=lambda axis: -axis.spread)


def _in_order(column: pd.Series[Any]) -> list[Any]:
    """Numbers by size, everything else as the grid has it."""
    values = list({as_given(value): value for value in column}.values())
    return sorted(values) if all(map(_is_number, values)) else values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer) and not math.isnan(value)


def _mean(runs: pd.DataFrame, target: Target, chosen: Sequence[tuple[Axis, Any]]) -> Mean | None:
    for axis, value in chosen:
        runs = runs[runs[axis.key].map(as_given) == as_given(value)]
    best = runs[f"best_{target.short}"]
    if best.empty:
        return None
    return Mean(float(best.mean()), number(best.sem(ddof=1)), len(best))


def _heat_map(runs: pd.DataFrame, target: Target, down: Axis, across: Axis, others: int) -> Picture:
    if len(down.values) > len(across.values):
        down, across = across, down
    cells = [[_mean(runs, target, [(down, row), (across, column)]) for column in across.values] for row in down.values]
    shape = len(down.values), len(across.values)
    size = max(6.5, 1.5 + 1.15 * shape[1]), max(3.2, 1.4 + 0.75 * shape[0])
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    shades = np.array([[np.nan if cell is None else cell.value for cell in row] for row in cells])
    image = axis.imshow(shades, cmap="cividis", aspect="auto")
    bar = figure.colorbar(image, label=title_of(target.metric))
    show_metric(bar.ax, target.metric)
    low, high = float(np.nanmin(shades)), float(np.nanmax(shades))
    for row, column in np.ndindex(*shape):
        cell = cells[row][column]
        is_dark = cell is not None and (cell.value - low) < 0.55 * (high - low)
        words = "-" if cell is None else f"{measured(cell.value, cell.error, target.metric)}\nn={cell.n}"
        axis.text(column, row, words, ha="center", va="center", fontsize=8.5, color="white" if is_dark else "black")
    axis.set_xticks(range(shape[1]), [plain(as_given(value)) for value in across.values])
    axis.set_yticks(range(shape[0]), [plain(as_given(value)) for value in down.values])
    axis.set_xlabel(plain(across.name))
    axis.set_ylabel(plain(down.name))
    figure.suptitle("mean of the best evaluations")
    rest = (
        f" Of {others + 2} swept settings these two have the values whose means lie farthest apart." if others else ""
    )
    caption = (
        f"{title_of(target.metric).capitalize()}: mean of the runs' best evaluations ± standard error over "
        f"{'seeds and the other settings' if others else 'seeds'}, n = number of finished runs.{rest}"
    )
    return picture(figure, "heat_map", f"Heat map of {down.name} against {across.name}", caption)


def _dots(runs: pd.DataFrame, target: Target, swept: Axis, others: int) -> Picture:
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    places = _places(axis, swept)
    axis.plot(
        [places[as_given(value)] for value in runs[swept.key]],
        runs[f"best_{target.short}"],
        linestyle="",
        marker="o",
        markersize=4,
        color="0.6",
        label="one run",
    )
    means = [(places[as_given(value)], _mean(runs, target, [(swept, value)])) for value in swept.values]
    known = [(place, mean) for place, mean in means if mean is not None]
    axis.errorbar(
        [place for place, _ in known],
        [mean.value for _, mean in known],
        yerr=[mean.error or 0.0 for _, mean in known],
        fmt="D",
        color=COLOURS[0],
        capsize=5,
        label="mean ± standard error",
    )
    axis.set_xlabel(plain(swept.name))
    axis.set_ylabel(title_of(target.metric))
    show_metric(axis, target.metric)
    axis.grid(alpha=0.3)
    axis.legend(loc="best", framealpha=0.9)
    rest = f" Of {others + 1} swept settings it has the values whose means lie farthest apart." if others else ""
    caption = f"Best evaluation of every finished run by {swept.name}, and the mean of each value.{rest}"
    return picture(figure, "heat_map", f"Dot plot of the best evaluation by {swept.name}", caption)


def _places(axis: Axes, swept: Axis) -> dict[str, float]:
    """Where each value stands: numbers to scale where there are many, else side by side."""
    if len(swept.values) > MOST_VALUES and all(map(_is_number, swept.values)):
        if min(swept.values) > 0 and max(swept.values) > 100 * min(swept.values):
            axis.set_xscale("log")
        return {as_given(value): float(value) for value in swept.values}
    every = max(1, len(swept.values) // CROWDED)
    labels = [plain(as_given(value)) for value in swept.values]
    axis.set_xticks(range(0, len(labels), every), labels[::every], rotation=0 if len("".join(labels)) < 60 else 45)
    axis.margins(x=0.15)
    return {as_given(value): float(index) for index, value in enumerate(swept.values)}
