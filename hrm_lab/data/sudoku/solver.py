"""A solver for Sudoku of any box shape, on bit masks: settles what is forced, then branches on the tightest cell.

A box has R = `box_rows` rows and C = `box_cols` columns; a grid has side n = R * C and S = n * n cells. Boards are
arrays of digits, 0 = blank.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Boards = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Geometry:
    """Which cells see each other, as bit masks over the cells (bit c is cell c, row by row)."""

    side: int
    all_cells: int
    peers: tuple[int, ...]  # cell -> the other cells of its row, column and box
    units: tuple[int, ...]  # rows, columns, boxes


@lru_cache(maxsize=32)
def geometry_of(box_rows: int, box_cols: int) -> Geometry:
    side = box_rows * box_cols
    units = [0] * (3 * side)
    members = [units_of(cell, box_rows, box_cols) for cell in range(side * side)]
    for cell, places in enumerate(members):
        for unit in places:
            units[unit] |= 1 << cell
    peers = tuple((units[row] | units[col] | units[box]) & ~(1 << cell) for cell, (row, col, box) in enumerate(members))
    return Geometry(side, (1 << side * side) - 1, peers, tuple(units))


def units_of(cell: int, box_rows: int, box_cols: int) -> tuple[int, int, int]:
    """Numbers of a cell's row, column and box among the 3 n units."""
    side = box_rows * box_cols
    row, col = divmod(cell, side)
    return row, side + col, 2 * side + row // box_rows * box_rows + col // box_cols


class SearchLimit(Exception):
    """A search took more nodes than it was given."""


def _propagate(geometry: Geometry, planes: list[int], open_cells: int) -> int | None:
    """Settle all that is forced: the open cells that are left, or None at a contradiction."""
    while True:
        left = _settle(geometry, planes, open_cells)
        if left is None or left == open_cells:
            return left
        open_cells = left


def solutions(
    geometry: Geometry,
    planes: list[int],
    open_cells: int,
    max_nodes: int | None = None,
    priority: Sequence[Sequence[int]] | None = None,
    propagate: Callable[[Geometry, list[int], int], int | None] = _propagate,
) -> Iterator[list[int]]:
    """Yield every completion, depth first.

    Args:
        geometry: of the board.
        planes: for each digit the mask of the cells that hold it or still may; changed in place.
        open_cells: cells not settled yet.
        max_nodes: raise `SearchLimit` beyond so many nodes.
        priority: [cell][digit] order in which a branching cell's digits are tried; None = ascending.
        propagate: settles all that is forced at a node.
    """
    stack = [(planes, open_cells)]
    nodes = 0
    while stack:
        nodes += 1
        if max_nodes is not None and nodes > max_nodes:
            raise SearchLimit
        planes, open_cells = stack.pop()
        left = propagate(geometry, planes, open_cells)
        if left is None:
            continue
        if left == 0:
            yield planes
            continue
        bit = _most_constrained(geometry, planes, left)
        digits = [digit for digit, plane in enumerate(planes) if plane & bit]
        if priority is not None:
            digits.sort(key=priority[bit.bit_length() - 1].__getitem__)
        for digit in reversed(digits):
            child = [plane & ~bit for plane in planes]
            child[digit] |= bit  # now a naked single
            stack.append((child, left))


def _settle(geometry: Geometry, planes: list[int], open_cells: int) -> int | None:
    """One round: cells with one digit left, else a digit with one place left; the open cells, None = contradiction.

    Works on all cells at once: `ones` and `twos` are the cells with at least one and at least two candidates.
    """
    ones = twos = 0
    for plane in planes:
        twos |= ones & plane
        ones |= plane
    if ones != geometry.all_cells:
        return None
    singles = open_cells & ~twos
    if not singles:
        hidden = _settle_hidden(geometry, planes, open_cells) if open_cells else 0
        return None if hidden is None else open_cells & ~hidden
    peers = geometry.peers
    for digit, plane in enumerate(planes):
        settled = plane & singles
        while settled:
            bit = settled & -settled
            plane &= ~peers[bit.bit_length() - 1]
            settled ^= bit
        planes[digit] = plane
    return open_cells & ~singles


