"""What other stopping rules would have made of a sweep that has run: its evaluations, replayed under them.

They are replayed in the order in which they were made, by the rules and the comparison that a training asks. What
follows a stop is dropped, and nothing takes its place: freed places start nothing earlier, so the order stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from hrm_lab.config import PRUNERS, StoppingConfig
from hrm_lab.errors import ConfigError, UserError
from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import FINISHED as ENDED_WELL
from hrm_lab.run_folder import STOPPED, RunFolder
from hrm_lab.stopping.pruning import CUT, FINISHED, RUNNING, History
from hrm_lab.stopping.rules import Rules
from hrm_lab.tracking.journal import read_journal

HOUR_S = 3600.0


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: all that the rules are told of it, and when it was made (milliseconds since 1970)."""

    ms: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Recorded:
    """One run as it was. `state` is the one that siblings see once it has ended."""

    signature: str
    name: str
    evaluations: Sequence[Evaluation]
    state: str
    was_stopped: bool


@dataclass
class Fate:
    """One run under the rules. Values of the watched metric; costs in hours of GPUs, or of the CPU without one."""

    point: str
    last_step: int
    best_without: float
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
        left = [fate for fate in self.fates if fate.best_with is not None]
        return min(left, key=lambda fate: self.order(fate.best_with))

    @property
    def regret(self) -> float:
        """How much worse the best value is with the rules."""
        return self.order(self.best_survivor.best_with) - self.order(self.winner.best_without)

    def order(self, value: float | None) -> float:
        """Less is better."""
        assert value is not None
        return -value if self.mode == "max" else value

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
            "regret": self.regret,
        }


def recorded(manifest: Manifest) -> list[Recorded]:
    """The runs of a sweep's grid that have been evaluated."""
    runs = [_recorded(entry.label, folder) for entry, folder in manifest.grid()]
    found = [run for run in runs if run.evaluations]
    if not found:
        raise UserError(f"{manifest.name}: no point has been evaluated yet\n  way out: wait for it, or run it")
    return found


def simulate(runs: Sequence[Recorded], config: StoppingConfig, rules: str) -> Simulation:
    """Replay runs under a config's rules, which are called `rules`.

    Raises:
        ConfigError: when a run has not logged the metric that they watch.
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
        fate.best_with = _best(config, [value] if fate.best_with is None else [value, fate.best_with])
        is_last = evaluation is run.evaluations[-1]
        history = History(run.name, {**history.values, evaluation.step: value}, RUNNING)
        histories[run.signature] = history
        stop = next((d for d in stoppers[run.signature].update(evaluation.step, evaluation.values) if d.stops), None)
        if stop is not None:
            state, rung = (CUT if stop.rule in PRUNERS else FINISHED), stop.evidence.get("rung")
            histories[run.signature] = History(run.name, history.values, state, rung)
            fate.stopped_at, fate.rule = evaluation.step, stop.rule
            fate.saved = fate.cost - _hours(evaluation, on_gpus)
        elif is_last:
            histories[run.signature] = History(run.name, history.values, run.state)
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
    state = FINISHED if folder.status in ENDED_WELL else RUNNING
    return Recorded(folder.path.name, name, list(_evaluations(folder)), state, folder.status == STOPPED)


def _evaluations(folder: RunFolder) -> Iterator[Evaluation]:
    """Those after which the rules were asked: they have the time spent beside them."""
    trained: dict[str, float] = {}
    for entry in read_journal(folder.journal):
        values = entry.get("metrics", {})
        if "perf/wall_s" in values:
            yield Evaluation(entry["ms"], entry["step"], trained | values)
        trained |= {key: value for key, value in values.items() if key.startswith("train/")}


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


def _best(config: StoppingConfig, values: Sequence[float]) -> float:
    return max(values) if config.mode == "max" else min(values)


def _hours(evaluation: Evaluation, on_gpus: bool) -> float:
    return evaluation.values["perf/gpu_s" if on_gpus else "perf/wall_s"] / HOUR_S


# ----------------------------------------------------------------------------------------------- to be seen


def fates_table(simulation: Simulation) -> Table:
    """Every point under one set of rules, best first."""
    table = _table("point", "stopped at", "of", "rule", "best", "without", "minutes saved")
    for fate in simulation.fates:
        at = "" if fate.stopped_at is None else str(fate.stopped_at)
        best = "" if fate.best_with is None else f"{fate.best_with:.4g}"
        saved = f"{60 * fate.saved:.2f}" if fate.stopped_at is not None else ""
        cells = (fate.point, at, str(fate.last_step), fate.rule, best, f"{fate.best_without:.4g}", saved)
        table.add_row(*cells, style=None if fate.stopped_at is None else "red")
    return table


def rules_table(simulations: Sequence[Simulation]) -> Table:
    """One row for each set of rules."""
    table = _table("rules", "stopped", "hours saved", "%", "winner", "best left", "its value", "regret", "its rank")
    for simulation in simulations:
        survivor = simulation.best_survivor
        table.add_row(
            simulation.rules,
            f"{simulation.stopped} of {len(simulation.fates)}",
            f"{simulation.saved:.4g}",
            f"{100 * simulation.saved / simulation.cost:.1f}",
            "survives" if simulation.winner_survives else "is lost",
            survivor.point,
            f"{survivor.best_with:.4g}",
            f"{simulation.regret:.4g}",
            str(simulation.fates.index(survivor) + 1),
        )
    return table


def summary(simulation: Simulation) -> list[str]:
    """What a person wants to know first."""
    unit = "GPU-hours" if simulation.on_gpus else "device-hours (on the CPU; there was no GPU)"
    winner, survivor = simulation.winner, simulation.best_survivor
    share = 100 * simulation.saved / simulation.cost
    return [
        f"{simulation.rules}: {simulation.stopped} of {len(simulation.fates)} points stopped, "
        f"{simulation.saved:.4g} of {simulation.cost:.4g} {unit} saved ({share:.1f} %)",
        f"the winner, {winner.point} with {simulation.metric} = {winner.best_without:.4g}, "
        + (
            "survives"
            if simulation.winner_survives
            else f"is lost at step {winner.stopped_at}; the best that is left is {survivor.point} with "
            f"{survivor.best_with:.4g}, number {simulation.fates.index(survivor) + 1} without the rules"
        ),
    ]


def notes(simulation: Simulation) -> list[str]:
    """What the replay takes for granted, and what it cannot know."""
    assumed = "assumed: places that become free start nothing earlier, so evaluations keep their order"
    stopped = sum(fate.was_stopped for fate in simulation.fates)
    beyond = f"{stopped} points were stopped early themselves: nothing is known beyond that"
    return [assumed, beyond] if stopped else [assumed]


def to_json(simulations: Sequence[Simulation]) -> str:
    """For machines."""
    return json.dumps([simulation.to_dict() for simulation in simulations], indent=1)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    texts = ("point", "rule", "rules", "winner", "best left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in texts else "right")
    return table
