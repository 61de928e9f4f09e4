"""The keys of a stored config against those that this version knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hrm_lab.config import Config, identity_dict, known_settings, settings, task_names
from hrm_lab.mirror.params import with_a_say
from hrm_lab.tracking.logged import Logged, flat


def known_keys() -> list[str]:
    """Every key that this version knows, of every task."""
    keys = [key for key, _, _ in settings(Config())]
    of_tasks = (key for task in task_names() for key, _, _ in settings(known_settings(task)(), "data."))
    return list(dict.fromkeys([*keys, *of_tasks]))


def unknown_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys of a stored config that this version does not know."""
    known = set(known_keys())
    return [key for key in flat(config) if key not in known]


def new_keys(config: Mapping[str, Any]) -> list[str]:
    """Keys that this version has and a stored config has not: they would take their defaults."""
    present = flat(config)
    return [key for key, _, _ in settings(_with_task(present)) if key not in present]


def changed_since(logged: Logged) -> list[tuple[str, str, str]]:
    """(key, stored config's value, logged param's value) where the two disagree: somebody has changed the file."""
    present = {key: str(value) for key, value in flat(logged.config).items()}
    params = logged.record.params
    changed = [(key, present[key], value) for key, value in params.items() if present.get(key, value) != value]
    # What is no param was not set then; it may have been set in the file since.
    defaults = _defaults(logged.config)
    today = with_a_say({key: value for key, value in flat(logged.config).items() if key in defaults})
    added = [key for key in today if key not in params and present[key] != str(defaults[key])]
    return changed + [(key, present[key], str(defaults[key])) for key in added]


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings that can change a result, with those of the config's task."""
    return identity_dict(_with_task(flat(config)))


def _with_task(present: Mapping[str, Any]) -> Config:
    """The default config, with the data settings of the stored one's task."""
    return dataclasses.replace(Config(), data=known_settings(str(present.get("data.task")))())
