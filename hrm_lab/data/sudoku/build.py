"""Sudoku datasets in memory, from the generator or from CSV files. Words as in `solver`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hrm_lab.data.addressed import random_words
from hrm_lab.data.format import DatasetInfo, Split
from hrm_lab.data.sudoku.csv_file import RatedPuzzles, read_csv
from hrm_lab.data.sudoku.generator import Puzzles, generate
from hrm_lab.data.sudoku.solver import rounds_to_solve
from hrm_lab.data.task import Built, Progress
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

TEST_SET = "all"  # the published datasets call their only test set so
_SUBSET = 0x6004  # what a random word is for; see `random_words`
_TRAIN, _TEST = 0, 1


def build(config: SudokuDataConfig, progress: Progress | None = None) -> Built:
    """Make the dataset in memory, from the generator or from CSV files.

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
    return Built(info, _split(train), {TEST_SET: _split(test, _ratings(test, config))})


def _ratings(puzzles: Puzzles, config: SudokuDataConfig) -> npt.NDArray[np.int32]:
    """How hard the puzzles are: by their file, or by how long our solver takes."""
    if isinstance(puzzles, RatedPuzzles):
        return np.clip(puzzles.ratings, 0, np.iinfo(np.int32).max).astype(np.int32)
    rounds = [rounds_to_solve(question, config.box_rows, config.box_cols) for question in puzzles.questions]
    return np.array(rounds, np.int32)


def _split(puzzles: Puzzles, ratings: npt.NDArray[np.int32] | None = None) -> Split:
    """Digits to tokens."""
    return Split.of_single_examples(puzzles.questions + np.uint8(1), puzzles.answers + np.uint8(1), ratings)


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
