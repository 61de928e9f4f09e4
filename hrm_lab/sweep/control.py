"""What an operator does with a sweep that is under way: follow a log, cancel, resume, retry, list them all."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from hrm_lab.analysis.decisions import cut_by
from hrm_lab.best import order
from hrm_lab.config import Config, TrackingConfig
from hrm_lab.decision import Promotion
from hrm_lab.errors import RunError
from hrm_lab.launchers import LocalLauncherConfig, SlurmLauncherConfig
from hrm_lab.manifest import Entry, Manifest, load_manifest
from hrm_lab.mirror.folder import sync_or_warn
from hrm_lab.run import close_dead_run
from hrm_lab.run_folder import CANCELLED, ENDED, FAILED, PENDING, RUNNING, RunFolder, State
from hrm_lab.sweep import cluster, local, slurm
from hrm_lab.sweep.closing import CLOSED, close_sweep
from hrm_lab.sweep.plan import decide
from hrm_lab.sweep.standing import look, place
from hrm_lab.sweep.status import Row, status, write_down
from hrm_lab.sweep.submission import Submission, submitting
from hrm_lab.tracking.store import refuse_silent_server

log = logging.getLogger("hrm_lab")
CANCEL_PATIENCE_S = 45.0  # how long `cancel` waits for running points to save


def cancel(manifest: Manifest, label: str | None) -> int:
    """End what runs and what waits; running points save first. How many there were.

    Raises:
        RunError: for a label that no point has, and for points that run on this machine.
    """
    rows = [row for row in status(manifest) if label is None or row.entry is _find(manifest, label)[0]]
    active = [row for row in rows if row.standing.is_active]
    jobs = [row.standing.job for row in active if row.standing.job]
    if len(jobs) < len(active):
        raise RunError("points run on this machine\n  way out: Ctrl-C in the command that runs them")
    _refuse_other_points(manifest, active)
    canaries = _canaries(manifest, active) if label is None else []
    slurm.cancel([*dict.fromkeys(jobs), *canaries])
    log.info("cancelled %d points; running ones save first", len(active))
    _wait_until_gone(jobs)
    for row in active:
        saved = f"saved at step {row.folder.newest_step}" if row.folder.newest_step else "before it had saved"
        close_dead_run(row.folder, CANCELLED, f"cancelled, {saved}")
    if active and label is None:
        close_sweep(manifest, "KILLED")
    return len(active)


def _refuse_other_points(manifest: Manifest, rows: list[Row]) -> None:
    """A task may train several points: those that nobody has named must not end with it."""
    named = {row.entry.signature for row in rows}
    submissions = {
        path: Submission.load(path) for path in {row.standing.submission for row in rows} if path is not None
    }
    for row in rows:
        if row.standing.submission is None:
            continue
        task = submissions[row.standing.submission].runs(row.folder.point().task)
        others = [folder for folder in task if folder.path.name not in named and folder.status not in ENDED]
        if others:
            raise RunError(
                f"{row.entry.label}: its job also trains {', '.join(folder.point().label for folder in others)}\n"
                f"  way out: `hrm-lab cancel {manifest.name}` ends the whole sweep, or wait"
            )


def _canaries(manifest: Manifest, rows: list[Row]) -> list[str]:
    """Canaries of this sweep's submissions that these points still wait for."""
    submissions = (Submission.load(path) for path in _own_submissions(manifest, rows))
    canaries = [each.canary for each in submissions if each.canary is not None and not each.note("canary")]
    return [canary.job_id for canary in canaries if canary.job_id]


def _own_submissions(manifest: Manifest, rows: list[Row]) -> list[Path]:
    """Folders of this sweep's submissions, and of no other's, that these points are part of."""
    paths = dict.fromkeys(row.standing.submission for row in rows)
    return [path for path in paths if path is not None and manifest.folder in path.parents]


def _wait_until_gone(jobs: list[str]) -> None:
    deadline = time.monotonic() + CANCEL_PATIENCE_S
    while time.monotonic() < deadline:
        queue = slurm.queue(job.partition("_")[0] for job in jobs)
        if not any(job in queue for job in jobs):
            return
        time.sleep(0.5)


