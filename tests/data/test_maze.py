"""Mazes: what is generated has one shortest path, what is read is checked, and any shortest path counts as right."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm_lab.config import Config, StoppingConfig
from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.dihedral import dihedral
from hrm_lab.data.format import Dataset, DatasetInfo, Split, fingerprint
from hrm_lab.data.maze import board, generator
from hrm_lab.data.maze.build import build
from hrm_lab.data.maze.csv_file import read_csv
from hrm_lab.data.maze.scorer import MazeScorer
from hrm_lab.data.maze.symmetries import MazeSymmetries
from hrm_lab.data.task import Ints, Judged, Rows, Tokens
from hrm_lab.data.tasks.maze import TASK, MazeDataConfig
from hrm_lab.errors import ConfigError, DataError
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.distributed import connect
from hrm_lab.training.protocols import Uncontrolled
from hrm_lab.training.trainer import Trainer
from hrm_lab.validation import validate
from tests.small import Memory, small_config

SMALL = {"rows": 6, "cols": 6, "min_path": 8, "num_train": 12, "num_test": 6}


def tokens(*lines: str) -> Tokens:
    return np.array([[1 + board.CHARACTERS.index(cell) for cell in line] for line in lines], np.uint8)


def info(rows: int, cols: int) -> DatasetInfo:
    return DatasetInfo("maze", "maze", 6, rows * cols, 0, 0, 0, 1, (rows, cols), ("all",))


def moves(question: Tokens, answer: Tokens | None = None) -> int | None:
    """Length of the shortest way, by a search of another kind; of one on the cells marked in an answer."""
    rows, cols = question.shape
    cells = {(row, col) for row in range(rows) for col in range(cols) if question[row, col] != board.WALL}
    if answer is not None:
        cells = {cell for cell in cells if answer[cell] != board.OPEN}
    (start,), (goal,) = (list(zip(*np.nonzero(question == token), strict=True)) for token in (board.START, board.GOAL))
    queue, seen = deque([(start, 0)]), {start}
    while queue:
        (row, col), done = queue.popleft()
        if (row, col) == goal:
            return done
        around = {(row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)} & cells - seen
        seen |= around
        queue.extend((cell, done + 1) for cell in around)
    return None


# --------------------------------------------------------------------------------------------- generator


@pytest.mark.parametrize(("rows", "cols"), [(30, 30), (7, 12), (4, 64)])
def test_a_generated_maze_has_one_shortest_path_and_it_is_long(rows: int, cols: int) -> None:
    config = MazeDataConfig(rows=rows, cols=cols, num_train=2, num_test=1)
    built = build(config)
    assert built.info.task_facts["mazes_with_one_shortest_path"] == {"train": 2, "test/all": 1}
    for split in (built.train, built.test["all"]):
        assert split.ratings is not None
        for inputs, labels, rating in zip(split.inputs, split.labels, split.ratings.tolist(), strict=True):
            question, answer = inputs.reshape(rows, cols), labels.reshape(rows, cols)
            length = moves(question)
            assert length == moves(question, answer) == (answer == board.PATH).sum() + 1
            assert length >= config.least_path()
            begin = np.array([int((inputs == board.START).argmax())])
            depth = board.distances(board.to_bits(question[None] != board.WALL), begin, cols)
            assert rating == ((depth >= 0) & (depth < length)).sum()
            assert TASK.verify(built.info, inputs, labels) == ""
            # Whatever cell of the path is walled off, the way gets longer: there is no other one so short.
            for cell in np.argwhere(answer == board.PATH)[::9]:
                closed = question.copy()
                closed[tuple(cell)] = board.WALL
                assert moves(closed) is None or moves(closed) > length  # type: ignore[operator]
    assert MazeDataConfig().least_path() == 111


FINGERPRINT = "77f0689b7faf249e6a58f55d3805a6ac875303b4a4a95c936dc33c252d8eafd3"
DRAWN = [0, 6, 1, 2, 5, 3, 4, 7]


def test_the_bytes_are_a_function_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of an older version can be repeated only as long as this fingerprint stays."""
    config = MazeDataConfig(**SMALL)
    assert ensure_dataset(config, tmp_path).info.fingerprint == FINGERPRINT
    code = (
        "from hrm_lab.data.build import ensure_dataset; from hrm_lab.data.tasks.maze import MazeDataConfig; "
        f"print(ensure_dataset(MazeDataConfig(**{SMALL}), {str(tmp_path / 'other')!r}).info.fingerprint)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == FINGERPRINT
    monkeypatch.setattr(generator, "_BLOCK", 7)  # how many are looked at together changes nothing
    monkeypatch.setattr(generator, "_AHEAD", 5)
    built = build(config)
    opened = Dataset.open(next(tmp_path.glob("maze-*")))
    assert fingerprint(opened.info, built.train, built.test) == FINGERPRINT
    other = build(MazeDataConfig(**SMALL, build_seed=1))
    assert not set(map(bytes, other.train.inputs)) & set(map(bytes, built.train.inputs))


def test_no_maze_is_another_one_turned_or_mirrored() -> None:
    built = build(MazeDataConfig(rows=4, cols=4, min_path=6, num_train=60, num_test=30))
    questions = [row.reshape(4, 4) for split in (built.train, built.test["all"]) for row in split.inputs]
    images = {dihedral(question, tid).tobytes() for question in questions for tid in range(8)}
    assert len(images) >= 8 * 88  # at most two of them are their own mirror images
    assert len({board.canonical(question) for question in questions}) == 90


def test_what_cannot_be_reached_is_told() -> None:
    with pytest.raises(DataError, match=r"data\.min_path=30: .*the longest has \d+\n  way out: take at most"):
        build(MazeDataConfig(rows=6, cols=6, min_path=30))
    with pytest.raises(DataError, match=r"data\.num_test=1000: no further maze of 3x3 cells after \d+ different ones"):
        build(MazeDataConfig(rows=3, cols=3, min_path=4))


# --------------------------------------------------------------------------------------------- scorer


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_valid_and_optimal_is_what_a_search_says(data: st.DataObject) -> None:
    rows, cols = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 6))
    seed = data.draw(st.integers(0, 10**6))
    random = np.random.default_rng(seed)
    question = np.where(random.random((rows, cols)) < data.draw(st.floats(0, 0.5)), board.WALL, board.OPEN)
    places = random.permutation(rows * cols)[:2]
    question.flat[places] = board.START, board.GOAL
    question = question.astype(np.uint8)
    best = moves(question)
    assert board.shortest(question[None]).lengths[0] == (-1 if best is None else best)
    if best is None:
        return
    answers = [question.copy() for _ in range(60)]
    opened = np.flatnonzero(question == board.OPEN)
    for number, answer in enumerate(answers):
        if number % 2 and len(opened):  # as many as there have to be, anywhere
            answer.flat[random.permutation(opened)[: best - 1]] = board.PATH
        else:
            answer.flat[opened[random.random(len(opened)) < random.random()]] = board.PATH
        if number % 10 == 9:
            answer.flat[random.integers(answer.size)] = random.integers(0, 6)
    answers.append(_some_way(question, random))
    right = board.are_optimal(np.stack([question] * len(answers)), np.stack(answers), np.full(len(answers), best - 1))
    for answer, is_right in zip(answers, right.tolist(), strict=True):
        kept = ((answer == question) | ((question == board.OPEN) & (answer == board.PATH))).all()
        expected = bool(kept) and moves(question, answer) == best and (answer == board.PATH).sum() == best - 1
        assert is_right == expected
        assert (TASK.verify(info(rows, cols), question.reshape(-1), answer.reshape(-1)) == "") == expected
    assert right[-1]


