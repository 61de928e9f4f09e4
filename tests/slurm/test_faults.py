"""What happens to running jobs on a real cluster: every run ends with the bits of one that nothing happened to.

HRM_FAULT_TRIALS says how often each fault that takes seconds is tried (default 1); the figures are in the README.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hrm_lab.attempts import Attempt
from hrm_lab.run_folder import COMPLETED, FAILED, PREEMPTED, RUNNING, STOPPED, RunFolder
from hrm_lab.sweep.status import Row
from tests import preloaded
from tests.faults.results import assert_same, results
from tests.slurm.conftest import SMALL, Lab, attempts, journal_steps, node, wait_for

TRIALS = int(os.environ.get("HRM_FAULT_TRIALS", "1"))
STEPS = 400
LONG = ["training.epochs=100", "hydra.launcher.canary=false"]  # 100 epochs of four steps: eight seconds and more
Undisturbed = dict[int, dict[str, Any]]  # results of runs that nothing happened to, by seed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The same runs, trained here in one go, by seed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words = [text for text in SMALL if not text.startswith("hydra.")]
    words += ["name=undisturbed", "tracking=none", "training.epochs=100"]
    for seed in range(3):
        done = preloaded.run(folder, "train", "+experiment=demo", *words, f"seed={seed}")
        assert done.returncode == 0, done.stderr
    runs = map(RunFolder, (folder / "outputs/runs").iterdir())
    return {run.config().seed: results(run) for run in runs}


def is_training(row: Row) -> bool:
    return row.standing.status == RUNNING and row.folder.newest_step >= 50


def assert_same_as_undisturbed(lab: Lab, row: Row, expected: dict[str, Any]) -> None:
    """Weights, optimizer state, carry and every value to the bit, and an MLflow history with every step once."""
    assert row.standing.status == COMPLETED, row.standing
    assert_same(expected, results(row.folder))
    steps = list(range(20, STEPS + 1, 20))
    assert journal_steps(row.folder, "train/lm_loss") == steps
    assert row.folder.run_id is not None
    assert [step for step, _ in lab.store().history(row.folder.run_id, "train/lm_loss")] == steps
    wait_for(lambda: lab.record(row.folder).status == "FINISHED", "MLflow to be told")


def newest(row: Row) -> Attempt:
    return attempts(row.folder)[-1]


def requeue(row: Row) -> None:
    subprocess.run(["scontrol", "requeue", str(row.standing.job)], check=True)


def send_usr2(row: Row) -> None:
    subprocess.run(["scancel", "--signal=USR2", str(row.standing.job)], check=True)


def kill_training(row: Row) -> None:
    os.kill(newest(row).pid, signal.SIGKILL)


@pytest.mark.parametrize("trial", range(TRIALS))
def test_requeued_signalled_or_killed_a_run_goes_on(lab: Lab, undisturbed: Undisturbed, trial: int) -> None:
    lab.sweep("hurt", *LONG, "seed=0,1,2")
    faults = {"seed=0": requeue, "seed=1": send_usr2, "seed=2": kill_training}
    for label, fault in faults.items():
        wait_for(lambda label=label: is_training(lab.row("hurt", label)), f"{label} to train")
        fault(lab.row("hurt", label))
    rows = lab.wait("hurt", {COMPLETED})
    for seed, row in enumerate(rows):
        assert_same_as_undisturbed(lab, row, undisturbed[seed])
        first, second = attempts(row.folder)
        assert second.job.restart == 1
        assert first.job.id == second.job.id
        assert second.step >= 50
    # The first two were told and saved; the last one could not say a word.
    assert [attempts(row.folder)[0].ended for row in rows] == ["saved and left", "saved and left", ""]


def test_a_job_longer_than_its_time_limit_goes_on_in_the_next(lab: Lab) -> None:
    # The limit is SLURM's least, a minute; the signal comes 30 s before it, or up to a minute earlier. So a job trains
    # for 30 s at most, and however fast this machine is, the budget of 40 s takes a second one.
    limits = ["hydra.launcher.time_min=1", "hydra.launcher.signal_lead_s=30", f"stopping.max_hours={40 / 3600}"]
    lab.sweep("limited", "training.epochs=20000", "hydra.launcher.canary=false", *limits)
    (row,) = lab.wait("limited", {STOPPED})
    assert "max_hours" in row.standing.detail
    assert len(attempts(row.folder)) >= 2
    assert {attempt.ended for attempt in attempts(row.folder)[:-1]} == {"saved and left"}
    steps = journal_steps(row.folder, "train/lm_loss")
    assert steps == list(range(20, steps[-1] + 1, 20))
    assert 0 <= row.folder.newest_step - steps[-1] < 20


def test_lost_nodes_and_old_processes_that_still_write(lab: Lab, undisturbed: Undisturbed) -> None:
    """One node dies, one loses its slurmd only, one its link; the last two wake up beside a new attempt."""
    lab.sweep("lost", *LONG, "hydra.launcher.cpus_per_task=4", "seed=0,1,2")  # a node for each
    faults = ["kill", "stop", "cut"]
    held: dict[str, tuple[int, int]] = {}
    try:
        for seed, fault in enumerate(faults):
            label = f"seed={seed}"
            wait_for(lambda label=label: is_training(lab.row("lost", label)), f"{label} to train")
            row = lab.row("lost", label)
            # Held still until SLURM has given up the node: a training of seconds must not end before that.
            os.kill(newest(row).pid, signal.SIGSTOP)
            number = int(row.standing.node.removeprefix("node"))
            held[label] = (newest(row).pid, number)
            node(fault, number)
        for label in held:
            wait_for(lambda label=label: len(attempts(lab.row("lost", label).folder)) == 2, f"{label} elsewhere")
        for label in ("seed=1", "seed=2"):
            os.kill(held[label][0], signal.SIGCONT)  # the old process wakes up beside the new one
        for label in ("seed=1", "seed=2"):
            wait_for(lambda label=label: not Path(f"/proc/{held[label][0]}").exists(), f"the old {label} to stop")
        rows = lab.wait("lost", {COMPLETED})
        for seed, row in enumerate(rows):
            assert_same_as_undisturbed(lab, row, undisturbed[seed])
            first, second = attempts(row.folder)
            assert first.host != second.host
            assert not first.ended
    finally:
        for _, number in held.values():
            node("up", number)


def test_a_crash_loop_comes_to_an_end(lab: Lab) -> None:
    lab.sweep("loop", *LONG, "training.checkpoint_interval=null", "hydra.launcher.max_restarts=1")
    killed: set[int] = set()

    def kill_whatever_trains() -> bool:
        (row,) = lab.rows("loop")
        if row.standing.status == RUNNING and row.standing.attempts and row.standing.attempts[-1].pid not in killed:
            killed.add(newest(row).pid)
            os.kill(newest(row).pid, signal.SIGKILL)
        return row.standing.status == FAILED

    wait_for(kill_whatever_trains, "the crash loop's end", pause=0.2)
    (row,) = lab.rows("loop")
    assert "2 attempts got no further than step 0" in row.standing.detail
    wait_for(lambda: row.folder.run_id is not None, "MLflow to be told")
    wait_for(lambda: lab.record(row.folder).status == "FAILED", "MLflow to be told how it ended")


def test_preemption_by_a_better_partition(lab: Lab, undisturbed: Undisturbed) -> None:
    low = ["hydra.launcher.partition=low", "hydra.launcher.cpus_per_task=4", "+hydra.launcher.sbatch.nodelist=node6"]
    lab.sweep("low", *LONG, *low, "seed=0")
    wait_for(lambda: is_training(lab.rows("low")[0]), "the training")
    better = ["sbatch", "--parsable", "-p", "main", "-w", "node6", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 4"]
    subprocess.run(better, check=True, capture_output=True)
    wait_for(lambda: lab.rows("low")[0].standing.status == PREEMPTED, "the preemption", pause=0.2)
    (row,) = lab.wait("low", {COMPLETED})
    assert_same_as_undisturbed(lab, row, undisturbed[0])
