"""The comparison of a sweep's points: a table for the terminal and a picture of their learning curves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.table import Table

from hrm_lab.analysis.figures import draw_learning_curves
from hrm_lab.analysis.frames import sweep_curves
from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import FAILED

COLUMNS = {
    "best_exact": ("best exact", "{:.1%}"),
    "best_step": ("at step", "{:.0f}"),
    "exact_accuracy": ("last exact", "{:.1%}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "act_steps": ("ACT steps", "{:.2f}"),
    "lm_loss": ("lm loss", "{:.3f}"),
    "samples_per_s": ("samples/s", "{:.0f}"),
    "wall_s": ("wall time", "{:.0f} s"),
    "state": ("state", "{}"),
}


def draw_sweep(manifest: Manifest) -> Path:
    """Draw the learning curves of every point, in the order of the grid, and return the picture's path."""
    picture = manifest.folder / "learning_curves.png"
    return draw_learning_curves(sweep_curves(manifest), picture, manifest.question or manifest.name)


def comparison_table(manifest: Manifest, frame: pd.DataFrame) -> Table:
    """The frame of `load_sweep` as a table, best point first."""
    table = Table(title=f"{manifest.name}: {manifest.question}".rstrip(": "), title_justify="left")
    table.add_column("point", no_wrap=True)
    for heading, _ in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for _, row in frame.iterrows():
        cells = ["-" if pd.isna(row[key]) else form.format(row[key]) for key, (_, form) in COLUMNS.items()]
        table.add_row(row["point"], *cells, style="red" if row["state"] == FAILED else None)
    return table


def notes(frame: pd.DataFrame) -> list[str]:
    """What a table cell has no room for: why points failed or stopped early, and where their logs lie."""
    said = frame[frame["detail"] != ""]
    return [
        f"{row['point']}: {row['state'].lower()}: {row['detail']}\n  log: {row['folder']}/log.txt"
        for _, row in said.iterrows()
    ]
