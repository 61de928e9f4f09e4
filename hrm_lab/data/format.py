"""A dataset on disk: what its folder holds, how it is opened, and how it comes to be.

    dataset.json                          what the arrays mean (`DatasetInfo`)
    train/inputs.npy, labels.npy          (N, S) uint8 tokens
    train/puzzle_identifiers.npy          (P,) int32: the row of the puzzle embedding
    train/puzzle_offsets.npy              (P + 1,) int64: puzzle p holds the examples from offset p up to offset p + 1
    train/group_offsets.npy               (G + 1,) int64: group g holds the puzzles from offset g up to offset g + 1
    train/ratings.npy                     (N,) int32: how hard each example is, where that is known
    test/SET/...                          the same for each test set
    task/NAME.npy                         what the task itself keeps, if anything (`DatasetInfo.task_arrays`)

Groups > puzzles > examples as in HRM's own format (HRM_SPEC section 6), where the puzzles of a group are one puzzle and
its augmented variants. Here they are mostly the puzzle alone: variants are computed where they are used (`task.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hrm_lab.errors import DataError
from hrm_lab.files import fsync

FORMAT_VERSION = 2

_ARRAYS: dict[str, npt.DTypeLike] = {
    "inputs": np.dtype("uint8"),
    "labels": np.dtype("uint8"),
    "puzzle_identifiers": np.dtype("int32"),
    "puzzle_offsets": np.dtype("int64"),
    "group_offsets": np.dtype("int64"),
}
_RATINGS = "ratings"  # an optional remark: nothing is trained on it, so it is no part of the fingerprint
_REBUILD = "way out: delete the folder and build it again: `hrm-lab data`"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of a test set or a task's array: it names a folder or a file
_TUPLES = ("grid_shape", "test_sets", "task_arrays")  # lists in JSON
_OPEN_SAMPLE_ROWS = 65_536  # rows whose tokens are looked at when a dataset is opened
_HASH_BYTES = 1 << 24


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says."""

    task: str
    name: str
    vocab_size: int  # tokens, padding included
    seq_len: int  # S
    pad_id: int
    ignore_label_id: int | None  # label that is not learned
    blank_identifier_id: int  # puzzle identifier of padding rows
    num_puzzle_identifiers: int
    grid_shape: tuple[int, int]  # rows, columns of the picture that a sequence is
    test_sets: tuple[str, ...]
    task_facts: dict[str, Any] = field(default_factory=dict)  # e.g. box_rows, box_cols
    task_arrays: tuple[str, ...] = ()  # names of the task's own arrays
    build: dict[str, Any] = field(default_factory=dict)  # settings that it was built from
    format_version: int = FORMAT_VERSION
    fingerprint: str = ""  # filled in by `write_dataset`, as is:
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> {"examples": N, "groups": G}


@dataclass(frozen=True)
class Split:
    """The arrays of one split; on disk or in memory."""

    inputs: npt.NDArray[np.uint8]  # (N, S)
    labels: npt.NDArray[np.uint8]  # (N, S)
    puzzle_identifiers: npt.NDArray[np.int32]  # (P,)
    puzzle_offsets: npt.NDArray[np.int64]  # (P + 1,), in examples
    group_offsets: npt.NDArray[np.int64]  # (G + 1,), in puzzles
    ratings: npt.NDArray[np.int32] | None = None  # (N,) how hard, where known

    @classmethod
    def of_single_examples(
        cls,
        inputs: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.uint8],
        ratings: npt.NDArray[np.int32] | None = None,
    ) -> Split:
        """Every puzzle is one example and a group of its own, with the blank identifier 0."""
        each = np.arange(len(inputs) + 1, dtype=np.int64)
        return cls(inputs, labels, np.zeros(len(inputs), np.int32), each, each, ratings)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def num_puzzles(self) -> int:
        return len(self.puzzle_offsets) - 1

    @property
    def num_groups(self) -> int:
        return len(self.group_offsets) - 1


