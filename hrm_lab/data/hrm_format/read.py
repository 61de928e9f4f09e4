"""Opens an HRM-format folder as it is: its tokens stay on disk, of whatever type of whole numbers they are."""

from __future__ import annotations

import dataclasses
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrm_lab.data.format import Dataset, DatasetInfo, Split, fingerprint, split_counts, split_problem
from hrm_lab.data.hrm_format import ARRAYS, SPLITS, Metadata, file_of
from hrm_lab.data.hrm_format.remembered import Stamp, remembered, stamp_of
from hrm_lab.data.on_disk import open_array, read_json
from hrm_lab.errors import DataError

# What train/dataset.json and test/dataset.json must agree in.
_SHARED = ("pad_id", "ignore_label_id", "blank_identifier_id", "vocab_size", "seq_len", "num_puzzle_identifiers")
_TOLERANCE = 1e-3  # of mean_puzzle_examples, which builders may have rounded


def open_hrm_folder(folder: Path, task: str, name: str) -> Dataset:
    """Open a folder that holds train/ and test/ as HRM's builders write them.

    Shapes, types, offsets and identifiers are checked whole; tokens on evenly spaced rows, as in `Dataset.open`.
    Several training sets are joined in memory: an epoch visits the groups of all of them.

    Args:
        task, name: which the dataset is to bear.

    Raises:
        DataError: for a folder that is missing, cut off, lying, or leads out of itself.
    """
    root = Path(os.path.realpath(folder))
    if not root.is_dir():
        raise _broken(folder, "no such folder")
    files = [f"{split}/dataset.json" for split in SPLITS]
    for split in SPLITS:
        _refuse_outside(root, f"{split}/dataset.json")
        files += [file_of(split, each, array) for each in _metadata(root, split).sets for array in ARRAYS]
    for file in files:
        _refuse_outside(root, file)
    return _open(root, stamp_of(root, files), task, name)


@lru_cache(maxsize=8)
def _open(root: Path, stamp: Stamp, task: str, name: str) -> Dataset:
    """A grid asks for the same folder at every point."""
    metadata = {split: _metadata(root, split) for split in SPLITS}
    train_facts, test_facts = metadata["train"], metadata["test"]
    for key in _SHARED:
        here, there = getattr(train_facts, key), getattr(test_facts, key)
        if here != there:
            raise _broken(root, f"train/dataset.json has {key}={here}, and test/dataset.json {there}")
    side = math.isqrt(train_facts.seq_len)
    info = DatasetInfo(
        task=task,
        name=name,
        **{key: getattr(train_facts, key) for key in _SHARED},
        grid_shape=(side, side) if side * side == train_facts.seq_len else (1, train_facts.seq_len),
        test_sets=test_facts.sets,
    )
    sets = {split: _open_sets(root, info, split, metadata[split]) for split in SPLITS}
    train, test = _joined(list(sets["train"].values())), sets["test"]
    counts = {"train": split_counts(train)} | {f"test/{key}": split_counts(split) for key, split in test.items()}
    found = remembered(root, stamp, info, lambda: fingerprint(info, train, test))
    return Dataset(root, dataclasses.replace(info, counts=counts, fingerprint=found), train, test)


def _broken(folder: Path, problem: str) -> DataError:
    return DataError(
        f"HRM-format folder {folder}: {problem}\n"
        "  way out: make or export it again, or set data.folder=FOLDER to one that holds train/ and test/"
    )


def _refuse_outside(root: Path, name: str) -> None:
    """A link may lead to another file of the folder only: what lies elsewhere is no part of it."""
    if not Path(os.path.realpath(root / name)).is_relative_to(root):
        raise _broken(root, f"its {name} is a link that leads out of it")
    if not (root / name).exists():
        raise _broken(root, f"has no {name}: it is half-built, or in another format")


def _metadata(root: Path, split: str) -> Metadata:
    try:
        return Metadata.of(read_json(root / split / "dataset.json"))
    except ValueError as error:
        raise _broken(root, f"its {split}/dataset.json {error}") from error


def _open_sets(root: Path, info: DatasetInfo, split: str, metadata: Metadata) -> dict[str, Split]:
    sets = {name: _open_set(root, info, split, name) for name in metadata.sets}
    groups, examples, puzzles = (
        sum(split_counts(each)[key] for each in sets.values()) for key in ("groups", "examples", "puzzles")
    )
    if groups != metadata.total_groups:
        raise _broken(root, f"its {split} sets hold {groups} groups, and dataset.json says {metadata.total_groups}")
    if not math.isclose(examples / puzzles, metadata.mean_puzzle_examples, rel_tol=_TOLERANCE):
        raise _broken(
            root,
            f"its {split} puzzles hold {examples / puzzles:.4g} examples on average, and dataset.json says "
            f"{metadata.mean_puzzle_examples:.4g}",
        )
    return sets


def _open_set(root: Path, info: DatasetInfo, split: str, name: str) -> Split:
    arrays: dict[str, Any] = {}
    for array in ARRAYS:
        file = file_of(split, name, array)
        try:
            opened = open_array(root / file)
            arrays[array] = opened if array in ("inputs", "labels") else _numbers(opened)
        except ValueError as error:
            raise _broken(root, f"its {file} {error}") from error
    opened_set = Split(
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        puzzle_identifiers=arrays["puzzle_identifiers"].astype(np.int32),
        puzzle_offsets=arrays["puzzle_indices"],
        group_offsets=arrays["group_indices"],
    )
    problem = split_problem(info, f"{split}/{name}", opened_set, any_integer=True)
    if problem:
        raise _broken(root, problem.replace(f"{name}/", f"{name}__").replace("_offsets", "_indices"))
    return opened_set


def _numbers(array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Identifiers or offsets, of whatever type of whole numbers, in memory."""
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise ValueError(f"is {array.dtype} {array.shape}, not whole numbers in a row")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= 2**31):
        raise ValueError("holds what is no number from 0 to 2147483647")
    return np.asarray(array).astype(np.int64)


def _joined(splits: list[Split]) -> Split:
    """One after the other; what is joined is copied, as uint8."""
    if len(splits) == 1:
        return splits[0]
    puzzles, groups = (
        np.cumsum([0, *(split_counts(split)[key] for split in splits)]) for key in ("examples", "puzzles")
    )

    def offsets(name: str, starts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        parts = [getattr(split, name)[1:] + start for split, start in zip(splits, starts[:-1], strict=True)]
        return np.concatenate([[0], *parts])

    return Split(
        inputs=np.concatenate([split.inputs[:].astype(np.uint8) for split in splits]),
        labels=np.concatenate([split.labels[:].astype(np.uint8) for split in splits]),
        puzzle_identifiers=np.concatenate([split.puzzle_identifiers for split in splits]),
        puzzle_offsets=offsets("puzzle_offsets", puzzles),
        group_offsets=offsets("group_offsets", groups),
    )
