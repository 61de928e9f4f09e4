"""What a SLURM job of a submission does.

Its batch script starts `train` through srun, once for each process, and then `after`, which looks at how that ended and
puts exactly this task back into the queue if a point of it is not done. `canary` trains two steps of the first point.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess

from hrm_lab.attempts import Busy, Job, Superseded
from hrm_lab.data.build import ensure_dataset
from hrm_lab.errors import PeerLost, one_line
from hrm_lab.manifest import load_manifest
from hrm_lab.progress import PlainProgress
from hrm_lab.redaction import redact
from hrm_lab.run import Watch, close_dead_run, is_main_process, run
from hrm_lab.run_folder import ENDED, FAILED, RunFolder
from hrm_lab.sweep import slurm
from hrm_lab.sweep.closing import close_sweep
from hrm_lab.sweep.submission import Submission
from hrm_lab.sweep.worker import join_processes
from hrm_lab.tracking.store import refuse_silent_server
from hrm_lab.training.protocols import Left, Unrecorded

log = logging.getLogger("hrm_lab")
DONE, SOME_FAILED, UNFINISHED = 0, 1, 3  # exit status of a task
MAIN_PROCESS_S = 20.0  # for the main process to see that another one has failed, and to say why
CANARY_STEPS = 2


def train(submission: Submission, task: int) -> int:
    """Train the points of a task, one after the other or side by side; its exit status.

    Only the main process of a run judges how it went: the others are done before it is, and srun ends a step as soon as
    one of its processes fails.
    """
    join_processes()
    failure: Exception | None = None
    with Watch().listening() as watch:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, Watch.SIGNALS)
        points = _unfinished(submission, task)
        if submission.launcher.points_at_once > 1:
            _train_side_by_side(submission, points, watch)
        else:
            for number, folder in enumerate(points):
                if not watch.asked:
                    _next_port(number)
                    failure = _train_point(submission, folder, watch)
    if not is_main_process():
        if failure is None:
            return DONE
        time.sleep(MAIN_PROCESS_S)  # the main one writes down why, unless it waits for this process for ever
        return SOME_FAILED
    unfinished = _unfinished(submission, task)
    if _was_replaced(unfinished):
        return DONE  # with anything else srun would end the step of this name, which is the new one's by now
    if unfinished:
        return UNFINISHED
    _close_sweep_if_ended(submission)
    return SOME_FAILED if any(folder.status == FAILED for folder in submission.runs(task)) else DONE


def _unfinished(submission: Submission, task: int) -> list[RunFolder]:
    """The task's points that it is still to train: not ended, and not given to another submission since."""
    mine = [folder for folder in submission.runs(task) if folder.point().submission == str(submission.folder)]
    return [folder for folder in mine if folder.status not in ENDED]


def _was_replaced(points: list[RunFolder]) -> bool:
    """Whether this life of the task has begun to train one of the points, and a newer attempt has taken it over."""
    return any(_my_life() in lives and lives[-1] != _my_life() for lives in map(_lives, points))


def _lives(folder: RunFolder) -> list[tuple[str, int]]:
    """Task and restart of each attempt of a run, oldest first."""
    return [(attempt.job.id, attempt.job.restart) for attempt in folder.attempts.all()]


def _my_life() -> tuple[str, int]:
    return task_name(), _restart()


def _close_sweep_if_ended(submission: Submission) -> None:
    """Nobody waits for the sweep: whichever task ends last closes its run in MLflow."""
    manifest = load_manifest(submission.outputs, submission.sweep)
    if all(folder.status in ENDED for _, folder in manifest.grid()):
        close_sweep(manifest, "FINISHED")


def _train_point(submission: Submission, folder: RunFolder, watch: Watch) -> Exception | None:
    """Train one point; what it failed of. However it ends, it is written down; other points go on."""
    launcher = submission.launcher
    gpus = launcher.nodes * launcher.gpus_per_node / launcher.points_at_once
    job = Job(task_name(), _restart(), gpus, launcher.max_restarts)
    try:
        run(folder.config(), folder, PlainProgress(), watch, job, _is_over)
    except Left:
        pass
    except (Superseded, Busy, PeerLost) as error:
        log.warning("%s", error)
    except Exception as error:
        print(redact(traceback.format_exc()), file=sys.stderr)
        if is_main_process() and folder.status in ENDED:
            _count_failure(submission, folder, error)
        return error
    return None


def _train_side_by_side(submission: Submission, points: list[RunFolder], watch: Watch) -> None:
    """Several small points at once on the same GPU, each in a process of its own that was forked with torch loaded."""
    import hrm_lab.training.trainer  # noqa: F401

    fork = multiprocessing.get_context("fork")
    waiting, running = list(points), list[ForkProcess]()
    while running or (waiting and not watch.asked):
        while waiting and len(running) < submission.launcher.points_at_once and not watch.asked:
            child = fork.Process(target=_child, args=(submission, waiting.pop(0)))
            child.start()
            running.append(child)
        wait([child.sentinel for child in running], timeout=1.0)
        for child in running:
            if watch.asked and child.pid is not None:
                os.kill(child.pid, signal.SIGUSR2)  # SLURM may have told only the parent
        running = [child for child in running if child.is_alive()]


