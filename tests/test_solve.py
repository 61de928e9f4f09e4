"""Weights in use: a small model that really solves some puzzles, through the verbs that a person gives."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrm_lab.data.format import Dataset
from hrm_lab.data.questions import LONGEST_LINE, Question, Solved, Unusable, read_lines
from hrm_lab.run_folder import RunFolder
from hrm_lab.solve import Solver
from hrm_lab.subject import find_weights, subject_of_run
from hrm_lab.tracking.journal import read_journal
from tests.small import hrm_lab

MODEL = ["model=hrm_tiny", "model.hidden_size=32", "model.puzzle_emb_ndim=32", "model.H_layers=1", "model.L_layers=1"]
MODEL += ["model.H_cycles=1", "model.halt_max_steps=3", "data=sudoku_4x4"]
TRAINED = [*MODEL, "tracking=none", "data.num_train=400", "data.num_test=40", "data.num_blanks=2"]
TRAINED += ["optim.lr=1e-2", "optim.puzzle_emb_lr=1e-2", "optim.lr_warmup_steps=20", "optim.lr_min_ratio=0.1"]
TRAINED += ["training.epochs=32", "training.eval_interval=16", "training.global_batch_size=64"]
TRAINED += ["training.eval_puzzles=16"]
GLYPHS = "_.1234"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model was trained: outputs/ and data/ are here."""
    place = tmp_path_factory.mktemp("solver")
    done = hrm_lab(place, "train", *TRAINED)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> RunFolder:
    (path,) = (folder / "outputs" / "runs").iterdir()
    return RunFolder(path)


@pytest.fixture(scope="module")
def puzzles(run: RunFolder) -> tuple[list[str], list[str]]:
    """The test set's questions and answers, in text."""
    info = run.dataset_info()
    assert info is not None
    test = Dataset.open(info["folder"]).test["all"]
    questions, answers = (
        ["".join(GLYPHS[token] for token in row) for row in rows] for rows in (test.inputs, test.labels)
    )
    return questions, answers


@pytest.fixture(scope="module")
def judged(folder: Path, run: RunFolder) -> dict[str, Any]:
    """What `evaluate` finds in one process, beyond the trained depth."""
    done = hrm_lab(folder, "evaluate", run.path.name, "--steps", "5", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --------------------------------------------------------------------------------------------------- solve


def test_solve_says_of_every_puzzle_what_an_evaluation_counts(
    folder: Path, run: RunFolder, puzzles: tuple[list[str], list[str]], judged: dict[str, Any]
) -> None:
    questions, answers = puzzles
    rows = "".join(f"a,{question},{answer},1\n" for question, answer in zip(*puzzles, strict=True))
    (folder / "puzzles.csv").write_text(f"source,question,answer,rating\n{rows}")
    words = ["solve", run.path.name[:6], "--file", "puzzles.csv", "--steps", "5", "--json", "--batch-size", "7"]
    done = hrm_lab(folder, *words)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["puzzle"] for one in said] == questions
    assert said[3]["place"] == "puzzles.csv, line 5"
    right = np.array([[board == answer for board in one["steps"]] for one, answer in zip(said, answers, strict=True)])
    assert right.shape == (40, 5)
    assert right.mean(0) == pytest.approx([row["exact_accuracy"] for row in judged["by_step"]])
    # With one solution each, the rules alone tell what is right.
    assert [one["right"] for one in said] == right[:, -1].tolist()
    assert [one["problem"] == "" for one in said] == right[:, -1].tolist()
    assert 0.1 < right[:, -1].mean() < 1
    assert all(len(one["q_halt"]) == 5 and one["answer"] == one["steps"][-1] for one in said)
    assert done.returncode == 1
    assert f"{right[:, -1].sum()} right, {(~right[:, -1]).sum()} wrong; 5 ACT steps" in done.stderr


