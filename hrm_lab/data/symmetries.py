"""Symmetries of the tasks, and the addressed randomness that picks one of them.

Owns the counter-based hash (every draw is a function of its address, so there is no generator state to carry, to
share between processes or to save), Sudoku's symmetries for any box shape, and the eight dihedral ones of a grid.

Words: a box has R = `box_rows` rows and C = `box_cols` columns; a grid has side n = R * C, C bands of R rows and
R stacks of C columns. B is a batch, S = n * n the length of a token sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Whole = TypeVar("Whole", bound=np.integer)

_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: the step of SplitMix64's counter
_WORD = 0xFFFFFFFFFFFFFFFF
_INDEX_BITS = 10  # room for the position inside a sort key: permutations of up to 1,024 things
_INDEX_MASK = (1 << _INDEX_BITS) - 1

# Addresses start with a purpose, so that two uses of one seed share no word.
_SUDOKU_PURPOSE = 0x5D0C


def random_words(*address: int | npt.ArrayLike, count: int) -> Words:
    """Random 64-bit words as a pure function of an address.

    The address is folded part by part, h <- mix(h XOR mix(part + gamma)), and word number d is mix(h + (d + 1) gamma),
    where mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014) and all arithmetic is modulo 2**64.

    Args:
        address: whole numbers, or arrays of them that broadcast together to a shape (...).
        count: words for each address.

    Returns:
        (..., count) uint64. Neither the other rows nor `count` change a word.
    """
    state: Words = np.zeros((), np.uint64)
    for part in address:
        state = _mix(state ^ _mix(_as_words(part) + np.uint64(_GAMMA)))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    return _mix(state[..., None] + steps)


def _as_words(part: int | npt.ArrayLike) -> Words:
    """Whole numbers modulo 2**64; always at least one axis, where numpy wraps around without a warning."""
    if isinstance(part, int):
        return np.array([part & _WORD], np.uint64)
    return np.atleast_1d(np.asarray(part)).astype(np.uint64)


def _mix(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def permutations(words: Words) -> Ints:
    """Turn words (..., m) into a permutation of 0..m-1 along the last axis, m at most 1,024.

    The position is written into the low bits of the key, so no two keys are equal and the result is the same
    whichever sorting algorithm numpy takes.
    """
    size = words.shape[-1]
    if size > _INDEX_MASK + 1:
        raise ValueError(f"a permutation of {size} things: at most {_INDEX_MASK + 1}")
    keys = (words & np.uint64(_WORD ^ _INDEX_MASK)) | np.arange(size, dtype=np.uint64)
    keys.sort(axis=-1)
    return (keys & np.uint64(_INDEX_MASK)).astype(np.int64)


# ---------------------------------------------------------------------------------------------- Sudoku


@dataclass(frozen=True)
class SudokuDraws:
    """One Sudoku symmetry for each row of a batch.

    out[i, j] = digit_map[x'[row_perm[i], col_perm[j]]], x' being the board, transposed where `transpose` holds.
    """

    digit_map: Ints  # (B, n + 1): blank 0 stays 0
    transpose: npt.NDArray[np.bool_]  # (B,)
    row_perm: Ints  # (B, n)
    col_perm: Ints  # (B, n)


def sudoku_draws(
    seed: int, puzzles: npt.ArrayLike, variants: npt.ArrayLike, box_rows: int, box_cols: int
) -> SudokuDraws:
    """The symmetry of each (seed, puzzle, variant); variant 0 is the identity (HRM_SPEC section 6, Sudoku).

    Args:
        seed: of the run.
        puzzles: (B,) number of the puzzle (its group) in the training set.
        variants: (B,) 0 for the puzzle as it is, 1..k for its augmented copies.
        box_rows: R.
        box_cols: C. Boards are transposed, with probability a half, only where R == C: else the boxes would change.
    """
    puzzle_ids, variant_ids = np.broadcast_arrays(np.atleast_1d(puzzles), np.atleast_1d(variants))
    rows, cols, side = box_rows, box_cols, box_rows * box_cols
    words = random_words(_SUDOKU_PURPOSE, seed, puzzle_ids, variant_ids, count=1 + 3 * side + rows + cols)
    coin, digits, bands, in_bands, stacks, in_stacks = np.split(
        words, np.cumsum([1, side, cols, side, rows]).tolist(), axis=1
    )
    digit_map = np.zeros((len(words), side + 1), np.int64)
    digit_map[:, 1:] = permutations(digits) + 1
    transpose = (coin[:, 0] >> np.uint64(63)).astype(bool) & (rows == cols)
    row_perm = _line_permutation(bands, in_bands, rows)
    col_perm = _line_permutation(stacks, in_stacks, cols)
    same = variant_ids == 0
    digit_map[same] = np.arange(side + 1)
    row_perm[same] = col_perm[same] = np.arange(side)
    return SudokuDraws(digit_map, transpose & ~same, row_perm, col_perm)


def _line_permutation(outer: Words, inner: Words, size: int) -> Ints:
    """Shuffle blocks of `size` lines, and the lines inside each block: outer (B, blocks), inner (B, n) -> (B, n)."""
    batch, blocks = outer.shape
    lines = permutations(inner.reshape(batch, blocks, size))
    return (permutations(outer)[:, :, None] * size + lines).reshape(batch, blocks * size)


def apply_sudoku(boards: npt.NDArray[Whole], draws: SudokuDraws) -> npt.NDArray[Whole]:
    """Apply draws to boards (B, n, n) of digits, 0 = blank; the result has the boards' dtype."""
    batch, side, _ = boards.shape
    cells = _source_cells(draws)
    moved = boards.reshape(-1)[cells]
    moved = _relabel(moved, draws.digit_map.astype(boards.dtype))
    return moved.reshape(batch, side, side)


def augment_sudoku_tokens(
    inputs: Bytes,
    labels: Bytes,
    seed: int,
    puzzles: npt.ArrayLike,
    variants: npt.ArrayLike,
    box_rows: int,
    box_cols: int,
) -> tuple[Bytes, Bytes]:
    """Augment pairs of token sequences, both of a pair by the same symmetry.

    Args:
        inputs: (B, S) uint8, token = digit + 1; 0 (padding) stays 0.
        labels: (B, S) uint8, likewise.
        seed: of the run.
        puzzles: (B,) see `sudoku_draws`, as for the rest.
        variants: (B,)
        box_rows: R.
        box_cols: C.

    Returns:
        New (B, S) uint8 arrays.
    """
    draws = sudoku_draws(seed, puzzles, variants, box_rows, box_cols)
    token_map = np.zeros((len(inputs), box_rows * box_cols + 2), np.uint8)
    token_map[:, 1:] = draws.digit_map + 1
    cells = _source_cells(draws)
    new_inputs = _relabel(np.ascontiguousarray(inputs).reshape(-1)[cells], token_map)
    new_labels = _relabel(np.ascontiguousarray(labels).reshape(-1)[cells], token_map)
    return new_inputs, new_labels


def _source_cells(draws: SudokuDraws) -> npt.NDArray[np.intp]:
    """(B, S) flat index, into boards laid end to end, of the cell that each output cell is read from."""
    batch, side = draws.row_perm.shape
    row_step = np.where(draws.transpose, 1, side)[:, None]
    col_step = np.where(draws.transpose, side, 1)[:, None]
    start = np.arange(batch)[:, None] * (side * side)
    row_part, col_part = draws.row_perm * row_step + start, draws.col_perm * col_step
    cells: npt.NDArray[np.intp] = (row_part[:, :, None] + col_part[:, None, :]).reshape(batch, side * side)
    return cells


def _relabel(values: npt.NDArray[Whole], table: npt.NDArray[Whole]) -> npt.NDArray[Whole]:
    """table[b, values[b, s]] with one flat gather, which is faster than `take_along_axis`."""
    batch, width = table.shape
    start: Ints = np.arange(batch, dtype=np.int64)[:, None] * width
    relabelled: npt.NDArray[Whole] = table.reshape(-1)[values + start]
    return relabelled


# -------------------------------------------------------------------------------------------- dihedral

_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)


def dihedral(grid: npt.NDArray[np.generic], tid: int) -> npt.NDArray[np.generic]:
    """One of the eight symmetries of the rectangle (HRM_SPEC section 6, ARC), as a view of `grid` (rows, cols).

    0 none, 1-3 quarter turns to the left, 4 left-right, 5 up-down, 6 transposed, 7 transposed over the other diagonal.

    Raises:
        ValueError: for any other id.
    """
    if not 0 <= tid <= 7:
        raise ValueError(f"dihedral id {tid}: not in 0..7")
    if tid < 4:
        return np.rot90(grid, tid)
    if tid == 4:
        return np.fliplr(grid)
    if tid == 5:
        return np.flipud(grid)
    return grid.T if tid == 6 else np.rot90(grid, 2).T


def inverse_dihedral(grid: npt.NDArray[np.generic], tid: int) -> npt.NDArray[np.generic]:
    """Undo `dihedral(..., tid)`."""
    if not 0 <= tid <= 7:
        raise ValueError(f"dihedral id {tid}: not in 0..7")
    return dihedral(grid, _INVERSE[tid])
