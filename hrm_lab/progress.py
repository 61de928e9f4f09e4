"""What a person sees of a training: a bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hrm_lab.config import FINAL, FINAL_BEST
from hrm_lab.training.protocols import Viewer

log = logging.getLogger(__name__)
SHOWN = ("train/lm_loss", "train/exact_accuracy", "train/steps", "eval/exact_accuracy", "eval/accuracy")
SHOWN_AT_LAST = (f"{FINAL}exact_accuracy", f"{FINAL_BEST}exact_accuracy")
PLAIN_PAUSE = 10.0  # seconds between plain lines, apart from evaluations


@contextmanager
def console_progress() -> Iterator[Viewer]:
    """A bar where standard error is a terminal, else log lines."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    bar = BarProgress()
    try:
        yield bar
    finally:
        bar.stop()  # a terminal must get its cursor back, however the training ends


@contextmanager
def building(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for building a dataset, which calls with (done, total); nothing where there is no terminal."""
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        row = bar.add_task(f"building {name}", total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)


class PlainProgress:
    """A line for every evaluation, and one every few seconds in between."""

    def __init__(self) -> None:
        self.total = 0
        self._last = 0.0

    def start(self, step: int, total_steps: int) -> None:
        """Say from where to where."""
        self.total = total_steps
        log.info("training from step %d to %d", step, total_steps)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the values that matter."""
        now = time.monotonic()
        if any(key.startswith(("eval/", FINAL, FINAL_BEST)) for key in values) or now - self._last > PLAIN_PAUSE:
            self._last = now
            log.info("step %d/%d  %s", step, self.total, summary(values))

    def tick(self, step: int) -> None:
        """Nothing for a single step."""


class BarProgress:
    """A bar with the last values beside it."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
        )
        self._task = self._bar.add_task("training", total=None, values="")
        self._latest: dict[str, float] = {}

    def start(self, step: int, total_steps: int) -> None:
        """Draw it."""
        self._bar.start()
        self._bar.update(self._task, completed=step, total=total_steps)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Put the values beside the bar."""
        self._latest |= values
        self._bar.update(self._task, values=summary(self._latest))

    def tick(self, step: int) -> None:
        """Move on."""
        self._bar.update(self._task, completed=step)

    def stop(self) -> None:
        """Leave the bar as it is and the terminal as it was."""
        self._bar.stop()


def summary(values: Mapping[str, float]) -> str:
    """The values that matter, short."""
    return "  ".join(
        f"{key.replace('_accuracy', '')} {values[key]:.3g}" for key in (*SHOWN, *SHOWN_AT_LAST) if key in values
    )
