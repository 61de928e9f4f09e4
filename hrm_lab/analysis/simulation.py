"""What other stopping rules would have made of a sweep that has run: its evaluations, replayed under them.

They are replayed in the order in which they were made, by the rules and the comparison that a training asks. What
follows a stop is dropped, and nothing takes its place: freed places start nothing earlier, so the order stays.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from hrm_lab.analysis.keys import identity_settings
from hrm_lab.analysis.metrics import best_index
from hrm_lab.analysis.runs import read_stored
from hrm_lab.best import order
from hrm_lab.config import PRUNERS, TRAIN_MEAN, StoppingConfig
from hrm_lab.errors import ConfigError, UserError
from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import COMPLETED, FINISHED, STOPPED, RunFolder
from hrm_lab.stopping.budget import HOUR_S
from hrm_lab.stopping.pruning import CUT, DONE, RUNNING, History
from hrm_lab.stopping.rules import Rules
from hrm_lab.tracking.journal import read_journal


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: all that the rules are told of it, and when it was made (milliseconds since 1970)."""

    ms: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Recorded:
    """One run as it was. `state` is what siblings see once it has ended; one that is complete took every step."""

    signature: str
    name: str
    evaluations: Sequence[Evaluation]
    state: str
    was_stopped: bool
    is_complete: bool


@dataclass
class Fate:
    """One run under the rules. Values of the watched metric; costs in hours of GPUs, or of the CPU without one.

    A best value is None where none that was seen is a number.
    """

    point: str
    last_step: int
    best_without: float | None
    cost: float
    was_stopped: bool
    best_with: float | None = None
    stopped_at: int | None = None
    rule: str = ""
    saved: float = 0.0


