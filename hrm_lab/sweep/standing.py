"""Where each point of a sweep truly stands: its own word, SLURM's queue and SLURM's memory, joined.

SLURM says COMPLETED for a training that raised, and NODE_FAIL for the second before it starts a job again; a run that
was killed says RUNNING for ever. None of them is believed alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrm_lab.attempts import Attempt
from hrm_lab.run_folder import (
    CANCELLED,
    ENDED,
    FAILED,
    INTERRUPTED,
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

GRACE_S = 60.0  # how long SLURM may take to put a task back that its node has lost
LOST_NODE = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REQUEUED")


@dataclass(frozen=True)
class Standing:
    """One point: its status, why, and where. `is_active`: a process trains it, or SLURM will start one."""

    status: str
    detail: str = ""
    job: str | None = None
    node: str = ""
    is_active: bool = False
    attempts: tuple[Attempt, ...] = ()


def look(folders: Sequence[RunFolder]) -> list[Standing]:
    """Where these runs stand, with one squeue and at most one sacct."""
    places = [_place(folder) for folder in folders]
    submissions = {path: Submission.load(path) for path, _ in filter(None, places)}
    for submission in submissions.values():
        if any(chunk.job_id is None for chunk in submission.chunks):
            submission.find_jobs()
    jobs = [submissions[place[0]].job_of(place[1]) if place else None for place in places]
    states = [folder.state for folder in folders]
    open_jobs = {
        job.partition("_")[0]
        for job, state in zip(jobs, states, strict=True)
        if job is not None and (state is None or state.status not in ENDED)
    }
    canaries = [submission.canary.job_id for submission in submissions.values() if submission.canary]
    queue = slurm.queue([*open_jobs, *filter(None, canaries)]) if open_jobs else {}
    gone = {job.partition("_")[0] for job in jobs if job is not None and job not in queue}
    ended = slurm.ended(gone & open_jobs)
    held = {path: _held(submission) for path, submission in submissions.items()}
    standings = []
    for folder, place, job, state in zip(folders, places, jobs, states, strict=True):
        attempts = tuple(folder.attempts.all())
        if place is None:
            standings.append(_local(folder, state, attempts))
        elif job is None and not (state and state.status in ENDED):
            standings.append(Standing(PENDING, "not submitted yet; `hrm-lab resume` submits it", attempts=attempts))
        else:
            reason = held[place[0]]
            standings.append(join(state, job, queue.get(job or ""), ended.get(job or ""), attempts, reason))
    return standings


def join(
    state: State | None,
    job: str | None,
    queued: Queued | None,
    ended: Ended | None,
    attempts: tuple[Attempt, ...],
    held: str,
) -> Standing:
    """One point from its own word (`state`), SLURM's queue and SLURM's memory. A pure function.

    Args:
        held: why tasks of this submission that have not started are kept from it; empty where they are not.
    """
    if state is not None and state.status in ENDED:
        return Standing(state.status, state.detail, job, _node(attempts), False, attempts)
    mine = [attempt for attempt in attempts if attempt.job.id == job]
    said = state.detail if state is not None else ""
    if queued is not None and not queued.is_waiting:
        started = state is not None and state.status == RUNNING
        return Standing(RUNNING, "" if started else "starting", job, queued.node, True, attempts)
    if queued is not None:
        why = held or _why_waiting(queued)
        if mine:
            ended_how = mine[-1].ended or "its process was killed"
            return Standing(PREEMPTED, f"{ended_how}; waits to go on ({why})", job, "", True, attempts)
        return Standing(PENDING, why, job, "", True, attempts)
    if state is not None and state.status == CANCELLED:
        return Standing(CANCELLED, said, job, "", False, attempts)
    if ended is not None:
        return _from_memory(ended, said, job, attempts)
    return Standing(LOST, said or "SLURM knows nothing of its job any more", job, "", False, attempts)


def _from_memory(ended: Ended, said: str, job: str | None, attempts: tuple[Attempt, ...]) -> Standing:
    def standing(status: str, detail: str, is_active: bool = False) -> Standing:
        return Standing(status, detail, job, ended.node, is_active, attempts)

    if ended.state in LOST_NODE and ended.seconds_ago < GRACE_S:
        return standing(PREEMPTED, f"SLURM says {ended.state} and may be about to start it again", is_active=True)
    if ended.state == "CANCELLED":
        return standing(CANCELLED, said or "its job was cancelled")
    if ended.state in ("TIMEOUT", "DEADLINE"):
        return standing(TIMEOUT, said or "its job reached the time limit before it could save")
    if ended.state == "OUT_OF_MEMORY":
        return standing(FAILED, "its job took more memory than hydra.launcher.mem_gb allows")
    if ended.state in ("PENDING", "RUNNING"):  # accounting lags behind
        return standing(RUNNING, "SLURM is ending its job", is_active=True)
    return standing(LOST, said or f"its job ended without a word (SLURM says {ended.state})")


def _local(folder: RunFolder, state: State | None, attempts: tuple[Attempt, ...]) -> Standing:
    """A run without SLURM: what it says, unless it says that it runs and nobody does."""
    alive = folder.attempts.is_alive()
    if state is None:
        return Standing(RUNNING if alive else PENDING, "", is_active=alive)
    if alive and state.status not in ENDED:
        return Standing(RUNNING, "", None, _node(attempts), True, attempts)
    if state.status == RUNNING:
        return Standing(LOST, "its process is gone; `hrm-lab resume` goes on", None, "", False, attempts)
    status = PREEMPTED if state.status == INTERRUPTED else state.status
    return Standing(status, state.detail, None, _node(attempts), False, attempts)


def _place(folder: RunFolder) -> tuple[Path, int] | None:
    """The submission that runs it, and the task of it."""
    if not (folder.path / "point.json").exists():
        return None
    point = folder.point()
    return (Path(point.submission), point.task) if point.submission else None


def _held(submission: Submission) -> str:
    """Why what has not started of a submission does not start, as it has been written down by its jobs."""
    for name, why in (("canary.json", "the canary failed"), ("held.json", "held: points failed with the same error")):
        file = submission.folder / name
        told = json.loads(file.read_text()) if file.exists() else {"ok": True}
        if not told.get("ok", False):
            return f"{why}: {told.get('detail') or told.get('error')}"
    return ""


def _why_waiting(queued: Queued) -> str:
    words = {
        "Dependency": "waits for the canary",
        "DependencyNeverSatisfied": "the canary died without a word",
        "JobHeldUser": "held",
        "JobHeldAdmin": "held by an administrator",
        "JobArrayTaskLimit": "waits for its turn (array_parallelism)",
    }
    return words.get(queued.reason, queued.reason)


def _node(attempts: Iterable[Attempt]) -> str:
    return next((attempt.host for attempt in reversed(list(attempts))), "")
