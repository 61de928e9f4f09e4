"""A compiled search for Sudoku of any box shape: completions, uniqueness, and how many guesses a puzzle takes.

Only builders need it, so numba is no part of training. What is compiled (half a minute) is kept on disk for the next
process, until this file changes: so all that is compiled is in this one file. All that is random is a hash of a seed
and a counter. A cell's candidates are the low bits of a word, digit d being bit d - 1; words
otherwise as in `solver`, which is the plain counterpart that this is tested against.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrm_lab.errors import DataError

try:
    from numba import njit
except ImportError as error:
    raise DataError(
        f"Sudokus cannot be generated without numba: {error}\n"
        "  way out: pip install numba, or build the dataset on a machine that has it and bring the folder (paths.data)"
    ) from error

from hrm_lab.data.sudoku.solver import Boards, cells_of_units, units_of

SINGLES, LOCKED = 0, 1  # what is deduced before a guess: naked and hidden singles; locked candidates too
FEWEST, INTERACTING, ANY = 0, 1, 2  # where it guesses: see `_choose`

_DONE = np.uint32(1 << 31)  # its digit has been taken from the cell's peers
_DIGITS = np.uint32((1 << 25) - 1)
_NONE = np.uint32(0)
_ONE = np.uint32(1)
_GAMMA = np.uint64(0x9E3779B97F4A7C15)

_GRID_GUESSES = 2_000  # after which a random grid is begun afresh
_DIG_GUESSES = 500  # after which a cell counts as needed: only large boards get there
_SCORE_GUESSES = 1_000  # that one scoring search may take
_SCORINGS = 6  # searches that a score is the least of
_MOST_TAKEN = 4  # clues taken from a parent at most

_compiled = njit(cache=True, nogil=True)


class Tables(NamedTuple):
    """Which cells see each other; -1 fills up short rows."""

    peers: npt.NDArray[np.int16]  # (S, P)
    units: npt.NDArray[np.int16]  # (3n, n): rows, columns, boxes
    segments: npt.NDArray[np.int16]  # (K, longest): the cells that a box and a line share
    line_rests: npt.NDArray[np.int16]  # (K, longest): the others of the line
    box_rests: npt.NDArray[np.int16]  # (K, longest): the others of the box


@lru_cache(maxsize=32)
def tables_of(box_rows: int, box_cols: int) -> Tables:
    """The tables of a box shape."""
    side = box_rows * box_cols
    units = cells_of_units(box_rows, box_cols)
    peers = []
    for cell in range(side * side):
        seen = {other for unit in units_of(cell, box_rows, box_cols) for other in units[unit]} - {cell}
        peers.append(sorted(seen))
    shared = [
        (sorted(set(line) & set(box)), sorted(set(line) - set(box)), sorted(set(box) - set(line)))
        for line in units[: 2 * side]
        for box in units[2 * side :]
        if set(line) & set(box)
    ]
    return Tables(_padded(peers), _padded(units), *(_padded(part) for part in zip(*shared, strict=True)))


def _padded(rows: Any) -> npt.NDArray[np.int16]:
    longest = max(1, *(len(row) for row in rows))
    return np.array([list(row) + [-1] * (longest - len(row)) for row in rows], np.int16)


@_compiled
def mix(word: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64, as in `addressed`."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@_compiled
def word_of(seed: np.uint64, number: int) -> np.uint64:
    """Random word `number` of a seed."""
    return mix(seed + np.uint64(number + 1) * _GAMMA)


@_compiled
def _remove(cells: npt.NDArray[np.uint32], places: npt.NDArray[np.int16], digits: np.uint32) -> bool:
    """Take candidates from cells; False when one has none left."""
    for cell in places:
        if cell < 0:
            break
        if cells[cell] & digits:
            cells[cell] &= ~digits
            if cells[cell] & _DIGITS == _NONE:
                return False
    return True


@_compiled
def _settle_singles(cells: npt.NDArray[np.uint32], queue: npt.NDArray[np.int16], peers: npt.NDArray[np.int16]) -> bool:
    """Take the digits of all cells with one candidate from their peers; False at a contradiction."""
    waiting = 0
    for cell in range(len(cells)):
        if not cells[cell] & _DONE and cells[cell] & (cells[cell] - _ONE) == _NONE:
            queue[waiting] = cell
            waiting += 1
    while waiting:
        waiting -= 1
        cell = queue[waiting]
        digit = cells[cell]
        cells[cell] = digit | _DONE
        for peer in peers[cell]:
            left = cells[peer]
            if left & digit:
                left &= ~digit
                if left & _DIGITS == _NONE:
                    return False
                cells[peer] = left
                if left & (left - _ONE) == _NONE:
                    queue[waiting] = peer
                    waiting += 1
    return True


@_compiled
def _settle_hidden(cells: npt.NDArray[np.uint32], units: npt.NDArray[np.int16]) -> int:
    """Digits with one place left in a unit: 1 when there were such, 0 for none, -1 = contradiction."""
    every, found = np.uint32((1 << units.shape[1]) - 1), 0
    for unit in units:
        ones, twos, done = _NONE, _NONE, _NONE
        for cell in unit:
            digits = cells[cell] & _DIGITS
            twos |= ones & digits
            ones |= digits
            if cells[cell] & _DONE:
                done |= digits
        if ones != every:
            return -1
        hidden = ones & ~twos & ~done
        if hidden:
            found = 1
            for cell in unit:
                if not cells[cell] & _DONE:
                    digits = cells[cell] & hidden
                    if digits & (digits - _ONE):
                        return -1
                    if digits:
                        cells[cell] = digits
    return found


@_compiled
def _remove_locked(cells: npt.NDArray[np.uint32], tables: Tables) -> int:
    """Digits confined to a segment within its line, or its box, go from the rest of the other: as `_settle_hidden`."""
    found = 0
    for number in range(len(tables.segments)):
        inside, on_line, in_box = _NONE, _NONE, _NONE
        for cell in tables.segments[number]:
            if cell >= 0 and not cells[cell] & _DONE:
                inside |= cells[cell]
        if not inside:
            continue
        for cell in tables.line_rests[number]:
            if cell >= 0:
                on_line |= cells[cell]
        for cell in tables.box_rests[number]:
            if cell >= 0:
                in_box |= cells[cell]
        from_box, from_line = inside & in_box & ~on_line, inside & on_line & ~in_box
        if from_box:
            found = 1
            if not _remove(cells, tables.box_rests[number], from_box):
                return -1
        if from_line:
            found = 1
            if not _remove(cells, tables.line_rests[number], from_line):
                return -1
    return found


@_compiled
def propagate(cells: npt.NDArray[np.uint32], queue: npt.NDArray[np.int16], tables: Tables, level: int) -> bool:
    """Deduce what can be deduced; False at a contradiction."""
    while True:
        if not _settle_singles(cells, queue, tables.peers):
            return False
        found = _settle_hidden(cells, tables.units)
        if found == 0 and level >= LOCKED:
            found = _remove_locked(cells, tables)
        if found < 0:
            return False
        if found == 0:
            return True


@_compiled
def _count(digits: np.uint32) -> int:
    count = 0
    while digits:
        digits &= digits - _ONE
        count += 1
    return count


@_compiled
def _choose(cells: npt.NDArray[np.uint32], peers: npt.NDArray[np.int16], where: int, seed: np.uint64, node: int) -> int:
    """The cell to guess at, -1 when all are settled; ties are broken by the seed.

    FEWEST: of those with the fewest candidates. INTERACTING: of those, the one with most unsettled peers that share a
    candidate, each of which counts half as much for every candidate more. ANY: as FEWEST, drawn anew at every node.
    """
    best, fewest, most, highest = -1, 99, -1, np.uint64(0)
    for cell in range(len(cells)):
        if cells[cell] & _DONE:
            continue
        count = _count(cells[cell])
        if count > fewest:
            continue
        shared = 0
        if where == INTERACTING:
            for peer in peers[cell]:
                if not cells[peer] & _DONE and cells[peer] & cells[cell]:
                    shared += (1 << 25) >> _count(cells[peer])
        if count == fewest and shared < most:
            continue
        tie = word_of(seed, cell if where == FEWEST else node * 1024 + cell)
        if count < fewest or shared > most or tie > highest:
            best, fewest, most, highest = cell, count, shared, tie
    return best


@_compiled
def search(
    stack: npt.NDArray[np.uint32],
    queue: npt.NDArray[np.int16],
    found: npt.NDArray[np.uint8],
    tables: Tables,
    level: int,
    where: int,
    seed: np.uint64,
    most_guesses: int,
) -> tuple[int, int]:
    """Depth first from the candidates in stack[0], digits in random order, until len(found) solutions are found.

    Args:
        stack: (S + 1, S) candidates; changed.
        queue: (S,) scratch.
        found: (limit, S) digits of the solutions, filled in.
        most_guesses: it gives up after so many.

    Returns:
        Solutions found, -1 when it gave up; and guesses: digits tried where another was left.
    """
    depth = solutions = guesses = 0
    while depth >= 0:
        cells = stack[depth]
        if not propagate(cells, queue, tables, level):
            depth -= 1
            continue
        cell = _choose(cells, tables.peers, where, seed, guesses)
        if cell < 0:
            for place in range(len(cells)):
                found[solutions, place] = _place(cells[place] & _DIGITS) + 1
            solutions += 1
            if solutions == len(found):
                return solutions, guesses
            depth -= 1
            continue
        if guesses >= most_guesses:
            return -1, guesses
        digit, highest = _NONE, np.uint64(0)
        left = cells[cell]
        while left:
            bit = left & (~left + _ONE)
            tie = word_of(seed ^ _GAMMA, (guesses * 1024 + cell) * 32 + _place(bit))
            if digit == _NONE or tie > highest:
                digit, highest = bit, tie
            left ^= bit
        guesses += 1
        stack[depth + 1] = cells
        stack[depth + 1, cell] = digit
        cells[cell] ^= digit
        depth += 1
    return solutions, guesses


@_compiled
def _place(bit: np.uint32) -> int:
    place = 0
    while bit > _ONE:
        bit >>= _ONE
        place += 1
    return place


@_compiled
def fill(cells: npt.NDArray[np.uint32], board: Boards, side: int) -> None:
    """The candidates of a board before any deduction."""
    for cell in range(len(cells)):
        cells[cell] = np.uint32(1 << (board[cell] - 1)) if board[cell] else np.uint32((1 << side) - 1)


@_compiled
def count_guesses(
    boards: Boards, tables: Tables, searches: int, most_guesses: int, totals: npt.NDArray[np.int64]
) -> None:
    cells_in_all = boards.shape[1]
    stack, queue = np.empty((cells_in_all + 1, cells_in_all), np.uint32), np.empty(cells_in_all, np.int16)
    found, start = np.empty((1, cells_in_all), np.uint8), np.empty(cells_in_all, np.uint32)
    for number in range(len(boards)):
        fill(start, boards[number], tables.units.shape[1])
        propagate(start, queue, tables, LOCKED)
        total = 0
        for again in range(searches):
            stack[0] = start
            seed = word_of(np.uint64(0), again)
            _, guesses = search(stack, queue, found, tables, LOCKED, INTERACTING, seed, most_guesses)
            total += guesses
            if again == 0 and guesses == 0:
                break
        totals[number] = total


# --------------------------------------------------------------------------------------------- making puzzles


@_compiled
def random_solution(found: Boards, tables: Tables, seed: np.uint64) -> int:
    cells = found.shape[1]
    stack, queue = np.empty((cells + 1, cells), np.uint32), np.empty(cells, np.int16)
    fill(stack[0], found[0], tables.units.shape[1])
    solutions, _ = search(stack, queue, found, tables, SINGLES, FEWEST, seed, _GRID_GUESSES)
    return solutions


@_compiled
def empty_cells(board: Boards, order: npt.NDArray[np.int64], most: int, any_number: bool, tables: Tables) -> None:
    cells = len(board)
    stack, queue = np.empty((cells + 1, cells), np.uint32), np.empty(cells, np.int16)
    other, blanks = np.empty((1, cells), np.uint8), 0
    for position in range(len(order)):
        if blanks >= most or (not any_number and blanks + len(order) - position < most):
            break
        if _is_spare(board, order[position], stack, queue, other, tables):
            board[order[position]] = 0
            blanks += 1


@_compiled
def _is_spare(
    board: Boards,
    cell: int,
    stack: npt.NDArray[np.uint32],
    queue: npt.NDArray[np.int16],
    other: Boards,
    tables: Tables,
) -> bool:
    """Whether a puzzle keeps its only solution without a clue: no other digit fits there."""
    side = tables.units.shape[1]
    fill(stack[0], board, side)
    stack[0, cell] = np.uint32((1 << side) - 1) ^ np.uint32(1 << (board[cell] - 1))
    solutions, _ = search(stack, queue, other, tables, SINGLES, FEWEST, np.uint64(cell), _DIG_GUESSES)
    return solutions == 0


@_compiled
def _score(
    board: Boards,
    enough: int,
    seed: np.uint64,
    stack: npt.NDArray[np.uint32],
    queue: npt.NDArray[np.int16],
    other: Boards,
    tables: Tables,
) -> int:
    """The fewest guesses of several searches that choose differently; given up below `enough`."""
    score = _SCORE_GUESSES
    for number in range(_SCORINGS):
        fill(stack[0], board, tables.units.shape[1])
        where = INTERACTING if number % 2 else ANY
        _, guesses = search(stack, queue, other, tables, LOCKED, where, word_of(seed, number), _SCORE_GUESSES)
        score = min(score, guesses)
        if score < enough:
            break
    return score


@_compiled
def _change(
    board: Boards,
    grid: Boards,
    seed: np.uint64,
    stack: npt.NDArray[np.uint32],
    queue: npt.NDArray[np.int16],
    two: Boards,
    tables: Tables,
) -> bool:
    """Turn a puzzle into a like one: take a few clues, draw a solution, add its clues until it is the only one.

    `board` and `grid`, its solution, are changed. No clue is left that could be spared. False where a search got lost:
    what they hold then is no puzzle.
    """
    cells, side = len(board), tables.units.shape[1]
    order = np.argsort(_words(seed, cells))
    taken, most = 0, 1 + int(word_of(seed, cells) % np.uint64(_MOST_TAKEN))
    for cell in order:
        if board[cell] and taken < most:
            board[cell] = 0
            taken += 1
    fill(stack[0], board, side)
    found, _ = search(stack, queue, two[:1], tables, SINGLES, FEWEST, word_of(seed, cells + 1), _GRID_GUESSES)
    if found != 1:
        return False
    grid[:] = two[0]
    for again in range(cells):
        fill(stack[0], board, side)
        found, _ = search(stack, queue, two, tables, SINGLES, FEWEST, word_of(seed, cells + 2 + again), _GRID_GUESSES)
        if found != 2:
            break
        for cell in order:  # a clue that one of two solutions contradicts
            if not board[cell] and (two[0, cell] != grid[cell] or two[1, cell] != grid[cell]):
                board[cell] = grid[cell]
                break
    if found != 1:
        return False
    for cell in order[::-1]:
        if board[cell] and _is_spare(board, cell, stack, queue, two[:1], tables):
            board[cell] = 0
    return True


@_compiled
def _words(seed: np.uint64, count: int) -> npt.NDArray[np.uint64]:
    words = np.empty(count, np.uint64)
    for number in range(count):
        words[number] = word_of(seed, -2 - number)
    return words


@_compiled
def score_all(boards: Boards, scores: npt.NDArray[np.int64], tables: Tables, seed: np.uint64) -> None:
    """Fill in the scores of a pool."""
    cells = boards.shape[1]
    stack, queue = np.empty((cells + 1, cells), np.uint32), np.empty(cells, np.int16)
    other = np.empty((1, cells), np.uint8)
    for number in range(len(boards)):
        scores[number] = _score(boards[number], 0, word_of(seed, number), stack, queue, other, tables)


@_compiled
def evolve(
    boards: Boards,
    grids: Boards,
    scores: npt.NDArray[np.int64],
    tables: Tables,
    seed: np.uint64,
    first: int,
    steps: int,
) -> None:
    """Steps `first`, first + 1, ... of a pool's evolution: a changed copy of one puzzle takes the place of the worst.

    It does where its score is no lower. A score is the least of several searches, because a mean would be raised by
    puzzles that only mislead one of them; and no puzzle is copied as it is, or the pool would end as a few of them.

    Args:
        boards: (P, S) puzzles, changed as are the others.
        grids: (P, S) solutions.
        scores: (P,).
        tables: of the box shape.
        seed: of the pool.
        first: number of the first step; what a step draws depends on the seed and its number.
        steps: how many.
    """
    cells = boards.shape[1]
    stack, queue = np.empty((cells + 1, cells), np.uint32), np.empty(cells, np.int16)
    two, board, grid = np.empty((2, cells), np.uint8), np.empty(cells, np.uint8), np.empty(cells, np.uint8)
    for step in range(first, first + steps):
        mine = word_of(seed, step)
        parent = int(word_of(mine, 0) % np.uint64(len(boards)))
        board[:], grid[:] = boards[parent], grids[parent]
        if not _change(board, grid, word_of(mine, 1), stack, queue, two, tables):
            continue
        worst = int(np.argmin(scores))
        score = _score(board, scores[worst], word_of(mine, 2), stack, queue, two[:1], tables)
        if score < scores[worst] or _holds(boards, board):
            continue
        boards[worst], grids[worst], scores[worst] = board, grid, score


@_compiled
def _holds(boards: Boards, board: Boards) -> bool:
    for other in boards:
        same = True
        for cell in range(len(board)):
            if other[cell] != board[cell]:
                same = False
                break
        if same:
            return True
    return False
