"""Remembers the fingerprints of large folders, so that their bytes are read once and not by every process of a sweep.

What is remembered lies in the user's own cache folder, never beside the data: a folder that comes from elsewhere must
not bring its own answer. It holds for as long as no file has changed its size or its times; the time of the inode's
change, which no program can set, is one of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hrm_lab.data.format import DatasetInfo
from hrm_lab.data.on_disk import read_json
from hrm_lab.files import write_json

WORTH_IT = 1 << 26  # bytes of a folder, below which reading them is as quick as asking

# Of each file: name, size in bytes, times at which content and inode changed in ns.
Stamp = tuple[tuple[str, int, int, int], ...]


def stamp_of(root: Path, files: Sequence[str]) -> Stamp:
    """How these files stand now."""
    seen = [(file, (root / file).stat()) for file in files]
    return tuple((file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file, stat in seen)


def remembered(root: Path, stamp: Stamp, info: DatasetInfo, compute: Callable[[], str]) -> str:
    """The fingerprint of the folder, computed where it is not remembered, or not worth it."""
    place = _place(root, stamp, info) if sum(size for _, size, _, _ in stamp) >= WORTH_IT else None
    if place is None:
        return compute()
    try:
        kept = read_json(place).get("fingerprint")
    except (OSError, ValueError):
        kept = None
    if isinstance(kept, str) and re.fullmatch("[0-9a-f]{64}", kept):
        return kept
    found = compute()
    if stamp_of(root, [file for file, *_ in stamp]) == stamp:  # nobody has written meanwhile
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, {"folder": str(root), "fingerprint": found})
        except OSError:
            pass  # a home that cannot be written costs time only
    return found


def _place(root: Path, stamp: Stamp, info: DatasetInfo) -> Path | None:
    facts = repr((str(root), stamp, dataclasses.replace(info, name="")))
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # there is no home
        return None
    return cache / "hrm-lab" / "fingerprints" / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.json"
