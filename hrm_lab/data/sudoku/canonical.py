"""Whether Sudokus are the same up to symmetry: a hash that symmetries keep, and a form that they all have in common.

The symmetries are those of `symmetries`: digits renamed, bands, stacks and the lines inside them shuffled, the board
transposed where a box is square. The hash is quick; the form is made only of boards whose hashes are equal.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from hrm_lab.data.addressed import Ints, Words, mix
from hrm_lab.data.sudoku.solver import Boards

_ROUNDS = 4  # of refining the colours; no pair of different forum puzzles was left with one hash after 3
_CHUNK = 1_024  # boards hashed at once, so that what is worked on stays in the processor's cache
_MOST_ORDERS = 100_000  # orders of the lines that are listed; more there are only above side 12
_MOST_IMAGES = 100_000  # of a board that are looked at: a second; more have only boards nearly empty or nearly full
_BOX, _DIGIT, _COLUMN = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))


def class_hashes(boards: Boards, box_rows: int, box_cols: int) -> Words:
    """(N,) a hash of each board (N, S) of digits, equal for boards that are the same up to symmetry."""
    hashes = np.empty(len(boards), np.uint64)
    for start in range(0, len(boards), _CHUNK):
        part = slice(start, start + _CHUNK)
        hashes[part] = mix(mix(_colours(boards[part], box_rows, box_cols)).sum(axis=(1, 2)))
    return hashes


def _colours(boards: Boards, box_rows: int, box_cols: int) -> Words:
    """(N, n, n) a colour of each cell that depends on the board up to symmetry, and on where the cell is in it.

    It starts as blank or not, and takes in what the cell's row, column and box and the cells of its digit look like.
    """
    side = box_rows * box_cols
    grid = boards.reshape(-1, side, side)
    boxed = (len(grid), box_cols, box_rows, box_rows, box_cols)
    is_digit = [grid == digit for digit in range(1, side + 1)]
    colours = (grid > 0).astype(np.uint64)
    for _ in range(_ROUNDS):
        mixed = mix(colours)
        rows, cols = mixed.sum(axis=2), mixed.sum(axis=1)
        if box_rows != box_cols:
            cols = cols ^ _COLUMN
        boxes = mix(mixed.reshape(boxed).sum(axis=(2, 4)) ^ _BOX)
        digits = np.zeros_like(colours)
        for cells in is_digit:
            np.copyto(digits, (mixed * cells).sum(axis=(1, 2))[:, None, None], where=cells)
        colours = mixed + mix(rows)[:, :, None] + mix(cols)[:, None, :] + mix(digits ^ _DIGIT)
        colours += np.repeat(np.repeat(boxes, box_rows, axis=1), box_cols, axis=2)
    return colours


def canonical_form(board: Boards, box_rows: int, box_cols: int) -> bytes | None:
    """The same S bytes for all boards (S,) that are the same up to symmetry, others for others.

    Of all the board's images whose lines stand in the order of their colours, it is the first one by its digits, which
    are named in the order of their appearance. None where there are too many of those: the board is large, or its
    lines look alike.
    """
    side = box_rows * box_cols
    tables = _line_orders(box_rows, box_cols), _line_orders(box_cols, box_rows)
    if tables[0] is None or tables[1] is None:
        return None
    grid = board.reshape(side, side)
    colours = mix(_colours(board[None], box_rows, box_cols)[0])
    turns = [(grid, colours), (grid.T, colours.T)] if box_rows == box_cols else [(grid, colours)]
    found = []
    for turned, shades in turns:
        row_orders, row_key = _least_orders(tables[0], shades.sum(axis=1))
        col_orders, col_key = _least_orders(tables[1], shades.sum(axis=0))
        found.append((row_key + col_key, turned, row_orders, col_orders))
    least = min(key for key, *_ in found)
    firsts = []
    for key, turned, row_orders, col_orders in found:
        if len(row_orders) * len(col_orders) > _MOST_IMAGES:
            return None
        for order in row_orders if key == least else row_orders[:0]:
            images = turned[order][:, col_orders].swapaxes(0, 1).reshape(len(col_orders), -1)
            firsts.append(_first(_renamed(images, side)))
    return _first(np.stack(firsts)).tobytes()


@lru_cache(maxsize=8)
def _line_orders(size: int, blocks: int) -> Ints | None:
    """Every order of `blocks` blocks of `size` lines that keeps the blocks together; None when there are too many."""
    if math.factorial(blocks) * math.factorial(size) ** blocks > _MOST_ORDERS:
        return None
    inner = list(itertools.permutations(range(size)))
    return np.array(
        [
            [block * size + line for block, lines in zip(outer, choice, strict=True) for line in lines]
            for outer in itertools.permutations(range(blocks))
            for choice in itertools.product(inner, repeat=blocks)
        ]
    )


def _least_orders(orders: Ints, colours: Words) -> tuple[Ints, tuple[int, ...]]:
    """The orders that put the colours of lines into the least sequence, and that sequence."""
    for place in range(orders.shape[1]):
        found = colours[orders[:, place]]
        orders = orders[found == found.min()]
    return orders, tuple(colours[orders[0]].tolist())


def _renamed(images: Boards, side: int) -> Boards:
    """Boards (N, S) with digits named 1, 2, ... in the order of their appearance."""
    number = np.arange(len(images))
    names, used = np.zeros((len(images), side + 1), np.uint8), np.zeros(len(images), np.uint8)
    renamed = np.zeros_like(images)
    for cell in range(images.shape[1]):
        digits = images[:, cell]
        new = (names[number, digits] == 0) & (digits > 0)
        used += new
        names[number[new], digits[new]] = used[new]
        renamed[:, cell] = names[number, digits]
    return renamed


def _first(boards: Boards) -> Boards:
    """The first of boards (N, S) in the order of their digits."""
    for place in range(boards.shape[1]):
        if len(boards) == 1:
            break
        boards = boards[boards[:, place] == boards[:, place].min()]
    first: Boards = boards[0]
    return first


def shared_classes(first: Boards, second: Boards, box_rows: int, box_cols: int) -> Iterator[tuple[int, int]]:
    """Which boards of `first` (N, S) are in `second` (M, S) up to symmetry: pairs of numbers, one for each of them.

    Where `canonical_form` has no answer equal hashes count as the same: that errs on the side of calling boards alike.
    """
    hashes = [class_hashes(boards, box_rows, box_cols) for boards in (first, second)]
    suspects = np.flatnonzero(np.isin(hashes[0], hashes[1]))
    places: dict[int, list[int]] = defaultdict(list)
    for number in np.flatnonzero(np.isin(hashes[1], hashes[0][suspects])).tolist():
        places[int(hashes[1][number])].append(number)

    @lru_cache(maxsize=1 << 16)
    def form_of(other: int) -> bytes | None:
        return canonical_form(second[other], box_rows, box_cols)

    for number in suspects.tolist():
        form = canonical_form(first[number], box_rows, box_cols)
        for other in places[int(hashes[0][number])]:
            if form_of(other) == form:
                yield number, other
                break
