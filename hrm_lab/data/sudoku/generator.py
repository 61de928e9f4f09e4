"""Sudoku puzzles with one solution, drawn at random: a function of the settings, the same bytes every time.

No training puzzle has the solution grid of a test puzzle. Words as in `solver`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import numpy as np

from hrm_lab.data.addressed import permutations, random_words
from hrm_lab.data.sudoku.solver import Boards, Geometry, SearchLimit, digits_of, geometry_of, solutions
from hrm_lab.data.task import Progress
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

# What a random word is for; see `random_words`.
_GRID, _ORDER, _PICK = 0x6001, 0x6002, 0x6003
_TRAIN, _TEST, _HELD_OUT = 0, 1, 2

_TRIES = 100  # grids and orders tried for one puzzle
_ENUMERABLE_SIDE = 4  # up to here all grids are listed: 288 of 2x2 boxes, 576 of 1x4
_GRID_NODES = 2_000  # search nodes after which a random grid is begun afresh
_DIG_NODES = 500  # search nodes after which a cell counts as needed: only large boards get there


@dataclass(frozen=True)
class Puzzles:
    """Puzzles with their solutions."""

    questions: Boards  # (N, S) digits, 0 = blank
    answers: Boards  # (N, S) digits

    def __len__(self) -> int:
        return len(self.questions)


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
    and more) that goes wrong every time a shuffled pattern grid is taken.
    """
    geometry = geometry_of(box_rows, box_cols)
    side = geometry.side
    for attempt in range(10):
        words = random_words(_GRID, *address, attempt, count=side**3).reshape(side * side, side)
        planes = [geometry.all_cells] * side
        try:
            found = solutions(geometry, planes, geometry.all_cells, _GRID_NODES, permutations(words).tolist())
            return bytes(digits_of(next(found), side))
        except SearchLimit:
            continue
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


def dig(grid: bytes, order: Sequence[int], box_rows: int, box_cols: int, num_blanks: int | None = None) -> bytes:
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
    geometry = geometry_of(box_rows, box_cols)
    given, blocked = [0] * geometry.side, [geometry.all_cells] * geometry.side
    for cell, digit in enumerate(grid):
        given[digit - 1] |= 1 << cell
        blocked[digit - 1] &= ~(1 << cell)
    open_cells, blanks = 0, 0
    for position, cell in enumerate(order):
        if num_blanks is not None and (blanks >= num_blanks or blanks + len(order) - position < num_blanks):
            break
        mine, bit = grid[cell] - 1, 1 << cell
        others = given[mine] ^ bit
        seen = _seen(geometry, others)
        trial_open = open_cells | bit
        planes = [held | (trial_open & ~seen_by) for held, seen_by in zip(given, blocked, strict=True)]
        # The cell with any digit but its own: the puzzle without it is unique just when this has no solution.
        planes[mine] = others | (trial_open & ~seen & ~bit)
        if not _solvable(geometry, planes, trial_open):
            given[mine], blocked[mine], open_cells, blanks = others, seen, trial_open, blanks + 1
    return bytes(digits_of(given, geometry.side))


def _seen(geometry: Geometry, cells: int) -> int:
    """All cells that one of `cells` sees."""
    seen = 0
    while cells:
        bit = cells & -cells
        seen |= geometry.peers[bit.bit_length() - 1]
        cells ^= bit
    return seen


