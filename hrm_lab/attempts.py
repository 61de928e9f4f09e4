"""Who trains a run: one numbered file for each attempt (one process life), and the newest attempt owns the folder.

An attempt is made by creating the next number's file, so two processes can never both believe that they are newest.
SLURM may start a run elsewhere while the old process still writes (its slurmd died, its node was cut off): the new
attempt takes the folder over, and the old one finds a higher number at its next step and leaves without a trace.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from hrm_lab.errors import RunError
from hrm_lab.files import write_json

HEARTBEAT_S = 5.0


class Superseded(RunError):
    """A newer attempt owns the run; nothing may be written any more."""


class Busy(RunError):
    """Another process trains this run, and in its right."""


class CrashLoop(RunError):
    """A run that starts again and again and gets nowhere."""


@dataclass(frozen=True)
class Job:
    """What starts an attempt. The defaults are those of a process that was started by hand."""

    id: str = ""  # of the SLURM array task, as squeue writes it: 12_3
    restart: int = 0  # how often SLURM has put it back into the queue
    gpus: float = 0.0  # of the run; a fraction where several runs share one
    max_restarts: int | None = None  # attempts that may start from the same step before it is called a crash loop


@dataclass
class Attempt:
    """One process life of a run. Times are seconds since 1970; `step` is where it began."""

    number: int
    host: str
    pid: int
    began: float
    seen: float
    step: int
    job: Job = field(default_factory=Job)
    ended: str = ""  # how, in a word; empty while it runs and for one that died

    @property
    def gpu_seconds(self) -> float:
        """What it has cost."""
        return (self.seen - self.began) * self.job.gpus


class Attempts:
    """The attempts of one run folder, in FOLDER/attempts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "attempts"

    def all(self) -> list[Attempt]:
        """Oldest first."""
        found = []
        for path in sorted(self.folder.glob("[0-9]*.json")):
            try:
                values = json.loads(path.read_text())
            except ValueError:  # its process was killed while it made the file
                continue
            found.append(Attempt(**(values | {"job": Job(**values["job"])})))
        return found

    def is_alive(self) -> bool:
        """Whether the newest attempt's process lives. The kernel drops its lock when it dies."""
        newest = self._newest_number()
        return bool(newest) and self._is_locked(newest)

    @contextmanager
    def own(self, job: Job, step: int, is_over: Callable[[Job], bool]) -> Iterator[Ownership]:
        """Make a new attempt and own the run with it.

        Args:
            step: of the newest checkpoint, from which the attempt goes on.
            is_over: whether SLURM says that another job is over, though its process may still write.

        Raises:
            Busy: when another attempt is alive and in its right.
            CrashLoop: when restarts have got nowhere often enough.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".making", timeout=30):
            earlier = self.all()
            if self.is_alive() and not _may_replace(job, earlier, is_over):
                raise Busy(
                    f"{self.folder.parent}: another process is training this run\n  way out: wait for it, or stop it"
                )
            _refuse_crash_loop(job, step, earlier)
            now = time.time()
            attempt = Attempt(self._newest_number() + 1, platform.node(), os.getpid(), now, now, step, job)
            # Locked before it can be seen, so that nobody takes a young attempt for a dead one.
            lock = FileLock(self._lock(attempt.number), timeout=0)
            lock.acquire()
            ownership = Ownership(self, attempt)
            with self.path_of(attempt.number).open("x"):
                pass
            ownership.write()
        try:
            yield ownership
        finally:
            lock.release()

    def _newest_number(self) -> int:
        return max((int(path.stem) for path in self.folder.glob("[0-9]*.json")), default=0)

    def _is_locked(self, number: int) -> bool:
        try:
            with FileLock(self._lock(number), timeout=0):
                return False
        except Timeout:
            return True

    def path_of(self, number: int) -> Path:
        """The file of an attempt."""
        return self.folder / f"{number:04d}.json"

    def _lock(self, number: int) -> Path:
        return self.folder / f".{number:04d}.lock"


class Ownership:
    """The right to write into a run folder, until a newer attempt takes it."""

    def __init__(self, attempts: Attempts, attempt: Attempt) -> None:
        self.attempts, self.attempt = attempts, attempt
        self._next = attempts.path_of(attempt.number + 1)

    def is_lost(self) -> bool:
        """Whether a newer attempt has taken over: one look at the file system, cheap enough for every step."""
        return self._next.exists()

    def check(self) -> None:
        """Call right before anything is written.

        Reads the folder, because a network file system may remember for a while that a single file was not there.

        Raises:
            Superseded: when it must not be.
        """
        if self.attempts._newest_number() > self.attempt.number:
            raise Superseded(f"attempt {self.attempt.number} was replaced by a newer one and stops")

    def heartbeat(self) -> None:
        """Say that the attempt lives, every few seconds: what it has cost is known even if it is killed."""
        if time.time() - self.attempt.seen > HEARTBEAT_S:
            self.write()

    def end(self, how: str) -> None:
        """Write down how the attempt ended."""
        self.attempt.ended = how
        self.write()

    def write(self) -> None:
        """Only the attempt itself writes its file, so this is safe even after it was replaced."""
        self.attempt.seen = time.time()
        write_json(self.attempts.path_of(self.attempt.number), asdict(self.attempt))


def _may_replace(job: Job, earlier: list[Attempt], is_over: Callable[[Job], bool]) -> bool:
    """Whether the living newest attempt has lost its right: SLURM has started its job again, or says it is over."""
    if not job.id or not earlier or not earlier[-1].job.id:
        return False
    holder = earlier[-1].job
    if holder.id == job.id:
        return job.restart > holder.restart
    return is_over(holder)


def _refuse_crash_loop(job: Job, step: int, earlier: list[Attempt]) -> None:
    if job.max_restarts is None:
        return
    futile = 0
    for attempt in reversed(earlier):
        if attempt.job.id != job.id or attempt.step != step:
            break
        futile += 1
    if futile > job.max_restarts:
        how = earlier[-1].ended or "died without a word"
        raise CrashLoop(
            f"{futile} attempts got no further than step {step}; the last one {how}\n"
            "  way out: read the log, put it right, and `hrm-lab retry`; "
            f"hydra.launcher.max_restarts={job.max_restarts} is the limit"
        )