def resume(manifest: Manifest, dry_run: bool, promote: int = 0) -> None:
    """Go on: release what is held, and submit what was cancelled, lost, timed out or never submitted; same code.

    Args:
        promote: how many of the points that a comparison with their siblings has stopped go on too, best first.
    """
    with _planning(manifest):
        rows = status(manifest)
        promotions = _promotions(rows, promote) if promote else {}
        for path in _own_submissions(manifest, [row for row in rows if row.standing.is_held]):
            submission = Submission.load(path)
            if submission.note("held") is not None and not dry_run:
                shutil.rmtree(submission.failures, ignore_errors=True)
                submission.drop_note("held")
                slurm.release(submission.job_ids)
                log.info("released what was held")
        todo = [row for row in rows if decide(row.standing, row.entry.in_grid, rerun_failed=False).submits]
        todo += [_as_promoted(row, promotions[row.folder]) for row in rows if row.folder in promotions]
        codes = {path: _code_of(path) for path in {row.standing.submission for row in todo}}
        by_code: dict[Path | None, list[Row]] = {}
        for row in todo:
            by_code.setdefault(codes[row.standing.submission], []).append(row)
        _tell(todo)
        for code, same in by_code.items():
            if not dry_run:
                with _promoted({row.folder: promotions[row.folder] for row in same if row.folder in promotions}):
                    _send_again(manifest, same, code, rerun_failed=False)


def _promotions(rows: list[Row], count: int) -> dict[RunFolder, Promotion]:
    """Which of those that a comparison has stopped are to go on, the best first, and why."""
    cut = [(row, decision) for row in rows if row.entry.in_grid and (decision := cut_by(row.folder)) is not None]
    cut.sort(key=lambda pair: order(pair[0].folder.config().stopping.mode, pair[1].evidence["value"]))
    if len(cut) < count:
        log.info("to be promoted: %d; stopped by a comparison with their siblings: %d", count, len(cut))
    chosen: dict[RunFolder, Promotion] = {}
    for rank, (row, decision) in enumerate(cut, start=1):
        if len(chosen) == count:
            break
        if _is_busy(row, rows):
            log.info("%s: its job is not over yet; it can be promoted then", row.entry.label)
            continue
        metric, value = decision.evidence["metric"], decision.evidence["value"]
        why = f"{metric} = {value:.4g} is number {rank} of {len(cut)} stopped points"
        chosen[row.folder] = Promotion(decision.step, f"promoted at step {decision.step}: {why}")
    return chosen


def _is_busy(row: Row, rows: list[Row]) -> bool:
    """Whether the job that trained it still sends values or trains other points: it would start what is promoted."""
    task = place(row.folder)
    together = [row] if task is None else [other for other in rows if place(other.folder) == task]
    return any(other.standing.is_active or other.folder.attempts.is_alive() for other in together)


def _as_promoted(row: Row, promotion: Promotion) -> Row:
    return replace(row, standing=replace(row.standing, status=PENDING, detail=promotion.reason))


@contextmanager
def _promoted(promotions: Mapping[RunFolder, Promotion]) -> Iterator[None]:
    """Have them go on; what was refused before it was on its way stays stopped."""
    stopped = {folder: folder.state for folder in promotions}
    for folder, promotion in promotions.items():
        folder.promote(promotion)
    try:
        yield
    except BaseException:
        for folder, promotion in promotions.items():
            before = stopped[folder]
            if before is not None and folder.state == State(PENDING, promotion.reason):
                folder.take_back(before)
        raise


def retry(manifest: Manifest, dry_run: bool) -> None:
    """Run failed points again, and those whose canary failed, with the code as it is now."""
    with _planning(manifest):
        rows = [row for row in status(manifest) if row.entry.in_grid]
        held = [row for row in rows if row.standing.is_held]
        # What can never start, because its canary has failed or died; what fail-fast holds can, after `resume`.
        dead = [path for path in _own_submissions(manifest, held) if Submission.load(path).note("held") is None]
        stuck = [row for row in held if row.standing.submission in dead]
        todo = [row for row in rows if row.standing.status == FAILED] + stuck
        _tell(todo)
        if dry_run or not todo:
            return
        if stuck:
            jobs = [row.standing.job for row in stuck if row.standing.job]
            slurm.cancel(list(dict.fromkeys(jobs)))
            _wait_until_gone(jobs)
            log.info("cancelled %d points that waited for a canary that failed", len(stuck))
        _send_again(manifest, todo, None, rerun_failed=True)


def _planning(manifest: Manifest) -> AbstractContextManager[None]:
    """Nobody else submits between the look and the submission; a local sweep's runs keep others out themselves."""
    return submitting(Path(manifest.outputs)) if manifest.launcher == "slurm" else nullcontext()


def _tell(rows: list[Row]) -> None:
    for row in rows:
        log.info("  %-40s %s", row.entry.label, row.standing.detail or row.standing.status.lower())
    if not rows:
        log.info("nothing to do")


