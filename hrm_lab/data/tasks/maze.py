"""Mazes with the shortest path marked (HRM_SPEC section 6, Maze): tokens 1 to 5 are `# SGo`, 0 is padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

import numpy as np

from hrm_lab.config import setting
from hrm_lab.data.dihedral import keeping_shape
from hrm_lab.data.format import Dataset, DatasetInfo, Split
from hrm_lab.data.sources import TEST_SET, SourcedDataConfig
from hrm_lab.data.task import Appearance, Built, Progress, Scorer, Symmetries, Task, Tokens
from hrm_lab.errors import DataError, require

# Hydra's structured configs resolve annotations at run time and know `Optional[int]`, not `int | None`.
# ruff: noqa: UP045


@dataclass
class MazeDataConfig(SourcedDataConfig):
    """Mazes of any shape: generated, or read from `source,question,answer,rating` CSV files, here or on the hub."""

    task: str = setting("maze", "which task it is", choices=("maze",))
    name: str = setting("maze", "name of the dataset; its folder is NAME-HASH under paths.data", identity=False)
    rows: int = setting(30, "rows of a maze", unit="cells", low=3, high=64)
    cols: int = setting(30, "columns of a maze", unit="cells", low=3, high=64)
    min_path: Optional[int] = setting(
        None,
        "generated: least length of the shortest path; null = 111 at 30x30, at other sizes what is as rare there",
        unit="moves",
        low=1,
    )
    min_wall_share: float = setting(0.3, "generated: least share of walls, drawn for each maze", low=0.0, high=0.9)
    max_wall_share: float = setting(0.5, "generated: largest share of walls, before some are added", low=0.0, high=0.9)

    hub_repo: str = setting("sapientinc/maze-30x30-hard-1k", "hub: repository with train.csv and test.csv")

    eval_metrics: ClassVar[tuple[str, ...]] = ("optimal_accuracy",)

    def check(self) -> None:
        """Refuse combinations that cannot be built."""
        require(
            self.min_wall_share <= self.max_wall_share,
            "data.min_wall_share",
            self.min_wall_share,
            f"is above data.max_wall_share={self.max_wall_share}",
            f"take at most {self.max_wall_share}",
        )
        cells = self.rows * self.cols
        require(
            self.source != "generated" or self.min_path is None or self.min_path < cells,
            "data.min_path",
            self.min_path,
            f"a maze of {self.rows}x{self.cols} has {cells} cells",
            f"take at most {cells - 1}, or null",
        )
        super().check()
        check_augmentations(self.num_augmentations, self.rows, self.cols)

    def least_path(self) -> int:
        """`min_path`, or over 110 moves at 30x30 (HRM_SPEC section 6); shortest paths in random walls grow like the
        side to the power of 1.13, so that is about as rare at any size."""
        if self.min_path is not None:
            return self.min_path
        return int(110 * (self.rows * self.cols / 900) ** (1.13 / 2)) + 1


def info(config: MazeDataConfig) -> DatasetInfo:
    """What a dataset of these settings says of itself before it is built."""
    return DatasetInfo(
        task="maze",
        name=config.name,
        vocab_size=6,
        seq_len=config.rows * config.cols,
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        num_puzzle_identifiers=1,
        grid_shape=(config.rows, config.cols),
        test_sets=(TEST_SET,),
    )


def check_augmentations(num_augmentations: int, rows: int, cols: int) -> None:
    """Refuse more variants than a board of this shape has.

    Raises:
        ConfigError: naming how many there are.
    """
    most = len(keeping_shape(rows, cols))
    require(
        num_augmentations <= most,
        "data.num_augmentations",
        num_augmentations,
        f"a maze of {rows}x{cols} can be turned and mirrored in {most} other ways",
        f"take at most {most}",
    )


def appearance(info: DatasetInfo) -> Appearance:
    """`_` padding, then as in the files; walls dark, the path light orange, start and goal green and blue."""
    return Appearance("_# SGo", fills=("#cc79a7", "#404040", "#ffffff", "#7bd1b4", "#8cc7ec", "#f5d58a"))


def parse(info: DatasetInfo, text: str) -> Tokens:
    """A maze as R lines, or all rows one after the other: `#` wall, `.` or a blank for an open cell, one S, one G.

    A line that is too short ends in open cells, since blanks at the ends of lines get lost; `.` never does.

    Raises:
        DataError: for another number of cells, an unknown character, or a maze without one start, one goal and a way.
    """
    from hrm_lab.data.maze.board import CHARACTERS, wrong_with_maze

    rows, cols = info.grid_shape
    lines = text.strip("\r\n").splitlines()
    if len(lines) == 1 and len(lines[0]) == rows * cols:
        lines = [lines[0][start : start + cols] for start in range(0, rows * cols, cols)]
    problem = ""
    tokens = np.zeros(0, np.uint8)
    if len(lines) != rows or any(len(line) > cols for line in lines):
        problem = f"has {len(lines)} lines of up to {max(map(len, lines), default=0)} characters"
    else:
        cells = "".join(line.ljust(cols) for line in lines).replace(".", " ")
        odd = sorted(set(cells) - set(CHARACTERS[:4]))
        if odd:
            problem = f"has {odd[0]!r}, which is no cell of a maze"
        else:
            tokens = np.array([1 + CHARACTERS.index(cell) for cell in cells], np.uint8)
            problem = wrong_with_maze(tokens.reshape(rows, cols))
    if problem:
        raise DataError(
            f"maze {text[:40]!r}: {problem}\n"
            f"  way out: {rows} lines of {cols} cells, or all in one: # wall, . open, one S (start), one G (goal)"
        )
    return tokens


def verify(info: DatasetInfo, inputs: Tokens, answer: Tokens) -> str:
    """Whether the maze is kept and the marked cells are one of its shortest paths."""
    from hrm_lab.data.maze.board import wrong_with_answer

    return wrong_with_answer(inputs.reshape(info.grid_shape), answer.reshape(info.grid_shape))


def _build(config: MazeDataConfig, progress: Progress | None) -> Built:
    from hrm_lab.data.maze.build import build

    return build(config, progress)


def _symmetries(dataset: Dataset, seed: int, num_augmentations: int) -> Symmetries:
    from hrm_lab.data.maze.symmetries import MazeSymmetries

    return MazeSymmetries(dataset, seed, num_augmentations)


def _scorer(dataset: Dataset, split: Split, symmetries: Symmetries | None) -> Scorer:
    from hrm_lab.data.maze.scorer import MazeScorer

    return MazeScorer(dataset.info)


TASK = Task(MazeDataConfig, _build, appearance, parse, verify, symmetries=_symmetries, scorer=_scorer, info=info)
