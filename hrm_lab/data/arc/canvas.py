"""The canvas that an ARC grid is written on as a token sequence (HRM_SPEC section 6, ARC).

Tokens: 0 padding, 1 end of the grid (drawn along its right and its bottom border), colour + 2 for colours 0..9.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PAD = 0
EOS = 1
FIRST_COLOUR = 2
NUM_COLOURS = 10


def encode_grid(
    grid: npt.ArrayLike, rows: int = 30, cols: int = 30, top: int = 0, left: int = 0
) -> npt.NDArray[np.uint8]:
    """Write a grid of colours 0..9 on a canvas of rows x cols, its corner at (top, left).

    Returns:
        (rows * cols,) uint8 tokens, row by row.

    Raises:
        ValueError: when the grid is no rectangle of colours or does not fit.
    """
    colours = np.asarray(grid)
    if colours.ndim != 2 or colours.size == 0 or colours.min() < 0 or colours.max() >= NUM_COLOURS:
        raise ValueError(f"grid of shape {colours.shape}: not a rectangle of colours 0..{NUM_COLOURS - 1}")
    bottom, right = top + colours.shape[0], left + colours.shape[1]
    if top < 0 or left < 0 or bottom > rows or right > cols:
        raise ValueError(f"grid of shape {colours.shape} at ({top}, {left}) leaves the {rows}x{cols} canvas")
    canvas = np.full((rows, cols), PAD, np.uint8)
    canvas[top:bottom, left:right] = colours + FIRST_COLOUR
    if bottom < rows:
        canvas[bottom, left:right] = EOS
    if right < cols:
        canvas[top:bottom, right] = EOS
    return canvas.reshape(-1)


def decode_canvas(
    seq: npt.ArrayLike, rows: int = 30, cols: int = 30, top: int = 0, left: int = 0
) -> npt.NDArray[np.uint8]:
    """Read the largest rectangle with its corner at (top, left) that holds colours only.

    A model may draw its border badly, hence the largest rectangle; of two equally large the flatter one wins.

    Returns:
        (h, w) uint8 colours 0..9; (0, 0) when there is no colour in the corner.
    """
    canvas = np.asarray(seq).reshape(rows, cols)[top:, left:]
    is_colour = (canvas >= FIRST_COLOUR) & (canvas < FIRST_COLOUR + NUM_COLOURS)
    # A row's run of colours from the left edge; no rectangle is wider than the shortest of its rows.
    runs = np.where(is_colour.all(axis=1), canvas.shape[1], is_colour.argmin(axis=1))
    widths = np.minimum.accumulate(runs)
    areas = widths * np.arange(1, len(widths) + 1)
    best = int(areas.argmax())
    if areas[best] == 0:
        return np.zeros((0, 0), np.uint8)
    return (canvas[: best + 1, : widths[best]] - FIRST_COLOUR).astype(np.uint8)
