"""Writing so that whoever reads finds the old or the new, and never a part; and so that a power cut undoes nothing."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
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
