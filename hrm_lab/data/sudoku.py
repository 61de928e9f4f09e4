"""Sudoku of any box shape: its tokens, a solver, a generator, the CSV reader and the builder.

A box has R = `box_rows` rows and C = `box_cols` columns; a grid has side n = R * C and S = n * n cells. Boards are
arrays of digits, 0 = blank. Tokens are digit + 1, so 0 is left for padding (HRM_SPEC section 6, Sudoku).
"""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from hrm_lab.config import SudokuDataConfig
from hrm_lab.data.format import DatasetInfo, Split
from hrm_lab.data.symmetries import permutations, random_words
from hrm_lab.errors import DataError

Boards = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]

TEST_SET = "all"  # the published datasets call their only test set so
SYMBOLS = ".123456789ABCDEFGHIJKLMNOP"  # digit -> character, up to side 25

# What a random word is for; see `random_words`.
_GRID, _ORDER, _PICK, _SUBSET = 0x6001, 0x6002, 0x6003, 0x6004
_TRAIN, _TEST, _HELD_OUT = 0, 1, 2

_TRIES = 100  # grids and orders tried for one puzzle
_ENUMERABLE_SIDE = 4  # up to here all grids are listed: 288 of 2x2 boxes, 576 of 1x4
_GRID_NODES = 2_000  # search nodes after which a random grid is begun afresh
_DIG_NODES = 500  # search nodes after which a cell counts as needed: only large boards get there
_LONGEST_LINE = 65_536  # bytes; a row of a 25x25 file has some 1,300
_CHUNK_ROWS = 4_096


# ---------------------------------------------------------------------------------------------- solver


@dataclass(frozen=True)
class _Geometry:
    """Which cells see each other, as bit masks over the cells (bit c is cell c, row by row)."""

    side: int
    all_cells: int
    peers: tuple[int, ...]  # cell -> the other cells of its row, column and box
    units: tuple[int, ...]  # rows, columns, boxes


@lru_cache(maxsize=32)
def _geometry(box_rows: int, box_cols: int) -> _Geometry:
    side = box_rows * box_cols
    units = [0] * (3 * side)
    members = [_units_of(cell, box_rows, box_cols) for cell in range(side * side)]
    for cell, places in enumerate(members):
        for unit in places:
            units[unit] |= 1 << cell
    peers = tuple((units[row] | units[col] | units[box]) & ~(1 << cell) for cell, (row, col, box) in enumerate(members))
    return _Geometry(side, (1 << side * side) - 1, peers, tuple(units))


def _units_of(cell: int, box_rows: int, box_cols: int) -> tuple[int, int, int]:
    """Numbers of a cell's row, column and box among the 3 n units."""
    side = box_rows * box_cols
    row, col = divmod(cell, side)
    return row, side + col, 2 * side + row // box_rows * box_rows + col // box_cols


class _SearchLimit(Exception):
    """A search took more nodes than it was given."""


def _solutions(
    geometry: _Geometry,
    planes: list[int],
    open_cells: int,
    max_nodes: int | None = None,
    priority: Sequence[Sequence[int]] | None = None,
) -> Iterator[list[int]]:
    """Yield every completion, depth first.

    Args:
        geometry: of the board.
        planes: for each digit the mask of the cells that hold it or still may; changed in place.
        open_cells: cells not settled yet.
        max_nodes: raise `_SearchLimit` beyond so many nodes.
        priority: [cell][digit] order in which a branching cell's digits are tried; None = ascending.
    """
    stack = [(planes, open_cells)]
    nodes = 0
    while stack:
        nodes += 1
        if max_nodes is not None and nodes > max_nodes:
            raise _SearchLimit
        planes, open_cells = stack.pop()
        left = _propagate(geometry, planes, open_cells)
        if left is None:
            continue
        if left == 0:
            yield planes
            continue
        bit = _most_constrained(geometry, planes, left)
        digits = [digit for digit, plane in enumerate(planes) if plane & bit]
        if priority is not None:
            digits.sort(key=priority[bit.bit_length() - 1].__getitem__)
        for digit in reversed(digits):
            child = [plane & ~bit for plane in planes]
            child[digit] |= bit  # now a naked single
            stack.append((child, left))


def _propagate(geometry: _Geometry, planes: list[int], open_cells: int) -> int | None:
    """Settle cells with one digit left and digits with one place left; the open cells, or None at a contradiction.

    Works on all cells at once: `ones` and `twos` are the cells with at least one and at least two candidates.
    """
    peers, everything = geometry.peers, geometry.all_cells
    while True:
        ones = twos = 0
        for plane in planes:
            twos |= ones & plane
            ones |= plane
        if ones != everything:
            return None
        singles = open_cells & ~twos
        if not singles:
            if not open_cells:
                return 0
            hidden = _settle_hidden(geometry, planes, open_cells)
            if hidden is None:
                return None
            if hidden == 0:
                return open_cells
            open_cells &= ~hidden
            continue
        open_cells &= ~singles
        for digit, plane in enumerate(planes):
            settled = plane & singles
            while settled:
                bit = settled & -settled
                plane &= ~peers[bit.bit_length() - 1]
                settled ^= bit
            planes[digit] = plane


