"""The solver counts right, generated data is what it says, and bad CSV files are named line by line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.format import Dataset, fingerprint
from hrm_lab.data.sudoku import build as sudoku
from hrm_lab.data.sudoku import csv_file as sudoku_csv
from hrm_lab.data.sudoku import generator as sudoku_generator
from hrm_lab.data.sudoku import solver as sudoku_solver
from hrm_lab.data.task import Appearance
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

# A well-known puzzle (Arto Inkala, 2010), hard for a search.
HARD = "..53.....8......2..7..1.5..4....53...1..7...6..32...8..6.5....9..4....3......97.."


def digits(text: str) -> np.ndarray[Any, Any]:
    return np.array([0 if symbol in ".0" else int(symbol, 36) for symbol in text], np.uint8)


def grids_of(answers: np.ndarray[Any, Any]) -> set[bytes]:
    return {answer.tobytes() for answer in answers}


def test_solver_on_a_hard_puzzle() -> None:
    solution = sudoku_solver.solve(digits(HARD), 3, 3)
    assert solution is not None
    assert np.array_equal(solution.reshape(-1)[digits(HARD) > 0], digits(HARD)[digits(HARD) > 0])
    for units in (solution, solution.T, solution.reshape(3, 3, 3, 3).swapaxes(1, 2).reshape(9, 9)):
        assert all(sorted(unit) == list(range(1, 10)) for unit in units.tolist())
    assert sudoku_solver.count_solutions(digits(HARD), 3, 3) == 1


def test_solver_counts_known_numbers() -> None:
    assert sudoku_solver.count_solutions(np.zeros(16, int), 2, 2, limit=1000) == 288
    assert sudoku_solver.count_solutions(np.zeros((4, 4), int), 1, 4, limit=1000) == 576  # Latin squares
    assert sudoku_solver.count_solutions(np.zeros(36, int), 2, 3, limit=7) == 7
    clash = np.zeros(16, int)
    clash[:2] = 1
    assert sudoku_solver.count_solutions(clash, 2, 2) == 0
    assert sudoku_solver.solve(clash, 2, 2) is None
    no_place = np.array([1, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 3, 0, 0, 0, 0])
    assert sudoku_solver.count_solutions(no_place, 2, 2) == 0
    with pytest.raises(ValueError, match="16 digits"):
        sudoku_solver.solve(np.full(16, 5), 2, 2)


@pytest.mark.parametrize(("box_rows", "box_cols"), [(2, 2), (2, 3), (3, 2), (3, 3)])
def test_generated_puzzles(box_rows: int, box_cols: int) -> None:
    config = SudokuDataConfig(box_rows=box_rows, box_cols=box_cols, num_train=12, num_test=8, test_grids=4)
    calls: list[tuple[int, int]] = []
    train, test = sudoku_generator.generate(config, lambda done, total: calls.append((done, total)))
    assert calls[0] == (0, 20)
    assert calls[-1] == (20, 20)
    for puzzles in (train, test):
        for question, answer in zip(puzzles.questions, puzzles.answers, strict=True):
            assert sudoku_solver.count_solutions(question, box_rows, box_cols, limit=2) == 1
            solution = sudoku_solver.solve(question, box_rows, box_cols)
            assert solution is not None
            assert np.array_equal(solution.reshape(-1), answer)
        assert len(grids_of(puzzles.questions)) == len(puzzles)
    assert len(grids_of(test.answers)) == 4
    assert not grids_of(train.answers) & grids_of(test.answers)
    # As many blanks as possible: any given less, and there are more solutions.
    question = train.questions[0]
    for cell in np.flatnonzero(question):
        assert (
            sudoku_solver.count_solutions(np.where(np.arange(len(question)) == cell, 0, question), box_rows, box_cols)
            == 2
        )


def test_generation_of_4x4_holds_out_a_quarter_of_the_grids() -> None:
    train, test = sudoku_generator.generate(
        SudokuDataConfig(box_rows=2, box_cols=2, num_train=300, num_test=144, num_blanks=9)
    )
    assert (train.questions == 0).sum(axis=1).tolist() == [9] * 300
    shares = np.unique(test.answers, axis=0, return_counts=True)[1]
    assert shares.tolist() == [2] * 72
    assert not grids_of(train.answers) & grids_of(test.answers)


def test_generation_repeats_and_follows_its_seed() -> None:
    def made(**changes: Any) -> str:
        config = SudokuDataConfig(**{"num_train": 5, "num_test": 3, "num_blanks": 40, **changes})
        built = sudoku.build(config)
        return fingerprint(built.info, built.train, built.test)

    assert made() == made(name="other", num_augmentations=9)
    # Pinned: who changes the generator's output must raise FORMAT_VERSION, or old folders pass for new ones.
    assert made()[:12] == "8e360772110f"
    assert len({made(), made(build_seed=1), made(num_blanks=41), made(num_train=6)}) == 4


def test_more_than_there_is_is_refused() -> None:
    small = {"box_rows": 2, "box_cols": 2}
    with pytest.raises(DataError, match=r"data\.num_blanks=13: .*\n  way out: take fewer blanks"):
        sudoku_generator.generate(SudokuDataConfig(**small, num_train=1, num_test=1, num_blanks=13))
    with pytest.raises(DataError, match=r"data\.num_test=17: .* after 16 different .*\n.*more data\.test_grids"):
        sudoku_generator.generate(SudokuDataConfig(**small, num_train=1, num_test=17, num_blanks=1, test_grids=1))
    with pytest.raises(DataError, match=r"data\.test_grids=288: there are 288 grids"):
        sudoku_generator.generate(SudokuDataConfig(**small, num_train=1, num_test=1, test_grids=288))


def test_build_says_what_its_tokens_are() -> None:
    built = sudoku.build(SudokuDataConfig(box_rows=2, box_cols=3, num_train=3, num_test=2, num_blanks=9))
    info, train, test = built.info, built.train, built.test
    assert (info.vocab_size, info.seq_len, info.pad_id, info.ignore_label_id) == (8, 36, 0, 0)
    assert info.grid_shape == (6, 6)
    assert info.task_facts == {"box_rows": 2, "box_cols": 3}
    assert (train.inputs == 1).sum(axis=1).tolist() == [9] * 3
    assert train.labels.min() == 2
    assert train.labels.max() == 7
    assert train.group_offsets.tolist() == [0, 1, 2, 3]
    assert len(test["all"]) == 2


def test_render_draws_any_box_shape() -> None:
    board = np.array([1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) + 1
    board[-1] = 0
    text = Appearance("_.1234", box_shape=(2, 2)).text(board.astype(np.uint8), (4, 4))
    assert text.splitlines() == ["1 2 | . .", "3 4 | . .", "----+----", ". . | . .", ". . | . _"]
    twelve = Appearance("_.123456789ABC", box_shape=(3, 4))
    wide = twelve.text((np.arange(144) % 14).astype(np.uint8), (12, 12)).splitlines()
    assert len(wide) == 12 + 3
    assert {len(line) for line in wide} == {12 * 2 - 1 + 2 * 2}
    assert "C" in wide[1]


# ------------------------------------------------------------------------------------------- CSV files

HEADER = "source,question,answer,rating\n"


def csv_file(folder: Path, text: str | bytes, name: str = "puzzles.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_is_read_plain_and_gzipped(tmp_path: Path) -> None:
    text = (
        "id,rating,answer,question,source\n" + "1,5,1234341221434321,1.00341221434321,x\n\n" + "2,0,1234341221434321,"
    )
    text += '1234341221434321,"a, ""b"""\n'
    plain = csv_file(tmp_path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    packed = csv_file(tmp_path, gzip.compress(text.encode()), "puzzles.csv.gz")
    for path in (plain, packed):
        puzzles = sudoku_csv.read_csv(path, 2, 2)
        assert puzzles.questions[0].tolist() == [1, 0, 0, 0, *digits("341221434321")]
        assert puzzles.answers.tolist() == [digits("1234341221434321").tolist()] * 2
        assert puzzles.ratings.tolist() == [5, 0]


def test_csv_of_a_large_board_uses_letters(tmp_path: Path) -> None:
    grid = sudoku_generator.random_grid(3, 4, 0)
    text = "".join(sudoku_csv.SYMBOLS[digit] for digit in grid)
    path = csv_file(tmp_path, f"{HEADER}x,.{text[1:]},{text},1\n")
    assert "C" in text
    assert sudoku_csv.read_csv(path, 3, 4).answers.tobytes() == grid


def row(question: str = "12" + "." * 14, answer: str = "1234341221434321", rating: str = "3") -> str:
    return f"a,{question},{answer},{rating}\n"


BAD = {
    "short": (row(question="12.."), "question has 4 characters, not 16"),
    "long answer": (row(answer="1" * 17), "answer has 17 characters, not 16"),
    "digit": (row(question="125" + "." * 13), "question has '5' as character 3, which is no digit of side 4"),
    "not ASCII": (row(question="1²" + "." * 14), "question has '²' as character 2"),
    "row": (row(question="1..1" + "." * 12), "question has digit 1 twice in row 1"),
    "column": (row(question="2..." * 2 + "." * 8), "question has digit 2 twice in column 1"),
    "box": (row(question="3....3.........."), "question has digit 3 twice in box 1"),
    "no grid": (row(question="." * 16, answer="1234341221434312"), "answer has digit 1 twice in column 3"),
    "blank answer": (row(answer="123434122143432."), "answer is no full grid: character 16 is a blank"),
    "other given": (row(question="21" + "." * 14), "answer does not fit the question: the given in row 1, column 1"),
    "rating": (row(rating="hard"), "rating 'hard' is no whole number"),
    "fields": ("a,b\n", "has 2 fields, the header has 4"),
    "quote": ('"a"b,' + row(), "is no CSV"),
    "long line": ("a" * 70_000 + row(), "is longer than 65536 bytes"),
    "bytes": (b"\xff" + row().encode(), "is not UTF-8 text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named(tmp_path: Path, name: str) -> None:
    line, message = BAD[name]
    path = csv_file(tmp_path, (HEADER + row() + row()).encode() + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(DataError) as error:
        sudoku_csv.read_csv(path, 2, 2)
    assert f"{path}, line 4: {message}" in str(error.value)
    assert "way out" in str(error.value)


def test_the_earlier_of_two_bad_lines_is_named(tmp_path: Path) -> None:
    clash, letter = row(question="11" + "." * 14), row(question="x" + "." * 15)
    for text in (clash + letter, letter + clash, clash + "a,b\n", letter + row(rating="")):
        with pytest.raises(DataError, match="line 2: question has"):
            sudoku_csv.read_csv(csv_file(tmp_path, HEADER + text), 2, 2)


FILES = {
    "empty": (b"", "puzzles.csv", "is empty"),
    "header only": (HEADER.encode(), "puzzles.csv", "holds no puzzle"),
    "column": (b"source,question,rating\n", "puzzles.csv", "line 1: no column answer"),
    "no gzip": (HEADER.encode(), "puzzles.csv.gz", "cannot be read: Not a gzipped file"),
    "half a gzip": (gzip.compress(HEADER.encode())[:-9], "puzzles.csv.gz", "cannot be read"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named(tmp_path: Path, name: str) -> None:
    content, file_name, message = FILES[name]
    path = csv_file(tmp_path, content, file_name)
    with pytest.raises(DataError) as error:
        sudoku_csv.read_csv(path, 2, 2)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "way out" in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        sudoku_csv.read_csv(tmp_path / "missing.csv", 2, 2)


def test_build_from_csv_filters_and_chooses(tmp_path: Path) -> None:
    grids = [bytes(grid) for grid in sudoku_generator.all_grids(2, 2)[:20]]
    lines = [f"s,.{text[1:]},{text},{n}\n" for n, text in enumerate("".join(map(str, grid)) for grid in grids)]
    path = str(csv_file(tmp_path, HEADER + "".join(lines)))
    config = SudokuDataConfig(box_rows=2, box_cols=2, source="csv", train_csv=path, test_csv=path, min_rating=5)
    config.num_train, config.num_test = 6, None
    built = sudoku.build(config)
    train, test = built.train, built.test
    chosen = [grids.index((row - 1).tobytes()) for row in train.labels]
    assert len(chosen) == 6
    assert chosen == sorted(chosen)
    assert min(chosen) >= 5
    assert len(test["all"]) == 20
    assert test["all"].ratings is not None
    assert test["all"].ratings.tolist() == list(range(20))
    assert np.array_equal(sudoku.build(config).train.labels, train.labels)
    config.build_seed = 1
    assert not np.array_equal(sudoku.build(config).train.labels, train.labels)
    config.num_train = 16
    with pytest.raises(DataError, match=r"data\.num_train=16: the file has 15 puzzles"):
        sudoku.build(config)
    config.min_rating = 20
    with pytest.raises(DataError, match=r"data\.min_rating=20: .*\n.*at most data\.min_rating=19"):
        sudoku.build(config)


def test_puzzles_are_rated_by_their_file_or_by_the_rounds_that_they_take(tmp_path: Path) -> None:
    assert sudoku_solver.rounds_to_solve(list(sudoku_generator.all_grids(2, 2)[0]), 2, 2) == 1
    easy = digits(HARD)
    solution = sudoku_solver.solve(easy, 3, 3)
    assert solution is not None
    easy[10:] = solution.reshape(-1)[10:]
    assert 1 < sudoku_solver.rounds_to_solve(easy, 3, 3) < 20 < sudoku_solver.rounds_to_solve(digits(HARD), 3, 3)
    config = SudokuDataConfig(name="rated", box_rows=2, box_cols=2, num_train=2, num_test=9)
    built = ensure_dataset(config, tmp_path)
    ratings = built.test["all"].ratings
    assert ratings is not None
    questions = built.test["all"].inputs - 1
    assert ratings.tolist() == [sudoku_solver.rounds_to_solve(question, 2, 2) for question in questions]
    assert built.train.ratings is None
    # A remark: without it the data are the same data.
    (built.folder / "test/all/ratings.npy").unlink()
    unrated = Dataset.open(built.folder)
    unrated.check_fingerprint()
    assert unrated.test["all"].ratings is None
    np.save(built.folder / "test/all/ratings.npy", np.zeros(8, np.int32))
    with pytest.raises(DataError, match=r"test/all/ratings is int32 \(8,\), not int32 \(9,\)"):
        Dataset.open(built.folder)