def test_one_puzzle_is_shown_step_by_step_and_drawn(
    folder: Path, run: RunFolder, puzzles: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    everything = Solver(subject_of_run(*found(run))).solve(map(Question, puzzles[0], puzzles[0]))
    solved = next(said for said in everything if isinstance(said, Solved) and said.problem == "")
    picture = tmp_path / "new" / "boards.png"
    done = hrm_lab(folder, "solve", run.path.name, solved.question.text, "--png", str(picture))
    assert done.returncode == 0, done.stderr
    assert "puzzle 1: right (the model itself would halt after" in done.stdout
    first = "{} {} | {} {}".format(*(GLYPHS[token] for token in solved.steps[-1][:4]))
    assert any(line.rstrip().endswith(first) for line in done.stdout.splitlines())
    assert [f"step {step}" in done.stdout for step in (1, 2, 3, 4)] == [True, True, True, False]
    assert picture.read_bytes().startswith(b"\x89PNG")


def found(run: RunFolder) -> tuple[Path, RunFolder]:
    file, of = find_weights(str(run.path), Path("nowhere"))
    assert of is not None
    return file, of


def test_what_is_no_puzzle_is_told_by_line_and_the_others_are_solved(
    folder: Path, run: RunFolder, puzzles: tuple[list[str], list[str]]
) -> None:
    good = [question.encode() for question in puzzles[0][:3]]
    bad = {
        2: (b"hello", "has 5 cells, not 16"),
        4: (b"\xff\xfe1", "is no text"),
        5: (b"1" * (LONGEST_LINE + 9), f"is longer than {LONGEST_LINE} bytes"),
        6: (b"11..............", "digit 1 twice in row 1"),
        7: (b"5...............", "'5' as character 1"),
    }
    lines = [good[0], bad[2][0], good[1], *(bad[line][0] for line in (4, 5, 6, 7)), b"   ", good[2]]
    command = [sys.executable, "-m", "hrm_lab.cli", "solve", run.path.name, "--json"]
    done = subprocess.run(command, cwd=folder, input=b"\r\n".join(lines), capture_output=True, timeout=300)
    assert done.returncode == 2
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["place"].rpartition(" ")[2] for one in said] == ["1", "2", "3", "4", "5", "6", "7", "9"]
    assert [one["puzzle"].encode() for one in said if "puzzle" in one] == good
    told = done.stderr.decode()
    for line, (_, problem) in bad.items():
        assert problem in next(one["error"] for one in said if one["place"].endswith(f" {line}"))
        assert any(f"standard input, line {line}:" in words and problem in words for words in told.splitlines()), line
    assert "Traceback" not in told


def test_puzzles_are_taken_as_they_come_and_no_line_is_held_that_is_too_long(
    run: RunFolder, puzzles: tuple[list[str], list[str]]
) -> None:
    taken = 0

    def endless() -> Iterator[Question]:
        nonlocal taken
        for taken in itertools.count(1):
            yield Question(f"number {taken}", puzzles[0][taken % 40])

    solver = Solver(subject_of_run(*found(run)), sequences=4)
    assert len(list(itertools.islice(solver.solve(endless()), 10))) == 10
    assert taken == 12

    class Gigabyte(BytesIO):
        """A line of a gigabyte that is never there as a whole, and one after it."""

        left = 1 << 30

        def readline(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 < size <= LONGEST_LINE + 1
            if self.left <= 0:
                return super().readline(size)
            self.left -= size
            return b"\0" * size if self.left > 0 else b"\n"

    assert list(read_lines(Gigabyte(b"1234\n"), "file")) == [
        Unusable("file, line 1", f"is longer than {LONGEST_LINE} bytes"),
        Question("file, line 2", "1234"),
    ]


def test_a_line_of_a_maze_keeps_its_blanks_and_a_cell_of_a_csv_its_commas() -> None:
    assert list(read_lines(BytesIO(b" S# \n\n"), "file")) == [Question("file, line 1", " S# ")]
    rows = b'\xef\xbb\xbfrating, question\n1,"{""a"": [1, 2]}"\n7\n'
    assert list(read_lines(BytesIO(rows), "file")) == [
        Question("file, line 2", '{"a": [1, 2]}'),
        Unusable("file, line 3", "has no column question"),
    ]


def test_a_published_file_solves_without_its_dataset(
    folder: Path, run: RunFolder, puzzles: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    exported = hrm_lab(folder, "export", run.path.name, str(tmp_path / "hrm.pt"))
    assert exported.returncode == 0, exported.stderr
    of_file = hrm_lab(tmp_path, "solve", "hrm.pt", *puzzles[0][:3], *MODEL, "--json")
    of_run = hrm_lab(folder, "solve", str(run.path), *puzzles[0][:3], "--json")
    assert (of_file.stdout, of_file.returncode) == (of_run.stdout, of_run.returncode)
    assert len(of_file.stdout.splitlines()) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["hrm.pt"]  # nothing was built
    refused = hrm_lab(tmp_path, "solve", "hrm.pt", puzzles[0][0], *MODEL, "model.hidden_size=64")
    assert refused.returncode == 2
    assert "model.hidden_size=32 (it is 64)" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["solve", "fffff", "1"], "no such file or folder"),
        (["solve", "outputs", "1"], "no run's folder"),
        (["solve", "RUN", "1234", "--file", "x.csv"], "give one of them"),
        (["solve", "RUN", "--file", "x.csv"], "x.csv: cannot be read"),
        (["solve", "RUN", "1", "model.H_cycles=2"], "own config"),
        (["solve", "RUN", "1", "data=sudoku_9x9"], "own config"),
        (["solve", "RUN", "1", "--identifier", "7"], "the model has 1 of them"),
    ],
)
def test_what_cannot_be_used_is_said_in_two_lines(folder: Path, run: RunFolder, words: list[str], said: str) -> None:
    done = hrm_lab(folder, *(run.path.name if word == "RUN" else word for word in words))
    assert done.returncode == 2
    assert said in done.stderr
    assert "way out" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------ evaluate


