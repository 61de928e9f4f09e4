"""Checkpoints that survive a kill: written beside, fsynced, renamed, checksummed; a damaged one is passed over."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hrm_lab.errors import RunError

log = logging.getLogger(__name__)


def save(folder: Path, step: int, state: dict[str, Any], keep: int, check: Callable[[], None]) -> Path:
    """Write `state` as FOLDER/step_NNNNNNNN, then drop all but the newest `keep`.

    Args:
        check: called before anything is written and right before the checkpoint takes its name; raises when it must
            not.
    """
    target = folder / f"step_{step:08d}"
    # A replaced attempt may still be writing the same step, so each process has a name of its own.
    temporary = folder / f".tmp_{platform.node()}_{os.getpid()}"
    check()
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    torch.save(state, temporary / "state.pt")
    checksum = {"step": step, "sha256": _sha256(temporary / "state.pt")}
    (temporary / "checksum.json").write_text(json.dumps(checksum))
    for file in temporary.iterdir():
        _fsync(file)
    check()
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    _fsync(folder)
    # Also what processes that were killed while they saved have left.
    for old in [*_newest_first(folder)[keep:], *folder.glob(".tmp_*")]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest undamaged state, or None where no checkpoint was ever written.

    Raises:
        RunError: when there are checkpoints and every one is damaged.
    """
    candidates = _newest_first(folder)
    for candidate in candidates:
        try:
            return _load(candidate, device)
        except Exception as error:
            log.warning("checkpoint %s is damaged (%s); taking the one before", candidate, error)
    if candidates:
        raise RunError(f"{folder}: every checkpoint is damaged\n  way out: delete the folder to start the run afresh")
    return None


def _load(candidate: Path, device: torch.device) -> dict[str, Any]:
    expected = json.loads((candidate / "checksum.json").read_text())["sha256"]
    if _sha256(candidate / "state.pt") != expected:
        raise RunError("checksum differs")
    state: dict[str, Any] = torch.load(candidate / "state.pt", map_location=device, weights_only=True)
    return state


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"), reverse=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
