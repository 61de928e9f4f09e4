"""The Sudoku task: its tokens, its datasets from the generator or from CSV files, and its boards as text.

Tokens are digit + 1, so 0 is left for padding and 1 is a blank (HRM_SPEC section 6, Sudoku). Other words as in
`sudoku_solver`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hrm_lab.config import SudokuDataConfig
from hrm_lab.data.format import DatasetInfo, Split
from hrm_lab.data.sudoku_csv import SYMBOLS, RatedPuzzles, read_csv
from hrm_lab.data.sudoku_generator import Progress, Puzzles, generate
from hrm_lab.data.sudoku_solver import rounds_to_solve
from hrm_lab.data.symmetries import random_words
from hrm_lab.errors import DataError

TEST_SET = "all"  # the published datasets call their only test set so
_SUBSET = 0x6004  # what a random word is for; see `random_words`
_TRAIN, _TEST = 0, 1


def build(config: SudokuDataConfig, progress: Progress | None = None) -> tuple[DatasetInfo, Split, dict[str, Split]]:
    """Make the dataset's info and splits in memory, from the generator or from CSV files.

    Raises:
        DataError: when there are not as many puzzles as asked for, or a file is bad.
    """
    train: Puzzles
    test: Puzzles
    if config.source == "csv":
        train, test = _from_csv(config, progress)
    else:
        train, test = generate(config, progress)
    side = config.box_rows * config.box_cols
    info = DatasetInfo(
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
    return info, _split(train), {TEST_SET: _split(test, _ratings(test, config))}


def _ratings(puzzles: Puzzles, config: SudokuDataConfig) -> npt.NDArray[np.int32]:
    """How hard the puzzles are: by their file, or by how long our solver takes."""
    if isinstance(puzzles, RatedPuzzles):
        return np.clip(puzzles.ratings, 0, np.iinfo(np.int32).max).astype(np.int32)
    rounds = [rounds_to_solve(question, config.box_rows, config.box_cols) for question in puzzles.questions]
    return np.array(rounds, np.int32)


def _split(puzzles: Puzzles, ratings: npt.NDArray[np.int32] | None = None) -> Split:
    """Digits to tokens; each puzzle is a group of its own."""
    size = len(puzzles)
    return Split(
        inputs=puzzles.questions + np.uint8(1),
        labels=puzzles.answers + np.uint8(1),
        puzzle_identifiers=np.zeros(size, np.int32),
        group_offsets=np.arange(size + 1, dtype=np.int64),
        ratings=ratings,
    )


def _from_csv(config: SudokuDataConfig, progress: Progress | None) -> tuple[RatedPuzzles, RatedPuzzles]:
    if config.train_csv is None or config.test_csv is None:
        raise ValueError("source=csv needs train_csv and test_csv")
    train = read_csv(config.train_csv, config.box_rows, config.box_cols)
    test = read_csv(config.test_csv, config.box_rows, config.box_cols)
    kept = np.arange(len(train))
    if config.min_rating is not None:
        kept = np.flatnonzero(train.ratings >= config.min_rating)
        if not kept.size:
            raise DataError(
                f"data.min_rating={config.min_rating}: no puzzle of {config.train_csv} is rated so high\n"
                f"  way out: take at most data.min_rating={int(train.ratings.max())}"
            )
    chosen = (
        _subset(train, kept, config.num_train, "num_train", config),
        _subset(test, np.arange(len(test)), config.num_test, "num_test", config),
    )
    if progress is not None:
        total = len(chosen[0]) + len(chosen[1])
        progress(total, total)
    return chosen


def _subset(
    puzzles: RatedPuzzles, kept: npt.NDArray[np.intp], size: int | None, key: str, config: SudokuDataConfig
) -> RatedPuzzles:
    """A random subset of the kept rows, in the file's order."""
    if size is not None and size > len(kept):
        raise DataError(
            f"data.{key}={size}: the file has {len(kept)} puzzles to choose from\n"
            f"  way out: take at most data.{key}={len(kept)}, or null for all"
        )
    if size is not None:
        split = _TRAIN if key == "num_train" else _TEST
        words = random_words(_SUBSET, config.build_seed, split, count=len(kept))[0]
        kept = kept[np.sort(np.argsort(words, kind="stable")[:size])]
    return RatedPuzzles(puzzles.questions[kept], puzzles.answers[kept], puzzles.ratings[kept])


def symbols(side: int) -> str:
    """The character of each token of a board of this side: `_` padding, `.` blank, letters above 9."""
    return "_" + SYMBOLS[: side + 1]


def render(tokens: npt.ArrayLike, box_rows: int, box_cols: int) -> str:
    """A board of S tokens as text with lines between the boxes; `.` blank, `_` padding, `?` no token of this size."""
    side = box_rows * box_cols
    known = symbols(side)
    grid = np.asarray(tokens).reshape(side, side).tolist()
    rule = "+".join(["-" * (2 * box_cols + 1)] * box_rows)[1:-1]
    lines = []
    for number, row in enumerate(grid):
        if number and number % box_rows == 0:
            lines.append(rule)
        cells = [known[token] if 0 <= token < len(known) else "?" for token in row]
        boxes = (" ".join(cells[start : start + box_cols]) for start in range(0, side, box_cols))
        lines.append(" | ".join(boxes))
    return "\n".join(lines)
