"""The board after each reasoning step: what the model says of a puzzle, and from when on it is right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from hrm_lab.analysis.style import DPI, GIVEN, RIGHT, WRONG

Arrays = Mapping[str, NDArray[Any]]  # of one evaluation; training/evaluation.py says which
Tokens = NDArray[np.uint8]

MOST_COLUMNS = 8  # boards beside each other
CELL_IN, LEAST_IN = 0.2, 1.35  # inches of a cell, and of a board at least: its caption needs room


def draw_boards(arrays: Arrays, path: Path, title: str = "") -> Path:
    """Draw the shown puzzles, a row for each and a column for each ACT step, or for some of them where they are many.

    Given cells are bold on grey, right ones plain, wrong ones framed; a dot marks a cell that was another in the column
    before. No colour is needed to tell them apart.
    """
    inputs, labels, predictions = arrays["inputs"], arrays["labels"], arrays["predictions"]
    steps = shown_steps(predictions.shape[1])
    board = Board(arrays)
    size = max(LEAST_IN, CELL_IN * max(board.rows, board.cols))
    figure = Figure((len(steps) * (size + 0.12), len(inputs) * (size + 0.35) + 0.9), dpi=DPI, layout="constrained")
    figure.suptitle(", ".join(filter(None, ("Test puzzles after each ACT step", title))))
    axes = figure.subplots(len(inputs), len(steps), squeeze=False)
    for puzzle, row in enumerate(axes):
        before = None
        for axis, step in zip(row, steps, strict=True):
            said, sure = predictions[puzzle, step - 1], float(arrays["q_halt"][puzzle, step - 1])
            board.draw(axis, said, labels[puzzle], inputs[puzzle], before)
            axis.set_xlabel(_caption(said, labels[puzzle], inputs[puzzle], sure), fontsize=9)
            if puzzle == 0:
                axis.set_title(f"ACT step {step}", fontsize=10)
            before = said
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path)
    return path


def shown_steps(count: int) -> list[int]:
    """ACT steps with a column of their own: all, or 1, 2, 3, 4, 6, 8, 12, ... and always the last."""
    if count <= MOST_COLUMNS:
        return list(range(1, count + 1))
    steps = sorted({n << k for k in range(count.bit_length()) for n in (1, 3) if n << k < count} | {count})
    return steps if len(steps) <= MOST_COLUMNS else [1, *steps[1 - MOST_COLUMNS :]]


class Board:
    """Draws boards of one size."""

    def __init__(self, arrays: Arrays) -> None:
        self.rows, self.cols = arrays["grid_shape"].tolist()
        self.box_rows, self.box_cols = arrays.get("box_shape", arrays["grid_shape"]).tolist()
        self.glyphs = arrays["glyphs"].tolist() if "glyphs" in arrays else [str(token) for token in range(256)]
        self.fills = arrays["fills"].tolist() if "fills" in arrays else []
        self.font = min(13.0, 0.6 * 72 * max(CELL_IN, LEAST_IN / max(self.rows, self.cols)))

    def draw(self, axis: Axes, said: Tokens, labels: Tokens, inputs: Tokens, before: Tokens | None) -> None:
        """One board (S,), on axes of its own."""
        axis.set(xlim=(-0.06, self.cols + 0.06), ylim=(self.rows + 0.06, -0.06), aspect="equal", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        self._draw_lines(axis)
        for cell, token in enumerate(said.tolist()):
            top, left = divmod(cell, self.cols)
            is_given, is_right = inputs[cell] == labels[cell], token == labels[cell]
            fill = self.fills[token] if token < len(self.fills) else ""
            if fill or is_given:
                axis.add_patch(Rectangle((left, top), 1, 1, facecolor=fill or GIVEN, zorder=0))
            if not is_right:
                frame = Rectangle(
                    (left + 0.12, top + 0.12), 0.76, 0.76, fill=False, edgecolor=WRONG, linewidth=self.font / 8
                )
                axis.add_patch(frame)
            colour = WRONG if not is_right else "black" if is_given else RIGHT
            weight = "bold" if is_given else "normal"
            place = (left + 0.5, top + 0.53)
            axis.text(
                *place, self._symbol(token), ha="center", va="center", fontsize=self.font, color=colour, weight=weight
            )
            if before is not None and before[cell] != token:
                axis.plot(left + 0.86, top + 0.14, "o", color="black", markersize=self.font / 4)

    def _draw_lines(self, axis: Axes) -> None:
        for line in range(self.rows + 1):
            axis.plot((0, self.cols), (line, line), color="black", linewidth=0.5 if line % self.box_rows else 2)
        for line in range(self.cols + 1):
            axis.plot((line, line), (0, self.rows), color="black", linewidth=0.5 if line % self.box_cols else 2)

    def _symbol(self, token: int) -> str:
        return self.glyphs[token] if token < len(self.glyphs) else "?"


def _caption(said: Tokens, labels: Tokens, inputs: Tokens, sure: float) -> str:
    """How much is right of what was not given, and what the model thinks of it."""
    asked = inputs != labels
    right = int((said == labels)[asked].sum())
    verdict = "solved" if bool((said == labels).all()) else f"{right} of {int(asked.sum())}"
    return f"{verdict}, sure {sure:.0%}"


def _legend() -> list[Patch | Line2D]:
    return [
        Line2D([], [], linestyle="", marker="$5$", color="black", markersize=8, label="given: bold on grey"),
        Line2D([], [], linestyle="", marker="$5$", color=RIGHT, markersize=7, label="right: plain"),
        Patch(fill=False, edgecolor=WRONG, linewidth=1.5, label="wrong: framed"),
        Line2D([], [], linestyle="", marker="o", color="black", markersize=4, label="changed since the column before"),
    ]