def _child(submission: Submission, folder: RunFolder) -> None:
    with Watch().listening() as watch:
        _train_point(submission, folder, watch)


def _count_failure(submission: Submission, folder: RunFolder, error: Exception) -> None:
    """Hold what has not started when several points have failed in the same place: it is no point's own failure."""
    limit = submission.launcher.fail_fast
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    kind = hashlib.sha256(repr((type(error).__name__, frames)).encode()).hexdigest()[:12]
    same = submission.failures / kind
    same.mkdir(parents=True, exist_ok=True)
    (same / folder.path.name).touch()
    count = sum(1 for _ in same.iterdir())
    if limit is None or count < limit or submission.note("held") is not None:
        return
    log.error("%d points have failed with the same error; the rest is held", count)
    submission.write_note("held", {"error": one_line(error), "points": count, "log": str(folder.log)})
    try:
        slurm.hold(Submission.load(submission.folder).job_ids)
    except slurm.SlurmError as refused:
        submission.drop_note("held")  # the next failure tries again
        log.warning("%s", refused)


def after(submission: Submission, task: int, code: int) -> None:
    """Look at how the task's processes ended; put the task back into the queue if a point of it is not done."""
    # One that another process trains, here or elsewhere, is not this task's any more.
    points = [folder for folder in _unfinished(submission, task) if not folder.attempts.is_alive()]
    if not points or _was_replaced(points) or not _is_still_mine():
        return
    launcher, restart = submission.launcher, _restart()
    began = any(_my_life() in _lives(folder) for folder in points)
    if not began and restart >= launcher.max_restarts:  # a loop that no attempt could count
        for folder in points:
            detail = f"its job ended {restart + 1} times before the training began, last with exit status {code}"
            close_dead_run(folder, FAILED, f"{detail}; its output is {submission.log_of(task)}")
        _close_sweep_if_ended(submission)
    elif launcher.requeue:
        log.info("not done (exit status %d): back into the queue", code)
        slurm.requeue(task_name())


def _is_still_mine() -> bool:
    """Whether SLURM still runs this very life of the task: it has not ended it, nor started it anew somewhere else."""
    queued = slurm.queue([task_name().partition("_")[0]]).get(task_name())
    return queued is not None and queued.state == "RUNNING" and slurm.restarts(task_name()) == _restart()


def canary(submission: Submission) -> int:
    """Train two steps of the first point where nothing of it counts: what would fail everywhere fails here, once."""
    from hrm_lab.stopping.rules import Rules
    from hrm_lab.training.distributed import connect
    from hrm_lab.training.trainer import Trainer

    join_processes()
    folder = submission.folder / "canary"
    folder.mkdir(exist_ok=True)
    try:
        config = submission.runs(0)[0].config()
        config.training.eval_first = False
        refuse_silent_server(config.tracking)
        ranks = connect(config.training)
        dataset = ensure_dataset(config.data, config.paths.data)
        with Watch().listening() as watch:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, Watch.SIGNALS)
            trainer = Trainer(config, dataset, folder, Unrecorded(), Rules(config.stopping), ranks, watch)
            trainer.fit(last_step=CANARY_STEPS)
        ranks.close()
    except Left:
        return UNFINISHED
    except Exception as error:
        print(redact(traceback.format_exc()), file=sys.stderr)
        _report_canary(submission, one_line(error))
        return SOME_FAILED
    if is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        _report_canary(submission, "")
    return DONE


def after_canary(submission: Submission, code: int) -> None:
    """A canary that was told to leave is tried again; one that died without a word has failed."""
    if submission.note("canary") is not None:
        return
    if code == UNFINISHED:
        slurm.requeue(os.environ["SLURM_JOB_ID"])
    else:
        _report_canary(submission, f"it died without a word, exit status {code}")


def _report_canary(submission: Submission, error: str) -> None:
    output = submission.folder / "logs" / f"{os.environ['SLURM_JOB_ID']}_0_log.out"
    submission.write_note("canary", {"ok": not error, "detail": error, "log": str(output)})


def task_name() -> str:
    """This task as squeue writes it."""
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def _restart() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _is_over(job: Job) -> bool:
    """Whether SLURM has done with another job, whatever its processes still do."""
    try:
        return job.id not in slurm.queue([job.id.partition("_")[0]])
    except slurm.SlurmError:
        return False


def _next_port(number: int) -> None:
    """Every run of a task makes its own process group, on a port of its own."""
    if number and "MASTER_PORT" in os.environ:
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
