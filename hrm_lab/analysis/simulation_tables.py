"""What other stopping rules would have made of a sweep, to be seen: tables, a summary, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich import box
from rich.table import Table

from hrm_lab.analysis.simulation import Simulation


def fates_table(simulation: Simulation) -> Table:
    """Every point under one set of rules, best first."""
    table = _table("point", "stopped at", "of", "rule", "best", "without", "minutes saved")
    for fate in simulation.fates:
        at = "" if fate.stopped_at is None else str(fate.stopped_at)
        best, without = _figure(fate.best_with), _figure(fate.best_without)
        saved = f"{60 * fate.saved:.2f}" if fate.stopped_at is not None else ""
        cells = (fate.point, at, str(fate.last_step), fate.rule, best, without, saved)
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
            _figure(survivor.best_with),
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
        f"the winner, {winner.point} with {simulation.metric} = {_figure(winner.best_without)}, "
        + (
            "survives"
            if simulation.winner_survives
            else f"is lost at step {winner.stopped_at}; the best that is left is {survivor.point} with "
            f"{_figure(survivor.best_with)}, number {simulation.fates.index(survivor) + 1} without the rules"
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


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    texts = ("point", "rule", "rules", "winner", "best left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in texts else "right")
    return table
