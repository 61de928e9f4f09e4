"""HRM's own folders: what is written out is what is computed, and what others have written is read, or refused."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm_lab.data.build import build_key, ensure_dataset, reopen
from hrm_lab.data.format import Dataset, DatasetInfo, Split, write_dataset
from hrm_lab.data.hrm_format import remembered
from hrm_lab.data.hrm_format.read import _open, open_hrm_folder
from hrm_lab.data.hrm_format.write import write_hrm_folder
from hrm_lab.data.sampler import Sampler
from hrm_lab.data.tasks import find_task
from hrm_lab.data.tasks.hrm_folder import HrmFolderConfig
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import ConfigError, DataError
from hrm_lab.training.batches import Batches
from hrm_lab.training.distributed import Ranks
from tests.small import small_config
from tests.training.test_trainer import make_trainer

SEED, VARIANTS = 5, 3
CPU = Ranks(torch.device("cpu"))


def computed(folder: Path) -> Batches:
    """Of 4x4 puzzles in groups of one and two, with one to three examples each, whose variants are computed."""
    random = np.random.default_rng(0)
    puzzles, groups = np.array([0, 1, 4, 6, 7, 9]), np.array([0, 1, 3, 5])
    tokens = random.integers(1, 6, (2, 9, 16)).astype(np.uint8)
    train = Split(tokens[0], tokens[1], np.array([0, 2, 1, 2, 0], np.int32), puzzles, groups)
    test = {name: Split.of_single_examples(tokens[0, :size], tokens[1, :size]) for name, size in (("b", 4), ("a", 2))}
    info = DatasetInfo(
        task="sudoku",
        name="made",
        vocab_size=6,
        seq_len=16,
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        num_puzzle_identifiers=3,
        grid_shape=(4, 4),
        test_sets=("b", "a"),
        task_facts={"box_rows": 2, "box_cols": 2},
    )
    dataset = write_dataset(folder, info, train, test)
    return Batches(dataset, CPU, SudokuDataConfig(num_augmentations=VARIANTS), SEED)


def opened(folder: Path) -> Batches:
    config = HrmFolderConfig(folder=str(folder))
    return Batches(ensure_dataset(config, folder.parent / "unused"), CPU, config, SEED)


def test_a_written_folder_gives_the_pairs_that_computing_gives(tmp_path: Path) -> None:
    source = computed(tmp_path / "made")
    calls: list[tuple[int, int]] = []
    assert write_hrm_folder(tmp_path / "out", source, lambda *done: calls.append(done)) == 4 * 9 + 6
    assert calls[-1] == (42, 42)
    written = opened(tmp_path / "out")
    assert list(written.dataset.test) == ["b", "a"]
    for batch in (2, 5):
        samplers = [Sampler(some.puzzles(some.dataset.train), 8, 2, batch, SEED) for some in (source, written)]
        assert samplers[0].total_steps == samplers[1].total_steps > 4
        for step in range(samplers[0].total_steps):
            here, there = (some.train(sampler, step) for some, sampler in zip((source, written), samplers, strict=True))
            for one, other in zip(here, there, strict=True):
                assert torch.equal(one, other)
    for name in ("b", "a"):
        pairs = [list(some.evaluation(some.dataset.test[name], 3)) for some in (source, written)]
        for (_, here), (_, there) in zip(*pairs, strict=True):
            assert torch.equal(here.inputs, there.inputs)
            assert torch.equal(here.labels, there.labels)


def test_the_files_are_the_published_ones(tmp_path: Path) -> None:
    write_hrm_folder(tmp_path / "out", computed(tmp_path / "made"))
    facts = json.loads((tmp_path / "out/train/dataset.json").read_text())
    assert facts == {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": 6,
        "seq_len": 16,
        "num_puzzle_identifiers": 3,
        "total_groups": 3,
        "mean_puzzle_examples": 9 / 5,
        "sets": ["all"],
    }
    loaded = {name: np.load(tmp_path / f"out/train/all__{name}.npy") for name in ("inputs", "labels")}
    assert {array.dtype.name for array in loaded.values()} == {"uint8"}
    assert {array.shape for array in loaded.values()} == {(36, 16)}
    for name, size in (("puzzle_identifiers", 20), ("puzzle_indices", 21), ("group_indices", 4)):
        array = np.load(tmp_path / f"out/train/all__{name}.npy")
        assert (array.dtype.name, array.shape) == ("int32", (size,))
    assert json.loads((tmp_path / "out/identifiers.json").read_text()) == ["<blank>", "puzzle 1", "puzzle 2"]
    with pytest.raises(DataError, match="is there already"):
        write_hrm_folder(tmp_path / "out", computed(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "other", "out"]


def test_a_training_on_the_folder_is_the_training_with_computed_variants(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    dataset = ensure_dataset(config.data, config.paths.data)
    write_hrm_folder(tmp_path / "out", Batches(dataset, CPU, config.data, config.seed))
    values = []
    for data in (config.data, HrmFolderConfig(folder=str(tmp_path / "out"))):
        trainer, memory = make_trainer(dataclasses.replace(config, data=data), tmp_path / data.name)
        trainer.fit()
        values.append(memory.values)
    assert values[0] == values[1]
    assert (8, "eval/exact_accuracy") in values[0]


def retype(folder: Path, dtype: str) -> None:
    """As the published builders write it: tokens in wider types."""
    for path in [*folder.glob("*/*__inputs.npy"), *folder.glob("*/*__labels.npy")]:
        np.save(path, np.load(path).astype(dtype))


@pytest.mark.parametrize("dtype", ["int64", "int32", ">i4"])
def test_tokens_of_any_type_of_whole_numbers_are_read(tmp_path: Path, dtype: str) -> None:
    write_hrm_folder(tmp_path / "out", computed(tmp_path / "made"))
    before = opened(tmp_path / "out")
    sampler = Sampler(before.puzzles(before.dataset.train), 2, 1, 4, SEED)
    expected = before.train(sampler, 0)
    retype(tmp_path / "out", dtype)
    after = opened(tmp_path / "out")
    assert isinstance(after.dataset.train.inputs, np.memmap)
    assert after.dataset.train.inputs.dtype == np.dtype(dtype)
    for one, other in zip(expected, after.train(sampler, 0), strict=True):
        assert torch.equal(one, other)
    assert before.dataset.info.fingerprint != after.dataset.info.fingerprint
    after.dataset.check_fingerprint()


def edit(folder: Path, split: str, **changes: object) -> None:
    path = folder / split / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def save(folder: Path, name: str, array: object) -> None:
    np.save(folder / name, np.asarray(array), allow_pickle=True)


def add_set(folder: Path) -> None:
    """A second training set, of one group."""
    for name, array in {
        "inputs": np.full((3, 16), 2, np.uint8),
        "labels": np.full((3, 16), 3, np.uint8),
        "puzzle_identifiers": np.array([1, 2]),
        "puzzle_indices": np.array([0, 2, 3]),
        "group_indices": np.array([0, 2]),
    }.items():
        save(folder, f"train/more__{name}.npy", array)
    edit(folder, "train", sets=["all", "more"], total_groups=4, mean_puzzle_examples=39 / 22)


def test_several_training_sets_are_joined_and_what_trm_adds_is_let_be(tmp_path: Path) -> None:
    write_hrm_folder(tmp_path / "out", computed(tmp_path / "made"))
    add_set(tmp_path / "out")
    edit(tmp_path / "out", "test", total_puzzles=6)
    train = opened(tmp_path / "out").dataset.train
    assert (len(train), train.num_puzzles, train.num_groups) == (39, 22, 4)
    assert train.puzzle_offsets[-3:].tolist() == [36, 38, 39]
    assert train.group_offsets[-2:].tolist() == [20, 22]
    assert train.inputs[-3:].max() == 2


def lying_header(path: Path, shape: tuple[int, ...]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(bytes(64))


def link(place: Path, target: Path) -> None:
    place.unlink()
    place.symlink_to(target)


INPUTS = "train/all__inputs.npy"
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "half-built": (lambda f: (f / "test/dataset.json").unlink(), r"has no test/dataset\.json"),
    "no array": (lambda f: (f / INPUTS).unlink(), r"has no train/all__inputs\.npy"),
    "no JSON": (lambda f: (f / "train/dataset.json").write_text("{"), r"train/dataset\.json cannot be read"),
    "deep JSON": (lambda f: (f / "train/dataset.json").write_text("[" * 100_000), r"dataset\.json cannot be read"),
    "long JSON": (lambda f: (f / "train/dataset.json").write_text(" " * (1 << 25)), "longer than"),
    "missing key": (lambda f: (f / "train/dataset.json").write_text('{"sets": ["all"]}'), "lacks, or should not"),
    "unknown key": (lambda f: edit(f, "train", colour=1), "should not have: colour"),
    "vocabulary": (lambda f: edit(f, "train", vocab_size=257), "vocab_size=257"),
    "true": (lambda f: edit(f, "train", pad_id=True), "pad_id=True"),
    "pad": (lambda f: edit(f, "train", pad_id=6), "pad_id=6, which is no whole number from 0 to 5"),
    "nan": (lambda f: edit(f, "train", mean_puzzle_examples=float("nan")), "mean_puzzle_examples=nan"),
    "mean": (lambda f: edit(f, "train", mean_puzzle_examples=2.0), "1.8 examples on average, and .* says 2"),
    "groups": (lambda f: edit(f, "test", total_groups=7), "hold 6 groups, and dataset.json says 7"),
    "disagreement": (lambda f: edit(f, "test", vocab_size=7), "vocab_size=6, and test/dataset.json 7"),
    "path in a set's name": (lambda f: edit(f, "train", sets=["../../x"]), "which are no names of files"),
    "NUL in a set's name": (lambda f: edit(f, "train", sets=["a\0b"]), "which are no names of files"),
    "pickle": (lambda f: save(f, INPUTS, [{}]), r"train/all__inputs\.npy is cut off or no array"),
    "zip": (lambda f: (f / INPUTS).write_bytes(b"PK\x03\x04x"), "is cut off or no array"),
    "floats": (lambda f: save(f, INPUTS, np.ones((36, 16))), "train/all__inputs is float64"),
    "records": (lambda f: save(f, INPUTS, np.zeros((36, 16), [("a", "u1")])), "train/all__inputs is .*'a'"),
    "negative tokens": (lambda f: save(f, INPUTS, np.full((36, 16), -1)), "hold token -1"),
    "large tokens": (lambda f: save(f, INPUTS, np.full((36, 16), 258)), "hold token 258"),
    "cut off": (lambda f: os.truncate(f / INPUTS, 500), "is cut off or no array"),
    "trailing bytes": (lambda f: os.truncate(f / INPUTS, 5000), "has 5000 bytes, and its header says"),
    "large header": (lambda f: lying_header(f / INPUTS, (10**9, 16)), "is cut off or no array"),
    "overflowing header": (lambda f: lying_header(f / INPUTS, (2**62, 16)), "is cut off|its header says|no array"),
    "negative header": (lambda f: lying_header(f / INPUTS, (-4, 16)), "is cut off|its header says"),
    "wrong length": (lambda f: save(f, "train/all__labels.npy", np.ones((35, 16), np.uint8)), "all__labels is uint8"),
    "offsets": (lambda f: save(f, "train/all__group_indices.npy", [0, 9, 8, 20]), "all__group_indices do not rise"),
    "offsets of floats": (lambda f: save(f, "train/all__group_indices.npy", [0.0, 20.0]), "not whole numbers in a row"),
    "huge offsets": (lambda f: save(f, "train/all__group_indices.npy", [0, 2**40]), "holds what is no number from 0"),
    "identifiers": (lambda f: save(f, "train/all__puzzle_identifiers.npy", [7] * 20), "leave 0..2"),
    "link out": (lambda f: link(f / INPUTS, f.parent / "made/train/inputs.npy"), "is a link that leads out of it"),
    "pipe": (lambda f: ((f / INPUTS).unlink(), os.mkfifo(f / INPUTS)), "is no file"),
    "folder": (lambda f: ((f / INPUTS).unlink(), (f / INPUTS).mkdir()), "is no file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    write_hrm_folder(tmp_path / "out", computed(tmp_path / "made"))
    damage, message = HOSTILE[name]
    damage(tmp_path / "out")
    with pytest.raises(DataError, match=message) as error:
        opened(tmp_path / "out")
    assert str(tmp_path / "out") in str(error.value)
    assert "set data.folder=FOLDER" in str(error.value)


def test_a_folder_that_is_not_there_and_variants_of_variants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        opened(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"data\.folder=None"):
        HrmFolderConfig().check()
    with pytest.raises(ConfigError, match=r"data\.num_augmentations=1: the folder holds its variants"):
        HrmFolderConfig(folder="x", num_augmentations=1).check()


def test_the_key_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    write_hrm_folder(tmp_path / "out", computed(tmp_path / "made"))
    config = HrmFolderConfig(folder=str(tmp_path / "out"))
    before = build_key(config)
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to("moved")
    config.folder = str(tmp_path / "link")
    assert build_key(config) == before
    assert reopen(HrmFolderConfig(folder="gone"), tmp_path / "moved").info == ensure_dataset(config, tmp_path).info
    labels = np.load(tmp_path / "moved/train/all__labels.npy")
    labels[-1, -1] ^= 1
    np.save(tmp_path / "moved/train/all__labels.npy", labels)
    assert build_key(config) != before


def test_a_large_folder_is_hashed_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "WORTH_IT", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "out"
    write_hrm_folder(folder, computed(tmp_path / "made"))
    first = open_again(folder)
    (kept,) = (tmp_path / "cache/hrm-lab/fingerprints").iterdir()
    kept.write_text(json.dumps({"fingerprint": "0" * 64}))
    assert open_again(folder).info.fingerprint == "0" * 64  # which is what was remembered
    with pytest.raises(DataError, match="bytes changed"):
        open_again(folder).check_fingerprint()
    kept.write_text("nonsense")
    assert open_again(folder).info.fingerprint == first.info.fingerprint
    inputs = np.load(folder / INPUTS)
    times = (folder / INPUTS).stat()
    inputs[0, 0] ^= 1
    np.save(folder / INPUTS, inputs)
    os.utime(folder / INPUTS, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    assert open_again(folder).info.fingerprint != first.info.fingerprint
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / INPUTS))  # no folder can be made there
    open_again(folder)


def open_again(folder: Path) -> Dataset:
    """As another process would."""
    _open.cache_clear()
    return open_hrm_folder(folder, "hrm_folder", "again")


def facts(vocab_size: int, seq_len: int, **more: Any) -> DatasetInfo:
    return DatasetInfo("hrm_folder", "some", vocab_size, seq_len, 0, 0, 0, 1, **more)


def test_a_published_folder_is_shown_read_and_judged_as_its_task_does(tmp_path: Path) -> None:
    task = find_task("hrm_folder")
    sudoku = facts(11, 81, grid_shape=(9, 9), test_sets=("all",))
    assert task.appearance(sudoku).box_shape == (3, 3)
    puzzle = task.parse(sudoku, "." * 81)
    assert puzzle.tolist() == [1] * 81
    assert "are no digit" in str(task.verify(sudoku, puzzle, puzzle))
    other = facts(12, 4, grid_shape=(2, 2), test_sets=("all",))
    assert task.appearance(other).text(np.array([1, 11, 3, 10], np.uint8), (2, 2)) == "1b\n3a"
    assert task.parse(other, "1, 2 3\n11").tolist() == [1, 2, 3, 11]
    assert task.verify(other, puzzle[:4], puzzle[:4]) is None
    for text in ("1 2 3", "1 2 3 12", "1 2 3 x", "1 2 3 ²"):
        with pytest.raises(DataError, match="way out: 4 numbers from 0 to 11"):
            task.parse(other, text)
