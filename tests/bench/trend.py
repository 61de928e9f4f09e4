"""What benchmarks have measured before: dated lines of JSON with commit and versions, in tests/bench/results/.

Each benchmark has a file of its own there. It appends to it when it is called with --keep, and says, kept or not, what
has become slower than the last entry of the same thing on the same machine by more than the spread of both.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
SPREAD = 0.02  # as a share, at least: two repeats may agree by chance


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the quartiles around it."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def measured(key: dict[str, Any], seconds: Sequence[float], **more: Any) -> dict[str, Any]:
    """An entry: what was measured (`key` names it, all of it), how long it took, and what else is known of it."""
    middle, low, high = spread(seconds)
    return {"key": key, "seconds": middle, "quartiles": [low, high], **more}


def slower(entry: dict[str, Any], kept: Iterable[dict[str, Any]]) -> str:
    """What to say if this takes longer than when last measured, by more than the spread of both; else nothing."""
    before = [old for old in kept if old["key"] == entry["key"]]
    if not before:
        return ""
    old = before[-1]
    noise = max(high - low for low, high in (old["quartiles"], entry["quartiles"]))
    if entry["seconds"] - old["seconds"] <= max(noise, SPREAD * old["seconds"]):
        return ""
    times = entry["seconds"] / old["seconds"]
    named = " ".join(str(value) for value in entry["key"].values())
    return f"slower: {named}: {times:.2f} times as long as on {old['date'][:10]} (commit {old['commit']})"


def report(name: str, entries: Iterable[dict[str, Any]], keep: bool, folder: Path = RESULTS) -> list[str]:
    """What has become slower; the entries are appended to the results afterwards if they are to be kept."""
    path, fresh = folder / f"{name}.jsonl", list(entries)
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    said = [words for entry in fresh if (words := slower(entry, kept))]
    if keep:
        folder.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.writelines(json.dumps(entry | origin()) + "\n" for entry in fresh)
    return said


def origin() -> dict[str, str]:
    """When, and with what."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"date": date, "commit": commit, "torch": torch.__version__, "python": platform.python_version()}


def machine(device: str) -> str:
    """The device's name; a CPU's with the vectors it has, since one name is given to several kinds."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
