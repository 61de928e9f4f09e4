"""Boards whose cells are colours, maybe hundreds: drawn as one image and a few sets of marks, not cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from hrm_lab.analysis.style import WRONG

Tokens = NDArray[np.uint8]

_GREY = np.array([0.299, 0.587, 0.114])  # how bright red, green and blue are


def paint(
    axis: Axes,
    tokens: Tokens,
    glyphs: Sequence[str],
    fills: Sequence[str],
    cell: float,
    wrong: NDArray[np.bool_] | None = None,
    changed: NDArray[np.bool_] | None = None,
) -> None:
    """Draw a board (R, C).

    Every token has its glyph in its colour, so that it can be told without colours too; only of the darkest colour
    there is none, which needs none and may fill half of the board.

    Args:
        axis: of its own.
        tokens: (R, C).
        glyphs: the character of each token.
        fills: the colour of each, "" for white.
        cell: inches of a cell.
        wrong: (R, C) cells that are framed.
        changed: (R, C) cells that get a dot.
    """
    rows, cols = tokens.shape
    colours = np.ones((256, 3))
    colours[: len(fills)] = [to_rgb(fill or "white") for fill in fills]
    bright = colours @ _GREY
    axis.imshow(colours[tokens], extent=(0, cols, rows, 0), interpolation="nearest", aspect="equal")
    axis.set(xticks=[], yticks=[])
    for line in range(1, cols):
        axis.axvline(line, color="0.75", linewidth=0.25)
    for line in range(1, rows):
        axis.axhline(line, color="0.75", linewidth=0.25)
    points = 72 * cell
    for token in np.unique(tokens).tolist():
        glyph = glyphs[token] if token < len(glyphs) else "?"
        if glyph.isspace() or bright[token] == bright[: len(fills)].min():
            continue
        colour = "black" if bright[token] > 0.5 else "white"
        _mark(axis, tokens == token, _shape(glyph), (0.6 * points) ** 2, facecolor=colour, linewidth=0)
    if wrong is not None:
        _mark(axis, wrong, "s", (0.75 * points) ** 2, facecolor="none", edgecolor=WRONG, linewidth=points / 7)
    if changed is not None:
        _mark(axis, changed, "o", (0.25 * points) ** 2, 0.32, facecolor="black", edgecolor="white", linewidth=0.3)


def _mark(
    axis: Axes, where: NDArray[np.bool_], marker: str | Path, area: float, off: float = 0.0, **look: object
) -> None:
    """The same mark in the middle of each cell, or so far up and to the right of it."""
    down, right = np.nonzero(where)
    if len(down):
        axis.scatter(right + 0.5 + off, down + 0.5 - off, s=area, marker=marker, clip_on=False, **look)  # type: ignore[arg-type]


def _shape(glyph: str) -> Path:
    """A character around the origin: all of a font are drawn in one size, so that a dot stays one."""
    outline = TextPath((0, 0), glyph, size=1)
    (left, bottom), (right, top) = outline.get_extents().get_points()
    return Affine2D().translate(-(left + right) / 2, -(bottom + top) / 2).transform_path(outline)
