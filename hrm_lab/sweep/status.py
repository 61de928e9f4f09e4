"""The status of a sweep: every point with its true state, how far it has got, and what it has cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.table import Table

from hrm_lab.manifest import Entry, Manifest
from hrm_lab.mirror.folder import sync_or_warn
from hrm_lab.run import end_dead_run
from hrm_lab.run_folder import CANCELLED, COMPLETED, ENDED, FAILED, LOST, RUNNING, TIMEOUT, RunFolder
from hrm_lab.sweep.closing import CLOSED, close_sweep
from hrm_lab.sweep.standing import STARTING, Standing, look
from hrm_lab.sweep.submission import Submission
from hrm_lab.tracking.journal import read_ends

TELLING_S = 5.0  # of one look at a sweep, spent on telling MLflow what was found out
SHOWN_METRICS = ("eval/exact_accuracy", "train/exact_accuracy", "train/lm_loss")  # the first that there is
STYLES = {FAILED: "red", LOST: "red", TIMEOUT: "red", RUNNING: "cyan", COMPLETED: "green", CANCELLED: "yellow"}


@dataclass(frozen=True)
class Progress:
    """How far a run has got, from the two ends of its journal."""

    step: int | None
    total: int | None
    metrics: dict[str, float]  # last value of each key
    seconds_left: float | None


@dataclass(frozen=True)
class Row:
    """One point of a sweep's status."""

    entry: Entry
    folder: RunFolder
    standing: Standing
    progress: Progress

    @property
    def gpu_hours(self) -> float:
        """Of all attempts together, those that were lost included."""
        return sum(attempt.gpu_seconds for attempt in self.standing.attempts) / 3600


def status(manifest: Manifest) -> list[Row]:
    """Every point: where it stands and how far it has got. Runs that died without a word are closed, also in MLflow."""
    runs = manifest.runs()
    standings = look([folder for _, folder in runs])
    _close(list(zip([folder for _, folder in runs], standings, strict=True)))
    on_slurm = manifest.launcher == "slurm" and not (manifest.folder / CLOSED).exists()
    if on_slurm and not any(standing.is_active for standing in standings):
        close_sweep(manifest, "FINISHED" if all(standing.status in ENDED for standing in standings) else "KILLED")
    return [
        Row(entry, folder, standing, _progress(folder, standing))
        for (entry, folder), standing in zip(runs, standings, strict=True)
    ]


def _close(points: Sequence[tuple[RunFolder, Standing]]) -> None:
    """Write down the ends of dead runs, and see that MLflow knows every end.

    A store that is slow or away must not keep anybody from an answer: what it has not got is sent by the next look.
    """
    write_down(points)
    untold = []
    for folder, standing in points:
        state, tracked = folder.state, folder.tracked
        is_told = tracked is None or state is None or tracked.get("state") == asdict(state)
        if not is_told and folder.has_begun and not standing.is_active:
            untold.append(folder)
    deadline = time.monotonic() + TELLING_S
    for folder in untold:
        is_mirrored = folder.attempts.is_alive()
        if time.monotonic() > deadline or not (is_mirrored or sync_or_warn(folder, deadline=deadline) is not None):
            return


def write_down(points: Iterable[tuple[RunFolder, Standing]]) -> None:
    """Write down what was found out where a run itself still says something else."""
    for folder, standing in points:
        state = folder.state
        if standing.is_active or state is None:
            continue
        if standing.status in (LOST, TIMEOUT, CANCELLED, FAILED) and state.status != standing.status:
            end_dead_run(folder, standing.status, standing.detail)


def _progress(folder: RunFolder, standing: Standing) -> Progress:
    first, last = read_ends(folder.journal)
    total = first[0].get("total_steps") if first else None
    begin = max((index for index, entry in enumerate(last) if "begin" in entry), default=-1)
    steps = [(entry["step"], entry["ms"]) for entry in last[begin + 1 :] if "metrics" in entry]
    metrics = {key: value for entry in last for key, value in entry.get("metrics", {}).items()}
    step = steps[-1][0] if steps else (last[begin]["begin"] if begin >= 0 else None)
    left = None
    if standing.status == RUNNING and total and len(steps) > 1 and steps[-1][0] > steps[0][0]:
        pace = (steps[-1][1] - steps[0][1]) / 1000 / (steps[-1][0] - steps[0][0])
        left = pace * (total - steps[-1][0])
    return Progress(step, total, metrics, left)


def held_words(rows: Sequence[Row]) -> list[str]:
    """Why the rest of the sweep does not start, and the way out, once for each submission that is held."""
    words = []
    for path in dict.fromkeys(row.standing.submission for row in rows if row.standing.is_held):
        assert path is not None
        submission = Submission.load(path)
        canary, held = submission.note("canary"), submission.note("held")
        if held:
            words.append(
                f"{submission.held}\n  log: {held['log']}\n"
                "  way out: `hrm-lab resume` lets the rest run; `hrm-lab cancel` ends it"
            )
        else:
            place = canary["log"] if canary else submission.folder / "logs"
            words.append(
                f"nothing was started: {submission.held or 'the canary died without a word'}\n  log: {place}\n"
                "  way out: put it right, then `hrm-lab retry`"
            )
    return words


def status_table(manifest: Manifest, rows: Sequence[Row]) -> Table:
    """The rows as a table, in the order of the grid."""
    table = Table(
        title=f"{manifest.name}: {summary(rows)}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in ("point", "state"):
        table.add_column(heading, overflow="fold")
    for heading in ("step", "last metric", "left", "GPU-h"):
        table.add_column(heading, justify="right")
    for heading in ("node", "job"):
        table.add_column(heading)
    for row in rows:
        name = row.entry.label if row.entry.in_grid else f"{row.entry.label} (no longer in the grid)"
        table.add_row(*(name, row.standing.status), *_figures(row), style=STYLES.get(row.standing.status))
    return table


def _figures(row: Row) -> tuple[str, str, str, str, str, str]:
    progress, standing = row.progress, row.standing
    key = next((key for key in SHOWN_METRICS if key in progress.metrics), None)
    return (
        "-" if progress.step is None else f"{progress.step}/{progress.total}",
        "-" if key is None else f"{key} {progress.metrics[key]:.3g}",
        "-" if progress.seconds_left is None else duration(progress.seconds_left),
        f"{row.gpu_hours:.3f}",
        standing.node,
        standing.job or "",
    )


def summary(rows: Sequence[Row]) -> str:
    """How many points are in each state, and what they have cost together."""
    counts = Counter(row.standing.status for row in rows)
    words = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    return f"{words}; {sum(row.gpu_hours for row in rows):.2f} GPU-hours"


def notes(rows: Sequence[Row]) -> list[str]:
    """What a table has no room for: why points are where they are, and where the log is; and why nothing starts."""
    told = [row for row in rows if row.standing.detail and row.standing.detail != STARTING]
    by_words: dict[tuple[str, str], list[Row]] = {}
    for row in told:
        by_words.setdefault((row.standing.status, row.standing.detail), []).append(row)
    lines = []
    for (status, detail), same in by_words.items():
        names = same[0].entry.label + (f" and {len(same) - 1} more" if len(same) > 1 else "")
        log = f"\n  log: {same[0].folder.log}" if status in (FAILED, LOST) and same[0].folder.log.exists() else ""
        lines.append(f"{names}: {status}: {detail}{log}")
    return lines + held_words(rows)


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{rest:02d}s"
