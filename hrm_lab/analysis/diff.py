"""Two runs side by side: what differs in config, code, data, environment and outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hrm_lab.analysis.code_diff import code_difference
from hrm_lab.analysis.keys import identity_settings
from hrm_lab.analysis.metrics import EVAL, Target, best_index, mode_of
from hrm_lab.analysis.one_run import OneRun
from hrm_lab.tracking.logged import Values
from hrm_lab.tracking.provenance import NOT_THERE, differences

Row = tuple[str, str, str]  # what, and both runs' values


@dataclass(frozen=True)
class Section:
    """What differs in one respect; nothing does where it has no rows and no text."""

    title: str
    rows: list[Row]
    text: str = ""

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not self.rows and not self.text


@dataclass(frozen=True)
class Diff:
    """Two runs and all that differs between them."""

    names: tuple[str, str]
    places: tuple[str, str]
    sections: list[Section]

    def to_dict(self) -> dict[str, Any]:
        """For machines: {"config": {"rows": [[what, one, other], ...], "text": ""}, ...}."""
        runs = [{"name": name, "place": place} for name, place in zip(self.names, self.places, strict=True)]
        return {"runs": runs} | {
            section.title: asdict(section) | {"same": section.is_same} for section in self.sections
        }


def diff(one: OneRun, other: OneRun) -> Diff:
    """Compare two runs."""
    return Diff(
        (one.name, other.name),
        (one.place, other.place),
        [
            Section("config", _config(one, other)),
            Section("code", _code(one, other), code_difference(one.provenance, other.provenance)),
            Section("data", _data(one, other)),
            Section("environment", _environment(one, other)),
            Section("outcome", _outcome(one, other)),
        ],
    )


def shown(found: Diff) -> Group:
    """For a terminal."""
    parts: list[Any] = [
        Text(f"{sign} {name}  {place}") for sign, name, place in zip("AB", found.names, found.places, strict=True)
    ]
    for section in found.sections:
        parts.append(Text(f"\n{section.title}: the same" if section.is_same else f"\n{section.title}", style="bold"))
        if section.rows:
            table = Table("", "A", "B", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
            for row in section.rows:
                table.add_row(*map(Text, row))
            parts.append(table)
        if section.text:
            parts.append(Text(section.text))
    return Group(*parts)


def _config(one: OneRun, other: OneRun) -> list[Row]:
    """First what can change a result; what a run's version did not have had its default."""
    mine, yours = identity_settings(one.config), identity_settings(other.config)
    others = [key for key in one.config if key in other.config and key not in mine | yours]
    rest = _rows(*({key: run.config[key] for key in others} for run in (one, other)))
    return _rows(mine, yours) + [(f"{key} (no part of the result)", a, b) for key, a, b in rest]


def _code(one: OneRun, other: OneRun) -> list[Row]:
    def facts(run: OneRun) -> dict[str, Any]:
        patch = str(run.provenance.get("diff", ""))
        return {
            "commit": str(run.provenance.get("commit", ""))[:12] or None,
            "branch": run.provenance.get("branch") or None,
            "uncommitted changes": f"{len(patch.splitlines())} lines of patch" if patch else "none",
            "version": run.provenance.get("packages", {}).get("hrm-lab"),
        }

    if one.provenance.get("tree") and one.provenance["tree"] == other.provenance.get("tree"):
        return []  # the same files, however they came to be committed
    return _rows(facts(one), facts(other))


def _data(one: OneRun, other: OneRun) -> list[Row]:
    def facts(run: OneRun) -> dict[str, Any]:
        counts = run.data.get("counts", {}).items()
        sizes = {f"{name}: {what}": number for name, of in counts for what, number in of.items()}
        return {"fingerprint": run.data.get("fingerprint", "")[:12] or None} | sizes

    return _rows(facts(one), facts(other))


def _environment(one: OneRun, other: OneRun) -> list[Row]:
    size = [str(run.provenance.get("world_size", 1)) for run in (one, other)]
    rows = differences(*({"packages": {}, **run.provenance} for run in (one, other)))
    return rows + ([("processes", size[0], size[1])] if size[0] != size[1] else [])


def _outcome(one: OneRun, other: OneRun) -> list[Row]:
    def facts(run: OneRun) -> dict[str, Any]:
        return {"status": run.status, "reason": run.reason or None} | _evaluations(run)

    rows = _rows(facts(one), facts(other))
    same_recipe = identity_settings(one.config) == identity_settings(other.config)
    return rows + (_first_difference(one.values, other.values) if same_recipe else [])


def _evaluations(run: OneRun) -> dict[str, str]:
    """Best and last value of every evaluation metric, each with its step."""
    settings = identity_settings(run.config)
    watched = Target(settings["stopping.metric"], settings["stopping.mode"])
    series: dict[str, list[tuple[int, float]]] = {}
    for (step, key), value in sorted(run.values.items()):
        if key.startswith(EVAL):
            series.setdefault(key, []).append((step, value))
    facts = {}
    for key, points in sorted(series.items()):
        best = best_index([value for _, value in points], mode_of(key, [watched]))
        for which, index in {"best": best, "last": -1}.items():
            if index is not None:
                step, value = points[index]
                facts[f"{which} {key}"] = f"{value:.6g} at step {step}"
    return facts


def _first_difference(one: Values, other: Values) -> list[Row]:
    """Of what both logged while they trained."""
    places = [place for place in one.keys() & other.keys() if place[1].startswith("train/")]
    first = min((place for place in places if one[place] != other[place]), default=None)
    return (
        []
        if first is None
        else [(f"first other value: {first[1]} at step {first[0]}", f"{one[first]!r}", f"{other[first]!r}")]
    )


def _rows(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Row]:
    keys: Iterable[str] = dict.fromkeys([*one, *other])
    return [
        (key, _word(one, key), _word(other, key))
        for key in keys
        if one.get(key) != other.get(key) or (key in one) != (key in other)
    ]


def _word(facts: Mapping[str, Any], key: str) -> str:
    if key not in facts:
        return NOT_THERE
    value = facts[key]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
