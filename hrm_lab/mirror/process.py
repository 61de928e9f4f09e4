"""The mirror as a process of its own, for as long as a run lasts."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hrm_lab.errors import one_line
from hrm_lab.mirror.folder import Mirror
from hrm_lab.run_folder import PENDING, RunFolder
from hrm_lab.tracking.provenance import PACKAGE

log = logging.getLogger("hrm_lab")
DRAIN_S = 60.0  # how long the end of a run waits for the store to take the rest
HURRIED_S = 10.0  # the same for a run that was told to leave


@contextmanager
def mirrored(folder: RunFolder, attempt: int, is_hurried: Callable[[], bool]) -> Iterator[None]:
    """A mirror process for as long as the run lasts; at the end it gets some time to send the rest.

    Args:
        is_hurried: whether the run was told to leave, so that SLURM will not wait for long.
    """
    config = folder.config().tracking
    if not config.enabled:
        yield
        return
    # The code of this process (-P: and not what lies in the current folder).
    command = [sys.executable, "-P", "-m", "hrm_lab.mirror", str(folder.path), str(attempt)]
    code = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A group of its own: Ctrl-C and SLURM's signals are for the training, which ends the mirror by closing its input.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0, env=os.environ | {"PYTHONPATH": code})
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            complete = process.wait(timeout=HURRIED_S if is_hurried() else DRAIN_S) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            complete = False
        if not complete:
            log.warning(
                "the tracking store did not take everything; the numbers are safe in %s\n"
                "  way out: `hrm-lab sync %s` once the server is back",
                folder.journal,
                folder.point().sweep or folder.path,
            )


def follow(folder: RunFolder, attempt: int) -> bool:
    """Mirror a folder until standard input is closed; whether the store has everything."""
    newer = folder.attempts.path_of(attempt + 1)
    mirror = Mirror(folder, may_write=lambda: not newer.exists())
    interval = mirror.config.tracking.flush_interval
    deadline: float | None = None
    while True:
        closed = deadline is not None or bool(select.select([sys.stdin], [], [], interval)[0])
        if closed and deadline is None:
            deadline = time.monotonic() + DRAIN_S
        if not mirror.may_write():
            return True
        state = folder.state
        if state is None or state.status == PENDING:  # not begun yet, or refused before it began: nothing to tell
            if closed:
                return True
            continue
        try:
            mirror.sync()
        except Exception as error:
            log.warning("the tracking store does not take the run (%s); training goes on", one_line(error))
            if deadline is not None and time.monotonic() + interval > deadline:
                return False
            if closed:
                time.sleep(interval)
            continue
        if closed:
            return True
