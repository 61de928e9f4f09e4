"""Reads Sudoku puzzles from CSV files, and refuses bad rows by file, line and reason.

Words as in `solver`.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrm_lab.data.sudoku.generator import Puzzles
from hrm_lab.data.sudoku.solver import Boards, units_of
from hrm_lab.errors import DataError

SYMBOLS = ".123456789ABCDEFGHIJKLMNOP"  # digit -> character, up to side 25

_LONGEST_LINE = 65_536  # bytes; a row of a 25x25 file has some 1,300
_CHUNK_ROWS = 4_096


@dataclass(frozen=True)
class RatedPuzzles(Puzzles):
    """Puzzles of a file, in its order."""

    ratings: npt.NDArray[np.int64]  # (N,) backtracks


@dataclass(frozen=True)
class _Row:
    line: int
    question: str
    answer: str
    rating: int


_COLUMNS = ("source", "question", "answer", "rating")


def read_csv(path: str | Path, box_rows: int, box_cols: int) -> RatedPuzzles:
    """Read puzzles from a `.csv` or `.csv.gz` with the columns source,question,answer,rating.

    Blank is `.` or `0`; digits above 9 are letters from A on. Each answer must be a valid grid that keeps the
    givens; that it is the only one is not checked.

    Raises:
        DataError: naming the file, the line and what is wrong with it.
    """
    source, cells = Path(path), (box_rows * box_cols) ** 2
    reader = csv.reader(_lines(source), strict=True)
    rows = _rows(source, reader, cells)
    questions, answers, ratings = [], [], []
    while chunk := _take(rows, _CHUNK_ROWS):
        question = _parse(source, chunk, "question", box_rows, box_cols)
        answer = _parse(source, chunk, "answer", box_rows, box_cols)
        _check_pairs(source, chunk, question, answer, box_rows, box_cols)
        questions.append(question)
        answers.append(answer)
        ratings.append(np.array([row.rating for row in chunk.rows], np.int64))
        if chunk.error is not None:
            raise chunk.error
    if not questions:
        raise DataError(f"{source}: holds no puzzle\n  way out: give a file with rows under its header")
    return RatedPuzzles(np.concatenate(questions), np.concatenate(answers), np.concatenate(ratings))


@dataclass
class _Chunk:
    """Rows to be checked together, and the error that ended the reading after them."""

    rows: list[_Row]
    error: DataError | None = None


def _take(rows: Iterator[_Row], size: int) -> _Chunk | None:
    """The next rows; None at the end. An error in the text waits until the rows before it are checked."""
    chunk = _Chunk([])
    try:
        for row in itertools.islice(rows, size):
            chunk.rows.append(row)
    except DataError as error:
        chunk.error = error
    if not chunk.rows:
        if chunk.error is not None:
            raise chunk.error
        return None
    return chunk


def _bad_line(path: Path, line: int, problem: str) -> DataError:
    return DataError(f"{path}, line {line}: {problem}\n  way out: correct the line or take it out")


def _lines(path: Path) -> Iterator[str]:
    try:
        with _open_bytes(path) as file:
            for number in itertools.count(1):
                line = file.readline(_LONGEST_LINE + 1)
                if not line:
                    return
                if len(line) > _LONGEST_LINE:
                    raise _bad_line(path, number, f"is longer than {_LONGEST_LINE} bytes")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise _bad_line(path, number, f"is not UTF-8 text ({error.reason})") from error
    except FileNotFoundError:
        raise DataError(f"{path}: no such file\n  way out: correct the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}\n  way out: fetch the file again") from error


def _open_bytes(path: Path) -> gzip.GzipFile | BufferedReader:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return open(path, "rb")


def _rows(path: Path, reader: Iterator[list[str]], cells: int) -> Iterator[_Row]:
    """The rows as text; `reader` is a `csv.reader`, which counts the lines."""
    try:
        header = next(reader, None)
        if header is None:
            raise DataError(f"{path}: is empty\n  way out: give a CSV with the header {','.join(_COLUMNS)}")
        names = [name.strip() for name in header]
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise DataError(
                f"{path}, line 1: no column {', '.join(missing)}\n  way out: begin with the header {','.join(_COLUMNS)}"
            )
        places = [names.index(name) for name in _COLUMNS[1:]]
        for fields in reader:
            line: int = reader.line_num  # type: ignore[attr-defined]
            if not fields:
                continue
            if len(fields) <= max(places):
                raise _bad_line(path, line, f"has {len(fields)} fields, the header has {len(names)}")
            question, answer, rating = (fields[place].strip() for place in places)
            for name, text in (("question", question), ("answer", answer)):
                if len(text) != cells:
                    raise _bad_line(path, line, f"{name} has {len(text)} characters, not {cells}")
            yield _Row(line, question, answer, _rating(path, line, rating))
    except csv.Error as error:
        line = reader.line_num  # type: ignore[attr-defined]
        raise _bad_line(path, line, f"is no CSV: {error}") from error


def _rating(path: Path, line: int, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise _bad_line(path, line, f"rating {text[:40]!r} is no whole number")
    return int(text)


@lru_cache(maxsize=32)
def _digit_table(side: int) -> npt.NDArray[np.uint8]:
    """(128,) ASCII code -> digit, 255 = no digit of this size."""
    table = np.full(128, 255, np.uint8)
    for digit, symbol in enumerate(SYMBOLS[: side + 1]):
        table[ord(symbol)] = table[ord(symbol.lower())] = digit
    table[ord("0")] = 0
    return table


def _parse(path: Path, chunk: _Chunk, name: str, box_rows: int, box_cols: int) -> Boards:
    """The boards of one column (N, S); refuses what is no digit, and digits that clash."""
    side = box_rows * box_cols
    # What is not ASCII becomes "?", one byte for one character.
    text = "".join(getattr(row, name) for row in chunk.rows).encode("ascii", "replace")
    codes = np.frombuffer(text, np.uint8).reshape(len(chunk.rows), side * side)
    boards = _digit_table(side)[codes]
    bad = (boards == 255).any(axis=1)
    if not bad.any():
        bad = _clashing(boards, box_rows, box_cols)
    else:
        # Rows before the first bad character may clash.
        bad[: bad.argmax()] |= _clashing(boards[: bad.argmax()], box_rows, box_cols)
    if bad.any():
        index = int(bad.argmax())
        row = chunk.rows[index]
        raise _bad_line(path, row.line, f"{name} {_explain(boards[index], getattr(row, name), box_rows, box_cols)}")
    return boards


def _clashing(boards: Boards, box_rows: int, box_cols: int) -> npt.NDArray[np.bool_]:
    """(N,) whether a digit stands twice in a unit."""
    side = box_rows * box_cols
    grid = boards.reshape(-1, side, side)
    boxes = grid.reshape(-1, box_cols, box_rows, box_rows, box_cols).swapaxes(2, 3).reshape(-1, side, side)
    clash = np.zeros(len(boards), np.bool_)
    for units in (grid, grid.swapaxes(1, 2), boxes):
        ordered = np.sort(units, axis=2)
        clash |= ((ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] > 0)).any(axis=(1, 2))
    return clash


def _explain(board: Boards, text: str, box_rows: int, box_cols: int) -> str:
    """What is wrong with a board that is known to be bad."""
    side = box_rows * box_cols
    if (board == 255).any():
        cell = int((board == 255).argmax())
        return f"has {text[cell]!r} as character {cell + 1}, which is no digit of side {side}"
    for unit, cells in enumerate(_cells_of_units(box_rows, box_cols)):
        digits = [digit for digit in board[cells].tolist() if digit]
        twice = [digit for digit in digits if digits.count(digit) > 1]
        if twice:
            kind = ("row", "column", "box")[unit // side]
            return f"has digit {SYMBOLS[twice[0]]} twice in {kind} {unit % side + 1}"
    raise AssertionError("a good board")


def _cells_of_units(box_rows: int, box_cols: int) -> list[list[int]]:
    side = box_rows * box_cols
    cells: list[list[int]] = [[] for _ in range(3 * side)]
    for cell in range(side * side):
        for unit in units_of(cell, box_rows, box_cols):
            cells[unit].append(cell)
    return cells


def _check_pairs(path: Path, chunk: _Chunk, questions: Boards, answers: Boards, box_rows: int, box_cols: int) -> None:
    """Refuse answers with blanks or that change a given."""
    blank = (answers == 0).any(axis=1)
    changed = (questions != 0) & (questions != answers)
    bad = blank | changed.any(axis=1)
    if not bad.any():
        return
    index = int(bad.argmax())
    line = chunk.rows[index].line
    if blank[index]:
        cell = int((answers[index] == 0).argmax())
        raise _bad_line(path, line, f"answer is no full grid: character {cell + 1} is a blank")
    row, col = divmod(int(changed[index].argmax()), box_rows * box_cols)
    raise _bad_line(path, line, f"answer does not fit the question: the given in row {row + 1}, column {col + 1}")


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
