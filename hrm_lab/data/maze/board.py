"""Mazes as arrays: their tokens, ways through them, and what an answer has to be.

N mazes of R rows and C columns. A cell is numbered row by row; one moves up, down, left and right. The length of a way
is its number of moves, so it has one cell less between start and goal. As bits, a maze is R words: bit c of word r is
the cell in row r, column c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hrm_lab.data.dihedral import dihedral, keeping_shape
from hrm_lab.data.task import Ints, Tokens

CHARACTERS = "# SGo"  # of tokens 1 to 5; 0 is padding
WALL, OPEN, START, GOAL, PATH = range(1, 6)
MOST_COLS = 64  # bits of a word

Bits = npt.NDArray[np.uint64]  # (N, R)
Flags = npt.NDArray[np.bool_]
Moves = npt.NDArray[np.int16]

_ONE = np.uint64(1)


@dataclass(frozen=True)
class Mazes:
    """Mazes with one of their shortest paths each, as tokens."""

    questions: Tokens  # (N, R, C)
    answers: Tokens  # (N, R, C)
    ratings: Ints  # (N,)

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, chosen: Ints) -> Mazes:
        """Some of them."""
        return Mazes(self.questions[chosen], self.answers[chosen], self.ratings[chosen])


def to_bits(cells: Flags) -> Bits:
    """(N, R, C) -> (N, R)."""
    packed = np.packbits(cells, axis=2, bitorder="little")
    room = np.zeros((*packed.shape[:2], MOST_COLS // 8), np.uint8)
    room[:, :, : packed.shape[2]] = packed
    return room.view("<u8")[:, :, 0].astype(np.uint64)


def from_bits(bits: Bits, cols: int) -> Flags:
    """(N, R) -> (N, R, C)."""
    octets = np.ascontiguousarray(bits.astype("<u8"))[:, :, None].view(np.uint8)
    return np.unpackbits(octets, axis=2, count=cols, bitorder="little").view(np.bool_)


def waves(open_cells: Bits, begins: Ints, cols: int) -> Iterator[tuple[Ints, Bits]]:
    """Breadth-first search in all mazes at once: for d = 0, 1, ... the cells d moves away.

    Args:
        open_cells: (N, R) where one can go.
        begins: (N,) cells.

    Yields:
        Which mazes have cells so far away, and these cells.
    """
    mazes = np.arange(len(open_cells))
    front = np.zeros_like(open_cells)
    front[mazes, begins // cols] = _ONE << (begins % cols).astype(np.uint64)
    unseen = open_cells & ~front
    while len(mazes):
        yield mazes, front
        reached = front << _ONE
        reached |= front >> _ONE
        reached[:, 1:] |= front[:, :-1]
        reached[:, :-1] |= front[:, 1:]
        front = reached & unseen
        unseen ^= front
        going_on = front.any(axis=1)
        if not going_on.all():
            mazes, front, unseen = mazes[going_on], front[going_on], unseen[going_on]


def farthest(open_cells: Bits, begins: Ints, cols: int) -> tuple[Ints, Ints]:
    """(N,) the first of the cells that are farthest from `begins`, and how far they are."""
    last, distance = np.zeros_like(open_cells), np.zeros(len(open_cells), np.int64)
    for moves, (mazes, front) in enumerate(waves(open_cells, begins, cols)):
        last[mazes], distance[mazes] = front, moves
    return from_bits(last, cols).reshape(len(last), last.shape[1] * cols).argmax(axis=1), distance


def distances(open_cells: Bits, begins: Ints, cols: int) -> Moves:
    """(N, R, C) moves from `begins`, -1 where one cannot get."""
    found = np.full((*open_cells.shape, cols), -1, np.int16)
    for moves, (mazes, front) in enumerate(waves(open_cells, begins, cols)):
        found[mazes] += from_bits(front, cols) * np.int16(moves + 1)
    return found


class Ways(NamedTuple):
    """What is known of the shortest ways of mazes, each (N,)."""

    lengths: Ints  # -1 where there is no way
    cells: Ints  # on any way of that length, both ends included; one more than the length just where it is the only one
    searched: Ints  # nearer to the start than the goal is: a breadth-first search looks at them before it gets there


def shortest(questions: Tokens) -> Ways:
    """Of mazes (N, R, C) with one start and one goal."""
    cols, flat = questions.shape[2], questions.reshape(len(questions), -1)
    open_cells = to_bits(questions != WALL)
    goals = (flat == GOAL).argmax(axis=1)
    from_start = distances(open_cells, (flat == START).argmax(axis=1), cols)
    lengths = from_start.reshape(flat.shape)[np.arange(len(flat)), goals].astype(np.int64)
    from_goal = distances(open_cells, goals, cols)
    length = lengths[:, None, None]
    between = (from_start >= 0) & (from_goal >= 0) & (from_start + from_goal == length)
    searched = (from_start >= 0) & (from_start < length)
    return Ways(lengths, between.sum(axis=(1, 2)), searched.sum(axis=(1, 2)))


def are_optimal(questions: Tokens, answers: Tokens, optimum: Ints) -> Flags:
    """(N,) whether answers (N, R, C) are right: the maze as it is, with one of its shortest ways marked in it.

    Without any search: let the marked cells be as many as a shortest way has, each with just two neighbours among the
    marked cells, start and goal, and start and goal with one each. In that graph start and goal are the only ends, so
    they are the two ends of one chain, and whatever else is marked lies in rings. The chain is a way; were there a
    ring too, the chain would have fewer cells than a shortest way. So all marked cells are on the chain, which is a
    shortest way. The other way round, a shortest way has no two cells that touch except one after the other, since
    that would be a short cut; so its cells have just these neighbours.

    Args:
        optimum: (N,) cells between start and goal on a shortest way.
    """
    kept = (answers == questions) | ((questions == OPEN) & (answers == PATH))
    marked = answers == PATH
    ends = (answers == START) | (answers == GOAL)
    wanted = 2 * marked.view(np.uint8) + ends
    fits = (_neighbours(marked | ends) == wanted) | (wanted == 0)
    whole = (kept & fits).all(axis=(1, 2))
    right: Flags = whole & (marked.sum(axis=(1, 2)) == optimum)
    return right


def _neighbours(cells: Flags) -> npt.NDArray[np.uint8]:
    """(N, R, C) how many of the four cells around each are set."""
    count = np.zeros(cells.shape, np.uint8)
    count[:, 1:] += cells[:, :-1]
    count[:, :-1] += cells[:, 1:]
    count[:, :, 1:] += cells[:, :, :-1]
    count[:, :, :-1] += cells[:, :, 1:]
    return count


def canonical(question: Tokens) -> bytes:
    """The smallest of the images of a maze (R, C): the same for all that are alike up to turning and mirroring."""
    return min(dihedral(question, tid).tobytes() for tid in (0, *keeping_shape(*question.shape)))


def wrong_with_maze(question: Tokens) -> str:
    """What is wrong with a maze (R, C) as a question, "" when nothing is: one start, one goal and a way."""
    if ((question < WALL) | (question > GOAL)).any():
        return (
            f"has {_place(question, (question < WALL) | (question > GOAL))}, which is no wall, open cell, start or goal"
        )
    for token in (START, GOAL):
        count = int((question == token).sum())
        if count != 1:
            return f"has {count} cells {_name(token)}, not one"
    return "" if shortest(question[None]).lengths[0] >= 0 else "has no way from S to G"


def wrong_with_answer(question: Tokens, answer: Tokens) -> str:
    """What is wrong with an answer to a maze, both (R, C); "" when it is one of the shortest ways."""
    changed = (question != OPEN) & (answer != question)
    if changed.any():
        return f"has {_place(answer, changed)}, where the maze has {_name(int(question[changed][0]))}"
    odd = (question == OPEN) & (answer != OPEN) & (answer != PATH)
    if odd.any():
        return f"has {_place(answer, odd)}, where the maze is open"
    marked, optimum = int((answer == PATH).sum()), int(shortest(question[None]).lengths[0])
    length = int(shortest(np.where(answer == OPEN, WALL, answer).astype(np.uint8)[None]).lengths[0])
    if length < 0:
        return "its path does not lead from S to G"
    if length > optimum:
        return f"its path takes {length} moves, {optimum} are enough"
    return "" if marked == optimum - 1 else f"marks {marked - optimum + 1} cells beside its path"


def _name(token: int) -> str:
    return repr(CHARACTERS[token - 1]) if WALL <= token <= PATH else f"token {token}"


def _place(board: Tokens, where: Flags) -> str:
    """The first cell of `where` and what is in it."""
    row, col = divmod(int(where.reshape(-1).argmax()), board.shape[1])
    return f"{_name(int(board[row, col]))} in row {row + 1}, column {col + 1}"
