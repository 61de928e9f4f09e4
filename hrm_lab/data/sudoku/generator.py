"""Sudoku puzzles with one solution, drawn at random: a function of the settings, the same bytes every time.

No training puzzle has the solution grid of a test puzzle, or is one up to symmetry. Words as in `solver`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from hrm_lab.data.addressed import permutations, random_words
from hrm_lab.data.sudoku.canonical import canonical_form, class_hashes
from hrm_lab.data.sudoku.search import empty_cells, random_solution, tables_of
from hrm_lab.data.sudoku.solver import TEST, TRAIN, Boards, Puzzles, digits_of, geometry_of, solutions
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

# What a random word is for; see `random_words`.
_GRID, _ORDER, _PICK = 0x6001, 0x6002, 0x6003
_HELD_OUT = 2  # beside TRAIN and TEST

_TRIES = 100  # grids and orders tried for one puzzle
_ENUMERABLE_SIDE = 4  # up to here all grids are listed: 288 of 2x2 boxes, 576 of 1x4


@lru_cache(maxsize=8)
def all_grids(box_rows: int, box_cols: int) -> tuple[bytes, ...]:
    """Every solution grid of a small size (side 4 or less), in ascending order, S digits each."""
    geometry = geometry_of(box_rows, box_cols)
    if geometry.side > _ENUMERABLE_SIDE:
        raise ValueError(f"the grids of side {geometry.side} are too many to list")
    found = solutions(geometry, [geometry.all_cells] * geometry.side, geometry.all_cells)
    return tuple(sorted(bytes(digits_of(planes, geometry.side)) for planes in found))


def random_grid(box_rows: int, box_cols: int, *address: int) -> bytes:
    """A random solution grid, S digits, as a function of an address (`random_words`).

    A search that tries digits in random order. It is begun afresh when it gets lost, and on a large board (side 16
    and more) where that goes wrong every time a shuffled pattern grid is taken.
    """
    grid = np.zeros((1, (box_rows * box_cols) ** 2), np.uint8)
    for seed in random_words(_GRID, *address, count=10)[0]:
        if random_solution(grid, tables_of(box_rows, box_cols), seed) == 1:
            return grid.tobytes()
        grid[:] = 0
    return _shuffled_pattern(box_rows, box_cols, *address)


def _shuffled_pattern(box_rows: int, box_cols: int, *address: int) -> bytes:
    """The grid whose rows are one row turned step by step, its digits and its lines inside bands shuffled."""
    side = box_rows * box_cols
    row = np.arange(side)
    turn = row % box_rows * box_cols + row // box_rows
    words = random_words(_GRID, *address, -1, count=3 * side).reshape(3, side)
    rows = permutations(words[1].reshape(box_cols, box_rows)) + np.arange(box_cols)[:, None] * box_rows
    cols = permutations(words[2].reshape(box_rows, box_cols)) + np.arange(box_rows)[:, None] * box_cols
    grid = (turn[:, None] + row[None, :]) % side
    return bytes((permutations(words[0])[grid] + 1)[np.ix_(rows.reshape(-1), cols.reshape(-1))].reshape(-1).tolist())


def dig(
    grid: bytes, order: npt.NDArray[np.int64], box_rows: int, box_cols: int, num_blanks: int | None = None
) -> bytes:
    """Empty cells of a solution grid in this order, leaving out each one whose loss would allow a second solution.

    Args:
        grid: S digits.
        order: the cells to try.
        box_rows: R.
        box_cols: C.
        num_blanks: stop at so many empty cells, and give up as soon as they cannot be reached; None = as many as go.

    Returns:
        S digits, 0 = blank; the solution is unique.
    """
    board = np.frombuffer(grid, np.uint8).copy()
    most = len(grid) if num_blanks is None else num_blanks
    empty_cells(board, order, most, num_blanks is None, tables_of(box_rows, box_cols))
    return board.tobytes()


class _GridSource:
    """Which solution grids train and test puzzles are dug out of; the two never meet."""

    def __init__(self, config: SudokuDataConfig, num_test: int) -> None:
        self.config = config
        wanted = config.test_grids or num_test
        self.listed: tuple[bytes, ...] = ()
        if config.box_rows * config.box_cols <= _ENUMERABLE_SIDE:
            held_out = self._share_out(wanted)
        else:
            held_out = self._draw_held_out(wanted)
        self.held_out = held_out

    def _share_out(self, wanted: int) -> list[bytes]:
        config, grids = self.config, all_grids(self.config.box_rows, self.config.box_cols)
        if config.test_grids is None:
            wanted = min(wanted, max(1, len(grids) // 4))
        if wanted >= len(grids):
            raise DataError(
                f"data.test_grids={wanted}: there are {len(grids)} grids of {config.box_rows}x{config.box_cols} boxes, "
                f"none is left for training\n  way out: take at most data.test_grids={len(grids) - 1}, or null"
            )
        order = permutations(random_words(_PICK, config.build_seed, _HELD_OUT, count=len(grids))[0]).tolist()
        self.listed = tuple(grids[index] for index in order[wanted:])
        return [grids[index] for index in order[:wanted]]

    def _draw_held_out(self, wanted: int) -> list[bytes]:
        config = self.config
        grids: dict[bytes, None] = {}
        for number in range(wanted * _TRIES):
            grids[random_grid(config.box_rows, config.box_cols, config.build_seed, _HELD_OUT, number)] = None
            if len(grids) == wanted:
                return list(grids)
        raise DataError(
            f"data.test_grids={wanted}: only {len(grids)} different grids were found\n"
            f"  way out: take at most data.test_grids={len(grids)}"
        )

    def train(self, puzzle: int, attempt: int) -> bytes:
        """The grid for a training puzzle; where they are not listed it may be a held-out one."""
        config = self.config
        if self.listed:
            word = random_words(_PICK, config.build_seed, TRAIN, puzzle, attempt, count=1)[0, 0]
            return self.listed[int(word) % len(self.listed)]
        return random_grid(config.box_rows, config.box_cols, config.build_seed, TRAIN, puzzle, attempt)

    def test(self, puzzle: int, attempt: int) -> bytes:
        """The grid for a test puzzle: each in turn, another one when many orders have failed on it."""
        return self.held_out[(puzzle + max(0, attempt - _TRIES // 2)) % len(self.held_out)]


class Held:
    """What the test set holds, and so no training puzzle may be."""

    def __init__(self, box_rows: int, box_cols: int) -> None:
        self.shape = (box_rows, box_cols)
        self.grids: set[bytes] = set()
        self._alike: dict[int, list[Boards]] = {}  # by hash
        self._form = lru_cache(maxsize=None)(
            lambda puzzle: canonical_form(np.frombuffer(puzzle, np.uint8), *self.shape)
        )

    def add(self, test: Puzzles) -> None:
        """Remember a test set."""
        self.grids.update(answer.tobytes() for answer in test.answers)
        for question, hashed in zip(test.questions, class_hashes(test.questions, *self.shape).tolist(), strict=True):
            self._alike.setdefault(hashed, []).append(question)

    def holds(self, questions: Boards, answers: Boards) -> npt.NDArray[np.bool_]:
        """(N,) whether a puzzle is one of them up to symmetry, or has such a grid."""
        if not self._alike:
            return np.zeros(len(questions), np.bool_)
        rows = zip(questions, answers, class_hashes(questions, *self.shape).tolist(), strict=True)
        return np.array(
            [answer.tobytes() in self.grids or self._is_like(question, hashed) for question, answer, hashed in rows],
            np.bool_,
        )

    def _is_like(self, question: Boards, hashed: int) -> bool:
        alike = self._alike.get(hashed, [])
        return bool(alike) and self._form(question.tobytes()) in [self._form(other.tobytes()) for other in alike]


def generate_split(config: SudokuDataConfig, split: int, size: int, held: Held, done: Callable[[int], None]) -> Puzzles:
    """So many puzzles of a split, which differ from each other.

    Args:
        config: whose `num_test` must be a number.
        split: TRAIN or TEST.
        size: puzzles.
        held: what no training puzzle may be.
        done: called with the number of puzzles that are there.

    Raises:
        DataError: when so many puzzles, or so many blanks, cannot be reached.
    """
    if config.num_test is None:
        raise ValueError("a generated dataset needs num_test")
    source = _GridSource(config, config.num_test)
    held.grids.update(source.held_out)
    known: dict[bytes, bytes] = {}  # puzzle -> its grid, in the order of making
    for number in range(size):
        done(number)
        question, grid = _new_puzzle(config, source, split, number, held, known)
        known[question] = grid
    done(size)
    shape = (size, (config.box_rows * config.box_cols) ** 2)
    return Puzzles(
        np.frombuffer(b"".join(known), np.uint8).reshape(shape),
        np.frombuffer(b"".join(known.values()), np.uint8).reshape(shape),
    )


def _new_puzzle(
    config: SudokuDataConfig, source: _GridSource, split: int, number: int, held: Held, known: dict[bytes, bytes]
) -> tuple[bytes, bytes]:
    """A puzzle that is not known yet, and its grid."""
    cells, most = (config.box_rows * config.box_cols) ** 2, 0
    for attempt in range(_TRIES):
        grid = source.train(number, attempt) if split == TRAIN else source.test(number, attempt)
        words = random_words(_ORDER, config.build_seed, split, number, attempt, count=cells)[0]
        question = dig(grid, permutations(words), config.box_rows, config.box_cols, config.num_blanks)
        blanks = question.count(0)
        most = max(most, blanks)
        if question in known or (config.num_blanks is not None and blanks != config.num_blanks):
            continue
        if split == TEST or not held.holds(*(np.frombuffer(board, np.uint8)[None] for board in (question, grid)))[0]:
            return question, grid
    _no_puzzle(config, split, number, most)


def _no_puzzle(config: SudokuDataConfig, split: int, number: int, most: int) -> NoReturn:
    boxes, key = f"{config.box_rows}x{config.box_cols} boxes", "num_train" if split == TRAIN else "num_test"
    if config.num_blanks is not None and most < config.num_blanks:
        raise DataError(
            f"data.num_blanks={config.num_blanks}: {_TRIES} tries found no puzzle of {boxes} with so many empty cells "
            f"and one solution\n  way out: take fewer blanks, or null for as many as each grid allows"
        )
    grids = (
        " or more data.test_grids"
        if split == TEST
        else " or fewer data.num_test, whose likes up to symmetry are left out"
    )
    raise DataError(
        f"data.{key}={getattr(config, key)}: no further puzzle of {boxes} after {number} different ones in {_TRIES} "
        f"tries\n  way out: take at most data.{key}={number}{grids}, or another data.num_blanks"
    )
