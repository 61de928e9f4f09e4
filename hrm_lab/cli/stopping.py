"""Verbs about early stopping: what was decided, and what other rules would have decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hrm_lab.cli.app import Outputs, Overrides, Sweep, app, console
from hrm_lab.errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for machines")]


@app.command()
def decisions(
    name: Sweep,
    stops: Annotated[bool, typer.Option("--stops", help="not the comparisons that let a run go on")] = False,
    as_json: AsJson = False,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Show every comparison, stop and promotion in the order of time: by which rule, and on what evidence."""
    from hrm_lab.analysis.decisions import decisions, decisions_table
    from hrm_lab.manifest import load_manifest

    made = decisions(load_manifest(outputs, name))
    if as_json:
        typer.echo(json.dumps([decided.to_dict() for decided in made], indent=1))
        return
    if not made:
        typer.echo(f"{name}: nothing was compared and nothing was stopped; `stopping=asha`, for one, would")
        return
    shown = [decided for decided in made if decided.changed_something] if stops else made
    if shown:
        console().print(decisions_table(shown))
    if len(shown) < len(made):
        typer.echo(f"{len(made) - len(shown)} comparisons let the run go on")


@app.command("simulate-stopping")
def simulate_stopping(
    name: Sweep, overrides: Overrides = None, as_json: AsJson = False, outputs: Outputs = Path("outputs")
) -> None:
    """Replay a sweep that has run under other stopping rules: stopping=asha, or several to compare, asha,median.

    Points are judged by the metric that they watched, unless OVERRIDES name another.
    """
    from hrm_lab.analysis.simulation import recorded, simulate, watched
    from hrm_lab.analysis.simulation_tables import fates_table, notes, rules_table, summary, to_json
    from hrm_lab.compose import compose_config
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.grid import expand

    asked = dict(override.partition("=")[::2] for override in overrides or [])
    for key, value in asked.items():
        if key.split(".")[0] != "stopping":
            raise ConfigError(key, value, "is no stopping rule", "stopping=CHOICE and stopping.KEY=VALUE only")
    manifest = load_manifest(outputs, name)
    runs, own = recorded(manifest), [] if "stopping.metric" in asked else watched(manifest)
    points = expand(None, [*own, *(overrides or [])])
    fixed = set.intersection(*map(set, points)) if len(points) > 1 else set(own)
    simulations = []
    for point in points:
        name_of_rules = " ".join(word for word in point if word not in fixed) or "no rules"
        simulations.append(simulate(runs, compose_config(point).stopping, name_of_rules))
    first = simulations[0]
    if as_json:
        typer.echo(to_json(simulations))
        return
    shown = [rules_table(simulations)] if len(simulations) > 1 else [fates_table(first), *summary(first)]
    for part in (*shown, *notes(first)):
        console().print(part)
