"""Reads mazes from CSV files in the published form, and refuses bad rows by file, line and reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrm_lab.data.maze import board
from hrm_lab.data.maze.board import CHARACTERS, PATH, WALL, Flags, Mazes
from hrm_lab.data.puzzle_csv import Chunk, read_chunks
from hrm_lab.data.task import Tokens

_TOKENS = np.zeros(128, np.uint8)  # by ASCII code; 0 = no cell of a maze
_TOKENS[[ord(character) for character in CHARACTERS]] = np.arange(WALL, PATH + 1)


def read_csv(path: str | Path, rows: int, cols: int) -> Mazes:
    """Read mazes from a `.csv` or `.csv.gz` with the columns source,question,answer,rating.

    Each question must have one start, one goal and a way, each answer must be the question with one of its shortest
    paths; that it is the only one is not asked for.

    Raises:
        DataError: naming the file, the line and what is wrong with it.
    """
    parts = []
    for chunk in read_chunks(path, rows * cols):
        questions, answers = (
            _TOKENS[chunk.codes(texts)].reshape(-1, rows, cols) for texts in (chunk.questions, chunk.answers)
        )
        _check(chunk, questions, answers)
        parts.append((questions, answers, np.array(chunk.ratings, np.int64)))
    questions, answers, ratings = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Mazes(questions, answers, ratings)


def _check(chunk: Chunk, questions: Tokens, answers: Tokens) -> None:
    """Refuse the first bad row. All are looked at together, and only of a bad one it is asked what is wrong."""
    cells = (questions >= WALL) & (questions < PATH) & (answers >= WALL)
    good: Flags = np.logical_and.reduce(cells, axis=(1, 2))
    for token in (board.START, board.GOAL):
        good &= (questions == token).sum(axis=(1, 2)) == 1
    rows = np.flatnonzero(good)
    if len(rows):
        optimum = board.shortest(questions[rows]).lengths - 1
        good[rows] = board.are_optimal(questions[rows], answers[rows], optimum)
    if good.all():
        return
    row = int(good.argmin())
    for name, text in (("question", chunk.questions[row]), ("answer", chunk.answers[row])):
        odd = sorted(set(text) - set(CHARACTERS))
        if odd:
            raise chunk.bad(row, f"{name} has {odd[0]!r} as character {text.index(odd[0]) + 1}, no cell of a maze")
    problem = board.wrong_with_maze(questions[row])
    if problem:
        raise chunk.bad(row, f"question {problem}")
    raise chunk.bad(row, f"answer: {board.wrong_with_answer(questions[row], answers[row])}")
