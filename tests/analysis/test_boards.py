"""Pictures of puzzles: what is right and wrong is told apart by marks, and every shape of board is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from hrm_lab.analysis.boards import Board, draw_boards, shown_steps
from hrm_lab.analysis.reasoning import draw_act_depth, draw_difficulty


def evaluation(box_rows: int, box_cols: int, steps: int, buckets: int = 3) -> dict[str, NDArray[Any]]:
    """Of two puzzles, ever more of them right."""
    side, random = box_rows * box_cols, np.random.default_rng(0)
    labels = random.integers(2, side + 2, (2, side * side), dtype=np.uint8)
    inputs = np.where(random.random(labels.shape) < 0.4, labels, 1).astype(np.uint8)
    wrong = random.random((2, steps, side * side)) > np.arange(1, steps + 1)[:, None] / steps
    share = np.linspace(0.2, 0.8, steps)
    return {
        "accuracy": share,
        "exact_accuracy": share / 2,
        "puzzles": np.full(buckets, 10.0),
        "solved": 10 * np.tile(share, (buckets, 1)),
        "halting_step": np.linspace(1, steps, buckets),
        "rating_low": np.arange(buckets) if buckets > 1 else np.zeros(0),
        "rating_high": np.arange(buckets) if buckets > 1 else np.zeros(0),
        "inputs": inputs,
        "labels": labels,
        "predictions": np.where(wrong & (inputs == 1)[:, None], 2, labels[:, None]).astype(np.uint8),
        "q_halt": np.tile(share, (2, 1)),
        "grid_shape": np.array([side, side]),
        "box_shape": np.array([box_rows, box_cols]),
        "glyphs": np.array(list("_.123456789ABCDEFG"[: side + 2])),
    }


def test_given_right_and_wrong_differ_by_more_than_colour() -> None:
    arrays = evaluation(2, 2, 1)
    axis = Figure().subplots()
    labels = np.arange(16, dtype=np.uint8) % 4 + 2
    inputs = np.where(np.arange(16) < 6, labels, 1).astype(np.uint8)
    said, before = labels.copy(), labels.copy()
    said[[2, 9, 10]] = [labels[2] ^ 1, labels[9] ^ 1, 0]  # a given that is not kept, a wrong cell, and no digit at all
    Board(arrays).draw(axis, said, labels, inputs, before)
    bold = [text.get_weight() == "bold" for text in axis.texts]
    assert bold == [True] * 6 + [False] * 10
    assert [text.get_text() for text in axis.texts] == ["_.1234"[token] for token in said]
    patches = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    filled = {(int(patch.get_y()), int(patch.get_x())) for patch in patches if patch.get_fill()}
    framed = {(int(patch.get_y()), int(patch.get_x())) for patch in patches if not patch.get_fill()}
    assert filled == {divmod(cell, 4) for cell in range(6)}
    assert framed == {divmod(cell, 4) for cell in (2, 9, 10)}
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert len(dots) == 3
    assert sum(line.get_linewidth() > 1 for line in axis.lines if line.get_marker() != "o") == 6  # boxes' borders


@pytest.mark.parametrize(("box_rows", "box_cols", "steps"), [(2, 2, 1), (2, 3, 16), (4, 4, 1)])
def test_boards_of_every_shape_are_drawn(tmp_path: Path, box_rows: int, box_cols: int, steps: int) -> None:
    arrays = evaluation(box_rows, box_cols, steps)
    if box_rows == 4:
        del arrays["box_shape"], arrays["glyphs"]  # an evaluation of an earlier version, of a task without boxes
    picture = draw_boards(arrays, tmp_path / "boards.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_columns_are_few_and_end_with_the_last_step() -> None:
    assert shown_steps(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert shown_steps(16) == [1, 2, 3, 4, 6, 8, 12, 16]
    for count in range(1, 70):
        steps = shown_steps(count)
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1], len(steps) <= 8) == (1, count, True)


@pytest.mark.parametrize("buckets", [1, 8])
def test_depth_and_difficulty_are_drawn(tmp_path: Path, buckets: int) -> None:
    arrays = evaluation(2, 2, 4, buckets)
    for picture in (
        draw_act_depth({0: arrays, 1000: arrays}, tmp_path / "act_depth.png"),
        draw_difficulty(arrays, tmp_path / "difficulty.png"),
    ):
        assert picture.read_bytes().startswith(b"\x89PNG")
