"""Sudoku of any box shape (HRM_SPEC section 6, Sudoku): tokens are digit + 1, 0 is padding and 1 a blank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from hrm_lab.config import setting
from hrm_lab.data.format import Dataset, DatasetInfo
from hrm_lab.data.sources import TEST_SET, SourcedDataConfig
from hrm_lab.data.task import Appearance, Built, Progress, Symmetries, Task, Tokens
from hrm_lab.errors import DataError, require

# Hydra's structured configs resolve annotations at run time and know `Optional[int]`, not `int | None`.
# ruff: noqa: UP045


@dataclass
class SudokuDataConfig(SourcedDataConfig):
    """Sudoku of any box shape: generated, or from `source,question,answer,rating` CSV files, here or on the hub."""

    task: str = setting("sudoku", "which task it is", choices=("sudoku",))
    name: str = setting("sudoku", "name of the dataset; its folder is NAME-HASH under paths.data", identity=False)
    box_rows: int = setting(3, "rows of one box", unit="cells", low=1, high=5)
    box_cols: int = setting(3, "columns of one box; a grid has box_rows * box_cols digits", unit="cells", low=1, high=5)
    num_blanks: Optional[int] = setting(
        None, "empty cells of a generated puzzle; null = as many as one solution allows", unit="cells", low=1
    )
    test_grids: Optional[int] = setting(
        None,
        "generated: solution grids held out for the test set, no training puzzle has one; null = as many as puzzles",
        unit="grids",
        low=1,
    )
    hub_repo: str = setting("sapientinc/sudoku-extreme", "hub: repository with train.csv and test.csv")
    drop_overlap: bool = setting(
        False, "csv, hub: leave out training puzzles that are in the test set up to symmetry; false = refuse them"
    )
    min_rating: Optional[int] = setting(
        None, "least rating: generated, of every puzzle; csv, hub, of a training puzzle", unit="backtracks", low=0
    )

    def check(self) -> None:
        """Refuse combinations that cannot be built."""
        side = self.box_rows * self.box_cols
        require(
            2 <= side <= 25,
            "data.box_rows",
            self.box_rows,
            f"with data.box_cols={self.box_cols} makes a grid of side {side}",
            "box_rows * box_cols must lie between 2 and 25",
        )
        require(
            self.num_blanks is None or self.num_blanks < side * side,
            "data.num_blanks",
            self.num_blanks,
            f"a grid of side {side} has {side * side} cells",
            f"take at most {side * side - 1}, or null",
        )
        for key in ("num_blanks", "test_grids"):
            value, is_generated = getattr(self, key), self.source == "generated"
            problem = f"data.min_rating={self.min_rating} chooses blanks and grids itself"
            require(not (is_generated and self.min_rating) or value is None, f"data.{key}", value, problem, "take null")
        super().check()


def info(config: SudokuDataConfig) -> DatasetInfo:
    """What a dataset of these settings says of itself."""
    side = config.box_rows * config.box_cols
    return DatasetInfo(
        task="sudoku",
        name=config.name,
        vocab_size=side + 2,
        seq_len=side * side,
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        num_puzzle_identifiers=1,
        grid_shape=(side, side),
        test_sets=(TEST_SET,),
        task_facts={"box_rows": config.box_rows, "box_cols": config.box_cols},
    )


def appearance(info: DatasetInfo) -> Appearance:
    """`_` padding, `.` blank, letters above 9; lines around the boxes."""
    from hrm_lab.data.sudoku.csv_file import SYMBOLS

    side = info.grid_shape[0]
    return Appearance("_" + SYMBOLS[: side + 1], box_shape=(info.task_facts["box_rows"], info.task_facts["box_cols"]))


def parse(info: DatasetInfo, text: str) -> Tokens:
    """A board row by row: digits and letters above 9, `.` or `0` for a blank; white space does not count.

    Raises:
        DataError: for another number of cells, for what is no digit, and for digits that clash.
    """
    from hrm_lab.data.sudoku.csv_file import parse_board

    try:
        return parse_board("".join(text.split()), info.task_facts["box_rows"], info.task_facts["box_cols"]) + np.uint8(
            1
        )
    except ValueError as error:
        raise DataError(
            f"puzzle {text[:40]!r}: {error}\n  way out: {info.seq_len} cells row by row, . for a blank"
        ) from None


def verify(info: DatasetInfo, inputs: Tokens, answer: Tokens) -> str:
    """Whether every digit stands once in every row, column and box, and the givens are kept."""
    from hrm_lab.data.sudoku.csv_file import wrong_with

    return wrong_with(inputs, answer, info.task_facts["box_rows"], info.task_facts["box_cols"])


def _build(config: SudokuDataConfig, progress: Progress | None) -> Built:
    from hrm_lab.data.sudoku.build import build

    return build(config, progress)


def _symmetries(dataset: Dataset, seed: int, num_augmentations: int) -> Symmetries:
    from hrm_lab.data.sudoku.symmetries import SudokuSymmetries

    return SudokuSymmetries(dataset, seed, num_augmentations)


TASK = Task(SudokuDataConfig, _build, appearance, parse, verify, symmetries=_symmetries, info=info)
