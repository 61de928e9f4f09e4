"""One run, found by a word: in the outputs folder first, else in the tracking store."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrm_lab.analysis.runs import read_stored
from hrm_lab.errors import RunError
from hrm_lab.run_folder import COMPLETED, STOPPED, RunFolder
from hrm_lab.tracking.logged import Logged, Values, find, flat, journal_values, open_store
from hrm_lab.tracking.store import REASON

NAMED = 8  # runs that a refusal lists


@dataclass(frozen=True)
class OneRun:
    """All that is compared of a run, wherever it was read."""

    name: str
    place: str  # its folder, or its store and id there
    config: dict[str, Any]  # by dotted key
    provenance: dict[str, Any]  # empty where there is none
    data: dict[str, Any]  # fingerprint, and examples and groups of each set; empty where it never opened them
    status: str
    reason: str  # why it failed or stopped early
    values: Values  # without those that depend on the clock


def find_run(word: str, outputs: Path, uri: str | None = None) -> OneRun:
    """The run that a word names: its folder, its signature or a beginning of it, its MLflow id, or its name.

    Args:
        uri: of the store that is asked where there is no such folder; by default that of the outputs folder.

    Raises:
        UserError: when there is none, or more than one.
    """
    folder = find_folder(word, outputs)
    if folder is not None:
        return _of_folder(folder)
    try:
        return _of_store(find(store := open_store(uri, outputs), word), store.uri)
    except RunError as error:
        problem, _, way_out = str(error).partition("\n")
        raise RunError(f"{problem}, nor is there such a run in {outputs / 'runs'}\n{way_out}") from None


def find_folder(word: str, outputs: Path) -> RunFolder | None:
    """The folder of the run that a word names, as in `find_run`; None where there is none here.

    Raises:
        RunError: when there is more than one.
    """
    folders = _folders(word, outputs)
    if len(folders) > 1:
        lines = "".join(f"\n    {folder.path.name}  {folder.point().label}" for folder in folders[:NAMED])
        raise RunError(f"{word}: {len(folders)} runs have this name\n  way out: say which, by its signature:{lines}")
    return folders[0] if folders else None


def _folders(word: str, outputs: Path) -> list[RunFolder]:
    if (Path(word) / "config.json").is_file():
        return [RunFolder(Path(word).resolve())]
    runs = (outputs / "runs").resolve()
    if re.fullmatch("[0-9a-f]{3,12}", word) and (found := sorted(runs.glob(f"{word}*/config.json"))):
        return [RunFolder(path.parent) for path in found]
    everything = [RunFolder(path.parent) for path in sorted(runs.glob("*/config.json"))]
    return [folder for folder in everything if word in (folder.run_id, folder.point().label)]


def _of_folder(folder: RunFolder) -> OneRun:
    data, state = folder.dataset_info() or {}, folder.true_state()
    return OneRun(
        folder.point().label,
        str(folder.path),
        flat(json.loads((folder.path / "config.json").read_text())),
        read_stored(folder.path / "provenance.json"),
        {key: data[key] for key in ("fingerprint", "counts") if key in data},
        state.status,
        state.detail,
        journal_values(folder.journal),
    )


def _of_store(logged: Logged, uri: str) -> OneRun:
    record, data = logged.record, {"fingerprint": logged.fingerprint} if logged.fingerprint else {}
    counts = {"counts": logged.dataset["counts"]} if "counts" in logged.dataset else {}
    reason = record.tags.get(REASON, "")
    ended = {"FINISHED": STOPPED if reason else COMPLETED}  # MLflow has one word for both
    return OneRun(
        record.name,
        f"{uri} {record.run_id}",
        flat(logged.config),
        logged.provenance,
        data | counts,
        ended.get(record.status, record.status),
        reason,
        logged.values,
    )
