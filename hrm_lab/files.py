"""Writing so that whoever reads finds the old or the new, and never a part; and so that a power cut undoes nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrm_lab.redaction import redacted


def write_json(path: Path, values: Mapping[str, Any], durable: bool = False) -> None:
    """Write a file whole or not at all, and without secrets.

    Args:
        durable: wait until the disk has it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(redacted(values), indent=1))
        if durable:
            fsync(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)  # half a file on a full disk would only keep it full
        raise OSError(error.errno, error.strerror, str(path)) from error
    if durable:
        fsync(path.parent)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz file whole or not at all, and its folder when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # (numpy takes a keyword for one of its own)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; then all of it is forced to disk, and it becomes `folder`.

    When anything fails, it is removed, and there is no `folder`.

    Raises:
        OSError: when something cannot be written, or a `folder` that is not empty is there by then.
    """
    partial = folder.parent / f"{partial_prefix(folder)}{uuid.uuid4().hex}"
    try:
        partial.mkdir(parents=True)
        yield partial
        for inner in (*partial.rglob("*"), partial):
            fsync(inner)
        partial.rename(folder)
        fsync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_prefix(folder: Path) -> str:
    """How the names of `folder`'s unfinished siblings begin; only whoever knows that nobody writes may remove them."""
    return f".{folder.name}.partial-"


def fsync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading that a user has named.

    Raises:
        OSError: when it cannot be opened; also for a pipe or a device, which might be waited for, or read, for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else opening a pipe waits for whoever writes into it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is a folder, a pipe or a device, and no file", str(path))
    return os.fdopen(descriptor, "rb")