@dataclass(frozen=True)
class Simulation:
    """A sweep under some rules."""

    rules: str
    metric: str
    mode: str
    on_gpus: bool
    fates: list[Fate] = field(default_factory=list)  # best first, as they were without the rules

    @property
    def stopped(self) -> int:
        """How many runs the rules stop."""
        return sum(fate.stopped_at is not None for fate in self.fates)

    @property
    def cost(self) -> float:
        """Hours without the rules."""
        return sum(fate.cost for fate in self.fates)

    @property
    def saved(self) -> float:
        """Hours."""
        return sum(fate.saved for fate in self.fates)

    @property
    def winner(self) -> Fate:
        """The best run without the rules."""
        return self.fates[0]

    @property
    def winner_survives(self) -> bool:
        """Whether the best value of all would have been seen."""
        return self.winner.best_with == self.winner.best_without

    @property
    def best_survivor(self) -> Fate:
        """The best run with the rules."""
        return min(self.fates, key=lambda fate: self.order(fate.best_with))

    @property
    def regret(self) -> float:
        """How much worse the best value is with the rules."""
        return self.order(self.best_survivor.best_with) - self.order(self.winner.best_without)

    def order(self, value: float | None) -> float:
        """Less is better; what is None stands last."""
        return order(self.mode, math.nan if value is None else value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        survivor = self.best_survivor
        return {
            **asdict(self),
            "unit": "GPU-hours" if self.on_gpus else "CPU device-hours",
            "cost": self.cost,
            "saved": self.saved,
            "stopped": self.stopped,
            "winner": self.winner.point,
            "winner_survives": self.winner_survives,
            "best_survivor": survivor.point,
            "best_survivor_value": survivor.best_with,
            "best_survivor_rank": self.fates.index(survivor) + 1,
            "regret": self.regret if math.isfinite(self.regret) else None,
        }


def recorded(manifest: Manifest) -> list[Recorded]:
    """The runs of a sweep's grid that have been evaluated."""
    runs = [_recorded(entry.label, folder) for entry, folder in manifest.grid()]
    found = [run for run in runs if run.evaluations]
    if not found:
        raise UserError(f"{manifest.name}: no point has been evaluated yet\n  way out: wait for it, or run it")
    return found


def watched(manifest: Manifest) -> list[str]:
    """What the points of a sweep were judged by, as overrides; the last ones where it was swept itself."""
    configs = filter(None, (read_stored(folder.path / "config.json") for _, folder in manifest.grid()))
    settings = {key: value for config in configs for key, value in identity_settings(config).items()}
    return [f"{key}={settings[key]}" for key in ("stopping.metric", "stopping.mode") if key in settings]


def simulate(runs: Sequence[Recorded], config: StoppingConfig, rules: str) -> Simulation:
    """Replay runs under a config's rules, which are called `rules`.

    Raises:
        ConfigError: when a run has not logged the metric that they watch.
        UserError: when no run has a value of it that is a number.
    """
    on_gpus = all("perf/gpu_s" in run.evaluations[-1].values for run in runs)
    histories = {run.signature: History(run.name, {}) for run in runs}
    stoppers = {run.signature: Rules(config, _Siblings(run.signature, run.name, histories)) for run in runs}
    fates = {run.signature: _fate(run, config, on_gpus) for run in runs}
    for run, evaluation in _in_order(runs):
        fate, history = fates[run.signature], histories[run.signature]
        if fate.stopped_at is not None:
            continue
        value = evaluation.values[config.metric]
        fate.best_with = _best(config, [value] if fate.best_with is None else [fate.best_with, value])
        is_last = evaluation is run.evaluations[-1]
        history = History(run.name, {**history.values, evaluation.step: value}, RUNNING)
        histories[run.signature] = history
        decided = stoppers[run.signature].update(evaluation.step, evaluation.values, is_last and run.is_complete)
        stop = next((decision for decision in decided if decision.stops), None)
        if stop is not None:
            state, rung = (CUT if stop.rule in PRUNERS else DONE), stop.evidence.get("rung")
            histories[run.signature] = History(run.name, history.values, state, rung)
            fate.stopped_at, fate.rule = evaluation.step, stop.rule
            fate.saved = fate.cost - _hours(evaluation, on_gpus)
        elif is_last:
            histories[run.signature] = History(run.name, history.values, run.state)
    if all(fate.best_without is None for fate in fates.values()):
        problem = f"stopping.metric={config.metric}: no point has a value of it that is a number"
        raise UserError(f"{problem}\n  way out: another metric")
    simulation = Simulation(rules, config.metric, config.mode, on_gpus)
    simulation.fates.extend(sorted(fates.values(), key=lambda fate: simulation.order(fate.best_without)))
    return simulation


@dataclass
class _Siblings:
    signature: str
    name: str
    histories: Mapping[str, History]

    def ask(self) -> Mapping[str, History]:
        return self.histories


def _recorded(name: str, folder: RunFolder) -> Recorded:
    state = DONE if folder.status in FINISHED else RUNNING
    was_stopped, is_complete = folder.status == STOPPED, folder.status == COMPLETED
    return Recorded(folder.path.name, name, list(_evaluations(folder)), state, was_stopped, is_complete)


def _evaluations(folder: RunFolder) -> Iterator[Evaluation]:
    """Those after which the rules were asked: they have the time spent beside them.

    Means of the training that the run did not watch, and so did not log, are those of its logged windows, nearly so.
    """
    windows: defaultdict[str, list[float]] = defaultdict(list)
    for entry in read_journal(folder.journal):
        values = entry.get("metrics", {})
        for key, value in values.items():
            if key.startswith("train/"):
                windows[TRAIN_MEAN + key.removeprefix("train/")].append(value)
        if "perf/wall_s" in values:
            means = {key: fmean(seen) for key, seen in windows.items()}
            yield Evaluation(entry["ms"], entry["step"], means | values)
            windows.clear()


def _in_order(runs: Sequence[Recorded]) -> list[tuple[Recorded, Evaluation]]:
    pairs = [(run, evaluation) for run in runs for evaluation in run.evaluations]
    return sorted(pairs, key=lambda pair: pair[1].ms)


def _fate(run: Recorded, config: StoppingConfig, on_gpus: bool) -> Fate:
    missing = [evaluation.step for evaluation in run.evaluations if config.metric not in evaluation.values]
    if missing:
        raise ConfigError(
            "stopping.metric",
            config.metric,
            f"{run.name} has not logged it at step {missing[0]}",
            "another metric; " + ", ".join(key for key in run.evaluations[0].values if key.startswith("eval/")),
        )
    best = _best(config, [evaluation.values[config.metric] for evaluation in run.evaluations])
    last = run.evaluations[-1]
    return Fate(run.name, last.step, best, _hours(last, on_gpus), run.was_stopped)


def _best(config: StoppingConfig, values: Sequence[float]) -> float | None:
    best = best_index(values, config.mode)
    return None if best is None else values[best]


def _hours(evaluation: Evaluation, on_gpus: bool) -> float:
    return evaluation.values["perf/gpu_s" if on_gpus else "perf/wall_s"] / HOUR_S
