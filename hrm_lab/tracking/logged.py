"""A run as the tracking store has it, with all that it takes to do it again or to compare it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hrm_lab.config import PRUNERS, TrackingConfig
from hrm_lab.decision import TIME_BUDGET
from hrm_lab.errors import RunError
from hrm_lab.tracking.journal import CLOCK, STOPPING_REASON, STOPPING_RULE, read_journal
from hrm_lab.tracking.store import DATA_FINGERPRINT, KIND, RunRecord, Store, tracking_uri

Place = tuple[int, str]  # step and metric
Values = dict[Place, float]


@dataclass(frozen=True)
class Logged:
    """One run: what it takes to do it again, and what it gave."""

    record: RunRecord
    config_text: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    dataset: dict[str, Any]  # of its dataset.json; empty where that was not logged
    values: Values  # without those that depend on the clock

    @property
    def commit(self) -> str:
        """Empty for a run of an installed package."""
        return str(self.provenance.get("commit", ""))

    @property
    def fingerprint(self) -> str:
        """Of its data; empty for a run that never opened them."""
        return self.record.tags.get(DATA_FINGERPRINT, "")

    @property
    def world_size(self) -> int:
        """Processes that trained it."""
        return int(self.provenance.get("world_size", 1))

    @property
    def is_finished(self) -> bool:
        """Whether it came to its own end, and not to one that its siblings or the clock have set."""
        return self.record.status == "FINISHED" and self.record.tags.get(STOPPING_RULE) not in (*PRUNERS, TIME_BUDGET)

    @property
    def broken_off(self) -> str:
        """How it ended if it did not finish."""
        return self.record.tags.get(STOPPING_REASON, self.record.status)

    @property
    def last_step(self) -> int:
        """The last one that it logged."""
        return max((step for step, _ in self.values), default=0)


def open_store(uri: str | None, outputs: Path) -> Store:
    """The store that holds the runs of an outputs folder, or that of a URI; none is made here.

    Raises:
        RunError: when the folder has none.
        UserError: when it cannot be reached.
    """
    config, database = TrackingConfig(uri=uri), (outputs / "mlflow.db").resolve()
    if tracking_uri(config, outputs) == f"sqlite:///{database}" and not database.exists():
        raise RunError(f"{outputs}: there are no runs here\n  way out: --outputs FOLDER or --tracking-uri URI")
    return Store.open(config, outputs)


def find(store: Store, word: str) -> Logged:
    """The run that a word names: its id, its signature, or a name that only one run has.

    Raises:
        RunError: when there is none, or more than one, or when it lacks what it takes.
    """
    records = [record for record in store.find(word) if record.tags.get(KIND) != "sweep"]
    if not records:
        raise RunError(
            f"{word}: {store.uri} has no run of this id, signature or name\n"
            "  way out: `hrm-lab ui` shows the runs; another store is --outputs FOLDER or --tracking-uri URI"
        )
    if len(records) > 1:
        ids = "".join(f"\n    {record.run_id}  {record.status}" for record in records)
        raise RunError(f"{word}: {len(records)} runs have this name\n  way out: say which, by its id:{ids}")
    return _load(store, records[0])


def _load(store: Store, record: RunRecord) -> Logged:
    text = store.text(record.run_id, "config/config.yaml")
    provenance = store.text(record.run_id, "code/provenance.json")
    if text is None or provenance is None:
        missing = "config/config.yaml" if text is None else "code/provenance.json"
        raise RunError(
            f"{record.name}: its artifact {missing} cannot be read\n"
            "  way out: make the store's artifacts readable from here; a run that hrm-lab did not log has none"
        )
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        config, text = None, str(error)
    if not isinstance(config, dict):
        raise RunError(f"{record.name}: its config/config.yaml is no config\n  way out: look at it: {text[:200]}")
    values = {key: value for key, value in store.histories(record.run_id).items() if not key[1].startswith(CLOCK)}
    dataset = json.loads(store.text(record.run_id, "data/dataset.json") or "{}")
    return Logged(record, text, config, json.loads(provenance), dataset, values)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def journal_values(path: Path) -> Values:
    """Every value of a journal, without those that depend on the clock."""
    return {
        (entry["step"], key): value
        for entry in read_journal(path)
        for key, value in entry.get("metrics", {}).items()
        if not key.startswith(CLOCK)
    }
