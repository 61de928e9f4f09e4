"""What each task adds to the common format: how its examples are augmented where they are used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hrm_lab.data.format import DatasetInfo
from hrm_lab.data.symmetries import augment_sudoku_tokens
from hrm_lab.errors import DataError

Tokens = NDArray[np.uint8]


def augment(
    info: DatasetInfo,
    inputs: Tokens,
    labels: Tokens,
    seed: int,
    puzzles: NDArray[np.int64],
    variants: NDArray[np.int64],
) -> tuple[Tokens, Tokens]:
    """Variant (B,) of each pair (B, S) of a puzzle (B,), by the task's symmetries; variant 0 is the pair itself.

    Raises:
        DataError: when the task has no symmetries here.
    """
    if info.task == "sudoku":
        facts = info.task_facts
        return augment_sudoku_tokens(inputs, labels, seed, puzzles, variants, facts["box_rows"], facts["box_cols"])
    raise DataError(f"task {info.task} has no symmetries\n  way out: take data.num_augmentations=0")