@dataclass(frozen=True)
class Dataset:
    """An opened dataset; its arrays are memory-mapped and read-only."""

    folder: Path
    info: DatasetInfo
    train: Split
    test: dict[str, Split]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)  # the task's own, by name

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Open a folder that `write_dataset` made.

        Shapes, types, offsets and identifiers are checked whole; tokens on evenly spaced rows, at most 131,072 of
        them, so that a large dataset opens at once (`check_fingerprint` reads every byte).

        Raises:
            DataError: for a folder that is missing, half-built or contradicts itself.
        """
        path = Path(folder)
        info = _read_info(path)
        splits = {name: _open_split(path, name) for name in _split_names(info)}
        for name, split in splits.items():
            problem = _problem(info, name, split, _OPEN_SAMPLE_ROWS)
            if problem:
                raise _broken(path, problem)
        arrays = {name: _open_array(path, f"task/{name}.npy") for name in info.task_arrays}
        return cls(path, info, splits["train"], {name: splits[f"test/{name}"] for name in info.test_sets}, arrays)

    def check_fingerprint(self) -> None:
        """Read every byte again and compare.

        Raises:
            DataError: when the facts or a byte of the arrays are not those that were written.
        """
        found = fingerprint(self.info, self.train, self.test, self.arrays)
        if found != self.info.fingerprint:
            raise _broken(
                self.folder,
                f"has fingerprint {found[:12]}, but {self.info.fingerprint[:12]} was written: bytes changed",
            )


def write_dataset(
    folder: str | os.PathLike[str],
    info: DatasetInfo,
    train: Split,
    test: Mapping[str, Split],
    arrays: Mapping[str, npt.NDArray[Any]] = MappingProxyType({}),
) -> Dataset:
    """Write a dataset so that `folder` holds all of it or does not exist, and open it.

    It is written to a temporary folder beside it, forced to disk and renamed. A folder that is there already, or that
    another process finishes first, is left as it is.

    Args:
        folder: to be made; its parents too.
        info: `fingerprint`, `counts` and `task_arrays` are filled in here.
        train: training split.
        test: a split for each of `info.test_sets`.
        arrays: the task's own, by name.

    Raises:
        DataError: when it cannot be written.
        ValueError: when the arrays contradict `info` or each other.
    """
    path = Path(folder)
    splits = {"train": train, **{f"test/{name}": test[name] for name in info.test_sets}}
    for name, split in splits.items():
        problem = _problem(info, name, split, len(split))
        if problem:
            raise ValueError(problem)
    info = dataclasses.replace(
        info, counts={name: _counts(split) for name, split in splits.items()}, task_arrays=tuple(sorted(arrays))
    )
    info = dataclasses.replace(info, fingerprint=fingerprint(info, train, test, arrays))
    partial = path.parent / f"{partial_prefix(path)}{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        _write_folder(partial, info, splits, arrays)
        _move_into_place(partial, path)
    except OSError as error:
        raise DataError(
            f"dataset {path}: cannot be written: {error}\n"
            "  way out: free space there, or choose another folder with paths.data=FOLDER"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Dataset.open(path)


def partial_prefix(folder: Path) -> str:
    """How the names of `folder`'s unfinished siblings begin; whoever holds its build lock may remove them."""
    return f".{folder.name}.partial-"


def fingerprint(
    info: DatasetInfo,
    train: Split,
    test: Mapping[str, Split],
    arrays: Mapping[str, npt.NDArray[Any]] = MappingProxyType({}),
) -> str:
    """SHA-256 (hex) of what the data is: its facts, and each array's name, type, shape and bytes in C order.

    The dataset's name, the settings that it was built from, paths and times are no part of it.
    """
    left_out = ("name", "build", "fingerprint", "counts")
    facts = {key: value for key, value in dataclasses.asdict(info).items() if key not in left_out}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    splits = {"train": train, **{f"test/{name}": test[name] for name in info.test_sets}}
    named = {f"{split_name}/{name}": array for split_name, split in splits.items() for name, array in _arrays(split)}
    named |= {f"task/{name}": arrays[name] for name in info.task_arrays}
    for name, array in named.items():
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        rows = max(1, _HASH_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).data)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------- reading


def _split_names(info: DatasetInfo) -> list[str]:
    return ["train", *(f"test/{name}" for name in info.test_sets)]


def _arrays(split: Split) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name in _ARRAYS:
        yield name, getattr(split, name)


def _broken(folder: Path, problem: str) -> DataError:
    return DataError(f"dataset {folder}: {problem}\n  {_REBUILD}")


