"""The comparison of a sweep's points: a table for the terminal and a picture of their learning curves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table

from hrm_lab.analysis.figures import draw_learning_curves
from hrm_lab.analysis.frames import sweep_curves, swept_columns
from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import FAILED

# Headings break where the line ends, so that the table fits a terminal of 80 columns.
COLUMNS = {
    "best_exact": ("best\nexact", "{:.1%}"),
    "best_step": ("at\nstep", "{:.0f}"),
    "exact_accuracy": ("last\nexact", "{:.1%}"),
    "accuracy": ("cells\nright", "{:.1%}"),
    "act_steps": ("ACT\nsteps", "{:.2f}"),
    "lm_loss": ("lm\nloss", "{:.3f}"),
    "samples_per_s": ("samples\nper s", "{:.0f}"),
    "wall_s": ("wall\ntime", "{:.0f} s"),
}


def draw_sweep(manifest: Manifest) -> Path:
    """Draw the learning curves of every point, in the order of the grid, and return the picture's path."""
    picture = manifest.folder / "learning_curves.png"
    return draw_learning_curves(sweep_curves(manifest), picture, manifest.question or manifest.name)


def comparison_table(manifest: Manifest, frame: pd.DataFrame) -> Table:
    """The frame of `load_sweep` as a table, best point first."""
    table = Table(
        title=f"{manifest.name}: {manifest.question}".rstrip(": "),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    swept = swept_columns(frame)
    for heading in [*(key.rpartition(".")[2] for key in swept or ["point"]), *(name for name, _ in COLUMNS.values())]:
        table.add_column(heading, justify="right")
    table.add_column("state")
    for _, row in frame.iterrows():
        values = [str(row[key]) for key in swept or ["point"]]
        values += ["-" if pd.isna(row[key]) else form.format(row[key]) for key, (_, form) in COLUMNS.items()]
        table.add_row(*values, row["state"].lower(), style="red" if row["state"] == FAILED else None)
    return table


def notes(frame: pd.DataFrame) -> list[str]:
    """What a table cell has no room for: why points failed or stopped early, and where their logs lie."""
    said = frame[frame["detail"] != ""]
    return [
        f"{row['point']}: {row['state'].lower()}: {row['detail']}\n  log: {row['folder']}/log.txt"
        for _, row in said.iterrows()
    ]
