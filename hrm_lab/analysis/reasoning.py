"""One run's evaluations: what each ACT step gains, and how hard puzzles fare. (depth.py sets runs side by side.)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hrm_lab.analysis.boards import Arrays
from hrm_lab.analysis.depth import DEPTH, rating_names
from hrm_lab.analysis.style import COLOURS, DPI, aged, show_metric, title_of


def draw_act_depth(evaluations: Mapping[str, Arrays], path: Path, trained: int | None = None) -> Path:
    """Draw accuracy after 1, 2, ... ACT steps, a curve for each evaluation.

    Args:
        evaluations: at most five, by name, in order; the last one stands out.
        trained: ACT steps that the model was trained with; None = as many as there are.
    """
    figure = Figure((11, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key in zip(axes, DEPTH, strict=True):
        for age, (name, arrays) in zip(range(len(evaluations) - 1, -1, -1), evaluations.items(), strict=True):
            depths = np.arange(1, len(arrays[key]) + 1)
            axis.plot(depths, arrays[key], label=name, **aged(age))
        axis.axvline(trained or len(arrays[key]), color="black", linestyle=":", linewidth=1, label="trained depth")
        axis.set_title(title_of(key))
        axis.set_xlabel("ACT steps taken")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _percent(axis, key)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle("Accuracy by ACT step")
    figure.savefig(path)
    return path


def draw_difficulty(arrays: Arrays, path: Path, title: str = "", trained: int | None = None) -> Path:
    """Draw which puzzles are solved, and how long the model itself would think about them, by their rating."""
    figure = Figure((11, 4.4), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = rating_names(dict(arrays)) or ["not rated"]
    counts, places = arrays["puzzles"], np.arange(len(names))
    first, last = (arrays["solved"][:, step] / np.maximum(1, counts) for step in (0, -1))
    steps = arrays["solved"].shape[1]
    bars = left.bar(places, last, 0.7, color="lightsteelblue", edgecolor="black", label=f"after {steps} ACT steps")
    left.bar_label(bars, [f"{share:.0%}" for share in last], padding=2)
    left.plot(places, first, "ko", linestyle="", markersize=6, label="after the first")
    left.set_title(title_of("exact_accuracy"))
    _percent(left, "exact_accuracy", top=1.1)
    right.plot(places, arrays["halting_step"], "o-", markersize=7, color=COLOURS[0], label="mean of the puzzles")
    right.set_title("ACT steps before the model itself would halt")
    right.set_ylim(0, steps * 1.08)
    right.grid(alpha=0.3)
    right.axhline(trained or steps, color="black", linestyle=":", linewidth=1, label="trained depth")
    for axis in (left, right):
        axis.set_xticks(places, [f"{name}\n({int(count)})" for name, count in zip(names, counts, strict=True)])
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_xlabel("rating of the puzzle, easy to hard (number of puzzles)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    figure.suptitle(", ".join(filter(None, ("Puzzles by difficulty", title))))
    figure.savefig(path)
    return path


def _percent(axis: Axes, key: str, top: float = 1.03) -> None:
    show_metric(axis, key)
    axis.set_ylim(-0.03, top)
    axis.grid(alpha=0.3)
