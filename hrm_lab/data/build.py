"""From data settings to an opened dataset: which folder it lives in, and building it once.

The folder's name ends in a hash of all that decides its bytes, so settings and data on disk cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from hrm_lab.config import DataConfig, settings
from hrm_lab.data.format import FORMAT_VERSION, Dataset, partial_prefix, write_dataset
from hrm_lab.data.tasks import find_task
from hrm_lab.errors import DataError

_KEY_DIGITS = 12
_NOT_BUILT_IN = ("num_augmentations",)  # variants are computed where they are used


def build_key(config: DataConfig) -> str:
    """12 hex digits over all that decides the dataset's bytes: settings, format version, the CSV files' content.

    Raises:
        DataError: when a CSV file cannot be read.
    """
    facts = json.dumps(build_facts(config), sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:_KEY_DIGITS]


def build_facts(config: DataConfig) -> dict[str, Any]:
    """What `build_key` hashes; also written to dataset.json."""
    facts: dict[str, Any] = {
        key: value for key, value, meta in settings(config) if meta.identity and key not in _NOT_BUILT_IN
    }
    facts["format_version"] = FORMAT_VERSION
    for key, path in config.files().items():
        facts[f"{key}_sha256"] = _file_hash(f"data.{key}", path)
    return facts


def _file_hash(key: str, path: str | None) -> str:
    if path is None:
        raise DataError(f"{key}=null: needs a file\n  way out: set {key}=PATH")
    try:
        seen = os.stat(path)
        return _hash_once(path, seen.st_size, seen.st_mtime_ns)
    except FileNotFoundError:
        raise DataError(f"{key}={path}: no such file\n  way out: set {key}=PATH, or another data.source") from None
    except OSError as error:
        raise DataError(f"{key}={path}: cannot be read: {error.strerror}\n  way out: set {key}=PATH") from error


@lru_cache
def _hash_once(path: str, size: int, changed_ns: int) -> str:
    """A grid asks for the same file's hash at every point."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dataset_folder(config: DataConfig, data_root: str | os.PathLike[str]) -> Path:
    """Where the dataset of these settings lives: NAME-KEY under `data_root`."""
    return _folder(config, data_root, build_key(config))


def _folder(config: DataConfig, data_root: str | os.PathLike[str], key: str) -> Path:
    if Path(config.name).name != config.name or config.name in (".", ".."):
        raise DataError(f"data.name={config.name}: is no name of a folder\n  way out: take a name without slashes")
    return Path(data_root) / f"{config.name}-{key}"


def ensure_dataset(
    config: DataConfig, data_root: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Open the dataset of these settings, building it first where it is missing.

    Of several processes that ask at once, one builds and the others wait for it. A folder that is there but broken
    is refused, never replaced.

    Args:
        config: the task's data settings.
        data_root: `paths.data`.
        progress: called with (puzzles done, puzzles in all) while building.

    Raises:
        DataError: when it cannot be built, or the folder that is there cannot be used.
    """
    opens = find_task(config.task).open
    if opens is not None:
        return opens(config)
    folder = dataset_folder(config, data_root)
    if folder.exists():
        return Dataset.open(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder.parent / f".{folder.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"paths.data={data_root}: cannot be written: {error.strerror}\n  way out: set paths.data=FOLDER"
        ) from error
    try:
        if folder.exists():
            return Dataset.open(folder)
        _remove_partial(folder)
        return _build(config, folder, progress)
    finally:
        lock.release()


def _remove_partial(folder: Path) -> None:
    """Remove what a killed build left; we hold the lock, so nobody is writing there."""
    for partial in folder.parent.glob(f"{partial_prefix(folder)}*"):
        shutil.rmtree(partial, ignore_errors=True)


def _build(config: DataConfig, folder: Path, progress: Callable[[int, int], None] | None) -> Dataset:
    facts = build_facts(config)
    built = find_task(config.task).build(config, progress)
    info = dataclasses.replace(built.info, build=facts)
    return write_dataset(folder, info, built.train, built.test, built.arrays)
