"""The folder of one reproduction: OUTPUTS/reproductions/RUN-NUMBER.

config.yaml    as it is stored      code/           the logged code, while it is needed
options.json   what was asked for   runs/           the training
verdict.json   the answer           slurm/          the job, if there is one
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hrm_lab.errors import CannotReproduce
from hrm_lab.files import write_json
from hrm_lab.run_folder import RunFolder, keep_out_of_git

VERDICT = "verdict.json"


@dataclass(frozen=True)
class Place:
    """One reproduction on disk."""

    path: Path

    @property
    def verdict(self) -> Path:
        """There as soon as it is done."""
        return self.path / VERDICT

    def run(self) -> RunFolder | None:
        """The folder of its training, once that has begun."""
        found = [path.parent for path in self.path.glob("runs/*/config.json")]
        return RunFolder(found[0]) if found else None

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep a second command away.

        Raises:
            CannotReproduce: when one is at it.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise CannotReproduce(
                f"{self.path}: another command is doing this reproduction right now\n  way out: wait for it, or stop it"
            ) from None


def open_place(outputs: Path, run_id: str, config_text: str, options: dict[str, Any]) -> Place:
    """The folder of a reproduction that was asked for in the same words and is not done; else a new one."""
    root = outputs.resolve() / "reproductions"
    asked = options | {"config": hashlib.sha256(config_text.encode()).hexdigest()}
    number = 0
    for path in sorted(root.glob(f"{run_id[:12]}-*"), key=_number):
        number = _number(path)
        if not (path / VERDICT).exists() and _options(path) == asked:
            return Place(path)
    path = root / f"{run_id[:12]}-{number + 1}"
    path.mkdir(parents=True)
    keep_out_of_git(outputs)
    (path / "config.yaml").write_text(config_text)
    write_json(path / "options.json", asked)
    return Place(path)


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _options(path: Path) -> Any:
    try:
        return json.loads((path / "options.json").read_text())
    except (OSError, ValueError):
        return None
