"""The comparison of a sweep, for the terminal."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

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


def comparison_table(name: str, frame: pd.DataFrame) -> Table:
    """The frame of `load_sweep` as a table, best point first, with a line for every point that failed."""
    table = Table(title=f"sweep {name}", title_justify="left")
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
