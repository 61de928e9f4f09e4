"""Puzzles in text, one a line or as a CSV with a column `question`, and what becomes of them.

A bad line costs only itself.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrm_lab.data.task import Tokens
from hrm_lab.errors import DataError

COLUMN = "question"
LONGEST_LINE = 1 << 16  # bytes; what is longer is no puzzle, and is never held in memory


class Question(NamedTuple):
    """A puzzle in text, and where it stands."""

    place: str
    text: str


class Unusable(NamedTuple):
    """Where something stands that is no puzzle, and why not."""

    place: str
    problem: str


@dataclass(frozen=True)
class Solved:
    """What a model says of one puzzle.

    Attributes:
        question: as it was given.
        inputs: (S,) its tokens.
        steps: (T, S) the board after each ACT step; the last one is the answer.
        q_halt: (T,) by its own word, how likely each board is to be right.
        halts_at: the first step after which the model itself would halt; None: after none of them.
        problem: what is wrong with the answer by the task's rules; "" when it is right, None where a label would tell.
    """

    question: Question
    inputs: Tokens
    steps: Tokens
    q_halt: NDArray[np.float32]
    halts_at: int | None
    problem: str | None


def read_file(path: Path) -> Iterator[Question | Unusable]:
    """The puzzles of a file, .gz or not.

    Raises:
        DataError: when it cannot be read (any further).
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from read_lines(file, str(path))  # type: ignore[arg-type]  # (a GzipFile is one)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}\n  way out: give another --file") from error


def read_lines(stream: BinaryIO, name: str) -> Iterator[Question | Unusable]:
    """The puzzles of lines, one after the other as they come. Blank lines do not count; blanks in a line do.

    Args:
        name: what places are called: NAME, line 3.
    """
    column = None
    for number, line in _lines(stream):
        place = f"{name}, line {number}"
        if line is None:
            yield Unusable(place, f"is longer than {LONGEST_LINE} bytes")
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            cells = next(csv.reader([text]), []) if number == 1 or column is not None else []
        except (UnicodeDecodeError, csv.Error) as error:
            yield Unusable(place, f"is no text ({error})")
            continue
        names = [cell.strip() for cell in cells]
        if number == 1 and COLUMN in names:
            column = names.index(COLUMN)
        elif text.strip() and column is None:
            yield Question(place, text)
        elif text.strip() and column is not None:
            is_there = column < len(cells)
            yield Question(place, cells[column]) if is_there else Unusable(place, f"has no column {COLUMN}")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines, None for one that is too long."""
    for number in itertools.count(1):
        line = stream.readline(LONGEST_LINE + 1)
        if not line:
            return
        whole = len(line) <= LONGEST_LINE
        yield number, line if whole else None
        while not whole and line and not line.endswith(b"\n"):
            line = stream.readline(LONGEST_LINE)
