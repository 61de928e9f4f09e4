"""Live progress of a sweep's points, read from their journals: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hrm_lab.manifest import Manifest
from hrm_lab.run_folder import RUNNING, RunFolder
from hrm_lab.sweep.status import held_words, notes, status, status_table, summary
from hrm_lab.tracking.journal import JournalReader

log = logging.getLogger("hrm_lab")
PLAIN_PAUSE = 10.0  # seconds between plain lines
SLURM_PAUSE = 3.0  # seconds between two looks at SLURM


class _Watched:
    """One point: its journal so far, in three numbers and a word."""

    def __init__(self, label: str, folder: RunFolder) -> None:
        self.label, self.folder = label, folder
        self._reader = JournalReader(folder.journal)
        self.step, self.total, self.exact = 0, 0, float("nan")

    def look(self) -> None:
        """Read what is new in the journal."""
        for entry in self._reader.new_entries():
            self.total = entry.get("total_steps", self.total)
            self.step = entry.get("begin", entry.get("step", self.step))
            self.exact = entry.get("metrics", {}).get("eval/exact_accuracy", self.exact)

    @property
    def word(self) -> str:
        """Waiting, starting, running, or how it ended."""
        state = self.folder.state
        if state is None:
            return "waiting"
        if state.status == RUNNING and not self.total:
            return "starting"
        return state.status.lower()


class _Bars:
    def __init__(self, points: Sequence[_Watched]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("exact {task.fields[exact]}  {task.fields[word]}"),
        )
        self._rows: list[tuple[_Watched, TaskID]] = []
        for point in points:
            self._rows.append(
                (point, self._progress.add_task(point.label, total=None, start=False, exact="-", word=""))
            )

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.look()
        self._progress.stop()

    def look(self) -> None:
        """Redraw."""
        for point, row in self._rows:
            point.look()
            if point.total:
                self._progress.start_task(row)
            exact = "-" if point.exact != point.exact else f"{point.exact:.1%}"
            self._progress.update(row, completed=point.step, total=point.total or None, exact=exact, word=point.word)


class _Lines:
    def __init__(self, points: Sequence[_Watched]) -> None:
        self._points = points
        self._last = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def look(self) -> None:
        """Say where the running points are, every few seconds."""
        if time.monotonic() - self._last < PLAIN_PAUSE:
            return
        self._last = time.monotonic()
        parts = []
        for point in self._points:
            point.look()
            if point.word == "running":
                exact = "" if point.exact != point.exact else f" exact {point.exact:.1%}"
                parts.append(f"{point.label}: step {point.step}/{point.total}{exact}")
        if parts:
            log.info("%s", " | ".join(parts))


def watch(manifest: Manifest) -> None:
    """Show a sweep that SLURM runs until no point of it is on its way any more, or what is left is held.

    Raises:
        KeyboardInterrupt: after saying that the jobs go on.
    """
    console = Console(stderr=True)
    try:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            said = ""
            while True:
                rows = status(manifest)
                if live is not None:
                    live.update(Group(status_table(manifest, rows), *notes(rows)), refresh=True)
                elif (now := summary(rows)) != said:
                    log.info("%s: %s", manifest.name, now)
                    said = now
                if not any(row.standing.is_active and not row.standing.is_held for row in rows):
                    break
                time.sleep(SLURM_PAUSE)
        for words in held_words(rows):
            console.print(words, highlight=False, markup=False)
    except KeyboardInterrupt:
        name = manifest.name
        console.print(
            f"the jobs go on without this terminal; `hrm-lab watch {name}` comes back to them, "
            f"`hrm-lab cancel {name}` ends them"
        )
        raise


@contextmanager
def watcher(points: Sequence[tuple[str, RunFolder]]) -> Iterator[_Bars | _Lines]:
    """Something with a `look()` that shows the points' progress."""
    watched = [_Watched(label, folder) for label, folder in points]
    with _Bars(watched) if sys.stderr.isatty() else _Lines(watched) as shown:
        yield shown