def _some_way(question: Tokens, random: np.random.Generator) -> Tokens:
    """A shortest way, any of them."""
    answer = question.copy()
    begin = np.array([int((question == board.START).argmax())])
    depth = board.distances(board.to_bits(question[None] != board.WALL), begin, question.shape[1])[0]
    cell = tuple(int(place[0]) for place in np.nonzero(question == board.GOAL))
    while depth[cell] > 1:
        row, col = cell
        around = [(row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)]
        inside = [place for place in around if 0 <= place[0] < question.shape[0] and 0 <= place[1] < question.shape[1]]
        nearer = [place for place in inside if depth[place] == depth[cell] - 1]
        cell = nearer[random.integers(len(nearer))]
        answer[cell] = board.PATH
    return answer


def test_rings_and_broken_paths_are_wrong() -> None:
    question = tokens("S    G", "      ", "      ")
    for lines in (
        ("S    G", " oo   ", " oo   "),  # a ring of as many cells as the path has
        ("Soo oG", "    o ", "      "),  # broken
        ("So ooG", " ooo  ", "      "),  # a detour
        ("SooooG", "     o", "      "),  # a cell too many
        ("Soooo ", "     G", "      "),  # the goal has moved
        ("SooooG", " #    ", "      "),  # a wall out of nowhere
    ):
        assert not board.are_optimal(question[None], tokens(*lines)[None], np.array([4]))[0]
    right = tokens("SooooG", "      ", "      ")
    assert board.are_optimal(question[None], right[None], np.array([4]))[0]
    problems = {
        "has ' ' in row 1, column 6, where the maze has 'G'": ("Soooo ", "     G", "      "),
        "has '#' in row 2, column 2, where the maze is open": ("SooooG", " #    ", "      "),
        "its path does not lead from S to G": ("Soo oG", "    o ", "      "),
        "its path takes 7 moves, 5 are enough": ("So ooG", " ooo  ", "      "),
        "marks 1 cells beside its path": ("SooooG", "     o", "      "),
    }
    for problem, lines in problems.items():
        assert TASK.verify(info(3, 6), question.reshape(-1), tokens(*lines).reshape(-1)) == problem