def _settle_hidden(geometry: _Geometry, planes: list[int], open_cells: int) -> int | None:
    """Settle the first digit that has one place left in a unit: its cell's bit, 0 for none, None = contradiction."""
    for digit, plane in enumerate(planes):
        if not plane & open_cells:
            continue
        for unit in geometry.units:
            places = plane & unit
            if places & (places - 1):
                continue
            if not places:
                return None
            if places & open_cells:
                for other, mask in enumerate(planes):
                    planes[other] = mask & ~places
                planes[digit] = (plane & ~geometry.peers[places.bit_length() - 1]) | places
                return places
    return 0


def _most_constrained(geometry: _Geometry, planes: list[int], open_cells: int) -> int:
    """The bit of the first open cell among those with the fewest candidates."""
    at_least = [geometry.all_cells] + [0] * geometry.side  # [k]: cells with at least k candidates
    for number, plane in enumerate(planes):
        for k in range(number, -1, -1):
            at_least[k + 1] |= at_least[k] & plane
    for k in range(2, geometry.side):
        fewest = open_cells & ~at_least[k + 1]
        if fewest:
            return fewest & -fewest
    return open_cells & -open_cells


def _candidates(geometry: _Geometry, digits: Sequence[int]) -> tuple[list[int], int] | None:
    """Planes and open cells of a board of S digits; None when two givens clash."""
    given, blocked = [0] * geometry.side, [0] * geometry.side
    open_cells = geometry.all_cells
    for cell, digit in enumerate(digits):
        if digit:
            given[digit - 1] |= 1 << cell
            blocked[digit - 1] |= geometry.peers[cell]
            open_cells ^= 1 << cell
    if any(mine & theirs for mine, theirs in zip(given, blocked, strict=True)):
        return None
    return [mine | (open_cells & ~theirs) for mine, theirs in zip(given, blocked, strict=True)], open_cells


def _search(puzzle: npt.ArrayLike, box_rows: int, box_cols: int) -> Iterator[list[int]]:
    geometry = _geometry(box_rows, box_cols)
    digits = np.asarray(puzzle).reshape(-1).tolist()
    if len(digits) != geometry.side**2 or not all(0 <= digit <= geometry.side for digit in digits):
        raise ValueError(f"not {geometry.side**2} digits 0..{geometry.side}")
    start = _candidates(geometry, digits)
    return iter(()) if start is None else _solutions(geometry, *start)


def count_solutions(puzzle: npt.ArrayLike, box_rows: int, box_cols: int, limit: int = 2) -> int:
    """Number of completions of a board, (n, n) or (S,) digits with 0 = blank, counted up to `limit`."""
    return sum(1 for _ in itertools.islice(_search(puzzle, box_rows, box_cols), limit))


def solve(puzzle: npt.ArrayLike, box_rows: int, box_cols: int) -> Boards | None:
    """The first completion (n, n) of a board, or None."""
    for planes in _search(puzzle, box_rows, box_cols):
        side = box_rows * box_cols
        return np.array(_digits(planes, side), np.uint8).reshape(side, side)
    return None


def _digits(planes: Sequence[int], side: int) -> list[int]:
    """Planes, in which a cell is in one plane or in none, as S digits."""
    digits = [0] * (side * side)
    for digit, plane in enumerate(planes, 1):
        while plane:
            bit = plane & -plane
            digits[bit.bit_length() - 1] = digit
            plane ^= bit
    return digits


# ------------------------------------------------------------------------------------------ generation


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
    geometry = _geometry(box_rows, box_cols)
    if geometry.side > _ENUMERABLE_SIDE:
        raise ValueError(f"the grids of side {geometry.side} are too many to list")
    found = _solutions(geometry, [geometry.all_cells] * geometry.side, geometry.all_cells)
    return tuple(sorted(bytes(_digits(planes, geometry.side)) for planes in found))


def random_grid(box_rows: int, box_cols: int, *address: int) -> bytes:
    """A random solution grid, S digits, as a function of an address (`random_words`).

    A search that tries digits in random order. It is begun afresh when it gets lost, and on a large board (side 16
    and more) that goes wrong every time a shuffled pattern grid is taken.
    """
    geometry = _geometry(box_rows, box_cols)
    side = geometry.side
    for attempt in range(10):
        words = random_words(_GRID, *address, attempt, count=side**3).reshape(side * side, side)
        planes = [geometry.all_cells] * side
        try:
            found = _solutions(geometry, planes, geometry.all_cells, _GRID_NODES, permutations(words).tolist())
            return bytes(_digits(next(found), side))
        except _SearchLimit:
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
    geometry = _geometry(box_rows, box_cols)
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
    return bytes(_digits(given, geometry.side))


