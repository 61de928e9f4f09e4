"""Boards have one canonical form just when a symmetry turns one into the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm_lab.data.addressed import permutations, random_words
from hrm_lab.data.sudoku.build import generate
from hrm_lab.data.sudoku.canonical import canonical_form, class_hashes, shared_classes
from hrm_lab.data.sudoku.generator import all_grids
from hrm_lab.data.sudoku.solver import Boards
from hrm_lab.data.sudoku.symmetries import apply_sudoku, sudoku_draws
from hrm_lab.data.tasks.sudoku import SudokuDataConfig

SHAPES = [(2, 2), (2, 3), (3, 2), (1, 4), (3, 3)]


def images(boards: Boards, seed: int, box_rows: int, box_cols: int) -> Boards:
    """Each board under a random symmetry."""
    tokens = torch.from_numpy(boards + np.uint8(1))
    return (
        apply_sudoku(tokens, tokens, sudoku_draws(seed, np.arange(len(boards)), 1, box_rows, box_cols))[0].numpy() - 1
    )


@pytest.mark.parametrize(("box_rows", "box_cols"), SHAPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), share=st.integers(2, 9))
def test_a_symmetry_keeps_the_form_and_the_hash(box_rows: int, box_cols: int, seed: int, share: int) -> None:
    side = box_rows * box_cols
    words = random_words(seed, count=side * side)[0]
    # Any board will do, digits may clash; half of the small ones are regular, so that many lines look alike.
    board = np.where(permutations(words) < side * side * share // 10, words % np.uint64(side) + np.uint64(1), 0)
    if seed % 2 and side < 9:
        board[:] = 0
        board[: side * (share % 3 + 2)] = np.arange(side * (share % 3 + 2)) % side + 1
    board = board.astype(np.uint8)[None]
    image = images(board, seed, box_rows, box_cols)
    assert class_hashes(image, box_rows, box_cols) == class_hashes(board, box_rows, box_cols)
    assert canonical_form(image[0], box_rows, box_cols) == canonical_form(board[0], box_rows, box_cols)


def test_classes_are_as_many_as_there_are() -> None:
    """The 288 grids are of two kinds, which only the form tells apart: a full grid looks alike from everywhere."""
    grids = np.array([list(grid) for grid in all_grids(2, 2)[::4]], np.uint8)
    forms = [canonical_form(grid, 2, 2) for grid in grids]
    assert len(set(forms)) == 2
    assert len(set(class_hashes(grids, 2, 2).tolist())) == 1
    kinds = [grids[[form == one for form in forms]] for one in set(forms)]
    assert not list(shared_classes(*kinds, 2, 2))


def test_what_has_one_form_has_a_symmetry_between() -> None:
    boards = generate(SudokuDataConfig(box_rows=2, box_cols=2, num_train=40, num_test=1, num_blanks=8))[0].questions
    orbits = [{image.tobytes() for image in images(board[None].repeat(3000, 0), 0, 2, 2)} for board in boards[:6]]
    for board, orbit in zip(boards[:6], orbits, strict=True):
        for other in boards:
            same = canonical_form(board, 2, 2) == canonical_form(other, 2, 2)
            assert same or other.tobytes() not in orbit
            if same:
                assert orbit & {image.tobytes() for image in images(other[None].repeat(100, 0), 1, 2, 2)}


def test_a_disguised_duplicate_is_found() -> None:
    train, test = (puzzles.questions for puzzles in generate(SudokuDataConfig(num_train=30, num_test=40)))
    assert not list(shared_classes(train, test, 3, 3))
    planted = train.copy()
    planted[[3, 17]] = images(test[[8, 29]], 5, 3, 3)
    assert list(shared_classes(planted, test, 3, 3)) == [(3, 8), (17, 29)]
    one_less = planted.copy()
    one_less[3, np.flatnonzero(one_less[3])[0]] = 0
    assert list(shared_classes(one_less, test, 3, 3)) == [(17, 29)]


def test_boards_with_too_many_images_count_as_one() -> None:
    boards = np.zeros((2, 81), np.uint8)
    boards[0, :9] = boards[1, 9:18] = np.arange(1, 10)
    assert canonical_form(boards[0], 3, 3) is None
    assert list(shared_classes(boards[:1], boards[1:], 3, 3)) == [(0, 0)]
    assert canonical_form(np.zeros(256, np.uint8), 4, 4) is None


def test_generated_splits_share_no_class() -> None:
    config = SudokuDataConfig(box_rows=2, box_cols=2, num_train=300, num_test=60, num_blanks=7)
    train, test = generate(config)
    assert not list(shared_classes(train.questions, test.questions, 2, 2))
    assert not {answer.tobytes() for answer in train.answers} & {answer.tobytes() for answer in test.answers}
