"""The files that datasets consist of: written so that a full disk is told, opened so that no file is trusted."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_JSON_BYTES = 1 << 24


def open_array(path: Path) -> npt.NDArray[Any]:
    """Memory-map an npy file.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: that says what is wrong with it.
    """
    if path.exists() and not path.is_file():
        raise ValueError("is no file")
    try:
        # A header may name any shape; of one that overflows, numpy only warns, and the size gives it away.
        with np.errstate(over="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, OverflowError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0]
        if "pickle" in reason or "Python objects" in reason:  # numpy's own words say how to run them
            reason = "it holds Python objects, which are never loaded"
        raise ValueError(f"is cut off or no array: {reason}") from error
    if not isinstance(array, np.memmap):
        raise ValueError("is no array")
    expected, size = array.offset + array.nbytes, path.stat().st_size
    if expected != size:
        raise ValueError(f"has {size} bytes, and its header says {expected}")
    return array


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an npy file that is not there yet. Unlike numpy's own, an error says whether the disk is full."""
    with begin_array(path, array.shape, array.dtype) as file:
        file.write(np.ascontiguousarray(array).data)


def begin_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> IO[bytes]:
    """An npy file that is not there yet, and whose rows are to be written next."""
    file = path.open("xb")
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def read_json(path: Path) -> dict[str, Any]:
    """The object that a small JSON file holds.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: that says what is wrong with it.
    """
    if path.exists() and not path.is_file():
        raise ValueError("is no file")
    try:
        with path.open("rb") as file:
            text = file.read(_JSON_BYTES + 1)
        if len(text) > _JSON_BYTES:
            raise ValueError(f"it is longer than {_JSON_BYTES} bytes")
        values = json.loads(text)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")
    return values
