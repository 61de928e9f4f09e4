"""Verbs about what came out: compare, report, diff."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrm_lab.cli.app import Outputs, Sweep, app, console
from hrm_lab.logs import log_to_console

if TYPE_CHECKING:
    from hrm_lab.analysis.comparison import Comparison
    from hrm_lab.analysis.frames import Results


Metric = Annotated[
    str | None, typer.Option(help="what is best: eval/accuracy, lm_loss, ...; by default stopping.metric")
]


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="SWEEP", help="one, or several together")],
    by: Annotated[
        str | None,
        typer.Option(metavar="KEY,...", help="groups of equal KEYs; by default all that differ but the seed"),
    ] = None,
    metric: Metric = None,
    each: Annotated[bool, typer.Option("--runs", help="every run, seeds not put together")] = False,
    form: Annotated[str | None, typer.Option("--format", help="csv (all figures), markdown or latex")] = None,
    out: Annotated[Path | None, typer.Option(help="a file to write; .csv, .md and .tex name the format")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Compare the runs of sweeps, best first, seeds as mean and standard error, and draw their learning curves."""
    from hrm_lab.analysis.comparison import compare
    from hrm_lab.analysis.export import FORMS, form_of
    from hrm_lab.analysis.frames import read_results

    chosen, keys = form_of(form, out), by.split(",") if by is not None else None
    results = read_results(*names, outputs=outputs, metric=metric)
    comparison = compare(results.frame, keys, each)
    if chosen is None:
        _show(results, comparison, outputs)
    elif out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(FORMS[chosen](comparison))
        typer.echo(str(out))
    else:
        typer.echo(FORMS[chosen](comparison), nl=False)


def show_comparison(name: str, outputs: Path) -> None:
    """Print the table, draw the picture, and say how to open the UI."""
    from hrm_lab.analysis.comparison import compare
    from hrm_lab.analysis.frames import read_results

    results = read_results(name, outputs=outputs).settled()
    _show(results, compare(results.frame), outputs)


def _show(results: Results, comparison: Comparison, outputs: Path) -> None:
    from hrm_lab.analysis.comparison import comparison_table, draw, notes, stopped_note, title

    shown = console()
    shown.print(title(results), style="bold")
    shown.print(comparison_table(comparison))
    for note in notes(results.frame):
        shown.print(note, style="red")
    if stopped := stopped_note(results):
        shown.print(stopped)
    picture = draw(results)
    if picture is not None:
        typer.echo(f"learning curves: {picture}")
    place = "" if outputs == Path("outputs") else f" OUTPUTS={shlex.quote(str(outputs))}"
    typer.echo(f"open the MLflow UI with: make ui{place}")


Run = Annotated[str, typer.Argument(metavar="RUN", help="a signature or its beginning, a folder, an MLflow id, a name")]


@app.command()
def report(
    name: Sweep,
    out: Annotated[
        Path | None, typer.Option(help="where the page goes; by default OUTPUTS/sweeps/NAME/report.html")
    ] = None,
    metric: Metric = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write a sweep's report: one HTML page that needs nothing else. Its run in MLflow gets page and pictures too."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.closing import report_sweep

    log_to_console()
    typer.echo(f"report: {report_sweep(load_manifest(outputs, name), out, metric)}")


@app.command()
def diff(
    one: Run,
    other: Run,
    as_json: Annotated[bool, typer.Option("--json", help="for a machine")] = False,
    tracking_uri: Annotated[str | None, typer.Option(help="the store of runs that have no folder here")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Show what differs between two runs: config, code, data, environment and outcome."""
    from hrm_lab.analysis.diff import diff, shown
    from hrm_lab.analysis.one_run import find_run

    found = diff(find_run(one, outputs, tracking_uri), find_run(other, outputs, tracking_uri))
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        console().print(shown(found))
