"""Verbs about what came out: compare."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from hrm_lab.cli.app import Outputs, Sweep, app


@app.command()
def compare(name: Sweep, outputs: Outputs = Path("outputs")) -> None:
    """Compare the points of a sweep, best first, and draw their learning curves."""
    show_comparison(name, outputs)


def show_comparison(name: str, outputs: Path) -> None:
    """Print the table, draw the picture, and say how to open the UI."""
    from rich.console import Console

    from hrm_lab.analysis.comparison import comparison_table, draw_sweep, notes
    from hrm_lab.analysis.frames import load_sweep
    from hrm_lab.manifest import load_manifest

    manifest = load_manifest(outputs, name)
    frame = load_sweep(manifest)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(comparison_table(manifest, frame))
    for note in notes(frame):
        console.print(note, style="red", highlight=False, markup=False)
    picture = draw_sweep(manifest)
    typer.echo(f"learning curves: {picture}")
    place = "" if outputs == Path("outputs") else f" OUTPUTS={shlex.quote(str(outputs))}"
    typer.echo(f"open the MLflow UI with: make ui{place}")
