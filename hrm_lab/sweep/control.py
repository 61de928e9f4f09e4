"""What an operator does with a sweep that is under way: follow a log, cancel, resume, retry, list them all."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from pathlib import Path

from hrm_lab.config import Config
from hrm_lab.errors import RunError
from hrm_lab.launchers import LocalLauncherConfig, SlurmLauncherConfig
from hrm_lab.manifest import Entry, Manifest, load_manifest
from hrm_lab.mirror import sync_or_warn
from hrm_lab.run import close_dead_run
from hrm_lab.run_folder import CANCELLED, ENDED, FAILED, FINISHED, RUNNING, RunFolder
from hrm_lab.sweep import cluster, local, slurm
from hrm_lab.sweep.closing import close_sweep
from hrm_lab.sweep.standing import Standing, look
from hrm_lab.sweep.status import Row, read_note, status, submission_of
from hrm_lab.sweep.submission import Submission, submitting

log = logging.getLogger("hrm_lab")
CANCEL_PATIENCE_S = 45.0  # how long `cancel` waits for running points to save


def cancel(manifest: Manifest, label: str | None) -> int:
    """End what runs and what waits; running points save first. How many there were.

    Raises:
        RunError: for a label that no point has.
    """
    rows = [row for row in status(manifest) if label is None or row.entry is _find(manifest, label)[0]]
    active = [row for row in rows if row.standing.is_active]
    jobs = [row.standing.job for row in active if row.standing.job]
    if len(jobs) < len(active):
        raise RunError("points run on this machine\n  way out: Ctrl-C in the command that runs them")
    submissions = {path: Submission.load(path) for path in filter(None, (submission_of(row.folder) for row in active))}
    if label is None:  # whole arrays: one request each, and the canaries with them
        chunks = [chunk for submission in submissions.values() for chunk in submission.all_chunks()]
        jobs = [chunk.job_id for chunk in chunks if chunk.job_id]
    slurm.cancel(list(dict.fromkeys(jobs)))
    log.info("cancelled %d points; running ones save first", len(active))
    _wait_until_gone([row.standing.job for row in active if row.standing.job])
    for row in active:
        state = row.folder.state
        if state is None or state.status not in ENDED:
            saved = f"saved at step {row.folder.newest_step}" if row.folder.newest_step else "before it had saved"
            close_dead_run(row.folder, CANCELLED, f"cancelled, {saved}")
    if active and label is None:
        close_sweep(manifest, "KILLED")
    return len(active)


def _wait_until_gone(jobs: list[str]) -> None:
    deadline = time.monotonic() + CANCEL_PATIENCE_S
    while time.monotonic() < deadline:
        queue = slurm.queue(job.partition("_")[0] for job in jobs)
        if not any(job in queue for job in jobs):
            return
        time.sleep(0.5)


def resume(manifest: Manifest, dry_run: bool) -> None:
    """Go on: release what is held, and submit what was cancelled, lost, timed out or never submitted; same code."""
    rows = status(manifest)
    for path in dict.fromkeys(filter(None, (submission_of(row.folder) for row in rows))):
        if read_note(path / "held.json") and not dry_run:
            slurm.release(Submission.load(path).job_ids)
            (path / "held.json").unlink()
            log.info("released what was held")
    todo = [row for row in rows if row.entry.in_grid and _stopped_short(row.standing)]
    _again(manifest, todo, dry_run, same_code=True)


def retry(manifest: Manifest, dry_run: bool) -> None:
    """Run failed points again, and those whose canary failed, with the code as it is now."""
    rows = [row for row in status(manifest) if row.entry.in_grid]
    refused = {
        path
        for path in filter(None, (submission_of(row.folder) for row in rows))
        if (canary := read_note(path / "canary.json")) and not canary["ok"]
    }
    stuck = [row for row in rows if row.standing.is_active and submission_of(row.folder) in refused]
    if stuck and not dry_run:  # it can never start: its canary has failed
        slurm.cancel([job for path in refused for job in Submission.load(path).job_ids])
        _wait_until_gone([row.standing.job for row in stuck if row.standing.job])
        log.info("cancelled %d points that waited for a canary that failed", len(stuck))
    todo = [row for row in rows if row.standing.status == FAILED] + stuck
    _again(manifest, todo, dry_run, same_code=False)


def _stopped_short(standing: Standing) -> bool:
    return not standing.is_active and standing.status not in (*FINISHED, FAILED)


def _again(manifest: Manifest, rows: list[Row], dry_run: bool, same_code: bool) -> None:
    for row in rows:
        log.info("  %-40s %s %s", row.entry.label, row.standing.status.lower(), row.standing.detail)
    if not rows:
        log.info("nothing to do")
    if dry_run or not rows:
        return
    configs: dict[str, Config] = {row.entry.signature: row.folder.config() for row in rows}
    for config in configs.values():
        config.paths.outputs = manifest.outputs
    if manifest.launcher == "local":
        settings = LocalLauncherConfig(**manifest.settings)
        local.run_again(manifest, configs, dataclasses.replace(settings, rerun_failed=not same_code))
        return
    code = _code_of(manifest) if same_code else None
    with submitting(manifest.folder):
        cluster.send(manifest, configs, list(configs), SlurmLauncherConfig(**manifest.settings), code)


def _code_of(manifest: Manifest) -> Path | None:
    """The snapshot of the sweep's newest submission."""
    folders = sorted((manifest.folder / "submissions").glob("*/submission.json"))
    code = Submission.load(folders[-1].parent).code if folders else None
    return code if code is not None and code.is_dir() else None


