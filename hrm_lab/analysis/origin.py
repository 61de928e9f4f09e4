"""Where a sweep comes from: the command that makes it again, and the code and machines that made it."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hrm_lab.analysis.runs import Run, read_stored
from hrm_lab.manifest import Manifest
from hrm_lab.redaction import redact

EXPERIMENT, PLACES = "+experiment", "paths."  # places are another machine's business


def command(manifest: Manifest) -> str | None:
    """`hrm-lab sweep ...` with the grid spelled out; None for points that are no full grid of one experiment."""
    values: dict[str, list[str]] = {}
    points = [dict(_pair(override) for override in entry.overrides) for entry, _ in manifest.grid()]
    for point in points:
        for key, value in point.items():
            if value not in values.setdefault(key, []):
                values[key].append(value)
    experiment = values.pop(EXPERIMENT, [])
    is_full = math.prod(map(len, values.values())) == len(points) and all(
        point.keys() == points[0].keys() for point in points
    )
    if len(experiment) != 1 or not is_full:
        return None
    words = [f"{key}={','.join(several)}" for key, several in values.items() if not key.startswith(PLACES)]
    return redact(shlex.join(["hrm-lab", "sweep", experiment[0], "hydra.sweeper.params=null", *words]))


def versions(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Code, packages and machine, one row for each that differ, with the number of runs, most first.

    Runs that have not begun yet come from nowhere, and nobody knows where those do whose word on it is damaged.
    """
    known = filter(None, (read_stored(run.folder.path / "provenance.json") for run in runs))
    found = Counter(tuple(_origin(facts).items()) for facts in known)
    return [{"runs": str(count)} | dict(row) for row, count in found.most_common()]


def _origin(facts: Mapping[str, Any]) -> dict[str, str]:
    packages = facts.get("packages", {})
    commit = facts.get("commit", "")[:12] or "-"
    return {
        "commit": f"{commit} with uncommitted changes, tree {facts['tree'][:12]}" if facts.get("diff") else commit,
        "Python": facts.get("python") or "-",
        **{name: packages.get(name, "-") for name in ("hrm-lab", "torch", "numpy")},
        "machine": facts.get("gpu") or facts.get("cpu") or "-",
    }


def _pair(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value