def _settle_hidden(geometry: Geometry, planes: list[int], open_cells: int) -> int | None:
    """Settle the first digit that has one place left in a unit: its cell's bit, 0 for none, None = contradiction."""
    for digit, plane in enumerate(planes):
        if not plane & open_cells:
            continue
        for unit in geometry.units:
            places = plane & unit
            if places & (places - 1):
                continue
            if not places:
                return None
            if places & open_cells:
                for other, mask in enumerate(planes):
                    planes[other] = mask & ~places
                planes[digit] = (plane & ~geometry.peers[places.bit_length() - 1]) | places
                return places
    return 0


def _most_constrained(geometry: Geometry, planes: list[int], open_cells: int) -> int:
    """The bit of the first open cell among those with the fewest candidates."""
    at_least = [geometry.all_cells] + [0] * geometry.side  # [k]: cells with at least k candidates
    for number, plane in enumerate(planes):
        for k in range(number, -1, -1):
            at_least[k + 1] |= at_least[k] & plane
    for k in range(2, geometry.side):
        fewest = open_cells & ~at_least[k + 1]
        if fewest:
            return fewest & -fewest
    return open_cells & -open_cells


def _candidates(geometry: Geometry, digits: Sequence[int]) -> tuple[list[int], int] | None:
    """Planes and open cells of a board of S digits; None when two givens clash."""
    given, blocked = [0] * geometry.side, [0] * geometry.side
    open_cells = geometry.all_cells
    for cell, digit in enumerate(digits):
        if digit:
            given[digit - 1] |= 1 << cell
            blocked[digit - 1] |= geometry.peers[cell]
            open_cells ^= 1 << cell
    if any(mine & theirs for mine, theirs in zip(given, blocked, strict=True)):
        return None
    return [mine | (open_cells & ~theirs) for mine, theirs in zip(given, blocked, strict=True)], open_cells


def _search(
    puzzle: npt.ArrayLike,
    box_rows: int,
    box_cols: int,
    propagate: Callable[[Geometry, list[int], int], int | None] = _propagate,
) -> Iterator[list[int]]:
    geometry = geometry_of(box_rows, box_cols)
    digits = np.asarray(puzzle).reshape(-1).tolist()
    if len(digits) != geometry.side**2 or not all(0 <= digit <= geometry.side for digit in digits):
        raise ValueError(f"not {geometry.side**2} digits 0..{geometry.side}")
    start = _candidates(geometry, digits)
    return iter(()) if start is None else solutions(geometry, *start, propagate=propagate)


def count_solutions(puzzle: npt.ArrayLike, box_rows: int, box_cols: int, limit: int = 2) -> int:
    """Number of completions of a board, (n, n) or (S,) digits with 0 = blank, counted up to `limit`."""
    return sum(1 for _ in itertools.islice(_search(puzzle, box_rows, box_cols), limit))


def solve(puzzle: npt.ArrayLike, box_rows: int, box_cols: int) -> Boards | None:
    """The first completion (n, n) of a board, or None."""
    for planes in _search(puzzle, box_rows, box_cols):
        side = box_rows * box_cols
        return np.array(digits_of(planes, side), np.uint8).reshape(side, side)
    return None


def rounds_to_solve(puzzle: npt.ArrayLike, box_rows: int, box_cols: int) -> int:
    """How hard a board is: rounds of deduction until its first completion, those after wrong guesses included.

    Unlike the guesses alone, it tells puzzles apart that need none.
    """
    rounds = 0

    def counting(geometry: Geometry, planes: list[int], open_cells: int) -> int | None:
        nonlocal rounds
        while True:
            rounds += 1
            left = _settle(geometry, planes, open_cells)
            if left is None or left == open_cells:
                return left
            open_cells = left

    next(_search(puzzle, box_rows, box_cols, counting), None)
    return rounds


def digits_of(planes: Sequence[int], side: int) -> list[int]:
    """Planes, in which a cell is in one plane or in none, as S digits."""
    digits = [0] * (side * side)
    for digit, plane in enumerate(planes, 1):
        while plane:
            bit = plane & -plane
            digits[bit.bit_length() - 1] = digit
            plane ^= bit
    return digits
