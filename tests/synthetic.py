"""Sweeps on disk without any training: real configs, run folders, journals and manifests, with curves that are told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrm_lab import config as schema
from hrm_lab.config import Config
from hrm_lab.files import write_arrays, write_json
from hrm_lab.manifest import Manifest, make_manifest
from hrm_lab.run_folder import COMPLETED, Point, RunFolder, State
from hrm_lab.tracking.journal import Journal
from tests.small import small_config

Metrics = Mapping[int, Mapping[str, float]]  # by step
PROVENANCE = {
    "commit": "",
    "branch": "",
    "tree": "",
    "diff": "",
    "packages": {"numpy": "2.0.0", "torch": "2.13.0"},
    "python": "3.11.9",
    "host": "here",
    "platform": "Linux",
    "cpu": "some CPU",
}


def config_with(folder: Path, changes: Mapping[str, Any], **named: Any) -> Config:
    """The small config with settings by dotted key."""
    values = schema.to_dict(dataclasses.replace(small_config(folder), **named))
    for key, value in changes.items():
        *groups, name = key.split(".")
        place = values
        for group in groups:
            place = place[group]
        place[name] = value
    loaded: Config = schema.from_dict(values)
    return loaded


def make_run(config: Config, metrics: Metrics, state: State | None, point: Point, **provenance: Any) -> RunFolder:
    """A run's folder as a training leaves it."""
    folder = RunFolder.of(config)
    folder.prepare(config, point)
    write_json(folder.path / "provenance.json", PROVENANCE | provenance)
    if state is not None:
        folder.state = state
        journal = Journal(folder.journal)
        journal.begin(0, max(metrics, default=0))
        for step, values in metrics.items():
            journal.append(step, metrics=dict(values))
        journal.close()
    return folder


def append(folder: RunFolder, *entries: Mapping[str, Any]) -> None:
    """More lines for a journal that has been made."""
    with folder.journal.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def add_evaluation(folder: RunFolder, step: int, skill: float, steps: int = 3, buckets: int = 4) -> None:
    """What training/evaluation.py keeps of one evaluation: harder puzzles take longer, and fewer are solved."""
    depth, hardness = np.arange(1, steps + 1) / steps, np.arange(buckets) / buckets
    solved = np.clip(skill * depth[None, :] * (1.2 - hardness[:, None]), 0, 1)
    arrays = {
        "accuracy": 0.5 + solved.mean(0) / 2,
        "exact_accuracy": solved.mean(0),
        "puzzles": np.full(buckets, 50.0),
        "solved": 50 * solved,
        "halting_step": 1 + (steps - 1) * (1 - skill / 2) * (0.3 + 0.7 * hardness),
        "rating_low": np.arange(buckets, dtype=np.int32) * 2,
        "rating_high": np.arange(buckets, dtype=np.int32) * 2 + 1,
    }
    place = f"evaluations/step_{step:08d}.npz"
    write_arrays(folder.path / place, arrays)
    append(folder, {"step": step, "ms": 0, "artifact": place})


def make_sweep(
    folder: Path,
    points: Sequence[Mapping[str, Any]],
    metrics: Callable[[Config], Metrics],
    state: Callable[[Config], State | None] = lambda _: State(COMPLETED),
    name: str = "made",
    question: str = "",
) -> Manifest:
    """A sweep in FOLDER/outputs: a run for each point, which is what it sets by dotted key."""
    configs = [config_with(folder, changes, name=name, question=question) for changes in points]
    overrides = [[f"{key}={value}" for key, value in changes.items()] for changes in points]
    manifest = make_manifest(configs, overrides, "local", {})
    manifest.save()
    labels = {entry.signature: entry for entry in manifest.points}
    for config in configs:
        entry = labels[RunFolder.of(config).path.name]
        make_run(config, metrics(config), state(config), Point(entry.label, entry.overrides, name))
    return manifest
