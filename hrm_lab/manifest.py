"""What a sweep is: its name, its question and its points, on disk as OUTPUTS/sweeps/NAME/manifest.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hrm_lab.config import Config
from hrm_lab.errors import ConfigError, RunError
from hrm_lab.run_folder import Point, RunFolder


@dataclass(frozen=True)
class Entry:
    """One point of the grid and the run folder that answers it."""

    label: str
    overrides: list[str]
    signature: str


@dataclass(frozen=True)
class Manifest:
    """A sweep's points, in the order of the grid."""

    name: str
    question: str
    outputs: str
    points: list[Entry]

    @property
    def folder(self) -> Path:
        """Where the sweep keeps its own files; the runs lie in OUTPUTS/runs."""
        return sweep_folder(Path(self.outputs), self.name)

    def runs(self) -> list[tuple[Entry, RunFolder]]:
        """Every point with its run folder."""
        return [(entry, RunFolder(Path(self.outputs) / "runs" / entry.signature)) for entry in self.points]

    def save(self) -> None:
        """Write it, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".manifest.json"
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(self.folder / "manifest.json")


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
    return Manifest(values["name"], values["question"], values["outputs"], [Entry(**e) for e in values["points"]])


def make_manifest(configs: Sequence[Config], overrides: Sequence[Sequence[str]]) -> Manifest:
    """The manifest of a grid; points that come to the same run are listed once.

    Args:
        configs: validated, one for each point.
        overrides: what makes each point, in the same order.

    Raises:
        ConfigError: when the sweep's name cannot name a folder.
    """
    first = configs[0]
    if not re.fullmatch(r"[\w][\w.-]*", first.name):
        raise ConfigError("name", first.name, "cannot name a folder", "take letters, digits, '_', '-' and '.'")
    outputs = Path(first.paths.outputs).resolve()
    varying = _varying_keys(overrides)
    entries: dict[str, Entry] = {}
    for config, point in zip(configs, overrides, strict=True):
        signature = RunFolder.of(config).path.name
        entries.setdefault(signature, Entry(_label(point, varying) or first.name, list(point), signature))
    return Manifest(first.name, first.question, str(outputs), list(entries.values()))


def prepare_points(manifest: Manifest, configs: Sequence[Config], signatures: set[str]) -> None:
    """Write down, in the run folders of these signatures, what is to be run."""
    by_signature = {RunFolder.of(config).path.name: config for config in configs}
    for entry, folder in manifest.runs():
        if entry.signature in signatures:
            folder.prepare(by_signature[entry.signature], Point(entry.label, entry.overrides, manifest.name))


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