def _read_info(folder: Path) -> DatasetInfo:
    if not folder.is_dir():
        raise DataError(f"dataset {folder}: no such folder\n  way out: build it: `hrm-lab data`")
    try:
        values = json.loads((folder / "dataset.json").read_bytes())
    except FileNotFoundError:
        raise _broken(folder, "has no dataset.json: it is half-built, or no dataset") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(folder, f"its dataset.json cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise _broken(folder, "its dataset.json is no JSON object")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise _broken(folder, f"has format version {version}, this program reads {FORMAT_VERSION}")
    problem = _info_problem(values)
    if problem:
        raise _broken(folder, f"its dataset.json {problem}")
    return DatasetInfo(**values | {key: tuple(values[key]) for key in _TUPLES})


def _info_problem(values: dict[str, Any]) -> str:
    """What is wrong with the values of a dataset.json; "" when nothing is."""
    known = {item.name: item for item in dataclasses.fields(DatasetInfo)}
    if set(values) != set(known):
        odd = sorted(set(values) ^ set(known))
        return f"lacks, or should not have: {', '.join(odd)}"
    kinds = {"int": int, "str": str, "int | None": (int, type(None))}
    for key, value in values.items():
        kind: Any = kinds.get(str(known[key].type), list if key in _TUPLES else dict)
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"has {key}={value!r}"
    shape, names = values["grid_shape"], values["test_sets"]
    if len(shape) != 2 or not all(type(extent) is int and extent > 0 for extent in shape):
        return f"has grid_shape={shape!r}"
    if not names or not _are_names(names):
        return f"has test_sets={names!r}"
    if not _are_names(values["task_arrays"]):
        return f"has task_arrays={values['task_arrays']!r}"
    if shape[0] * shape[1] != values["seq_len"]:
        return f"has grid_shape={shape!r}, but seq_len={values['seq_len']}"
    return ""


def _are_names(names: list[object]) -> bool:
    """Whether each may name a file, and no two are the same."""
    return all(isinstance(name, str) and _NAME.fullmatch(name) for name in names) and len(set(names)) == len(names)


def _open_split(folder: Path, split_name: str) -> Split:
    arrays = {name: _open_array(folder, f"{split_name}/{name}.npy") for name in _ARRAYS}
    rated = (folder / split_name / f"{_RATINGS}.npy").exists()
    return Split(**arrays, ratings=_open_array(folder, f"{split_name}/{_RATINGS}.npy") if rated else None)


def _open_array(folder: Path, name: str) -> npt.NDArray[Any]:
    try:
        array = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise _broken(folder, f"has no {name}: it is half-built") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _broken(folder, f"its {name} is cut off or no array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise _broken(folder, f"its {name} is no array")
    return array


def _problem(info: DatasetInfo, name: str, split: Split, sample_rows: int) -> str:
    """What is wrong with a split, its tokens looked at on about `sample_rows` rows; "" when nothing is."""
    examples = len(split.inputs) if split.inputs.ndim else 0
    groups, puzzles = (max(0, offsets.size - 1) for offsets in (split.group_offsets, split.puzzle_offsets))
    shapes = {
        "inputs": (examples, info.seq_len),
        "labels": (examples, info.seq_len),
        "puzzle_identifiers": (puzzles,),
        "puzzle_offsets": (puzzles + 1,),
        "group_offsets": (groups + 1,),
    }
    for key, array in _arrays(split):
        if array.dtype != _ARRAYS[key] or array.shape != shapes[key]:
            want = f"{np.dtype(_ARRAYS[key])} {shapes[key]}"
            return f"its {name}/{key} is {array.dtype} {array.shape}, not {want}"
    ratings = split.ratings
    if ratings is not None and (ratings.dtype != np.dtype("int32") or ratings.shape != (examples,)):
        return f"its {name}/{_RATINGS} is {ratings.dtype} {ratings.shape}, not int32 {(examples,)}"
    if examples == 0 or groups == 0 or puzzles == 0:
        return f"its {name} split is empty"
    if info.counts and info.counts.get(name) != _counts(split):
        return f"its {name} split holds {_counts(split)}, but dataset.json says {info.counts.get(name)}"
    for key, offsets, end in (
        ("puzzle_offsets", split.puzzle_offsets, examples),
        ("group_offsets", split.group_offsets, puzzles),
    ):
        if offsets[0] != 0 or offsets[-1] != end or bool(np.any(offsets[1:] <= offsets[:-1])):
            return f"its {name}/{key} do not rise from 0 to {end}"
    identifiers = split.puzzle_identifiers
    if int(identifiers.min()) < 0 or int(identifiers.max()) >= info.num_puzzle_identifiers:
        return f"its {name}/puzzle_identifiers leave 0..{info.num_puzzle_identifiers - 1}"
    step = max(1, examples // sample_rows)
    for key in ("inputs", "labels"):
        largest = int(getattr(split, key)[::step].max())
        if largest >= info.vocab_size:
            return f"its {name}/{key} hold token {largest}, the vocabulary has {info.vocab_size}"
    return ""


def _counts(split: Split) -> dict[str, int]:
    return {"examples": len(split), "puzzles": split.num_puzzles, "groups": split.num_groups}


# --------------------------------------------------------------------------------------------- writing


def _write_folder(
    folder: Path, info: DatasetInfo, splits: Mapping[str, Split], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    named = {f"task/{name}": array for name, array in arrays.items()}
    for split_name, split in splits.items():
        named |= {f"{split_name}/{name}": array for name, array in _arrays(split)}
        if split.ratings is not None:
            named[f"{split_name}/{_RATINGS}"] = split.ratings
    for name, array in named.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    # Last, so that even a folder copied while it is being written is seen to be half-built.
    with open(folder / "dataset.json", "x", encoding="utf-8") as text:
        json.dump(dataclasses.asdict(info), text, indent=2)
        text.write("\n")
        text.flush()
        os.fsync(text.fileno())
    for inner in [path for path in folder.rglob("*") if path.is_dir()] + [folder]:
        fsync(inner)


def _move_into_place(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    fsync(folder.parent)
