"""A comparison as a file for somewhere else: CSV with all the figures, Markdown or LaTeX with those that are shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from hrm_lab.analysis.comparison import NOTHING, Column, Comparison
from hrm_lab.errors import UserError


def csv(comparison: Comparison) -> str:
    """Every column of the frame, unrounded; empty where there is no value."""
    return comparison.data.to_csv(index=False)


def markdown(comparison: Comparison) -> str:
    """Pipes, aligned for whoever reads the text itself."""
    table = Table(box=box.MARKDOWN)
    for column in comparison.columns:
        table.add_column(_line(column).replace("|", r"\|"), justify="right" if column.is_number else "left")
    for row in zip(*(column.cells for column in comparison.columns), strict=True):
        table.add_row(*(cell.replace("|", r"\|") for cell in row))
    text = StringIO()
    Console(file=text, width=10_000, color_system=None, highlight=False, markup=False, emoji=False).print(table)
    return "".join(f"{line.strip()}\n" for line in text.getvalue().splitlines() if line.strip())


def latex(comparison: Comparison) -> str:
    """A tabular for booktabs: `$89.8 \\pm 1.2$`."""
    frame = pd.DataFrame(
        {_line(column): [_math(column, cell) for cell in column.cells] for column in comparison.columns}
    )
    shown = frame.style.hide(axis="index").format_index(escape="latex", axis="columns")
    words = pd.Index([_line(column) for column in comparison.columns if not column.is_number])
    shown = shown.format(escape="latex", subset=words)
    layout = "".join("r" if column.is_number else "l" for column in comparison.columns)
    return "% \\usepackage{booktabs}\n" + shown.to_latex(hrules=True, column_format=layout)


FORMS: dict[str, Callable[[Comparison], str]] = {"csv": csv, "markdown": markdown, "latex": latex}
SUFFIXES = {".csv": "csv", ".md": "markdown", ".tex": "latex"}


def form_of(form: str | None, out: Path | None) -> str | None:
    """The form that is asked for by name, else by a file's suffix; None for the terminal.

    Raises:
        UserError: when there is no such form.
    """
    if form is not None and form not in FORMS:
        raise UserError(f"--format {form}: no such form\n  way out: take {', '.join(FORMS)}")
    if form is None and out is not None and out.suffix not in SUFFIXES:
        raise UserError(
            f"--out {out}: its suffix names no form\n  way out: {', '.join(SUFFIXES)}, or --format {'|'.join(FORMS)}"
        )
    return form or (SUFFIXES[out.suffix] if out is not None else None)


def _line(column: Column) -> str:
    return column.heading.replace("\n", " ")


def _math(column: Column, cell: str) -> str:
    if not column.is_number:
        return cell
    if cell == NOTHING:
        return "--"
    number, is_partly, total = cell.partition(" of ")
    number = re.sub(r"e([+-]\d+)", lambda power: rf" \times 10^{{{int(power[1])}}}", number)
    return f"${number.replace('±', chr(92) + 'pm')}$" + is_partly + (f"${total}$" if is_partly else "")