def log_file(manifest: Manifest, label: str | None) -> Path:
    """The log to follow: of the point with this label, else of the first that failed, else of one that runs.

    Raises:
        RunError: when there is none.
    """
    if label is not None:
        entry, folder = _find(manifest, label)
        candidates = [(entry, folder)]
    else:
        order = {FAILED: 0, RUNNING: 1}
        rows = sorted(status(manifest), key=lambda row: order.get(row.standing.status, 2))
        candidates = [(row.entry, row.folder) for row in rows]
    for _, folder in candidates:
        if folder.log.exists():
            return folder.log
        path = submission_of(folder)  # died before it could write a log of its own
        output = Submission.load(path).log_of(folder.point().task) if path else None
        if output is not None and output.exists():
            return output
    raise RunError(f"{manifest.name}: there is no log yet\n  way out: see `hrm-lab status {manifest.name}`")


def sync(manifest: Manifest) -> None:
    """Tell the tracking store all that the run folders hold."""
    for _, folder in manifest.runs():
        if folder.state is not None:
            sync_or_warn(folder)


def sweeps(outputs: Path) -> list[tuple[Manifest, Counter[str]]]:
    """Every sweep in a folder with the number of points in each state, newest first."""
    files = sorted(outputs.resolve().glob("sweeps/*/manifest.json"), key=lambda file: -file.stat().st_mtime)
    found = []
    for file in files:
        manifest = load_manifest(outputs, file.parent.name)
        standings = look([folder for _, folder in manifest.grid()])
        found.append((manifest, Counter(standing.status for standing in standings)))
    return found


def _find(manifest: Manifest, label: str) -> tuple[Entry, RunFolder]:
    """The one point whose label, or a part of it, this is."""
    matches = [pair for pair in manifest.runs() if pair[0].label == label or pair[0].signature == label]
    matches = matches or [pair for pair in manifest.runs() if label in pair[0].label]
    if len(matches) != 1:
        labels = ", ".join(repr(entry.label) for entry, _ in (matches or manifest.runs())[:20])
        problem = "is several points" if matches else "no such point"
        raise RunError(f"point {label!r}: {problem}\n  way out: one of {labels}")
    return matches[0]
