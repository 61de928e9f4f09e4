"""A CSV file may be anything: what is no file of puzzles is refused with the reason, soon and in little memory."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hrm_lab.data.build import build_key
from hrm_lab.data.puzzle_csv import read_chunks
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

HEADER = b"source,question,answer,rating\n"
ROW = b"a,12..,1234,3\n"


def read(path: Path) -> list[tuple[int, str, str, int]]:
    """Line, question, answer and rating of every row."""
    return [
        row
        for chunk in read_chunks(path, 4)
        for row in zip(chunk.lines, chunk.questions, chunk.answers, chunk.ratings, strict=True)
    ]


def test_rows_are_read_whatever_the_columns_order_line_ends_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.csv.gz"
    text = '\ufeff rating,answer,question,source,note\r\n3,1234," 1  ","a, ""b""",\r\n\r\n 0 ,1234,12.²,,\r\n'
    path.write_bytes(gzip.compress(text.encode()))
    assert read(path) == [(2, " 1  ", "1234", 3), (4, "12.²", "1234", 0)]  # blanks may be cells: of a maze


def test_good_rows_come_before_the_error_of_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_bytes(HEADER + 5000 * ROW + b"a,b\n")
    chunks = read_chunks(path, 4)
    assert [len(next(chunks).lines) for _ in range(2)] == [4096, 904]
    with pytest.raises(DataError, match="line 5002: has 2 fields, the header has 4"):
        next(chunks)


LINES = {
    "too many fields": (b"a,12..,1234,3,4\n", "has 5 fields, the header has 4"),
    "NUL": (b"a\0,12..,1234,3\n", "holds a NUL byte"),
    "field over lines": (b'"a\nb",12..,1234,3\n', "is no CSV: unexpected end of data"),
    "Latin-1": ("ä,12..,1234,3\n".encode("latin-1"), "is not UTF-8 text"),
    "empty lines": (b"\n" * 20_000, "is empty, like 10,000 others"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "puzzles.csv"
    line, message = LINES[name]
    path.write_bytes(HEADER + ROW + line)
    with pytest.raises(DataError, match=rf"{path}, line \d+: {message}.*\n  way out"):
        read(path)


def zeros(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(HEADER)
        file.truncate(1 << 30)  # takes no room on the disk


def packed(block: bytes) -> Callable[[Path], None]:
    """64 MiB of it, packed to a hundredth or a thousandth."""

    def write(path: Path) -> None:
        with gzip.open(path, "wb", 1) as file:
            file.write(HEADER)
            for _ in range((1 << 26) // len(block)):
                file.write(block)

    return write


FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a line of 1 GB": ("puzzles.csv", zeros, "line 2: is longer than 65536 bytes"),
    "zeros packed": ("puzzles.csv.gz", packed(b"\0" * (1 << 20)), "line 2: is longer than 65536 bytes"),
    "empty lines packed": ("puzzles.csv.gz", packed(b"\n" * (1 << 20)), "like 10,000 others"),
    "equal rows packed": ("puzzles.csv.gz", packed(ROW.replace(b"a", b"a" * 60) * (1 << 14)), "expands to more than"),
    "a folder": ("puzzles.csv", Path.mkdir, "is a folder, a pipe or a device"),
    "a pipe": ("puzzles.csv", os.mkfifo, "is a folder, a pipe or a device"),
    "a device": ("puzzles.csv", lambda path: path.symlink_to("/dev/zero"), "is a folder, a pipe or a device"),
    "a column twice": (
        "puzzles.csv",
        lambda path: path.write_bytes(b"rating," + HEADER),
        "more than one column rating",
    ),
}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """64 MiB more than there is now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused(tmp_path: Path, name: str, little_memory: None) -> None:
    file_name, write, message = FILES[name]
    path = tmp_path / file_name
    write(path)
    with pytest.raises(DataError, match=message) as error:
        for _ in read_chunks(path, 4):
            pass
    assert str(path) in str(error.value)
    assert "way out" in str(error.value)


def test_a_file_that_is_hashed_is_no_pipe_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    config = SudokuDataConfig(source="csv", train_csv=str(tmp_path / "pipe.csv"), test_csv="x")
    with pytest.raises(DataError, match=r"data\.train_csv=.*is a folder, a pipe or a device"):
        build_key(config)


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_bytes(HEADER + ROW)
    path.chmod(0)
    # The superuser may read anything, so it becomes another user.
    code = f"""import os
from hrm_lab.data.puzzle_csv import read_chunks
os.geteuid() or os.setuid(65534)
list(read_chunks({str(path)!r}, 4))"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot be read: Permission denied\n  way out: get the right to read it" in ended.stderr
