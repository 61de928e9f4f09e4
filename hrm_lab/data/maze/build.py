"""Maze datasets in memory, from the generator or from CSV files. Words as in `board`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hrm_lab.data.format import Split
from hrm_lab.data.hub import fetch
from hrm_lab.data.maze import board
from hrm_lab.data.maze.board import Mazes
from hrm_lab.data.maze.csv_file import read_csv
from hrm_lab.data.maze.generator import generate
from hrm_lab.data.puzzle_csv import subset
from hrm_lab.data.sources import TEST_SET
from hrm_lab.data.task import Built, Progress
from hrm_lab.data.tasks.maze import MazeDataConfig, info
from hrm_lab.errors import DataError


def build(config: MazeDataConfig, progress: Progress | None = None) -> Built:
    """Make the dataset in memory.

    Raises:
        DataError: when there are not as many mazes as asked for, a file is bad, or a test maze is a training maze.
    """
    files, found = _files(config)
    train, test = _read(config, files, progress) if files else generate(config, progress)
    assert files or _shared(train, test) is None  # the generator sees to it
    # In others a label shows one of several right answers, and exact accuracy asks for more than can be known.
    unique = {"train": _unique(train), f"test/{TEST_SET}": _unique(test)}
    told = replace(info(config), task_facts={"mazes_with_one_shortest_path": unique}, build=found)
    return Built(told, _split(train), {TEST_SET: _split(test)})


def _files(config: MazeDataConfig) -> tuple[list[Path], dict[str, str]]:
    """Training and test file, and what is to be remembered of them; none when mazes are generated."""
    if config.source == "csv":
        return [Path(path) for path in config.files().values() if path is not None], {}
    if config.source == "generated":
        return [], {}
    assert config.hub_revision is not None
    train, test = (fetch(config.hub_repo, f"{split}.csv", config.hub_revision) for split in ("train", "test"))
    return [train.path, test.path], train.facts("train_csv") | test.facts("test_csv")


def _read(config: MazeDataConfig, files: list[Path], progress: Progress | None) -> tuple[Mazes, Mazes]:
    chosen, rows = [], []
    for split, (path, key) in enumerate(zip(files, ("num_train", "num_test"), strict=True)):
        mazes = read_csv(path, config.rows, config.cols)
        rows.append(subset(np.arange(len(mazes)), getattr(config, key), key, config.build_seed, split))
        chosen.append(mazes.take(rows[-1]))
        if progress is not None:
            progress(split + 1, 2)
    shared = _shared(chosen[0], chosen[1])
    if shared is not None:
        train_row, test_row = (int(own[number]) + 1 for own, number in zip(rows, shared, strict=True))
        raise DataError(
            f"{files[1]}, maze {test_row}: turned or mirrored or as it is, it is maze {train_row} of {files[0]}\n"
            "  way out: take it out of one of the two files (of the hub: of a copy, with data.source=csv)"
        )
    return chosen[0], chosen[1]


def _shared(train: Mazes, test: Mazes) -> tuple[int, int] | None:
    """The first test maze that is a training maze, turned or mirrored or as it is, after that one's number."""
    known = {board.canonical(question): number for number, question in enumerate(train.questions)}
    for number, question in enumerate(test.questions):
        same = known.get(board.canonical(question))
        if same is not None:
            return same, number
    return None


def _unique(mazes: Mazes) -> int:
    """How many have one shortest path only."""
    ways = board.shortest(mazes.questions)
    return int((ways.cells == ways.lengths + 1).sum())


def _split(mazes: Mazes) -> Split:
    ratings = np.clip(mazes.ratings, 0, np.iinfo(np.int32).max).astype(np.int32)
    inputs, labels = (tokens.reshape(len(mazes), -1) for tokens in (mazes.questions, mazes.answers))
    return Split.of_single_examples(inputs, labels, ratings)
