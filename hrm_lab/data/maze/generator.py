"""Mazes with a long shortest way and only one of it: a function of the settings, the same bytes every time.

Walls are put at random and a long way is looked for between two cells. Such mazes have millions of shortest ways, so
which of them a label shows could not be learned, and turning a maze would change it; therefore one is drawn, and every
other cell that lies on a shortest way becomes a wall. Words as in `board`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from hrm_lab.data.addressed import Words, random_words
from hrm_lab.data.maze import board
from hrm_lab.data.maze.board import GOAL, OPEN, PATH, START, WALL, Flags, Mazes, Moves
from hrm_lab.data.task import Ints, Progress, Tokens
from hrm_lab.data.tasks.maze import MazeDataConfig
from hrm_lab.errors import DataError

# What a random word is for; see `random_words`.
_WALLS, _WAY = 0x3A01, 0x3A02
_TRAIN, _TEST = 0, 1

_ATTEMPTS = 100_000  # random walls in vain; at the default length one in 200 has a way that long
_BLOCK = 1_024  # of them that are looked at together
_AHEAD = 256  # mazes that are looked for together
_ALIKE = 200  # mazes for one number that are all like known ones


@dataclass(frozen=True)
class _Found:
    attempt: int
    question: Tokens  # (R, C)
    answer: Tokens  # (R, C)


def generate(config: MazeDataConfig, progress: Progress | None = None) -> tuple[Mazes, Mazes]:
    """Training and test mazes, no two of them alike up to turning and mirroring.

    A maze is rated by how many cells a breadth-first search looks at before it gets to the goal: that tells better
    than the length of the path, which is nearly the same for all, which mazes a model fails on.

    Args:
        config: `num_train` and `num_test` must be numbers.
        progress: called with (mazes done, mazes in all).

    Raises:
        DataError: when so many mazes, or ways so long, cannot be reached.
    """
    if config.num_train is None or config.num_test is None:
        raise ValueError("a generated dataset needs num_train and num_test")
    known: set[bytes] = set()
    splits = []
    for split, size in ((_TEST, config.num_test), (_TRAIN, config.num_train)):
        mazes: list[_Found] = []
        while len(mazes) < size:
            numbers = np.arange(len(mazes), min(size, len(mazes) + _AHEAD))
            for number, found in zip(numbers, _search(config, split, numbers), strict=True):
                mazes.append(_unlike(known, config, split, number, found))
            if progress is not None:
                progress(len(known), config.num_train + config.num_test)
        splits.append(mazes)
    test, train = splits
    return _stacked(train), _stacked(test)


def _stacked(mazes: list[_Found]) -> Mazes:
    questions, answers = np.stack([maze.question for maze in mazes]), np.stack([maze.answer for maze in mazes])
    return Mazes(questions, answers, board.shortest(questions).searched)


def _unlike(known: set[bytes], config: MazeDataConfig, split: int, number: np.intp, found: _Found) -> _Found:
    """The first maze of this number from `found` on that is like no known one."""
    for _ in range(_ALIKE):
        image = board.canonical(found.question)
        if image not in known:
            known.add(image)
            return found
        found = _search(config, split, np.array([number]), found.attempt + 1)[0]
    _too_few(config, split, int(number))


def _search(config: MazeDataConfig, split: int, numbers: Ints, begin: int = 0) -> list[_Found]:
    """For each number the maze of the first attempt, from `begin` on, that has a way long enough.

    How many are looked at together does not change which one that is.
    """
    found: dict[int, _Found] = {}
    pending, attempt, longest, in_vain = np.arange(len(numbers)), begin, 0, 0
    while len(pending):
        if in_vain >= _ATTEMPTS:
            _too_long(config, longest)
        each = min(max(1, _BLOCK // len(pending)), 16 + attempt - begin)  # few at first: a small maze is found soon
        places, attempts = np.repeat(pending, each), np.tile(np.arange(attempt, attempt + each), len(pending))
        cells, begins, lengths = _attempts(config, split, numbers[places], attempts)
        longest, long_enough = max(longest, int(lengths.max())), np.flatnonzero(lengths >= config.least_path())
        in_vain = 0 if len(long_enough) else in_vain + len(lengths)
        chosen = long_enough[np.unique(places[long_enough], return_index=True)[1]]
        questions, answers = _finished(
            config, split, numbers[places[chosen]], attempts[chosen], cells[chosen], begins[chosen]
        )
        for place, tried, question, answer in zip(
            places[chosen].tolist(), attempts[chosen].tolist(), questions, answers, strict=True
        ):
            found[place] = _Found(tried, question, answer)
        pending, attempt = np.setdiff1d(pending, places[chosen]), attempt + each
    return [found[place] for place in range(len(numbers))]


def _attempts(config: MazeDataConfig, split: int, numbers: Ints, attempts: Ints) -> tuple[Flags, Ints, Ints]:
    """Random walls: the open cells (N, R, C), a cell at the end of a long way (N,), and its length (N,).

    The cell is the one farthest from a random cell, so the way is nearly the longest that there is.
    """
    rows, cols = config.rows, config.cols
    words = random_words(_WALLS, config.build_seed, split, numbers, attempts, count=2 + -(rows * cols // -4))
    low, high = (round(share * 65_536) for share in (config.min_wall_share, config.max_wall_share))
    share = low + _below(words[:, 0], high - low + 1)
    quarters = np.ascontiguousarray(words[:, 2:].astype("<u8")).view("<u2")[:, : rows * cols]
    cells = quarters >= share[:, None]
    somewhere = _below(words[:, 1], rows * cols)
    cells[np.arange(len(cells)), somewhere] = True
    cells = cells.reshape(-1, rows, cols)
    bits = board.to_bits(cells)
    ends, lengths = board.farthest(bits, somewhere, cols)
    # No two cells are farther apart than twice what the farthest is from a third.
    hopeful = np.flatnonzero(2 * lengths >= config.least_path())
    _, lengths[hopeful] = board.farthest(bits[hopeful], ends[hopeful], cols)
    return cells, ends, lengths


def _finished(
    config: MazeDataConfig, split: int, numbers: Ints, attempts: Ints, cells: Flags, begins: Ints
) -> tuple[Tokens, Tokens]:
    """Questions and answers (N, R, C): the other end, one of the shortest ways, and walls on all others."""
    count, cols = len(cells), config.cols
    questions = np.where(cells, OPEN, WALL).astype(np.uint8)
    answers = questions.copy()
    if not count:
        return questions, answers
    each, bits = np.arange(count), board.to_bits(cells)
    words = random_words(_WAY, config.build_seed, split, numbers, attempts, count=2 + config.rows * cols)
    from_begin = board.distances(bits, begins, cols)
    far = (from_begin >= config.least_path()).reshape(count, -1)
    chosen = _below(words[:, 0], far.sum(axis=1))
    ends = (far.cumsum(axis=1) > chosen[:, None]).argmax(axis=1)
    from_end = board.distances(bits, ends, cols)
    lengths = from_begin.reshape(count, -1)[each, ends]
    for index in range(count):
        way = _way(from_begin[index], int(ends[index]), words[index, 2:])
        between = (from_begin[index] + from_end[index] == lengths[index]) & (from_begin[index] >= 0)
        marked = np.zeros(cells[index].size, np.bool_)
        marked[way] = True
        marked = marked.reshape(between.shape)
        questions[index][between & ~marked] = answers[index][between & ~marked] = WALL
        answers[index][marked] = PATH
    turned = _below(words[:, 1], 2) == 1
    for tokens in (questions, answers):
        flat = tokens.reshape(count, -1)
        flat[each, np.where(turned, begins, ends)] = GOAL
        flat[each, np.where(turned, ends, begins)] = START
    return questions, answers


def _way(from_begin: Moves, end: int, words: Words) -> list[int]:
    """The cells of a shortest way, walked from its end; at each step one of the cells that are nearer is drawn."""
    rows, cols = from_begin.shape
    depth, cell, way = from_begin.reshape(-1).tolist(), end, [end]
    draws = words.tolist()
    while depth[cell] > 0:
        row, col = divmod(cell, cols)
        around = [cell - cols] * (row > 0) + [cell - 1] * (col > 0)
        around += [cell + 1] * (col < cols - 1) + [cell + cols] * (row < rows - 1)
        nearer = [other for other in around if depth[other] == depth[cell] - 1]
        cell = nearer[(draws[len(way)] >> 32) * len(nearer) >> 32]
        way.append(cell)
    return way


def _below(words: Words, size: int | Ints) -> Ints:
    """A whole number from 0 up to `size` for each word, `size` at most 2**31."""
    number: Ints = (((words >> np.uint64(32)) * np.asarray(size).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
    return number


def _too_long(config: MazeDataConfig, longest: int) -> NoReturn:
    raise DataError(
        f"data.min_path={config.least_path()}: of {_ATTEMPTS:,} random mazes of {config.rows}x{config.cols} cells, "
        f"none has a shortest path of so many moves, the longest has {longest}\n"
        f"  way out: take at most data.min_path={longest * 9 // 10}, or another share of walls (about 0.38 is best)"
    )


def _too_few(config: MazeDataConfig, split: int, number: int) -> NoReturn:
    key = "num_train" if split == _TRAIN else "num_test"
    raise DataError(
        f"data.{key}={getattr(config, key)}: no further maze of {config.rows}x{config.cols} cells after {number} "
        f"different ones in {_ALIKE} tries\n"
        f"  way out: take at most data.{key}={number}, a larger maze, or a smaller data.min_path"
    )
