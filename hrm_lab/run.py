"""One resolved config -> one trained run: where the trainer, the journal and the run's folder meet.

Safe to call again on the same folder: it goes on from the newest checkpoint. MLflow is told by a process of its own
(mirror/), which reads what is written here.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hrm_lab.attempts import CrashLoop, Job, Ownership
from hrm_lab.config import Config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.errors import ConfigError, PeerLost, one_line
from hrm_lab.files import write_json
from hrm_lab.logs import log_to_file
from hrm_lab.mirror.folder import sync_or_warn
from hrm_lab.mirror.process import mirrored
from hrm_lab.redaction import redact
from hrm_lab.run_folder import (
    COMPLETED,
    ENDED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    RunFolder,
    State,
)
from hrm_lab.tracking.journal import Journal, JournalRecorder
from hrm_lab.training.protocols import Leave, Left, Unrecorded, Viewer
from hrm_lab.validation import validate

if TYPE_CHECKING:
    from hrm_lab.stopping.comparison import Siblings
    from hrm_lab.training.distributed import Ranks

log = logging.getLogger("hrm_lab")
PEER_ERROR = "peer_error.json"  # what another process than the main one failed of


def is_main_process() -> bool:
    """Whether this process logs and writes (torch.distributed's rank 0, or the only one)."""
    return int(os.environ.get("RANK", 0)) == 0


class Watch:
    """A trainer's Control: a signal asks to save and leave at the next step, a newer attempt to leave at once.

    SIGUSR2 is how SLURM announces a time limit or a preemption, SIGTERM how it begins to end a job.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.asked = ""  # by which signal
        self.ownership: Ownership | None = None  # of the main process

    def wish(self) -> Leave:
        """Also says that the attempt is alive."""
        if self.ownership is not None:
            if self.ownership.is_lost():
                return Leave.AT_ONCE
            self.ownership.heartbeat()
        return Leave.AFTER_SAVING if self.asked else Leave.NO

    def check(self) -> None:
        """Refuse to write for a replaced attempt."""
        if self.ownership is not None:
            self.ownership.check()

    @contextmanager
    def listening(self) -> Iterator[Watch]:
        """Take the signals; a second Ctrl-C ends the process at once."""

        def ask(number: int, _: object) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = signal.Signals(number).name

        before = {number: signal.signal(number, ask) for number in self.SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(
    config: Config,
    folder: RunFolder,
    shown: Viewer,
    watch: Watch,
    job: Job | None = None,
    is_over: Callable[[Job], bool] = lambda _: False,
) -> State:
    """Train a config in its folder to its end.

    Every process of a distributed run calls this; only the main one owns the folder, logs and writes.

    Args:
        shown: what a person gets to see of it.
        watch: listening.
        job: what started this process; by default a person.
        is_over: whether SLURM says that another job is over.

    Raises:
        Busy: when another process is at it; Left when it was asked to leave; and whatever the training raised,
            after writing it down.
    """
    validate(config)
    if not is_main_process():
        return _assist(config, folder, watch)
    with ExitStack() as stack:
        ownership = stack.enter_context(_owned(folder, job or Job(), is_over))
        done = folder.state
        if done is not None and done.status in FINISHED and int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return done  # by another process, while this one was on its way (several would wait for each other)
        watch.ownership = ownership
        stack.callback(setattr, watch, "ownership", None)
        stack.enter_context(log_to_file(folder.log))
        # Started first: it loads MLflow while this process loads torch. Ended last: it tells MLflow how it ended.
        siblings = stack.enter_context(mirrored(folder, ownership.attempt.number, lambda: bool(watch.asked)))
        with _written_down(folder, ownership):
            folder.write_provenance()
            ranks = _connect(config)
            (folder.path / PEER_ERROR).unlink(missing_ok=True)
            folder.state = State(RUNNING)
            return _train(config, folder, shown, watch, ranks, siblings)


def _train(
    config: Config, folder: RunFolder, shown: Viewer, watch: Watch, ranks: Ranks, siblings: Siblings | None
) -> State:
    # Torch takes seconds to import, so a config that is refused must not wait for it.
    from hrm_lab.stopping.rules import Rules
    from hrm_lab.training.trainer import Trainer

    dataset = ensure_dataset(config.data, config.paths.data)
    ranks.wait()  # the others wait for the data
    folder.write_dataset(dataset)
    journal = Journal(folder.journal)
    recorder = JournalRecorder(journal, shown, folder.path)
    rules = Rules(config.stopping, siblings, folder.promotion)
    trainer = Trainer(config, dataset, folder.path, recorder, rules, ranks, watch)
    try:
        outcome = trainer.fit()
    finally:
        journal.close()
        ranks.close()
    log.info("done after step %d: %s", outcome.step, outcome.stopped or "the last epoch is trained")
    watch.check()
    status = STOPPED if outcome.stopped else COMPLETED
    folder.state = state = State(status, outcome.stopped or "", outcome.best_value, outcome.best_step)
    return state


def _assist(config: Config, folder: RunFolder, watch: Watch) -> State:
    """What the other processes do: the same training, and nothing that can be seen of it, unless they fail."""
    ranks = _connect(config)
    try:
        from hrm_lab.stopping.rules import Rules
        from hrm_lab.training.trainer import Trainer

        ranks.wait()  # the main process builds the data
        dataset = ensure_dataset(config.data, config.paths.data)
        Trainer(config, dataset, folder.path, Unrecorded(), Rules(config.stopping), ranks, watch).fit()
    except (Left, PeerLost):
        raise
    except Exception as error:
        write_json(folder.path / PEER_ERROR, {"rank": ranks.rank, "error": one_line(error)})
        raise
    finally:
        ranks.close()
    return State(COMPLETED)


def _connect(config: Config) -> Ranks:
    from hrm_lab.training.distributed import connect

    return connect(config.training)


@contextmanager
def _owned(folder: RunFolder, job: Job, is_over: Callable[[Job], bool]) -> Iterator[Ownership]:
    try:
        with folder.attempts.own(job, folder.newest_step, is_over) as ownership:
            yield ownership
    except CrashLoop as error:
        log.error("%s", error)
        close_dead_run(folder, FAILED, str(error).splitlines()[0])
        raise


@contextmanager
def _written_down(folder: RunFolder, ownership: Ownership) -> Iterator[None]:
    """Every end of a training is written down before it goes on its way; a replaced attempt writes nothing."""
    try:
        yield
        ownership.end("finished")
    except Left as left:
        ownership.check()
        if left.saved:
            log.info("asked to leave: saved after step %d", left.step)
            folder.state = State(INTERRUPTED, f"saved after step {left.step}; goes on from there when it is run again")
        ownership.end("saved and left")
        raise
    except KeyboardInterrupt:
        folder.state = State(INTERRUPTED, "interrupted; goes on from its last checkpoint when it is run again")
        ownership.end("was interrupted")
        raise
    except BaseException as error:
        ownership.check()
        if isinstance(error, ConfigError) and not ownership.attempt.job.id:
            raise  # a person who is told that a device is not there has no run that failed
        log.error("failed: %s", error)
        with folder.log.open("a") as file:  # the whole story is for whoever opens the log
            file.write(redact(traceback.format_exc()))
        state = _failure(folder, error)
        if state is not None:
            folder.state = state
        ownership.end(f"failed: {one_line(error)}")
        raise


def _failure(folder: RunFolder, error: BaseException) -> State | None:
    """A failure is this run's own, or that of another process; one whose process died is no failure."""
    if not isinstance(error, PeerLost):
        return State(FAILED, one_line(error))
    try:
        peer = json.loads((folder.path / PEER_ERROR).read_text())
    except (OSError, ValueError):
        return None
    return State(FAILED, f"{peer['error']} (on process {peer['rank']})")


def close_dead_run(folder: RunFolder, status: str, detail: str) -> State:
    """Write down the end of a run whose process died without doing so itself, and tell MLflow."""
    state = end_dead_run(folder, status, detail)
    began = (folder.path / "provenance.json").exists()
    if status == FAILED and not began:
        folder.write_provenance()
    if began or status == FAILED:  # one that was cancelled before it began is no run
        sync_or_warn(folder)
    return state


def end_dead_run(folder: RunFolder, status: str, detail: str) -> State:
    """Write down the end of a run whose process died without doing so itself, so that it does not run for ever."""
    now = folder.state
    if now is not None and now.status in ENDED:  # it has ended by its own word since it was looked at
        return now
    folder.state = state = State(status, detail)
    return state
