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
from hrm_lab.mirror.siblings import AskedSiblings, Lines, answer
from hrm_lab.mirror.system import watched
from hrm_lab.run_folder import PENDING, RunFolder
from hrm_lab.tracking.provenance import PACKAGE

log = logging.getLogger("hrm_lab")
DRAIN_S = 60.0  # how long the end of a run waits for the store to take the rest
HURRIED_S = 10.0  # the same for a run that was told to leave


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
    process = _start(folder, attempt)
    assert process.stdin is not None
    assert process.stdout is not None
    siblings = AskedSiblings(folder.path, point.label, process.stdin, process.stdout, config.stopping.ask_timeout)
    try:
        yield siblings if point.sweep else None
    finally:
        patience = HURRIED_S if is_hurried() else DRAIN_S
        has_died = process.poll() not in (None, 0)
        complete = _drain(process, patience)
        if has_died:
            log.warning("the mirror process died (exit status %d); another one sends the rest", process.returncode)
            complete = _drain(_start(folder, attempt), patience)
        if not complete:
            log.warning(
                "the tracking store did not take everything; the numbers are safe in %s\n"
                "  way out: `hrm-lab sync %s` once the server is back",
                folder.journal,
                folder.path,
            )


def _start(folder: RunFolder, attempt: int) -> subprocess.Popen[bytes]:
    # The code of this process (-P: and not what lies in the current folder).
    command = [sys.executable, "-P", "-m", "hrm_lab.mirror", str(folder.path), str(attempt)]
    code = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A group of its own: Ctrl-C and SLURM's signals are for the training, which ends the mirror by closing its input.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
        env=os.environ | {"PYTHONPATH": code},
    )


def _drain(process: subprocess.Popen[bytes], patience: float) -> bool:
    """Tell a mirror that the training is over, and wait for it; whether the store has everything."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        return process.wait(timeout=patience) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def follow(folder: RunFolder, attempt: int) -> bool:
    """Mirror a folder until standard input is closed, because the training has ended or was killed, and a while longer.

    Returns:
        Whether the store has everything that this attempt may send.
    """
    newer = folder.attempts.path_of(attempt + 1)
    deadline = math.inf  # until the training is over
    link = Link(folder, lambda: not newer.exists() and time.monotonic() < deadline)
    config, questions = folder.config().tracking, Lines(sys.stdin.fileno())
    with watched(folder, config.system_interval, os.getppid(), may_write=lambda: not newer.exists()):
        while not newer.exists():
            asked = questions.read(config.flush_interval)
            if questions.is_closed:
                break
            for number in asked[-1:]:
                link.answer(number)
            link.send()
    deadline = time.monotonic() + DRAIN_S
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

    def answer(self, number: str) -> None:
        """A question; none where the store does not know."""
        try:
            answer(self.folder.path, number, self.mirror.siblings())
        except Exception as error:
            log.warning("question %s about siblings gets no answer (%s)", number, one_line(error))

    def send(self) -> bool:
        """What is new; whether that worked."""
        state = self.folder.state
        if state is None or state.status == PENDING:  # not begun yet, or refused before it began: nothing to tell
            return True
        try:
            self.mirror.sync()
        except Exception as error:
            if not self._is_away:
                log.warning("the tracking store does not take the run (%s); training goes on", one_line(error))
            self._is_away = True
            return False
        if self._is_away:
            log.info("the tracking store takes the run again")
        self._is_away = False
        return True
