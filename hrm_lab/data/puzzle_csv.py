"""Puzzles in CSV files of the published form, `source,question,answer,rating`, for tasks whose cells are characters.

A file is not trusted: what it may expand to is bounded, memory is that of a few thousand rows beside what is kept, and
whatever is wrong is told by file, line and reason.
"""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrm_lab.data.addressed import random_words
from hrm_lab.errors import DataError
from hrm_lab.files import open_regular

Codes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

COLUMNS = ("source", "question", "answer", "rating")

_LONGEST_LINE = 65_536  # bytes; a row of a 64x64 maze has some 8,200
_MOST_EMPTY_LINES = 10_000
_MOST_BYTES = 16 << 30  # of text; the largest published file has 0.7 GB
# Rows of puzzles shrink to a third or a sixth, zeros to a thousandth. What little there is of a small file may.
_MOST_EXPANSION, _FREE_BYTES = 50, 16 << 20
_CHUNK_ROWS = 4_096
_SUBSET = 0x6004  # what a random word is for; see `random_words`


@dataclass
class Chunk:
    """Some rows of a file, to be checked together."""

    path: Path
    lines: list[int] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    ratings: list[int] = field(default_factory=list)

    def codes(self, texts: list[str]) -> Codes:
        """(N, S) ASCII codes of its questions or answers; what is not ASCII becomes "?"."""
        return np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8).reshape(len(texts), -1)

    def bad(self, row: int | np.intp, problem: str) -> DataError:
        """The error for one of its rows."""
        return _bad_line(self.path, self.lines[row], problem)


def read_chunks(path: str | os.PathLike[str], cells: int) -> Iterator[Chunk]:
    """Read a `.csv` or `.csv.gz` a few thousand rows at a time.

    Where a row is bad the rows before it come first, so that whoever checks them names the first bad row of all.

    Args:
        path: a file, no folder and no pipe.
        cells: characters of each question and each answer.

    Raises:
        DataError: naming the file, the line and what is wrong with it.
    """
    source, empty = Path(path), True
    chunk = Chunk(source)
    try:
        for line, question, answer, rating in _rows(source, cells):
            chunk.lines.append(line)
            chunk.questions.append(question)
            chunk.answers.append(answer)
            chunk.ratings.append(rating)
            if len(chunk.lines) == _CHUNK_ROWS:
                yield chunk
                chunk, empty = Chunk(source), False
    except DataError:
        if chunk.lines:
            yield chunk
        raise
    if chunk.lines:
        yield chunk
    elif empty:
        raise DataError(f"{source}: holds no puzzle\n  way out: give a file with rows under its header")


def subset(kept: Ints, size: int | None, key: str, *address: int) -> Ints:
    """`size` of the rows `kept` by `in_order`, in the file's order; None = all."""
    chosen: Ints = kept[np.sort(in_order(len(kept), size, key, *address)[:size])]
    return chosen


def in_order(count: int, size: int | None, key: str, *address: int) -> Ints:
    """All of so many rows in the order in which `size` of them are chosen, at random by an address (`random_words`).

    Args:
        size: None = all, which stay in the file's order.
        key: the setting that `size` is of.

    Raises:
        DataError: when there are not so many.
    """
    if size is None:
        return np.arange(count)
    if size > count:
        raise DataError(
            f"data.{key}={size}: the file has {count} puzzles to choose from\n"
            f"  way out: take at most data.{key}={count}, or null for all"
        )
    words = random_words(_SUBSET, *address, count=count)[0]
    return np.argsort(words, kind="stable").astype(np.int64)


def _bad_line(path: Path, line: int, problem: str) -> DataError:
    return DataError(f"{path}, line {line}: {problem}\n  way out: correct the line or take it out")


def _rows(path: Path, cells: int) -> Iterator[tuple[int, str, str, int]]:
    """Line, question, answer and rating of each row."""
    lines = _lines(path)
    number, header = next(lines, (0, ""))
    if not number:
        raise DataError(f"{path}: is empty\n  way out: give a CSV with the header {','.join(COLUMNS)}")
    names = [name.strip() for name in _fields(path, 1, header)]
    for problem, columns in (
        ("no column", [name for name in COLUMNS if name not in names]),
        ("more than one column", [name for name in COLUMNS if names.count(name) > 1]),
    ):
        if columns:
            raise DataError(
                f"{path}, line 1: {problem} {', '.join(columns)}\n  way out: begin with the header {','.join(COLUMNS)}"
            )
    question_at, answer_at, rating_at = (names.index(name) for name in COLUMNS[1:])
    for number, line in lines:
        fields = _fields(path, number, line)
        if len(fields) != len(names):
            raise _bad_line(path, number, f"has {len(fields)} fields, the header has {len(names)}")
        question, answer, rating = fields[question_at], fields[answer_at], fields[rating_at].strip()
        if len(question) != cells or len(answer) != cells:
            name, text = ("question", question) if len(question) != cells else ("answer", answer)
            raise _bad_line(path, number, f"{name} has {len(text)} characters, not {cells}")
        if not (rating.isascii() and rating.isdecimal() and len(rating) <= 18):
            raise _bad_line(path, number, f"rating {rating[:40]!r} is no whole number")
        yield number, question, answer, int(rating)


def _fields(path: Path, number: int, line: str) -> list[str]:
    """The fields of one line. A quoted field may not go over several lines: no cell is a line break."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise _bad_line(path, number, f"is no CSV: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1 on and without their ends; the header comes anyway."""
    number, empty, read = 0, 0, 0
    try:
        with open_regular(path) as plain, _unpacked(path, plain) as file:
            most = _MOST_BYTES
            if file is not plain:
                most = min(most, max(_FREE_BYTES, _MOST_EXPANSION * os.fstat(plain.fileno()).st_size))
            while raw := file.readline(_LONGEST_LINE + 1):
                number += 1
                read += len(raw)
                if len(raw) > _LONGEST_LINE:
                    raise _bad_line(path, number, f"is longer than {_LONGEST_LINE} bytes")
                if read > most:
                    raise _too_large(path, most)
                if b"\0" in raw:
                    raise _bad_line(path, number, "holds a NUL byte")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise _bad_line(path, number, f"is not UTF-8 text ({error.reason})") from error
                if line or number == 1:
                    yield number, line
                    continue
                empty += 1
                if empty > _MOST_EMPTY_LINES:
                    raise _bad_line(path, number, f"is empty, like {_MOST_EMPTY_LINES:,} others")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file\n  way out: correct the path") from None
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}\n  way out: get the right to read it") from error
    except (OSError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {problem}\n  way out: fetch the file again") from error


def _unpacked(path: Path, plain: BufferedReader) -> gzip.GzipFile | BufferedReader:
    return gzip.GzipFile(fileobj=plain, mode="rb") if path.suffix == ".gz" else plain


def _too_large(path: Path, most: int) -> DataError:
    return DataError(
        f"{path}: expands to more than {most:,} bytes, which is no file of puzzles\n"
        "  way out: fetch the file again, or cut it into parts"
    )
