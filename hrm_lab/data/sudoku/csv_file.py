"""Reads Sudoku puzzles from CSV files, and refuses bad rows by file, line and reason.

Words as in `solver`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrm_lab.data.puzzle_csv import Chunk, read_chunks
from hrm_lab.data.sudoku.solver import Boards, Puzzles, cells_of_units

SYMBOLS = ".123456789ABCDEFGHIJKLMNOP"  # digit -> character, up to side 25


@dataclass(frozen=True)
class RatedPuzzles(Puzzles):
    """Puzzles of a file, in its order."""

    ratings: npt.NDArray[np.int64]  # (N,) backtracks


def read_csv(path: str | Path, box_rows: int, box_cols: int) -> RatedPuzzles:
    """Read puzzles from a `.csv` or `.csv.gz` with the columns source,question,answer,rating.

    Blank is `.` or `0`; digits above 9 are letters from A on. Each answer must be a valid grid that keeps the
    givens; that it is the only one is not checked.

    Raises:
        DataError: naming the file, the line and what is wrong with it.
    """
    questions, answers, ratings = [], [], []
    for chunk in read_chunks(path, (box_rows * box_cols) ** 2):
        question = _parse(chunk, "question", box_rows, box_cols)
        answer = _parse(chunk, "answer", box_rows, box_cols)
        _check_pairs(chunk, question, answer, box_rows, box_cols)
        questions.append(question)
        answers.append(answer)
        ratings.append(np.array(chunk.ratings, np.int64))
    return RatedPuzzles(np.concatenate(questions), np.concatenate(answers), np.concatenate(ratings))


@lru_cache(maxsize=32)
def _digit_table(side: int) -> npt.NDArray[np.uint8]:
    """(128,) ASCII code -> digit, 255 = no digit of this size."""
    table = np.full(128, 255, np.uint8)
    for digit, symbol in enumerate(SYMBOLS[: side + 1]):
        table[ord(symbol)] = table[ord(symbol.lower())] = digit
    table[ord("0")] = 0
    return table


def _parse(chunk: Chunk, name: str, box_rows: int, box_cols: int) -> Boards:
    """The boards of one column (N, S); refuses what is no digit, and digits that clash."""
    texts = chunk.questions if name == "question" else chunk.answers
    boards = _digit_table(box_rows * box_cols)[chunk.codes(texts)]
    bad = (boards == 255).any(axis=1)
    if not bad.any():
        bad = _clashing(boards, box_rows, box_cols)
    else:
        # Rows before the first bad character may clash.
        bad[: bad.argmax()] |= _clashing(boards[: bad.argmax()], box_rows, box_cols)
    if bad.any():
        index = int(bad.argmax())
        raise chunk.bad(index, f"{name} {_explain(boards[index], texts[index], box_rows, box_cols)}")
    return boards


def _clashing(boards: Boards, box_rows: int, box_cols: int) -> npt.NDArray[np.bool_]:
    """(N,) whether a digit stands twice in a unit."""
    side = box_rows * box_cols
    bits = np.append(np.uint32(0), np.uint32(1) << np.arange(side, dtype=np.uint32))  # by digit, none for a blank
    grid = bits[boards].reshape(-1, side, side)
    boxes = grid.reshape(-1, box_cols, box_rows, box_rows, box_cols).swapaxes(2, 3).reshape(-1, side, side)
    clash = np.zeros(len(boards), np.bool_)
    for units in (grid, grid.swapaxes(1, 2), boxes):
        once = np.bitwise_or.reduce(units, axis=2)
        clash |= (once != np.add.reduce(units, axis=2, dtype=np.uint32)).any(axis=1)
    return clash


def _explain(board: Boards, text: str, box_rows: int, box_cols: int) -> str:
    """What is wrong with a board that is known to be bad."""
    side = box_rows * box_cols
    if (board == 255).any():
        cell = int((board == 255).argmax())
        return f"has {text[cell]!r} as character {cell + 1}, which is no digit of side {side}"
    for unit, cells in enumerate(cells_of_units(box_rows, box_cols)):
        digits = [digit for digit in board[cells].tolist() if digit]
        twice = [digit for digit in digits if digits.count(digit) > 1]
        if twice:
            kind = ("row", "column", "box")[unit // side]
            return f"has digit {SYMBOLS[twice[0]]} twice in {kind} {unit % side + 1}"
    raise AssertionError("a good board")


def _check_pairs(chunk: Chunk, questions: Boards, answers: Boards, box_rows: int, box_cols: int) -> None:
    """Refuse answers with blanks or that change a given."""
    blank = (answers == 0).any(axis=1)
    changed = (questions != 0) & (questions != answers)
    bad = blank | changed.any(axis=1)
    if not bad.any():
        return
    index = int(bad.argmax())
    if blank[index]:
        cell = int((answers[index] == 0).argmax())
        raise chunk.bad(index, f"answer is no full grid: character {cell + 1} is a blank")
    row, col = divmod(int(changed[index].argmax()), box_rows * box_cols)
    raise chunk.bad(index, f"answer does not fit the question: the given in row {row + 1}, column {col + 1}")


def parse_board(text: str, box_rows: int, box_cols: int) -> Boards:
    """One board (S,) of digits from its characters.

    Raises:
        ValueError: that says what is wrong with it.
    """
    side = box_rows * box_cols
    if len(text) != side * side:
        raise ValueError(f"has {len(text)} cells, not {side * side}")
    board = _digit_table(side)[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]
    if (board == 255).any() or _clashing(board[None], box_rows, box_cols).any():
        raise ValueError(_explain(board, text, box_rows, box_cols))
    return board


def wrong_with(inputs: Boards, answer: Boards, box_rows: int, box_cols: int) -> str:
    """What is wrong with an answer (S,) to a puzzle (S,), both in tokens; "" when it is right."""
    side = box_rows * box_cols
    if ((answer < 2) | (answer > side + 1)).any():
        return "has cells that are no digit"
    changed = (inputs > 1) & (inputs != answer)
    if changed.any():
        row, col = divmod(int(changed.argmax()), side)
        return f"changes the given in row {row + 1}, column {col + 1}"
    digits = (answer - 1).astype(np.uint8)
    if _clashing(digits[None], box_rows, box_cols).any():
        return _explain(digits, "", box_rows, box_cols)
    return ""
