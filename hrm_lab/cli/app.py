"""The application that the verbs are registered with, and the arguments that several of them take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrm_lab.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, sweep, compare and reproduce Hierarchical Reasoning Models.",
    epilog="OVERRIDES are Hydra's: KEY=VALUE, GROUP=CHOICE, +experiment=NAME. HYDRA_FULL_ERROR=1 shows tracebacks.",
)
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]...", help="Hydra overrides")]
Outputs = Annotated[Path, typer.Option(help="the folder that paths.outputs named")]
Sweep = Annotated[str, typer.Argument(help="the sweep")]


def console() -> Console:
    """Standard output, wide where it is no terminal. What is printed is text: a question may have [brackets]."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False, emoji=False)


def say_error(text: str) -> None:
    """One error, what is wrong and the way out, on standard error."""
    typer.secho(redact(f"error: {text}"), fg="red", err=True)


@contextmanager
def bars(shown: bool = True) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Makes bars, each of which appears when it is first called with (done, total); nothing where no terminal is.

    Args:
        shown: one of several processes shows them.
    """
    from rich.console import Console
    from rich.progress import Progress

    # Standard error, because standard output may be for a machine.
    with Progress(
        console=Console(stderr=True), transient=True, disable=not (shown and sys.stderr.isatty())
    ) as progress:

        def bar(words: str) -> Callable[[int, int], None]:
            row = progress.add_task(words, total=None, visible=False)
            return lambda done, total: progress.update(row, completed=done, total=total, visible=True)

        yield bar