def _seen(geometry: _Geometry, cells: int) -> int:
    """All cells that one of `cells` sees."""
    seen = 0
    while cells:
        bit = cells & -cells
        seen |= geometry.peers[bit.bit_length() - 1]
        cells ^= bit
    return seen


def _solvable(geometry: _Geometry, planes: list[int], open_cells: int) -> bool:
    """Whether there is a solution; True also when the search gets too long, so that the cell is kept."""
    try:
        return next(_solutions(geometry, planes, open_cells, _DIG_NODES), None) is not None
    except _SearchLimit:
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


# ------------------------------------------------------------------------------------------- CSV files


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
        for unit in _units_of(cell, box_rows, box_cols):
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


# --------------------------------------------------------------------------------------------- builder


def build(config: SudokuDataConfig, progress: Progress | None = None) -> tuple[DatasetInfo, Split, dict[str, Split]]:
    """Make the dataset's info and splits in memory, from the generator or from CSV files.

    Raises:
        DataError: when there are not as many puzzles as asked for, or a file is bad.
    """
    if config.source == "csv":
        train, test = _from_csv(config, progress)
    else:
        train, test = generate(config, progress)
    side = config.box_rows * config.box_cols
    info = DatasetInfo(
        task="sudoku",
        name=config.name,
        vocab_size=side + 2,
        seq_len=side * side,
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        num_puzzle_identifiers=1,
        grid_shape=(side, side),
        test_sets=(TEST_SET,),
        task_facts={"box_rows": config.box_rows, "box_cols": config.box_cols},
    )
    return info, _split(train), {TEST_SET: _split(test)}


def _split(puzzles: Puzzles) -> Split:
    """Digits to tokens; each puzzle is a group of its own."""
    size = len(puzzles)
    return Split(
        inputs=puzzles.questions + np.uint8(1),
        labels=puzzles.answers + np.uint8(1),
        puzzle_identifiers=np.zeros(size, np.int32),
        group_offsets=np.arange(size + 1, dtype=np.int64),
    )


def _from_csv(config: SudokuDataConfig, progress: Progress | None) -> tuple[Puzzles, Puzzles]:
    if config.train_csv is None or config.test_csv is None:
        raise ValueError("source=csv needs train_csv and test_csv")
    train = read_csv(config.train_csv, config.box_rows, config.box_cols)
    test = read_csv(config.test_csv, config.box_rows, config.box_cols)
    kept = np.arange(len(train))
    if config.min_rating is not None:
        kept = np.flatnonzero(train.ratings >= config.min_rating)
        if not kept.size:
            raise DataError(
                f"data.min_rating={config.min_rating}: no puzzle of {config.train_csv} is rated so high\n"
                f"  way out: take at most data.min_rating={int(train.ratings.max())}"
            )
    chosen = (
        _subset(train, kept, config.num_train, "num_train", config),
        _subset(test, np.arange(len(test)), config.num_test, "num_test", config),
    )
    if progress is not None:
        total = len(chosen[0]) + len(chosen[1])
        progress(total, total)
    return chosen


def _subset(
    puzzles: Puzzles, kept: npt.NDArray[np.intp], size: int | None, key: str, config: SudokuDataConfig
) -> Puzzles:
    """A random subset of the kept rows, in the file's order."""
    if size is not None and size > len(kept):
        raise DataError(
            f"data.{key}={size}: the file has {len(kept)} puzzles to choose from\n"
            f"  way out: take at most data.{key}={len(kept)}, or null for all"
        )
    if size is not None:
        split = _TRAIN if key == "num_train" else _TEST
        words = random_words(_SUBSET, config.build_seed, split, count=len(kept))[0]
        kept = kept[np.sort(np.argsort(words, kind="stable")[:size])]
    return Puzzles(puzzles.questions[kept], puzzles.answers[kept])


# --------------------------------------------------------------------------------------------- picture


def render(tokens: npt.ArrayLike, box_rows: int, box_cols: int) -> str:
    """A board of S tokens as text with lines between the boxes; `.` blank, `_` padding, `?` no token of this size."""
    side = box_rows * box_cols
    symbols = "_" + SYMBOLS[: side + 1]
    grid = np.asarray(tokens).reshape(side, side).tolist()
    rule = "+".join(["-" * (2 * box_cols + 1)] * box_rows)[1:-1]
    lines = []
    for number, row in enumerate(grid):
        if number and number % box_rows == 0:
            lines.append(rule)
        cells = [symbols[token] if 0 <= token < len(symbols) else "?" for token in row]
        boxes = (" ".join(cells[start : start + box_cols]) for start in range(0, side, box_cols))
        lines.append(" | ".join(boxes))
    return "\n".join(lines)
