"""ARC datasets in memory: one group of one puzzle for each task; its variants are computed where they are used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hrm_lab.data.arc.canvas import encode_grid
from hrm_lab.data.arc.files import Pair, Sets, from_concepts, from_folder, from_package
from hrm_lab.data.arc.variants import cell_sums
from hrm_lab.data.format import Split
from hrm_lab.data.task import Built, Progress
from hrm_lab.data.tasks.arc import TEST_SET, ArcDataConfig, info
from hrm_lab.errors import DataError

log = logging.getLogger(__name__)


def build(config: ArcDataConfig, progress: Progress | None = None) -> Built:
    """Make the dataset in memory.

    Training tasks are trained on whole. Of evaluation tasks the `train` pairs are trained on too, as published, unless
    config.split is strict; their `test` pairs are the test set.

    Raises:
        DataError: when a file is bad, a task comes twice, or none fits the canvas.
    """
    training, evaluation = _fitting(_read(config), config)
    tasks = [*training, *evaluation]
    if progress is not None:
        progress(0, len(tasks))
    to_learn = [(*task.train, *task.test) for task in training]
    if config.split == "published":
        to_learn += [task.train for task in evaluation]
    to_ask = [task.test for task in evaluation]
    train_tasks, test_tasks = np.arange(len(to_learn)), np.arange(len(training), len(tasks))
    own_rows = np.where(test_tasks < len(to_learn), test_tasks + 1, 0)
    sizes = [len(task.train) + len(task.test) for task in tasks]
    built = Built(
        dataclasses.replace(info(config), num_puzzle_identifiers=1 + len(to_learn)),
        _split(to_learn, train_tasks + 1, config.canvas_side),
        {TEST_SET: _split(to_ask, own_rows, config.canvas_side)},
        {
            "task_names": np.array([task.name for task in tasks]),
            "train_tasks": train_tasks,  # task of each training puzzle, and
            "test_tasks": test_tasks,  # of each test puzzle
            "pair_offsets": _offsets(sizes),  # where each task's begin among
            "cell_sums": cell_sums(tasks),  # those of all its pairs; see `variants`
        },
    )
    if progress is not None:
        progress(len(tasks), len(tasks))
    return built


def _read(config: ArcDataConfig) -> Sets:
    if config.source == "folder":
        assert config.folder is not None  # `config.check` has seen to it
        training, evaluation = from_folder(config.folder)
    else:
        training, evaluation = from_package(config.source)
    if config.concept_folder is not None:
        training = [*training, *from_concepts(config.concept_folder)]
    seen: set[str] = set()
    for task in (*training, *evaluation):
        if task.name in seen:
            raise DataError(
                f"task {task.name}: comes twice in the training and evaluation sets\n"
                "  way out: remove one of the two, or rename it if it is another task"
            )
        seen.add(task.name)
    return training, evaluation


def _fitting(sets: Sets, config: ArcDataConfig) -> Sets:
    """The tasks of each set whose grids fit on the canvas, the first `num_tasks` of them."""
    fitting = [[task for task in tasks if task.largest_side() <= config.canvas_side] for tasks in sets]
    left_out = [len(tasks) - len(some) for tasks, some in zip(sets, fitting, strict=True)]
    if any(left_out):
        log.warning(
            "data.canvas_side=%d: %d training and %d evaluation tasks have larger grids and are left out",
            config.canvas_side,
            *left_out,
        )
    for name, tasks, some in zip(("training", "evaluation"), sets, fitting, strict=True):
        if not some:
            least = min(task.largest_side() for task in tasks)
            raise DataError(
                f"data.canvas_side={config.canvas_side}: no {name} task has grids as small as that\n"
                f"  way out: take data.canvas_side={least} or more"
            )
    return fitting[0][: config.num_tasks], fitting[1][: config.num_tasks]


def _split(puzzles: Sequence[Sequence[Pair]], identifiers: npt.NDArray[np.int64], side: int) -> Split:
    """Each puzzle a group of its own, its grids in the corner of their canvases."""
    pairs = [pair for puzzle in puzzles for pair in puzzle]
    inputs, labels = (np.stack([encode_grid(pair[part], side, side) for pair in pairs]) for part in (0, 1))
    groups = np.arange(len(puzzles) + 1)
    return Split(inputs, labels, identifiers.astype(np.int32), _offsets([len(puzzle) for puzzle in puzzles]), groups)


def _offsets(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
