"""Pictures of a dataset: puzzles with their solutions, and variants of both beside them."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hrm_lab.analysis.boards import Arrays, Board
from hrm_lab.analysis.style import DPI
from hrm_lab.data.addressed import random_words
from hrm_lab.data.format import Split

if TYPE_CHECKING:
    from hrm_lab.training.batches import Batches

Tokens = NDArray[np.uint8]
BOARD_IN, LEAST_CELL_IN, MOST_CELL_IN, CAPTION_IN = 3.6, 0.1, 0.3, 0.3  # inches
_PICKED = 0xA001  # what random words are for; see `random_words`


@dataclass(frozen=True)
class Picked:
    """Puzzles that are shown, each in as many variants: K of them, C columns."""

    inputs: Tokens  # (K, C, S)
    labels: Tokens
    rows: list[str]  # what each puzzle is called
    columns: list[str]  # and each column; the first is the puzzle as it is stored


def pick(batches: Batches, split: Split, count: int, variants: int, seed: int) -> Picked:
    """Some groups of a split, a function of `seed`: the first example of the first puzzles and variants of each.

    Args:
        batches: whose variants they are.
        count: groups, at most.
        variants: besides the first, at most; only as many as each of the groups has.
        seed: of what is picked.
    """
    puzzles = batches.puzzles(split, None if split is batches.dataset.train else batches.num_test_variants)
    words = random_words(_PICKED, seed, count=split.num_groups)[0]
    groups = np.sort(np.argsort(words, kind="stable")[:count])
    first = puzzles.first_of_group[groups]
    columns = min(1 + variants, int((puzzles.first_of_group[groups + 1] - first).min()))
    numbers = (first[:, None] + np.arange(columns)).reshape(-1)
    rows = puzzles.rows(numbers, np.zeros_like(numbers))
    inputs, labels = (tokens.cpu().numpy().reshape(len(groups), columns, -1) for tokens in batches.tokens(split, rows))
    names = [f"puzzle {group}" for group in groups]
    if split.ratings is not None:
        rated = split.ratings[rows.examples[::columns]]
        names = [f"{name}, rating {rating}" for name, rating in zip(names, rated, strict=True)]
    return Picked(inputs, labels, names, ["as stored", *(f"variant {number}" for number in range(1, columns))])


def draw_puzzles(picked: Picked, grid_shape: tuple[int, int], shown_as: Arrays, title: str) -> bytes:
    """Draw puzzles as a PNG: for each a line of inputs, and one of their solutions below; the same bytes each time.

    Args:
        picked: what is drawn.
        grid_shape: rows and columns of a board.
        shown_as: how tokens are drawn, as `training/evaluation.py` says.
        title: above all.
    """
    cell = min(MOST_CELL_IN, max(LEAST_CELL_IN, BOARD_IN / max(grid_shape)))
    board = Board({**shown_as, "grid_shape": np.array(grid_shape)}, cell)
    rows, columns = picked.rows, picked.columns
    width, height = board.cols * cell + 0.25, board.rows * cell + CAPTION_IN
    figure = Figure((max(4.0, len(columns) * width + 0.4), 2 * len(rows) * height + 0.8), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(2 * len(rows), len(columns), squeeze=False)
    for line, row in enumerate(axes):
        puzzle, is_solution = divmod(line, 2)
        for column, axis in enumerate(row):
            inputs, labels = picked.inputs[puzzle, column], picked.labels[puzzle, column]
            board.show(axis, labels if is_solution else inputs, given=inputs == labels)
            if line == 0:
                axis.set_title(columns[column], fontsize=10)
        row[0].set_ylabel("solution" if is_solution else rows[puzzle], fontsize=9)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