def numbers(values: Any, place: str = "") -> dict[str, float]:
    """All numbers of nested values, by their place."""
    if isinstance(values, dict | list):
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        return {key: number for name, value in pairs for key, number in numbers(value, f"{place}/{name}").items()}
    return {place: values} if isinstance(values, int | float) else {}


def test_two_processes_find_what_one_finds(folder: Path, run: RunFolder, judged: dict[str, Any]) -> None:
    words = ["evaluate", run.path.name, "--steps", "5", "--processes", "2", "--batch-size", "15", "--json"]
    done = hrm_lab(folder, *words)
    assert done.returncode == 0, done.stderr
    both = json.loads(done.stdout)  # one object: one process speaks
    assert numbers(both) == pytest.approx(numbers(judged), rel=1e-5)
    assert (both["steps"], both["trained_steps"]) == (5, 3)
    assert sum(row["puzzles"] for row in both["by_rating"]) == 40
    refused = hrm_lab(folder, "evaluate", run.path.name, "--processes", "2", "data=sudoku_6x6")
    assert refused.returncode == 1
    assert "vocab_size=8, not 6" in refused.stderr
    assert not list((folder / "data").glob("sudoku_6x6*"))  # refused before it was built


def test_a_run_is_judged_on_other_data_and_leaves_a_folder_of_it(
    folder: Path, run: RunFolder, judged: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = hrm_lab(folder, "evaluate", run.path.name, "data.num_test=24", "data.num_blanks=4", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "24 puzzles, 3 ACT steps" in done.stdout
    names = ["act_depth.png", "boards.png", "by_rating.csv", "by_step.csv", "difficulty.png"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "evaluation.json", "evaluation.npz"]
    other = json.loads((out / "evaluation.json").read_text())
    assert other["fingerprint"] != judged["fingerprint"]
    assert len((out / "by_step.csv").read_text().splitlines()) == 4
    for words, said in (
        (["data.num_tset=24"], "did you mean data.num_test"),
        (["data.num_test=0"], "below 1"),
        (["model.H_cycles=2"], "own config"),
    ):
        refused = hrm_lab(folder, "evaluate", run.path.name, *words)
        assert refused.returncode == 1
        assert said in refused.stderr


def test_evaluations_on_the_way_see_a_part_and_the_end_is_judged_on_all(folder: Path, run: RunFolder) -> None:
    metrics = [entry for entry in read_journal(run.journal) if "metrics" in entry]
    seen = [entry["step"] for entry in metrics if "eval/exact_accuracy" in entry["metrics"]]
    assert seen == [100, 200]
    with np.load(run.path / "evaluations" / "step_00000100.npz") as arrays:
        assert arrays["puzzles"].sum() == 16
    last = {key: value for entry in metrics for key, value in entry["metrics"].items() if key.startswith("final")}
    assert [entry["step"] for entry in metrics if "final/exact_accuracy" in entry["metrics"]] == [200]
    for prefix, words in (("final/", ["--last"]), ("final_best/", [])):
        done = hrm_lab(folder, "evaluate", run.path.name, "--json", *words)
        expected = {key.replace("eval/", prefix): value for key, value in json.loads(done.stdout)["metrics"].items()}
        assert expected == {key: value for key, value in last.items() if key.startswith(prefix)}
    with np.load(run.path / "final" / "step_00000200.npz") as arrays:
        assert arrays["puzzles"].sum() == 40
