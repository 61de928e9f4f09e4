"""What thinking longer and harder puzzles do to a model, from the arrays that its evaluations left.

What the arrays hold is written down in hrm_lab/training/evaluation.py.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hrm_lab.analysis.boards import Arrays
from hrm_lab.analysis.groups import Group
from hrm_lab.analysis.metrics import Target
from hrm_lab.analysis.runs import Run, best_step
from hrm_lab.analysis.style import TOLD_APART, Picture, add_legend, look, picture, show_metric, title_of

DEPTH = ("exact_accuracy", "accuracy")
RATED = ("puzzles", "solved", "halting_step", "rating_low", "rating_high")


class Judged(NamedTuple):
    """A group by the best run that it has with arrays; `place` is its place among the groups."""

    place: int
    group: Group
    arrays: Arrays


def judged(groups: Sequence[Group], target: Target) -> list[Judged]:
    """The groups that are told apart, as far as their runs left arrays. One file is read for each."""
    found = []
    for place, group in enumerate(groups[:TOLD_APART]):
        arrays = next(filter(None, (_arrays_of_best(run, target) for run in group.runs)), None)
        if arrays is not None:
            found.append(Judged(place, group, arrays))
    return found


def draw_depth(models: Sequence[Judged]) -> Picture | None:
    """Accuracy after 1, 2, ... ACT steps; None without arrays."""
    if not models:
        return None
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key in zip(axes, DEPTH, strict=True):
        for place, _, arrays in models:
            axis.plot(np.arange(1, len(arrays[key]) + 1), arrays[key], markersize=4, **look(place))
        axis.set_title(title_of(key))
        show_metric(axis, key)
        axis.grid(alpha=0.3)
        axis.set_xlabel("ACT steps taken")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, {model.place: model.group.label for model in models})
    caption = "What the model answers after each ACT step, in the best evaluation of the best run of each group."
    return picture(figure, "act_depth", f"Accuracy by ACT step, {len(models)} models", caption)


def draw_ratings(models: Sequence[Judged]) -> Picture | None:
    """Puzzles solved, and steps the model would take, by the puzzles' rating; None where none is rated."""
    rated = [model for model in models if len(model.arrays["rating_low"])]
    if not rated:
        return None
    names = rating_names(rated[0].arrays)
    same = [model for model in rated if rating_names(model.arrays) == names]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, _, arrays in same:
        solved = arrays["solved"][:, -1] / np.maximum(1, arrays["puzzles"])
        left.plot(solved, markersize=4, **look(place))
        right.plot(arrays["halting_step"], markersize=4, **look(place))
    counts = [f"{name}\n({int(count)})" for name, count in zip(names, same[0].arrays["puzzles"], strict=True)]
    for axis in (left, right):
        axis.set_xticks(range(len(names)), counts)
        axis.set_xlabel("rating of the puzzle (number of puzzles)")
        axis.grid(alpha=0.3)
    left.set_title(title_of("exact_accuracy"))
    show_metric(left, "exact_accuracy")
    left.set_ylim(bottom=0)
    right.set_title("ACT steps before the model would halt")
    add_legend(figure, {model.place: model.group.label for model in same})
    caption = (
        "Solved puzzles, and the mean step at which the model by itself would halt, by how hard the puzzles are rated; "
        "the best evaluation of the best run of each group."
    )
    if len(same) < len(rated):
        caption += f" Left out: {len(rated) - len(same)} groups that were judged on other puzzles."
    return picture(figure, "ratings", f"Accuracy and steps by puzzle rating, {len(same)} models", caption)


def rating_names(arrays: Arrays) -> list[str]:
    """`3` or `4-7` for each bucket."""
    pairs = zip(arrays["rating_low"].tolist(), arrays["rating_high"].tolist(), strict=True)
    return [f"{low}" if low == high else f"{low}-{high}" for low, high in pairs]


def _arrays_of_best(run: Run, target: Target) -> Arrays | None:
    step = best_step(run.curves, target)
    place = f"evaluations/step_{step:08d}.npz" if step is not None else ""
    if place not in run.record.artifacts:
        return None
    try:
        with np.load(run.folder.path / place, allow_pickle=False) as file:
            return {key: file[key] for key in (*DEPTH, *RATED)}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # deleted, or damaged
        return None
