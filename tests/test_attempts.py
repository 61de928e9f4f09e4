"""Who may train a run: one living process, unless SLURM says that its time is over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hrm_lab.attempts import Attempts, CrashLoop, Job, Superseded
from hrm_lab.errors import RunError

HOLD = """
import sys, time
from pathlib import Path
from hrm_lab.attempts import Attempts, Job
with Attempts(Path(sys.argv[1])).own(Job(sys.argv[2], gpus=2), 0, lambda job: False):
    print("owned", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, job: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), job], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    return process


def never(_: Job) -> bool:
    return False


def test_a_living_process_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    process = hold(tmp_path, "")
    assert attempts.is_alive()
    with pytest.raises(RunError, match="another process is training"), attempts.own(Job(), 0, never):
        pass
    with pytest.raises(RunError, match="another process is training"), attempts.own(Job("7_0"), 0, lambda _: True):
        pass  # a person's process is never over by SLURM's word
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not attempts.is_alive()
    with attempts.own(Job(), 0, never) as owner:
        assert owner.attempt.number == 2
        assert owner.attempt.pid == os.getpid()


@pytest.mark.parametrize(("job", "over"), [(Job("7_0", restart=1), False), (Job("8_0"), True)])
def test_slurms_new_attempt_replaces_one_that_still_lives(tmp_path: Path, job: Job, over: bool) -> None:
    attempts = Attempts(tmp_path)
    with attempts.own(Job("7_0"), 0, never) as old:
        old.check()
        with pytest.raises(RunError), attempts.own(Job("9_0"), 0, never):
            pass
        with attempts.own(job, 0, lambda holder: over) as new:
            new.check()
            assert old.is_lost()
            with pytest.raises(Superseded):
                old.check()
            old.end("was replaced")
            assert attempts.is_alive()
            assert [attempt.ended for attempt in attempts.all()] == ["was replaced", ""]


def test_attempts_that_get_nowhere_come_to_an_end(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)

    def start(restart: int, step: int, id: str = "7_0") -> None:
        with attempts.own(Job(id, restart, max_restarts=2), step, never):
            pass

    for restart in range(3):
        start(restart, 0)
    start(3, 10)  # it had got on: the count begins again
    start(4, 10)
    start(5, 10)
    with pytest.raises(CrashLoop, match="3 attempts got no further than step 10"):
        start(6, 10)
    start(0, 10, id="8_0")  # asked for afresh


def test_what_an_attempt_has_cost_is_known_after_a_kill(tmp_path: Path) -> None:
    process = hold(tmp_path, "7_0")
    time.sleep(0.1)
    process.kill()
    process.wait()
    (attempt,) = Attempts(tmp_path).all()
    assert attempt.gpu_seconds == 2 * (attempt.seen - attempt.began)
