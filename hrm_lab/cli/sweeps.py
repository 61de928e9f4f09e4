"""Verbs about a sweep: run it, see where it stands, end it, go on with it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hrm_lab.cli.app import Outputs, Overrides, Sweep, app, bars, console
from hrm_lab.cli.results import show_comparison
from hrm_lab.errors import ConfigError, PointFailed, RunError
from hrm_lab.logs import log_to_console


@app.command()
def sweep(
    experiment: Annotated[str, typer.Argument(help="a file of experiments/, without .yaml")],
    overrides: Overrides = None,
    on: Annotated[
        str, typer.Option(help="where: local, local_gpu, slurm, or another file of conf/hydra/launcher")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="on SLURM: stay, show progress, and compare at the end")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and do nothing")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run points that failed before again")] = False,
    no_canary: Annotated[bool, typer.Option("--no-canary", help="on SLURM: do not try point 0 first")] = False,
) -> None:
    """Run an experiment's grid: a Hydra multirun that skips the points that are done. SLURM goes on alone."""
    from hrm_lab.compose import CONF, sweep_place

    known = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    if experiment not in known:
        raise ConfigError("experiment", experiment, "no such file in experiments/", f"one of {', '.join(known)}")
    asked = [f"+experiment={experiment}", *(overrides or [])]
    asked += [f"hydra/launcher={on}"] if on else []
    asked += [
        f"hydra.launcher.{key}=true"
        for key, wanted in {
            "wait": wait,
            "dry_run": dry_run,
            "rerun_failed": retry_failed,
        }.items()
        if wanted
    ]
    asked += ["hydra.launcher.canary=false"] if no_canary else []
    outputs, name, launcher = sweep_place(asked)
    from hrm_lab import hydra_app

    log_to_console()
    try:
        hydra_app.multirun(asked)
    except PointFailed:
        show_comparison(name, outputs)
        raise
    if launcher.get("dry_run"):
        return
    if launcher.get("wait", True):
        show_comparison(name, outputs)
    else:
        place = "" if outputs == Path("outputs") else f" --outputs {shlex.quote(str(outputs))}"
        typer.echo(f"status: hrm-lab status {name}{place}    live: hrm-lab watch {name}{place}")


Point = Annotated[str | None, typer.Argument(help="a point's label, a part of it that no other has, or its signature")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the plan and do nothing")]


@app.command()
def status(name: Sweep, outputs: Outputs = Path("outputs")) -> None:
    """Show where every point of a sweep stands, how far it has got, what it has cost, and why it failed."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.status import notes, status, status_table

    manifest = load_manifest(outputs, name)
    rows = status(manifest)
    out = console()
    out.print(status_table(manifest, rows))
    for note in notes(rows):
        out.print(note)


@app.command()
def watch(name: Sweep, outputs: Outputs = Path("outputs")) -> None:
    """Show a sweep live until its last point has ended. Ctrl-C leaves the jobs running."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.watch import watch

    log_to_console()
    watch(load_manifest(outputs, name))
    show_comparison(name, outputs)


@app.command()
def logs(name: Sweep, point: Point = None, outputs: Outputs = Path("outputs")) -> None:
    """Follow the log of a point: the one that is named, else the first that failed, else one that runs."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import log_file

    path = log_file(load_manifest(outputs, name), point)
    typer.echo(f"{path}:", err=True)
    sys.stdout.flush()
    follow = ["-F"] if sys.stdout.isatty() else []
    os.execvp("tail", ["tail", "-n", "+1", *follow, str(path)])


@app.command()
def cancel(name: Sweep, point: Point = None, outputs: Outputs = Path("outputs")) -> None:
    """End a sweep's jobs, or one point's; running ones save first, and `resume` goes on."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import cancel

    log_to_console()
    ended = cancel(load_manifest(outputs, name), point)
    typer.echo(f"{ended} points cancelled; `hrm-lab resume {name}` goes on" if ended else "nothing is on its way")


@app.command()
def resume(
    name: Sweep,
    promote: Annotated[
        int, typer.Option(min=0, help="have as many of the points go on that a comparison has stopped, best first")
    ] = 0,
    dry_run: DryRun = False,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Go on with what was cancelled, lost, timed out, held or never submitted, with the code it was submitted with."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import resume

    log_to_console()
    resume(load_manifest(outputs, name), dry_run, promote)


@app.command()
def retry(name: Sweep, dry_run: DryRun = False, outputs: Outputs = Path("outputs")) -> None:
    """Run failed points again, with the code as it is now."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import retry

    log_to_console()
    retry(load_manifest(outputs, name), dry_run)


@app.command()
def sync(
    name: Annotated[str, typer.Argument(metavar="SWEEP|RUN", help="a sweep, or a run by its folder or signature")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="another store than the one they are logged to; also for tracking=none"),
    ] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Send to the tracking store what it has missed of a sweep's runs, or of one run; again sends nothing twice."""
    from hrm_lab.sweep.control import sync

    log_to_console()
    with bars() as bar:
        took, untold = sync(name, outputs, tracking_uri, bar("runs"))
    typer.echo(f"runs: {took['runs']}; sent: {took['values']:,} values, {took['files']} files")
    if untold["failed"]:
        problem = f"the tracking store could not be told of {untold['failed']} of {took['runs']} runs"
        raise RunError(f"{name}: {problem}\n  way out: the reasons stand above; put them right, and say it again")
    if untold["off"]:
        problem = f"tracking is off for {untold['off']} of {took['runs']} runs"
        raise RunError(f"{name}: {problem}\n  way out: --tracking-uri URI sends them")


@app.command()
def sweeps(outputs: Outputs = Path("outputs")) -> None:
    """List all sweeps with the states of their points, newest first."""
    from rich.table import Table

    from hrm_lab.sweep.control import sweeps

    table = Table("sweep", "on", "points", "states", "question", box=None)
    for manifest, states in sweeps(outputs):
        words = ", ".join(f"{number} {status}" for status, number in states.most_common())
        table.add_row(manifest.name, manifest.launcher, str(len(manifest.grid())), words, manifest.question)
    console().print(table if table.row_count else f"no sweeps in {outputs} yet")
