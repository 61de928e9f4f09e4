"""The run that is to be done again, as the tracking store has it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hrm_lab.config import DATA_TASKS, Config, settings
from hrm_lab.errors import CannotReproduce
from hrm_lab.tracking.store import DATA_FINGERPRINT, KIND, RunRecord, Store

CLOCK = ("perf/", "system/")  # metrics that depend on the clock and the machine
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
        """Whether it came to its own end."""
        return self.record.status == "FINISHED"

    @property
    def last_step(self) -> int:
        """The last one that it logged."""
        return max((step for step, _ in self.values), default=0)


def find(store: Store, word: str) -> Logged:
    """The run that a word names: its id, its signature, or a name that only one run has.

    Raises:
        CannotReproduce: when there is none, or more than one, or when it lacks what it takes.
    """
    records = [record for record in store.find(word) if record.tags.get(KIND) != "sweep"]
    if not records:
        raise CannotReproduce(
            f"{word}: {store.uri} has no run of this id, signature or name\n"
            "  way out: `hrm-lab ui` shows the runs; another store is --outputs FOLDER or --tracking-uri URI"
        )
    if len(records) > 1:
        ids = "".join(f"\n    {record.run_id}  {record.status}" for record in records)
        raise CannotReproduce(f"{word}: {len(records)} runs have this name\n  way out: say which, by its id:{ids}")
    return _load(store, records[0])


def _load(store: Store, record: RunRecord) -> Logged:
    text = store.text(record.run_id, "config/config.yaml")
    provenance = store.text(record.run_id, "code/provenance.json")
    if text is None or provenance is None:
        missing = "config/config.yaml" if text is None else "code/provenance.json"
        raise CannotReproduce(
            f"{record.name}: its artifact {missing} cannot be read\n"
            "  way out: make the store's artifacts readable from here; a run that hrm-lab did not log has none"
        )
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        config, text = None, str(error)
    if not isinstance(config, dict):
        raise CannotReproduce(
            f"{record.name}: its config/config.yaml is no config\n  way out: look at it: {text[:200]}"
        )
    values = {key: value for key, value in store.histories(record.run_id).items() if not key[1].startswith(CLOCK)}
    dataset = json.loads(store.text(record.run_id, "data/dataset.json") or "{}")
    return Logged(record, text, config, json.loads(provenance), dataset, values)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def known_keys() -> list[str]:
    """Every key that this version knows, of every task."""
    keys = [key for key, _, _ in settings(Config())]
    return keys + [key for task in DATA_TASKS.values() for key, _, _ in settings(task(), "data.") if key not in keys]


def unknown_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys of a stored config that this version does not know."""
    known = set(known_keys())
    return [key for key in flat(config) if key not in known]


def new_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys that this version has and a stored config has not: they would take their defaults."""
    present = flat(config)
    task = DATA_TASKS.get(str(present.get("data.task")))
    keys = [key for key, _, _ in settings(dataclasses.replace(Config(), data=task()) if task else Config())]
    return [key for key in keys if key not in present]


def changed_since(logged: Logged) -> list[tuple[str, str, str]]:
    """(key, stored config's value, logged param's value) where the two disagree: somebody has changed the file."""
    present = {key: str(value) for key, value in flat(logged.config).items()}
    params = logged.record.params
    return [(key, present[key], value) for key, value in params.items() if present.get(key, value) != value]
