"""The folder of one run: what lies where, its state in words, and the lock that keeps a second process out.

config.json      resolved config              checkpoints/       newest first
point.json       label, overrides, sweep      best.safetensors   weights of the best evaluation
state.json       status, MLflow run, error    last.safetensors   weights at the end
journal.jsonl    every metric                 log.txt            what the run had to say
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hrm_lab import config as schema
from hrm_lab.config import Config
from hrm_lab.errors import RunError
from hrm_lab.signature import signature

RUNNING, COMPLETED, STOPPED, FAILED, INTERRUPTED = "RUNNING", "COMPLETED", "STOPPED", "FAILED", "INTERRUPTED"
FINISHED = (COMPLETED, STOPPED)


@dataclass(frozen=True)
class Point:
    """How a run came to be asked for: its name in its sweep, the overrides that make it, and the sweep, if any."""

    label: str
    overrides: list[str] = field(default_factory=list)
    sweep: str | None = None


@dataclass(frozen=True)
class State:
    """Where a run stands. `detail` is why it failed or stopped early; `best_value` the best of the watched metric."""

    status: str
    run_id: str | None = None
    detail: str = ""
    best_value: float | None = None


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder that belongs to a config: OUTPUTS/runs/SIGNATURE."""
        return cls(Path(config.paths.outputs).resolve() / "runs" / signature(config))

    def prepare(self, config: Config, point: Point) -> None:
        """Make the folder and write down what is to be run. Settings that cannot change the result may differ."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self.path / "config.json", schema.to_dict(config))
        _write_json(self.path / "point.json", asdict(point))

    def config(self) -> Config:
        """The resolved config."""
        loaded: Config = schema.from_dict(self._read("config.json"))
        return loaded

    def point(self) -> Point:
        """Label, overrides and sweep."""
        return Point(**self._read("point.json"))

    @property
    def state(self) -> State | None:
        """The state that was last written, or None for a run that never began. A dead process may have left RUNNING."""
        if not (self.path / "state.json").exists():
            return None
        return State(**self._read("state.json"))

    @state.setter
    def state(self, state: State) -> None:
        _write_json(self.path / "state.json", asdict(state))

    @property
    def journal(self) -> Path:
        """Every metric, a line of JSON for each call."""
        return self.path / "journal.jsonl"

    @property
    def log(self) -> Path:
        """Plain lines."""
        return self.path / "log.txt"

    def is_locked(self) -> bool:
        """Whether a live process works here. The kernel drops the lock when its process dies."""
        try:
            with self.locked(patience_s=0):
                return False
        except RunError:
            return True

    @contextmanager
    def locked(self, patience_s: float = 2.0) -> Iterator[None]:
        """Keep every other process out; one that only looks whether somebody is in leaves within the patience.

        Raises:
            RunError: when one is in.
        """
        try:
            lock = FileLock(self.path / ".lock", timeout=patience_s)
            with lock:
                yield
        except Timeout:
            raise RunError(
                f"{self.path}: another process is training this run\n  way out: wait for it, or stop it"
            ) from None

    def _read(self, name: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path / name}: cannot be read ({error})\n  way out: delete the run folder and train again"
            ) from None
        return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=1))
    temporary.replace(path)
