"""Where each point of a sweep truly stands: its own word, SLURM's queue and SLURM's memory, joined.

SLURM says COMPLETED for a training that raised, and NODE_FAIL for the second before it starts a job again; a run that
was killed says RUNNING for ever. None of them is believed alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrm_lab.attempts import Attempt
from hrm_lab.errors import RunError
from hrm_lab.run_folder import (
    CANCELLED,
    ENDED,
    FAILED,
    LOST,
    PENDING,
    PREEMPTED,
    RUNNING,
    TIMEOUT,
    RunFolder,
    State,
)
from hrm_lab.sweep import slurm
from hrm_lab.sweep.slurm import Ended, Queued
from hrm_lab.sweep.submission import Submission

log = logging.getLogger("hrm_lab")
STARTING = "starting, or waits for its turn in the job"
WAITING_FOR = {  # SLURM's reasons, in words
    "Dependency": "waits for the canary",
    "JobHeldUser": "held",
    "JobHeldAdmin": "held by an administrator",
    "JobArrayTaskLimit": "waits for its turn (array_parallelism)",
}
GRACE_S = 60.0  # how long SLURM may take to put a task back that its node has lost
LOST_NODE = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REQUEUED")


@dataclass(frozen=True)
class Standing:
    """One point: its status, why, and where.

    `is_active`: a process trains it, or SLURM will start one. `is_held`: SLURM has it and will not start it by itself.
    `submission`: the folder of the one that it is part of.
    """

    status: str
    detail: str = ""
    job: str | None = None
    node: str = ""
    is_active: bool = False
    is_held: bool = False
    attempts: tuple[Attempt, ...] = ()
    submission: Path | None = None


def look(folders: Sequence[RunFolder]) -> list[Standing]:
    """Where these runs stand, with one squeue and at most one sacct."""
    places = [place(folder) for folder in folders]
    submissions = _load({at[0] for at in places if at})
    jobs = [submissions[at[0]].job_of(at[1]) if at and at[0] in submissions else None for at in places]
    open_arrays = {
        job.partition("_")[0] for job, folder in zip(jobs, folders, strict=True) if job and folder.status not in ENDED
    }
    queue = slurm.queue(open_arrays)
    gone = {job.partition("_")[0] for job in jobs if job is not None and job not in queue}
    ended = slurm.ended(gone & open_arrays)
    held = {path: submission.held for path, submission in submissions.items()}
    standings = []
    for folder, at, job in zip(folders, places, jobs, strict=True):
        # Read after SLURM was asked: a run that ended in between has said so by now.
        attempts, state = tuple(folder.attempts.all()), folder.state
        if at is None:
            standings.append(_local(folder, attempts))
        elif job is None and not (state and state.status in ENDED):
            words = "not submitted yet; `hrm-lab resume` submits it"
            standings.append(Standing(PENDING, words, attempts=attempts, submission=at[0]))
        else:
            name = job or ""
            standing = join(state, job, queue.get(name), ended.get(name), attempts, held.get(at[0], ""), time.time())
            standings.append(replace(standing, submission=at[0]))
    return standings


def _load(folders: set[Path]) -> dict[Path, Submission]:
    """The submissions that can be read; points of another one count as never submitted."""
    found = {}
    for folder in folders:
        try:
            found[folder] = Submission.load(folder)
        except RunError as error:
            log.warning("%s", error)
            continue
        if any(chunk.job_id is None for chunk in found[folder].chunks):
            found[folder].find_jobs()
    return found


def join(
    state: State | None,
    job: str | None,
    queued: Queued | None,
    ended: Ended | None,
    attempts: tuple[Attempt, ...],
    held: str,
    now: float,
) -> Standing:
    """One point from its own word (`state`), SLURM's queue and SLURM's memory. A pure function.

    Args:
        held: why tasks of this submission that have not started are kept from it; empty where they are not.
        now: seconds since 1970.
    """
    if state is not None and state.status in ENDED:
        return Standing(state.status, state.detail, job, _node(attempts), attempts=attempts)
    mine = [attempt for attempt in attempts if attempt.job.id == job]
    if queued is not None and not queued.is_waiting:
        if mine and state is not None and state.status == RUNNING:
            return Standing(RUNNING, "", job, queued.node, is_active=True, attempts=attempts)
        return Standing(RUNNING, STARTING, job, queued.node, is_active=True, attempts=attempts)
    if queued is not None:
        words = "the canary died without a word" if queued.reason == "DependencyNeverSatisfied" else held
        why, is_held = words or WAITING_FOR.get(queued.reason, queued.reason), bool(words)
        if mine:
            why = f"{mine[-1].ended or 'its process was killed'}; waits to go on ({why})"
        status = PREEMPTED if mine else PENDING
        return Standing(status, why, job, is_active=True, is_held=is_held, attempts=attempts)
    said = state.detail if state is not None else ""
    if state is not None and state.status == CANCELLED:
        return Standing(CANCELLED, said, job, attempts=attempts)
    if ended is not None:
        return _from_memory(ended, said, job, attempts, now)
    return Standing(LOST, said or "SLURM knows nothing of its job any more", job, attempts=attempts)


def _from_memory(ended: Ended, said: str, job: str | None, attempts: tuple[Attempt, ...], now: float) -> Standing:
    def standing(status: str, detail: str, is_active: bool = False) -> Standing:
        return Standing(status, detail, job, ended.node, is_active, attempts=attempts)

    if ended.state in LOST_NODE and ended.seconds_ago < GRACE_S:
        return standing(PREEMPTED, f"SLURM says {ended.state} and may be about to start it again", is_active=True)
    if ended.state == "CANCELLED":
        return standing(CANCELLED, said or "its job was cancelled")
    if ended.state in ("TIMEOUT", "DEADLINE"):
        return standing(TIMEOUT, said or "its job reached the time limit before it could save")
    if ended.state == "OUT_OF_MEMORY":
        return standing(FAILED, "its job took more memory than hydra.launcher.mem_gb allows")
    if ended.state in ("PENDING", "RUNNING") and attempts and now - attempts[-1].seen < GRACE_S:
        return standing(RUNNING, "SLURM is ending its job", is_active=True)  # accounting lags behind
    return standing(LOST, said or f"its job ended without a word (SLURM says {ended.state})")


def _local(folder: RunFolder, attempts: tuple[Attempt, ...]) -> Standing:
    """A run without SLURM: what its files tell."""
    state = folder.true_state()
    is_active = state.status == RUNNING
    return Standing(state.status, state.detail, None, _node(attempts), is_active=is_active, attempts=attempts)


def place(folder: RunFolder) -> tuple[Path, int] | None:
    """The submission that runs it, and the task of it."""
    if not (folder.path / "point.json").exists():
        return None
    point = folder.point()
    return (Path(point.submission), point.task) if point.submission else None


def _node(attempts: Iterable[Attempt]) -> str:
    return next((attempt.host for attempt in reversed(list(attempts))), "")