def test_the_metric_is_the_share_over_all_processes() -> None:
    question = tokens("S  ", "  G")
    label, other, wrong = tokens("Soo", "  G"), tokens("S  ", "ooG"), tokens("Soo", "o G")
    scorers = [MazeScorer(info(2, 3)) for _ in range(2)]
    for scorer, predictions in zip(scorers, ([label, other], [wrong, question, question]), strict=True):
        count = len(predictions)
        inputs, labels, said = (
            np.stack(some).reshape(count, 6) for some in ([question] * count, [label] * count, predictions)
        )
        scorer.add(Judged(rows(np.arange(count), 0), inputs, labels, said, np.zeros(count, np.float32)))
    assert scorers[0].metrics([scorer.collected() for scorer in scorers]) == {"optimal_accuracy": 2 / 5}


def test_an_evaluation_logs_it_and_a_run_may_be_stopped_by_it(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.data = MazeDataConfig(**SMALL, num_augmentations=7)
    config.stopping = StoppingConfig(metric="eval/optimal_accuracy", goal=0.0)
    validate(config)
    memory = Memory()
    dataset = ensure_dataset(config.data, config.paths.data)
    ranks = connect(config.training)
    Trainer(config, dataset, tmp_path, memory, Rules(config.stopping), ranks, Uncontrolled()).fit()
    assert {step: value for (step, key), value in memory.values.items() if key == "eval/optimal_accuracy"} == {3: 0}
    assert [decision.rule for decision in memory.decisions] == ["goal"]


# --------------------------------------------------------------------------------------------- symmetries


def rows(puzzles: Ints, variants: npt.ArrayLike) -> Rows:
    which, variant = np.broadcast_arrays(puzzles, np.asarray(variants))
    nothing = np.zeros(len(which), np.int64)
    return Rows(which, which, nothing, variant, nothing.astype(np.int32))


def symmetries(seed: int, num_augmentations: int, shape: tuple[int, int] = (5, 5)) -> MazeSymmetries:
    split = Split.of_single_examples(*[np.zeros((1, shape[0] * shape[1]), np.uint8)] * 2)
    return MazeSymmetries(Dataset(Path(), info(*shape), split, {"all": split}), seed, num_augmentations)


def test_variants_are_the_images_each_once_in_an_order_of_seed_and_puzzle() -> None:
    board_in = np.arange(25, dtype=np.uint8)
    inputs, labels = (torch.from_numpy(np.tile(tokens, (8, 1))) for tokens in (board_in, board_in[::-1].copy()))
    images = {dihedral(board_in.reshape(5, 5), tid).tobytes() for tid in range(8)}
    orders, split = set(), Split.of_single_examples(inputs.numpy(), labels.numpy())
    for puzzle in range(20):
        asked = rows(np.full(8, puzzle), np.arange(8))
        seen, answers = symmetries(3, 7).apply(split, asked, inputs, labels)
        assert seen[0].tolist() == board_in.tolist()
        assert {bytes(row) for row in seen.numpy()} == images
        assert torch.equal(answers, 24 - seen)  # both moved alike
        few, _ = symmetries(3, 3).apply(split, asked.take(slice(0, 4)), inputs[:4], labels[:4])
        assert torch.equal(few, seen[:4])
        one, _ = symmetries(3, 7).apply(split, asked.take(slice(5, 6)), inputs[:1], labels[:1])
        assert torch.equal(one, seen[5:6])  # whatever else is in the batch
        orders.add(bytes(seen.numpy()))
    assert len(orders) > 15
    drawn = symmetries(0, 3).drawn(np.arange(7000), 1)
    assert np.abs(np.bincount(drawn, minlength=8)[1:] / 7000 - 1 / 7).max() < 0.02
    assert (symmetries(1, 3).drawn(np.arange(7000), 1) != drawn).mean() > 0.8
    assert symmetries(0, 7).drawn(5, np.arange(8)).tolist() == DRAWN  # pinned, like the words of Sudoku


def test_a_maze_that_is_no_square_keeps_its_shape() -> None:
    assert sorted(symmetries(0, 3, (3, 4)).drawn(0, np.arange(4))) == [0, 2, 4, 5]
    for shape, most in (((3, 4), 3), ((4, 4), 7)):
        config = Config(data=MazeDataConfig(rows=shape[0], cols=shape[1], num_augmentations=most + 1))
        with pytest.raises(ConfigError, match=rf"data\.num_augmentations={most + 1}: .* in {most} other ways"):
            validate(config)
        with pytest.raises(ConfigError, match=f"take at most {most}"):
            symmetries(0, most + 1, shape)


# --------------------------------------------------------------------------------------------- files and text


HEADER = "source,question,answer,rating\n"


def maze_csv(path: Path, *rows: str) -> Path:
    path.write_text(HEADER + "".join(row + "\n" for row in rows))
    return path


def test_csv_of_generated_mazes_reads_back(tmp_path: Path) -> None:
    built = build(MazeDataConfig(**SMALL))
    for name, split in (("train", built.train), ("test", built.test["all"])):
        texts = [
            ["".join(board.CHARACTERS[token - 1] for token in row) for row in part]
            for part in (split.inputs, split.labels)
        ]
        lines = [
            f"s,{question},{answer},{number}" for number, (question, answer) in enumerate(zip(*texts, strict=True))
        ]
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress((HEADER + "\n".join(lines)).encode()))
    paths = {f"{name}_csv": str(tmp_path / f"{name}.csv.gz") for name in ("train", "test")}
    read = build(MazeDataConfig(rows=6, cols=6, source="csv", num_train=None, num_test=None, **paths))
    assert np.array_equal(read.train.inputs, built.train.inputs)
    assert np.array_equal(read.test["all"].labels, built.test["all"].labels)
    assert read.train.ratings is not None
    assert read.train.ratings.tolist() == list(range(12))
    assert read.info.task_facts == built.info.task_facts
    few = build(MazeDataConfig(rows=6, cols=6, source="csv", num_train=5, num_test=2, **paths))
    assert few.train.ratings is not None
    assert len(few.train) == 5
    assert few.train.ratings.tolist() == sorted(few.train.ratings.tolist())
    both = paths | {"test_csv": paths["train_csv"]}
    with pytest.raises(
        DataError, match=r"train.csv.gz, maze 1: turned or mirrored or as it is, it is maze 1 of .*train.csv.gz"
    ):
        build(MazeDataConfig(rows=6, cols=6, source="csv", num_train=None, num_test=None, **both))


