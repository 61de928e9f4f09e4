"""Pictures of runs, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen on a cluster

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from hrm_lab.analysis.style import LINES, MARKERS

PANELS = (
    ("eval/exact_accuracy", "test puzzles solved exactly", (0.0, 1.0)),
    ("eval/accuracy", "test cells right", None),
    ("train/lm_loss", "training loss per sequence", None),
    ("train/steps", "ACT steps before halting (training)", None),
)
LABELLED = 12  # runs that can be told apart; the others are a grey background
ROW_CHARACTERS = 130  # of the legend, with each label's line counted as eight


def draw_learning_curves(curves: Mapping[str, pd.DataFrame], path: Path, title: str = "") -> Path:
    """Draw the runs' curves side by side in four panels.

    Args:
        curves: tidy frames (step, metric, value) by label, drawn in this order: where there are more than can be told
            apart, the first of them are named.
        path: of the PNG.
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for axis, (metric, name, limits) in zip(axes.flat, PANELS, strict=True):
        for index, (label, frame) in enumerate(curves.items()):
            _draw(axis, frame[frame["metric"] == metric], index, label, is_marked=metric.startswith("eval/"))
        axis.set_title(name)
        axis.grid(alpha=0.3)
        if limits:
            axis.set_ylim(limits[0] - 0.02, limits[1] + 0.02)
            axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    for axis in axes[1]:
        axis.set_xlabel("optimizer step")
    if curves:
        longest = max(len(label) for label in list(curves)[:LABELLED])
        columns = min(4, len(curves), max(1, ROW_CHARACTERS // (longest + 8)))
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    named = f" (named: the first {LABELLED} of {len(curves)})" if len(curves) > LABELLED else ""
    figure.suptitle(title + named)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _draw(axis: Axes, chosen: pd.DataFrame, index: int, label: str, is_marked: bool) -> None:
    """Training values come every few steps and jump: a thin line; evaluations are few: marked points."""
    smooth = chosen["value"].rolling(max(1, len(chosen) // 40), min_periods=1).mean()
    if index >= LABELLED:
        axis.plot(chosen["step"], smooth, color="0.8", linewidth=0.5, zorder=1)
        return
    marker = MARKERS[index % len(MARKERS)] if is_marked else None
    axis.plot(chosen["step"], smooth, LINES[index % len(LINES)], marker=marker, markersize=4, label=label)