def _solvable(geometry: Geometry, planes: list[int], open_cells: int) -> bool:
    """Whether there is a solution; True also when the search gets too long, so that the cell is kept."""
    try:
        return next(solutions(geometry, planes, open_cells, _DIG_NODES), None) is not None
    except SearchLimit:
        return True


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
        self._held_out = frozenset(held_out)

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

    def train(self, puzzle: int, attempt: int) -> bytes | None:
        """The grid for a training puzzle; None when the draw fell on a held-out one."""
        config = self.config
        if self.listed:
            word = random_words(_PICK, config.build_seed, _TRAIN, puzzle, attempt, count=1)[0, 0]
            return self.listed[int(word) % len(self.listed)]
        grid = random_grid(config.box_rows, config.box_cols, config.build_seed, _TRAIN, puzzle, attempt)
        return None if grid in self._held_out else grid

    def test(self, puzzle: int, attempt: int) -> bytes:
        """The grid for a test puzzle: each in turn, another one when many orders have failed on it."""
        return self.held_out[(puzzle + max(0, attempt - _TRIES // 2)) % len(self.held_out)]


def generate(config: SudokuDataConfig, progress: Progress | None = None) -> tuple[Puzzles, Puzzles]:
    """Generate train and test puzzles, each with one solution; the same bytes for the same settings.

    No training puzzle has the solution grid of a test puzzle, and the puzzles of a split differ from each other.

    Args:
        config: `num_train` and `num_test` must be numbers.
        progress: called with (puzzles done, puzzles in all).

    Raises:
        DataError: when so many puzzles, or so many blanks, cannot be reached.
    """
    if config.num_train is None or config.num_test is None:
        raise ValueError("a generated dataset needs num_train and num_test")
    source = _GridSource(config, config.num_test)
    test = _generate_split(config, source, _TEST, config.num_test, progress)
    train = _generate_split(config, source, _TRAIN, config.num_train, progress)
    return train, test


def _generate_split(
    config: SudokuDataConfig, source: _GridSource, split: int, size: int, progress: Progress | None
) -> Puzzles:
    """The test split is made first: its puzzles are counted as done when the training split begins."""
    assert config.num_train is not None
    assert config.num_test is not None
    before = config.num_test if split == _TRAIN else 0
    known: dict[bytes, bytes] = {}  # puzzle -> its grid, in the order of making
    for number in range(size):
        if progress is not None:
            progress(before + number, config.num_train + config.num_test)
        question, grid = _new_puzzle(config, source, split, number, known)
        known[question] = grid
    if progress is not None:
        progress(before + size, config.num_train + config.num_test)
    shape = (size, (config.box_rows * config.box_cols) ** 2)
    return Puzzles(
        np.frombuffer(b"".join(known), np.uint8).reshape(shape),
        np.frombuffer(b"".join(known.values()), np.uint8).reshape(shape),
    )


def _new_puzzle(
    config: SudokuDataConfig, source: _GridSource, split: int, number: int, known: dict[bytes, bytes]
) -> tuple[bytes, bytes]:
    """A puzzle that is not known yet, and its grid."""
    cells, most = (config.box_rows * config.box_cols) ** 2, 0
    for attempt in range(_TRIES):
        grid = source.train(number, attempt) if split == _TRAIN else source.test(number, attempt)
        if grid is None:
            continue
        words = random_words(_ORDER, config.build_seed, split, number, attempt, count=cells)[0]
        question = dig(grid, permutations(words).tolist(), config.box_rows, config.box_cols, config.num_blanks)
        blanks = question.count(0)
        most = max(most, blanks)
        if question not in known and (config.num_blanks is None or blanks == config.num_blanks):
            return question, grid
    _no_puzzle(config, split, number, most)


def _no_puzzle(config: SudokuDataConfig, split: int, number: int, most: int) -> NoReturn:
    boxes, key = f"{config.box_rows}x{config.box_cols} boxes", "num_train" if split == _TRAIN else "num_test"
    if config.num_blanks is not None and most < config.num_blanks:
        raise DataError(
            f"data.num_blanks={config.num_blanks}: {_TRIES} tries found no puzzle of {boxes} with so many empty cells "
            f"and one solution\n  way out: take fewer blanks, or null for as many as each grid allows"
        )
    grids = " or more data.test_grids" if split == _TEST else ""
    raise DataError(
        f"data.{key}={getattr(config, key)}: no further puzzle of {boxes} after {number} different ones in {_TRIES} "
        f"tries\n  way out: take at most data.{key}={number}{grids}, or another data.num_blanks"
    )