BAD = {
    "character": ("S .## .G", "Soo##ooG", "question has '.' as character 3, no cell of a maze"),
    "a path already": ("So ## oG", "Soo##ooG", "question has 'o' in row 1, column 2, which is no wall, open cell"),
    "two starts": ("SS ##  G", "SSo##ooG", "question has 2 cells 'S', not one"),
    "no goal": ("S  ##   ", "Soo##oo ", "question has 0 cells 'G', not one"),
    "no way": ("S # ## G", "So# ##oG", "question has no way from S to G"),
    "wall moved": ("S  ##  G", "Soo# ooG", "answer: has ' ' in row 2, column 1, where the maze has '#'"),
    "broken": ("S      G", "S oo   G", "answer: its path does not lead from S to G"),
    "detour": ("S G     ", "S G ooo ", "answer: its path takes 4 moves, 2 are enough"),
    "not ASCII": ("S  ##  G", "Sö ##ooG", "answer has 'ö' as character 2, no cell of a maze"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_maze_is_named(tmp_path: Path, name: str) -> None:
    question, answer, message = BAD[name]
    good = "s,S  #   G,S  #oooG,3"
    path = maze_csv(tmp_path / "mazes.csv", good, f"s,{question},{answer},1", "s,too,short,1")
    with pytest.raises(DataError) as error:
        read_csv(path, 2, 4)
    assert str(error.value).startswith(f"{path}, line 3: {message}")
    alone = maze_csv(tmp_path / "alone.csv", f"s,{question},{answer},1")
    with pytest.raises(DataError, match=f"line 2: {re.escape(message)}"):
        read_csv(alone, 2, 4)


def test_mazes_of_the_hub_are_read_from_its_clients_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "1" * 40
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    files = {"train": "s,S  #   G,S  #oooG,3", "test": "s,S G     ,SoG     ,2"}
    folder = tmp_path / "datasets--owner--mazes"
    for name, row in files.items():
        content = (HEADER + row + "\n").encode()
        blob, link = (
            folder / "blobs" / hashlib.sha256(content).hexdigest(),
            folder / "snapshots" / commit / f"{name}.csv",
        )
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    config = MazeDataConfig(rows=2, cols=4, source="hub", hub_repo="owner/mazes", hub_revision=commit)
    config.num_train = config.num_test = None
    built = build(config)
    assert built.info.build["train_csv_revision"] == commit
    assert built.info.task_facts["mazes_with_one_shortest_path"] == {"train": 0, "test/all": 1}
    config.hub_revision = "main"
    with pytest.raises(ConfigError, match=r"data\.hub_revision=main"):
        config.check()


def test_a_maze_is_given_as_lines_or_as_one_line_with_dots_for_open_cells() -> None:
    wanted = tokens("S #  ", "#    ", "   #G").reshape(-1).tolist()
    for text in ("S #  #       #G", "S.#..#.......#G", "S #\n#\n   #G\n", "S.#..\r\n#....\r\n...#G"):
        assert TASK.parse(info(3, 5), text).tolist() == wanted
    shown = TASK.appearance(info(3, 5)).text(np.array(wanted, np.uint8), (3, 5))
    assert shown == "S #  \n#    \n   #G"
    for text, problem in {
        "S.G": "has 1 lines of up to 3 characters",
        "S.G\n\n\n\n": "has 1 lines",
        "S1..G\n.\n.": "has '1', which is no cell of a maze",
        "So..G\n.\n.": "has 'o', which is no cell",
        "S....\n.\n.": "has 0 cells 'G', not one",
        "S#..G\n#\n.": "has no way from S to G",
        "": "has 0 lines",
    }.items():
        with pytest.raises(DataError, match=problem) as error:
            TASK.parse(info(3, 5), text)
        assert "way out: 3 lines of 5 cells" in str(error.value)
