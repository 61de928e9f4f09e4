"""What a sweep is: its name, its question and its points, on disk as OUTPUTS/sweeps/NAME/manifest.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hrm_lab.config import Config, TrackingConfig
from hrm_lab.errors import ConfigError, RunError
from hrm_lab.files import write_json
from hrm_lab.run_folder import Point, RunFolder


@dataclass(frozen=True)
class Entry:
    """One point and the run folder that answers it. Points of an earlier grid stay."""

    label: str
    overrides: list[str]
    signature: str
    in_grid: bool = True


@dataclass(frozen=True)
class Manifest:
    """A sweep's points, in the order of the grid, and how they are run: `local` or `slurm`, with its settings.

    `tracking` is where the command that was last given logs them, and so the sweep's own run.
    """

    name: str
    question: str
    outputs: str
    points: list[Entry]
    launcher: str
    settings: dict[str, Any]
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its own files; the runs lie in OUTPUTS/runs."""
        return sweep_folder(Path(self.outputs), self.name)

    def runs(self) -> list[tuple[Entry, RunFolder]]:
        """Every point with its run folder."""
        return [(entry, RunFolder(Path(self.outputs) / "runs" / entry.signature)) for entry in self.points]

    def grid(self) -> list[tuple[Entry, RunFolder]]:
        """The points of the grid as it was last asked for."""
        return [(entry, folder) for entry, folder in self.runs() if entry.in_grid]

    def save(self) -> None:
        """Write it, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "manifest.json", asdict(self))


def sweep_folder(outputs: Path, name: str) -> Path:
    """OUTPUTS/sweeps/NAME."""
    return outputs / "sweeps" / name


def load_manifest(outputs: Path, name: str) -> Manifest:
    """Read a sweep's manifest.

    Raises:
        RunError: when there is no such sweep, naming those that there are.
    """
    path = sweep_folder(outputs.resolve(), name) / "manifest.json"
    if not path.exists():
        known = sorted(file.parent.name for file in path.parent.parent.glob("*/manifest.json"))
        raise RunError(
            f"{name}: no such sweep in {outputs}\n  way out: "
            + (f"one of {', '.join(known)}" if known else "start one with `hrm-lab sweep NAME`")
        )
    values = json.loads(path.read_text())
    points = [Entry(**entry) for entry in values["points"]]
    return Manifest(**(values | {"points": points, "tracking": TrackingConfig(**values.get("tracking", {}))}))


def make_manifest(
    configs: Sequence[Config], overrides: Sequence[Sequence[str]], launcher: str, settings: dict[str, Any]
) -> Manifest:
    """The manifest of a grid; points that come to the same run are listed once.

    Points that the sweep's earlier grid had and this one has not are kept, out of the grid: nothing that runs is ever
    lost from sight.

    Args:
        configs: validated, one for each point.
        overrides: what makes each point, in the same order.
        launcher, settings: how they are to be run.

    Raises:
        ConfigError: when the sweep's name cannot name a folder, and when points are to be compared but not tracked.
    """
    first = configs[0]
    if not re.fullmatch(r"[\w][\w.-]*", first.name):
        raise ConfigError("name", first.name, "cannot name a folder", "take letters, digits, '_', '-' and '.'")
    for config in configs:  # a single run, or a reproduction, is compared with nobody anyway
        if config.stopping.pruner != "none" and not config.tracking.enabled:
            raise ConfigError(
                "stopping.pruner",
                config.stopping.pruner,
                "siblings are known through the tracking store, and tracking.enabled=false",
                "take tracking=sqlite or tracking=server, or stopping.pruner=none",
            )
    outputs = Path(first.paths.outputs).resolve()
    varying = _varying_keys(overrides)
    entries: dict[str, Entry] = {}
    for config, point in zip(configs, overrides, strict=True):
        signature = RunFolder.of(config).path.name
        entries.setdefault(signature, Entry(_label(point, varying) or first.name, list(point), signature))
    if (sweep_folder(outputs, first.name) / "manifest.json").exists():
        for earlier in load_manifest(outputs, first.name).points:
            entries.setdefault(earlier.signature, replace(earlier, in_grid=False))
    points = list(entries.values())
    return Manifest(first.name, first.question, str(outputs), points, launcher, settings, first.tracking)


def prepare_points(
    manifest: Manifest, configs: Mapping[str, Config], signatures: Sequence[str], submission: Path | None, per_task: int
) -> None:
    """Write down, in the run folders of these signatures, what is to be run.

    Args:
        configs: by signature.
        submission: the folder of the submission that runs them, `per_task` of them in each of its tasks.
    """
    task_of = {signature: number // per_task for number, signature in enumerate(signatures)}
    for entry, folder in manifest.runs():
        if entry.signature in task_of:
            place = str(submission) if submission else None
            point = Point(entry.label, entry.overrides, manifest.name, place, task_of[entry.signature])
            folder.prepare(configs[entry.signature], point)


def _varying_keys(overrides: Sequence[Sequence[str]]) -> set[str]:
    """Keys whose value differs between points."""
    values: dict[str, set[str]] = {}
    for point in overrides:
        for override in point:
            key, _, value = override.partition("=")
            values.setdefault(key, set()).add(value)
    return {key for key, seen in values.items() if len(seen) > 1}


def _label(point: Sequence[str], varying: set[str]) -> str:
    """`H_cycles=1 L_cycles=2`: the part of each varying key that says what it is."""
    pairs = [override.partition("=") for override in point]
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs if key in varying)
