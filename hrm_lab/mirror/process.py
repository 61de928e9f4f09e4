"""The mirror as a process of its own, for as long as a run lasts."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hrm_lab.errors import one_line
from hrm_lab.mirror.folder import Mirror
from hrm_lab.mirror.siblings import AskedSiblings, Lines, Pipes, answer, answer_none
from hrm_lab.mirror.system import watched
from hrm_lab.run_folder import RunFolder
from hrm_lab.tracking.provenance import PACKAGE

log = logging.getLogger("hrm_lab")
HURRIED_S = 10.0  # how long a run that was told to leave waits for the store at most
FIRST_PAUSE_S, BACKOFF_S = 0.25, 5.0  # the shortest and the longest pause after a store has failed


@contextmanager
def mirrored(folder: RunFolder, attempt: int, is_hurried: Callable[[], bool]) -> Iterator[AskedSiblings | None]:
    """A mirror process for as long as the run lasts; at the end it gets some time to send the rest.

    Args:
        is_hurried: whether the run was told to leave, so that SLURM will not wait for long.

    Yields:
        The run's siblings, if it is a point of a sweep.
    """
    config, point = folder.config(), folder.point()
    if not config.tracking.enabled:
        yield None
        return
    process = MirrorProcess(folder, attempt)
    siblings = AskedSiblings(folder.path, point.label, process.pipes, config.stopping.ask_timeout)
    try:
        yield siblings if point.sweep else None
    finally:
        patience = config.tracking.drain_timeout
        if not process.drain(min(patience, HURRIED_S) if is_hurried() else patience):
            log.warning(
                "the tracking store did not take everything; the numbers are safe in %s\n"
                "  way out: `hrm-lab sync %s` once the server is back",
                folder.journal,
                folder.path,
            )


class MirrorProcess:
    """The mirror process of an attempt, and the one after it where it has died."""

    def __init__(self, folder: RunFolder, attempt: int) -> None:
        # The code of this process (-P: and not what lies in the current folder).
        self._command = [sys.executable, "-P", "-m", "hrm_lab.mirror", str(folder.path), str(attempt)]
        code = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = os.environ | {"PYTHONPATH": code}
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # A group of its own: Ctrl-C and SLURM's signals are for the training, which ends the mirror by closing its
        # input.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, env=self._environment
        )

    def pipes(self) -> Pipes:
        """Standard input and output of one that lives; one that has died is replaced."""
        if self._process.poll() not in (None, 0):
            log.warning("the mirror process died (exit status %d); another one goes on", self._process.returncode)
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def drain(self, patience: float) -> bool:
        """Tell it that the training is over, and wait for it; whether the store has everything."""
        questions, _ = self.pipes()
        questions.close()
        try:
            return self._process.wait(timeout=patience) == 0
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False


def follow(folder: RunFolder, attempt: int) -> bool:
    """Mirror a folder until standard input is closed, because the training has ended or was killed, and a while longer.

    Returns:
        Whether the store has everything that this attempt may send.
    """
    newer = folder.attempts.path_of(attempt + 1)
    deadline = math.inf  # until the training is over
    link = Link(folder, lambda: not newer.exists() and time.monotonic() < deadline)
    config, questions = folder.config().tracking, Lines(sys.stdin)
    with watched(folder, config.system_interval, os.getppid(), may_write=lambda: not newer.exists()):
        while not newer.exists():
            asked = questions.read(config.flush_interval)
            if questions.is_closed:
                break
            for number in asked[-1:]:
                link.answer(number)
            link.send()
    deadline = time.monotonic() + config.drain_timeout
    link.try_at_once()
    while not newer.exists() and not link.send():
        if time.monotonic() > deadline:
            return False
        time.sleep(config.flush_interval)
    return newer.exists() or time.monotonic() < deadline


class Link:
    """A mirror that goes on when the store does, and says once that it is away and once that it is back."""

    def __init__(self, folder: RunFolder, may_write: Callable[[], bool]) -> None:
        self.folder, self.mirror = folder, Mirror(folder, may_write)
        self._is_away = False
        self._pause, self._again = 0.0, 0.0  # seconds after a failure, and when they are over

    def try_at_once(self) -> None:
        """Do not wait until a pause is over."""
        self._pause = self._again = 0.0

    def answer(self, number: str) -> None:
        """A question; none where the store does not know."""
        try:
            answer(self.folder.path, number, self.mirror.siblings())
        except Exception as error:
            log.warning("question %s about siblings gets no answer (%s)", number, one_line(error))
            answer_none(number)

    def send(self) -> bool:
        """What is new; whether that worked. After a failure nothing is tried for a while: it all begins anew."""
        if time.monotonic() < self._again:
            return False
        try:
            self.mirror.sync()
        except Exception as error:
            if not self._is_away:
                log.warning("the tracking store does not take the run (%s); training goes on", one_line(error))
            self._is_away = True
            self._pause = min(BACKOFF_S, 2 * self._pause + FIRST_PAUSE_S)
            self._again = time.monotonic() + self._pause
            return False
        if self._is_away:
            log.info("the tracking store takes the run again")
        self._is_away = False
        self.try_at_once()
        return True