def _send_again(manifest: Manifest, rows: list[Row], code: Path | None, rerun_failed: bool) -> None:
    configs: dict[str, Config] = {row.entry.signature: row.folder.config() for row in rows}
    for config in configs.values():
        config.paths.outputs = manifest.outputs
    if manifest.launcher == "local":
        settings = LocalLauncherConfig(**manifest.settings)
        local.run_again(manifest, configs, replace(settings, rerun_failed=rerun_failed))
        return
    cluster.send(manifest, configs, list(configs), SlurmLauncherConfig(**manifest.settings), code)


def _code_of(submission: Path | None) -> Path | None:
    """The snapshot that a submission's points were submitted with; None for those that never were.

    Raises:
        RunError: when it is gone, because other code must not go on with a run unnoticed.
    """
    if submission is None or not (submission / "submission.json").exists():
        return None
    code = Submission.load(submission).code
    if not code.is_dir():
        raise RunError(
            f"{code}: the code that {submission} was submitted with is gone\n"
            "  way out: submit the sweep again with `hrm-lab sweep`, which takes the code as it is now"
        )
    return code


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
        at = place(folder)  # of one that died before it could write a log of its own
        output = Submission.load(at[0]).log_of(at[1]) if at else None
        if output is not None and output.exists():
            return output
    raise RunError(f"{manifest.name}: there is no log yet\n  way out: see `hrm-lab status {manifest.name}`")


def sync(
    word: str, outputs: Path, uri: str | None, advance: Callable[[int, int], None]
) -> tuple[Counter[str], Counter[str]]:
    """Tell the tracking store all that run folders hold. It may be done at any time, and as often as one likes.

    Args:
        word: a sweep, or one run, by its folder or its signature.
        uri: a store to send them to, wherever they are logged, and if nowhere; None = the one that they are logged to.
        advance: called with how many runs of how many have been told.

    Returns:
        What the store took, and the runs that it was not told of: `failed`, and those whose tracking is `off`.

    Raises:
        UserError: when the server at `uri` does not answer.
    """
    manifest, folders = _named(word, outputs)
    if uri is not None:
        refuse_silent_server(TrackingConfig(uri=uri))
    try:
        write_down(zip(folders, look(folders), strict=True))
    except slurm.SlurmError as error:
        log.warning("%s\nSLURM does not answer; these are the runs' own words", error)
    begun = [folder for folder in folders if folder.has_begun]
    took, untold = Counter[str](runs=len(begun)), Counter[str]()
    for number, folder in enumerate(begun, 1):
        tracking = folder.config().tracking
        if uri is not None:
            tracking = replace(tracking, enabled=True, uri=uri)
        sent = sync_or_warn(folder, tracking)
        took += sent or Counter()
        untold += Counter(off=not tracking.enabled, failed=sent is None)
        advance(number, len(begun))
    if manifest is not None and not untold and all(folder.status in ENDED for _, folder in manifest.grid()):
        if uri is not None:
            close_sweep(replace(manifest, tracking=replace(manifest.tracking, enabled=True, uri=uri)), "FINISHED")
        elif not (manifest.folder / CLOSED).exists():
            close_sweep(manifest, "FINISHED")
    return took, untold


def _named(word: str, outputs: Path) -> tuple[Manifest | None, list[RunFolder]]:
    for path in (Path(word), outputs / "runs" / word):
        if (path / "config.json").exists():
            return None, [RunFolder(path.resolve())]
    manifest = load_manifest(outputs, word)
    return manifest, [folder for _, folder in manifest.runs()]


def sweeps(outputs: Path) -> list[tuple[Manifest, Counter[str]]]:
    """Every sweep in a folder with the number of points in each state, newest first."""
    files = sorted(outputs.resolve().glob("sweeps/*/manifest.json"), key=lambda file: -file.stat().st_mtime)
    manifests = [load_manifest(outputs, file.parent.name) for file in files]
    folders = [folder for manifest in manifests for _, folder in manifest.grid()]
    try:
        words = iter([standing.status for standing in look(folders)])
    except slurm.SlurmError as error:
        log.warning("%s\nSLURM does not answer; these are the points' own words", error)
        words = iter([folder.status or PENDING for folder in folders])
    return [(manifest, Counter(next(words) for _ in manifest.grid())) for manifest in manifests]


def _find(manifest: Manifest, label: str) -> tuple[Entry, RunFolder]:
    """The one point whose label, or a part of it, this is."""
    matches = [pair for pair in manifest.runs() if pair[0].label == label or pair[0].signature == label]
    matches = matches or [pair for pair in manifest.runs() if label in pair[0].label]
    if len(matches) != 1:
        labels = ", ".join(repr(entry.label) for entry, _ in (matches or manifest.runs())[:20])
        problem = "is several points" if matches else "no such point"
        raise RunError(f"point {label!r}: {problem}\n  way out: one of {labels}")
    return matches[0]
