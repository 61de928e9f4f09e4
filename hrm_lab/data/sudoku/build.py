"""Sudoku datasets in memory, from the generator, from CSV files or from the hub. Words as in `solver`.

No training puzzle is a test puzzle up to symmetry, else its variants would be the test puzzle itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrm_lab.data.format import Split
from hrm_lab.data.hub import fetch
from hrm_lab.data.puzzle_csv import in_order
from hrm_lab.data.sources import TEST_SET
from hrm_lab.data.sudoku.canonical import shared_classes
from hrm_lab.data.sudoku.csv_file import RatedPuzzles, read_csv
from hrm_lab.data.sudoku.solver import TEST, TRAIN, Puzzles
from hrm_lab.data.task import Built, Progress
from hrm_lab.data.tasks.sudoku import SudokuDataConfig, info
from hrm_lab.errors import DataError


def build(config: SudokuDataConfig, progress: Progress | None = None) -> Built:
    """Make the dataset in memory.

    Raises:
        DataError: when there are not as many puzzles as asked for, a file is bad or cannot be had, or a training
            puzzle is a test puzzle up to symmetry.
    """
    facts: dict[str, Any] = {"disjoint_up_to_symmetry": True}
    if config.source == "generated":
        train, test = (_rated(puzzles, config) for puzzles in generate(config, progress))
    else:
        files = _Files.of(config)
        train, test = _from_files(config, files)
        facts |= files.facts
        if progress is not None:
            progress(len(train) + len(test), len(train) + len(test))
    return Built(dataclasses.replace(info(config), build=facts), _split(train), {TEST_SET: _split(test)})


def _split(puzzles: RatedPuzzles) -> Split:
    """Digits to tokens."""
    rated = np.clip(puzzles.ratings, 0, np.iinfo(np.int32).max).astype(np.int32)
    return Split.of_single_examples(puzzles.questions + np.uint8(1), puzzles.answers + np.uint8(1), rated)


# ------------------------------------------------------------------------------------------ generated


def generate(config: SudokuDataConfig, progress: Progress | None = None) -> tuple[Puzzles, Puzzles]:
    """Generate train and test puzzles, each with one solution; the same bytes for the same settings.

    No training puzzle has the solution grid of a test puzzle, or is one up to symmetry.

    Args:
        config: `num_train` and `num_test` must be numbers.
        progress: called with (puzzles done, puzzles in all); the test puzzles are made first.

    Raises:
        DataError: when so many puzzles, so many blanks, or such a rating cannot be reached.
    """
    from hrm_lab.data.sudoku.evolution import generate_rated  # numba, which only generation needs
    from hrm_lab.data.sudoku.generator import Held, generate_split

    if config.num_train is None or config.num_test is None:
        raise ValueError("a generated dataset needs num_train and num_test")
    make = generate_rated if config.min_rating else generate_split
    held = Held(config.box_rows, config.box_cols)
    before, total = 0, config.num_train + config.num_test

    def done(number: int) -> None:
        if progress is not None:
            progress(before + number, total)

    test = make(config, TEST, config.num_test, held, done)
    held.add(test)
    before = config.num_test
    return make(config, TRAIN, config.num_train, held, done), test


def _rated(puzzles: Puzzles, config: SudokuDataConfig) -> RatedPuzzles:
    from hrm_lab.data.sudoku.rating import ratings

    rated = ratings(puzzles.questions, config.box_rows, config.box_cols).astype(np.int64)
    return RatedPuzzles(puzzles.questions, puzzles.answers, rated)


# ----------------------------------------------------------------------------------------- from files


@dataclass(frozen=True)
class _Files:
    """Where the CSV files lie, and what is to be remembered of them."""

    train: str
    test: str
    facts: dict[str, str]

    @classmethod
    def of(cls, config: SudokuDataConfig) -> _Files:
        if config.source == "hub":
            if config.hub_revision is None:
                raise ValueError("source=hub needs hub_revision")
            train, test = (fetch(config.hub_repo, f"{name}.csv", config.hub_revision) for name in ("train", "test"))
            return cls(str(train.path), str(test.path), train.facts("train_csv") | test.facts("test_csv"))
        if config.train_csv is None or config.test_csv is None:
            raise ValueError("source=csv needs train_csv and test_csv")
        return cls(config.train_csv, config.test_csv, {})


def _from_files(config: SudokuDataConfig, files: _Files) -> tuple[RatedPuzzles, RatedPuzzles]:
    train = read_csv(files.train, config.box_rows, config.box_cols)
    test = read_csv(files.test, config.box_rows, config.box_cols)
    tested = in_order(len(test), config.num_test, "num_test", config.build_seed, TEST)
    test = _take(test, np.sort(tested[: config.num_test]))
    kept = np.arange(len(train))
    if config.min_rating is not None:
        kept = np.flatnonzero(train.ratings >= config.min_rating)
        if not kept.size:
            raise DataError(
                f"data.min_rating={config.min_rating}: no puzzle of {files.train} is rated so high\n"
                f"  way out: take at most data.min_rating={int(train.ratings.max())}"
            )
    candidates = kept[in_order(len(kept), config.num_train, "num_train", config.build_seed, TRAIN)]
    chosen = _disjoint(train, candidates, test, np.sort(tested[: config.num_test]), config, files)
    return _take(train, np.sort(chosen)), test


def _disjoint(
    train: RatedPuzzles,
    candidates: npt.NDArray[np.intp],
    test: RatedPuzzles,
    test_rows: npt.NDArray[np.intp],
    config: SudokuDataConfig,
    files: _Files,
) -> npt.NDArray[np.intp]:
    """The first `num_train` candidates, without those that are in the test set up to symmetry where that is allowed.

    Raises:
        DataError: when one is and must not be left out, or too few are left.
    """
    wanted = len(candidates) if config.num_train is None else config.num_train
    chosen, rest = candidates[:0], candidates
    while len(chosen) < wanted and len(rest):
        taken, rest = np.split(rest, [wanted - len(chosen)])
        same = []
        for number, other in shared_classes(train.questions[taken], test.questions, config.box_rows, config.box_cols):
            if not config.drop_overlap:
                raise DataError(
                    f"{files.train}, puzzle {taken[number] + 1}: up to symmetry it is puzzle {test_rows[other] + 1} of "
                    f"{files.test}, so its variants would give away the answer\n"
                    "  way out: take it out, or set data.drop_overlap=true to leave out all such training puzzles"
                )
            same.append(number)
        chosen = np.concatenate([chosen, np.delete(taken, same)])
        if config.num_train is None:
            break
    if not len(chosen) or len(chosen) < (config.num_train or 0):
        raise DataError(
            f"data.num_train={config.num_train}: only {len(chosen)} puzzles of {files.train} are not in the test set "
            f"up to symmetry\n  way out: take at most data.num_train={len(chosen)}, or fewer test puzzles"
        )
    return chosen


def _take(puzzles: RatedPuzzles, rows: npt.NDArray[np.intp]) -> RatedPuzzles:
    return RatedPuzzles(puzzles.questions[rows], puzzles.answers[rows], puzzles.ratings[rows])
