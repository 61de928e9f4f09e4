"""Sudoku's symmetries: digits renamed, bands, stacks and the lines inside them shuffled, the board transposed.

A box has R = `box_rows` rows and C = `box_cols` columns; a board has side n = R * C, C bands of R rows and R stacks of
C columns. B is a batch, S = n * n the length of a token sequence (HRM_SPEC section 6, Sudoku).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hrm_lab.data.addressed import Ints, Words, permutations, random_words, small_permutations
from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.task import Rows

_PURPOSE = 0x5D0C


@dataclass(frozen=True)
class SudokuDraws:
    """One symmetry for each row of a batch.

    out[i, j] = digit_map[x'[row_perm[i], col_perm[j]]], x' being the board, transposed where `transpose` holds.
    """

    digit_map: Ints  # (B, n + 1): blank 0 stays 0
    transpose: npt.NDArray[np.bool_]  # (B,)
    row_perm: Ints  # (B, n)
    col_perm: Ints  # (B, n)


def sudoku_draws(
    seed: int, puzzles: npt.ArrayLike, variants: npt.ArrayLike, box_rows: int, box_cols: int
) -> SudokuDraws:
    """The symmetry of each (seed, puzzle, variant); variant 0 is the identity.

    Args:
        seed: of the run.
        puzzles: (B,) number of the puzzle in its split.
        variants: (B,) 0 for the puzzle as it is, 1..k for its augmented copies.
        box_rows: R.
        box_cols: C. Boards are transposed, with probability a half, only where R == C: else the boxes would change.
    """
    puzzle_ids, variant_ids = np.broadcast_arrays(np.atleast_1d(puzzles), np.atleast_1d(variants))
    rows, cols, side = box_rows, box_cols, box_rows * box_cols
    words = random_words(_PURPOSE, seed, puzzle_ids, variant_ids, count=1 + side + 2 + cols + rows)
    coin, digits, bands, in_bands, stacks, in_stacks = np.split(
        words, np.cumsum([1, side, 1, cols, 1]).tolist(), axis=1
    )
    digit_map = np.zeros((len(words), side + 1), np.int64)
    digit_map[:, 1:] = permutations(digits) + 1
    transpose = (coin[:, 0] >> np.uint64(63)).astype(bool) & (rows == cols)
    row_perm = _line_permutation(bands, in_bands, rows)
    col_perm = _line_permutation(stacks, in_stacks, cols)
    same = variant_ids == 0
    if same.any():
        digit_map[same] = np.arange(side + 1)
        row_perm[same] = col_perm[same] = np.arange(side)
        transpose &= ~same
    return SudokuDraws(digit_map, transpose, row_perm, col_perm)


def _line_permutation(outer: Words, inner: Words, size: int) -> Ints:
    """Shuffle blocks of `size` lines, and the lines inside each block: outer (B, 1), inner (B, blocks) -> (B, n)."""
    batch, blocks = inner.shape
    order, lines = small_permutations(outer[:, 0], blocks), small_permutations(inner, size)
    return (order[:, :, None] * size + lines).reshape(batch, blocks * size)


def apply_sudoku(inputs: Tensor, labels: Tensor, draws: SudokuDraws) -> tuple[Tensor, Tensor]:
    """Apply draws to pairs of token sequences (B, S) uint8, token = digit + 1, where padding 0 stays 0.

    What is random was drawn on the host, a few bytes a board; the boards are moved and renamed where they are.
    """
    batch, side = draws.row_perm.shape
    # Where the cells of an output row, and of an output column, lie in the board that they are read from.
    row_part = draws.row_perm * np.where(draws.transpose, 1, side)[:, None]
    col_part = draws.col_perm * np.where(draws.transpose, side, 1)[:, None]
    token_map = np.zeros((batch, side + 2), np.int64)
    token_map[:, 1:] = draws.digit_map + 1
    packed = np.concatenate([row_part, col_part, token_map], axis=1).astype(np.int16)  # one copy to the device
    sent = torch.from_numpy(packed)
    if inputs.device.type != "cpu":
        sent = sent.pin_memory().to(inputs.device, non_blocking=True)
    rows, cols, tokens = torch.split(sent, [side, side, side + 2], dim=1)
    cells = (rows[:, :, None] + cols[:, None, :]).view(batch, side * side).long()
    table = tokens.to(inputs.dtype)
    moved = torch.stack((inputs, labels), 1).gather(2, cells[:, None, :].expand(-1, 2, -1))
    renamed = table.gather(1, moved.view(batch, -1).long()).view(moved.shape)
    return renamed[:, 0], renamed[:, 1]


class SudokuSymmetries:
    """The variants of a Sudoku dataset's puzzles (`task.Symmetries`).

    Args:
        dataset: opened.
        seed: of the run.
        num_augmentations: k.
    """

    def __init__(self, dataset: Dataset, seed: int, num_augmentations: int) -> None:
        facts = dataset.info.task_facts
        self.box_rows, self.box_cols = facts["box_rows"], facts["box_cols"]
        self.seed, self.num_augmentations = seed, num_augmentations
        self.num_identifiers = dataset.info.num_puzzle_identifiers

    def num_variants(self, split: Split) -> Ints:
        """1 + k of each."""
        return np.full(split.num_puzzles, 1 + self.num_augmentations)

    def identifiers(self, rows: Rows) -> npt.NDArray[np.int32]:
        """All variants share their puzzle's."""
        return rows.identifiers

    def apply(self, rows: Rows, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `apply_sudoku`."""
        draws = sudoku_draws(self.seed, rows.puzzles, rows.variants, self.box_rows, self.box_cols)
        return apply_sudoku(inputs, labels, draws)
