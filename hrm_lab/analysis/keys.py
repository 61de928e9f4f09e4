"""Which settings tell runs apart, and what they are called where room is short."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hrm_lab.config import Config, known_settings, settings
from hrm_lab.errors import UserError
from hrm_lab.tracking.logged import flat

SEED, FINGERPRINT = "seed", "data.fingerprint"
Settings = dict[str, Any]


@functools.cache
def _known(task: str) -> dict[str, tuple[Any, bool]]:
    """Default, and whether it can change a result, of every key."""
    config = replace(Config(), data=known_settings(task)())
    return {key: (value, meta.identity) for key, value, meta in settings(config)}


def identity_settings(stored: Mapping[str, Any]) -> Settings:
    """The settings of a stored config that can change its result, by dotted key, in the order of config.py.

    A run of an earlier version lacks keys, which have their defaults, and may have some that are no longer known, which
    count as they are: such runs can be compared too.
    """
    present = flat(stored)
    known = _known(str(present.get("data.task")))
    mine = {key: present.get(key, default) for key, (default, is_identity) in known.items() if is_identity}
    return mine | {key: value for key, value in present.items() if key not in known}


def differing(runs: Sequence[Settings]) -> list[str]:
    """Keys, but for the seed, whose values are not the same in all runs."""
    values: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key, value in run.items():
            values[key].add(json.dumps(value))
    common = {key for key in values if all(key in run for run in runs)}
    return [key for key, found in values.items() if key != SEED and (len(found) > 1 or key not in common)]


def with_data(runs: Sequence[Settings], fingerprints: Sequence[str | None]) -> list[Settings]:
    """The settings with the data's fingerprint, where runs of the same settings saw other data: CSV files change."""
    seen: dict[str, set[str]] = defaultdict(set)
    for run, fingerprint in zip(runs, fingerprints, strict=True):
        if fingerprint:
            seen[json.dumps(run | {SEED: None})].add(fingerprint)
    if all(len(found) == 1 for found in seen.values()):
        return list(runs)
    return [
        run | {FINGERPRINT: fingerprint and fingerprint[:12]}
        for run, fingerprint in zip(runs, fingerprints, strict=True)
    ]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of every key, or all of it where another ends alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def resolve(words: Iterable[str], keys: Sequence[str]) -> list[str]:
    """The keys that words name, in full or by their last part.

    Raises:
        UserError: for a word that names none of them, or several.
    """
    known = {short: key for key, short in short_names(keys).items()} | {key: key for key in keys}
    found = []
    for word in words:
        if word not in known:
            alike = [key for key in keys if key.endswith(f".{word}")]
            problem = "could be several settings" if alike else "is no setting that differs between these runs"
            raise UserError(f"by={word}: {problem}\n  way out: take {', '.join(alike or keys)}")
        found.append(known[word])
    return list(dict.fromkeys(found))
