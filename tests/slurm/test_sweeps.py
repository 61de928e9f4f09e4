"""Sweeps on a real cluster: submitted once whatever happens, told truthfully, cancelled, resumed, retried."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from hrm_lab.manifest import load_manifest
from hrm_lab.run_folder import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING, STOPPED
from hrm_lab.sweep.submission import Submission
from tests.slurm.conftest import ROOT, SMALL, Lab, attempts, journal_steps, wait_for

TRIALS = int(os.environ.get("HRM_FAULT_TRIALS", "1"))
SHORT = ["training.epochs=10", "training.eval_interval=10", "hydra.launcher.canary=false"]  # 40 steps
LONG = ["training.epochs=20000", "hydra.launcher.canary=false"]  # longer than any test waits


def queued_arrays() -> set[str]:
    """Ids of all jobs in the queue."""
    return set(subprocess.run(["squeue", "-h", "-o", "%F"], capture_output=True, text=True, check=True).stdout.split())


def test_submit_and_walk_away_then_do_it_again(lab: Lab) -> None:
    words = ["training.epochs=50", "optim.lr=1e-3,1e38"]
    assert "2  new" in lab.sweep("walk", *words, "hydra.launcher.dry_run=true").stderr
    assert not lab.outputs.exists()
    began = time.monotonic()
    said = lab.sweep("walk", *words)
    assert "2 points submitted" in said.stderr
    assert {row.standing.status for row in lab.rows("walk")} <= {PENDING, RUNNING}, time.monotonic() - began
    again = lab.sweep("walk", *words)
    assert "2  running or queued, left alone" in again.stderr
    assert "nothing to submit" in again.stderr
    good, bad = lab.wait("walk", {COMPLETED, FAILED})
    assert (good.standing.status, bad.standing.status) == (COMPLETED, FAILED)
    shown = lab.run("status", "walk").stdout
    for text in ("200/200", "TrainingDiverged", str(bad.folder.log), "eval/exact_accuracy", "1 COMPLETED"):
        assert text in shown, shown
    for row, word in ((good, "FINISHED"), (bad, "FAILED")):
        wait_for(lambda row=row, word=word: lab.record(row.folder).status == word, "MLflow to be told")
    store = lab.store()
    parent = store.sweep_run("walk", "")
    assert {lab.record(row.folder).tags["mlflow.parentRunId"] for row in (good, bad)} == {parent}
    wait_for(lambda: store.runs([parent])[0].status == "FINISHED", "the sweep's own run to be closed")
    third = lab.sweep("walk", "training.epochs=50", "optim.lr=1e-3,2e-3")
    for text in ("1  new", "1  done", "1  no longer in the grid"):
        assert re.search(text, third.stderr), third.stderr
    assert "failed before, left alone" in lab.sweep("walk", *words, "hydra.launcher.dry_run=true").stderr
    assert "nothing to do" in lab.run("resume", "walk", "--dry-run").stderr
    lab.wait("walk", {COMPLETED})
    assert "walk" in lab.run("sweeps").stdout
    assert "TrainingDiverged" in lab.run("logs", "walk", "lr=1e+38").stdout


def test_what_cannot_run_is_refused_before_anything_is_queued(lab: Lab) -> None:
    before = queued_arrays()
    wrong = ["account=nope", "time_min=100000", "gres=gpu:a100:4", "cpus_per_task=99", "mem_gb=9999.5"]
    del lab.environment["MLFLOW_TRACKING_URI"]
    refused = lab.sweep("wrong", *SHORT, *(f"hydra.launcher.{text}" for text in wrong), check=False)
    assert refused.returncode == 1
    for text in [*(f"hydra.launcher.{text}: " for text in wrong), "tracking.uri=sqlite", "make server"]:
        assert text in refused.stderr, refused.stderr
    nowhere = lab.sweep(
        "wrong", *SHORT, "hydra.launcher.partition=nope", "tracking.uri=http://localhost:1", check=False
    )
    for text in ("no such partition", "one of main, low", "is another machine on every node"):
        assert text in nowhere.stderr, nowhere.stderr
    assert not queued_arrays() - before  # those of the test before may leave meanwhile
    assert not list(lab.outputs.glob("sweeps/wrong/*"))


KILLING_SBATCH = """#!/bin/bash
{sbatch} "$@" > {folder}/said
kill -9 $PPID
cat {folder}/said
"""


def test_killed_between_sbatch_and_writing_it_down(lab: Lab) -> None:
    fake = lab.folder / "bin"
    fake.mkdir()
    script = fake / "sbatch"  # the real one, whose caller dies as soon as the job is queued
    script.write_text(KILLING_SBATCH.format(sbatch=shutil.which("sbatch"), folder=lab.folder))
    script.chmod(0o755)
    before = queued_arrays()
    calm = lab.environment
    lab.environment = calm | {"PATH": f"{fake}:{calm['PATH']}"}
    killed = lab.sweep("torn", *SHORT, "seed=0,1", check=False)
    assert killed.returncode == -signal.SIGKILL
    lab.environment = calm
    (submission,) = lab.outputs.glob("sweeps/torn/submissions/*/submission.json")
    assert '"job_id": null' in submission.read_text()
    assert "running or queued, left alone" in lab.sweep("torn", *SHORT, "seed=0,1").stderr
    assert len(queued_arrays() - before) == 1
    for row in lab.wait("torn", {COMPLETED}):
        assert len(attempts(row.folder)) == 1


@pytest.mark.parametrize("trial", range(TRIALS))
def test_killed_at_any_moment_of_submitting(lab: Lab, trial: int) -> None:
    delay = random.Random(f"{os.environ.get('HRM_FAULT_SEED', '0')} {trial}").uniform(0.3, 3.0)
    command = lab.command(*lab.sweep_words("any", *SHORT, "seed=0,1,2"))
    process = subprocess.Popen(command, cwd=lab.folder, env=lab.environment, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.kill()
    process.wait()
    lab.sweep("any", *SHORT, "seed=0,1,2")
    rows = lab.wait("any", {COMPLETED})
    assert [len(attempts(row.folder)) for row in rows] == [1, 1, 1], delay
    manifest = load_manifest(lab.outputs, "any")
    submissions = [Submission.load(file.parent) for file in manifest.folder.glob("submissions/*/submission.json")]
    submitted = [signature for each in submissions if each.job_ids for task in each.tasks for signature in task]
    assert sorted(submitted) == sorted(entry.signature for entry in manifest.points), delay


def test_waiting_and_leaving_again(lab: Lab) -> None:
    # Whoever starts the tests in the background has SIGINT ignored by all that they start.
    command = ["env", "--default-signal=INT", *lab.command(*lab.sweep_words("stay", *LONG, "seed=0,1"), "--wait")]
    process = subprocess.Popen(
        command, cwd=lab.folder, env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(
        lambda: (
            (lab.outputs / "sweeps/stay/manifest.json").exists()
            and any(row.standing.status == RUNNING for row in lab.rows("stay"))
        ),
        "a running point",
    )
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)  # of a machine that trains on all its cores
    assert process.returncode == 130
    assert "the jobs go on without this terminal" in said
    wait_for(lambda: all(row.folder.newest_step > 0 for row in lab.rows("stay")), "both to train")
    ended = lab.run("cancel", "stay")
    assert "2 points cancelled" in ended.stdout
    rows = lab.rows("stay")
    assert {row.standing.status for row in rows} == {CANCELLED}
    assert {lab.record(row.folder).status for row in rows} == {"KILLED"}
    reached = [row.folder.newest_step for row in rows]
    assert "goes on" in lab.sweep("stay", *LONG, "seed=0,1", "hydra.launcher.dry_run=true").stderr
    lab.run("resume", "stay")
    wait_for(lambda: all(row.standing.status == RUNNING for row in lab.rows("stay")), "both to run")
    wait_for(lambda: all(len(attempts(row.folder)) == 2 for row in lab.rows("stay")), "both to go on")
    assert [attempts(row.folder)[1].step for row in lab.rows("stay")] == reached
    lab.run("cancel", "stay", "seed=0")
    assert [row.standing.status for row in lab.rows("stay")] == [CANCELLED, RUNNING]
    lab.run("cancel", "stay")


def test_queued_jobs_run_the_code_that_was_submitted(lab: Lab) -> None:
    clone = lab.folder / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    (clone / "hrm_lab/new_file.py").write_text("ANSWER = 42\n")  # not known to git yet, and imported below
    losses = clone / "hrm_lab/model/losses.py"
    losses.write_text("from hrm_lab.new_file import ANSWER  # noqa\n".join(["", ""]) + losses.read_text())
    text = losses.read_text().replace("from hrm_lab.new_file import ANSWER  # noqa\n", "", 1)
    losses.write_text(text.replace("import torch\n", "import torch\nfrom hrm_lab.new_file import ANSWER\n", 1))
    lab.environment |= {"PYTHONPATH": f"{clone}:{clone}/launch"}
    lab.sweep("code", "training.epochs=50", "hydra.launcher.canary=false", "+hydra.launcher.sbatch.hold=true")
    broken = "raise SystemExit('this is not the code that was submitted')\n"
    for file in ("__init__.py", "run.py", "mirror/__init__.py", "sweep/array_task.py"):
        (clone / "hrm_lab" / file).write_text(broken)
    (row,) = lab.rows("code")
    subprocess.run(["scontrol", "release", str(row.standing.job).partition("_")[0]], check=True)
    wait_for(lambda: lab.rows("code")[0].standing.status == RUNNING, "the run")
    subprocess.run(["scontrol", "requeue", str(row.standing.job)], check=True)
    (row,) = lab.wait("code", {COMPLETED})
    source = row.folder.provenance()
    assert "ANSWER = 42" in source.diff
    assert (
        source.commit
        == subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    )


def test_a_canary_that_fails_keeps_the_array_from_starting(lab: Lab) -> None:
    words = ["training.epochs=50", "seed=0,1", "training.device=cuda"]  # there is none on these nodes
    lab.sweep("canary", *words)
    wait_for(lambda: "the canary failed" in lab.run("status", "canary").stdout, "the canary's end")
    shown = lab.run("status", "canary").stdout
    assert "training.device=cuda" in shown
    assert "2 PENDING" in shown
    assert "hrm-lab retry" in shown
    lab.run("retry", "canary")
    rows = lab.rows("canary")
    assert {row.standing.status for row in rows} == {PENDING}
    lab.run("cancel", "canary")
    assert {row.standing.status for row in lab.rows("canary")} == {CANCELLED}


def test_the_same_error_again_and_again_holds_the_rest(lab: Lab) -> None:
    lrs = ",".join(f"{lr}e38" for lr in (1, 1.1, 1.2, 1.3, 1.4))
    lab.sweep("alike", *SHORT, f"optim.lr={lrs}", "hydra.launcher.array_parallelism=1", "hydra.launcher.fail_fast=2")
    wait_for(lambda: "held: 2 points failed" in lab.run("status", "alike").stdout, "the hold")
    states = [row.standing.status for row in lab.rows("alike")]
    assert states.count(FAILED) == 2
    assert states.count(PENDING) == 3
    lab.run("resume", "alike")
    wait_for(lambda: [row.standing.status for row in lab.rows("alike")].count(FAILED) > 2, "the next to run")
    lab.run("cancel", "alike")


@pytest.mark.parametrize(("points", "at_once", "seeds"), [(2, 1, "0,1"), (3, 3, "0,1,2,3")])
def test_several_points_in_one_job(lab: Lab, points: int, at_once: int, seeds: str) -> None:
    packing = [f"hydra.launcher.points_per_job={points}", f"hydra.launcher.points_at_once={at_once}"]
    lab.sweep("packed", *SHORT, *packing, f"seed={seeds}")
    rows = lab.wait("packed", {COMPLETED})
    tasks = [row.standing.job.rpartition("_")[2] for row in rows if row.standing.job]
    assert tasks == [str(place // points) for place in range(len(rows))]
    pids = {attempts(row.folder)[0].pid for row in rows[:points]}
    assert len(pids) == at_once


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """The last values of a training in one process, here."""
    lab = Lab(tmp_path_factory.mktemp("alone"), "")
    del lab.environment["MLFLOW_TRACKING_URI"]
    words = [text for text in SMALL if "launcher" not in text]
    lab.run("sweep", "demo", *words, *(text for text in SHORT if "launcher" not in text), "name=alone", "tracking=none")
    (row,) = lab.rows("alone")
    return row.progress.metrics


@pytest.mark.parametrize(("nodes", "tasks"), [(2, 1), (1, 2)])
def test_processes_train_one_model_together(lab: Lab, alone: Mapping[str, float], nodes: int, tasks: int) -> None:
    shape = [f"hydra.launcher.nodes={nodes}", f"hydra.launcher.tasks_per_node={tasks}"]
    wide = ["hydra.launcher.cpus_per_task=4"] if nodes == 2 else []
    lab.sweep("together", *SHORT, *shape, *wide, "+hydra.launcher.sbatch.comment=together")
    (row,) = lab.wait("together", {COMPLETED})
    for key in ("train/lm_loss", "eval/lm_loss", "train/accuracy", "train/lr"):
        assert row.progress.metrics[key] == pytest.approx(alone[key], rel=2e-3), key
    hosts = subprocess.run(
        ["sacct", "-n", "-P", "-X", "-j", str(row.standing.job).partition("_")[0], "-o", "NNodes"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert hosts.stdout.split() == [str(nodes)]


def test_ranks_leave_together_and_a_dead_one_ends_the_job(lab: Lab) -> None:
    shape = ["hydra.launcher.nodes=2", "hydra.launcher.cpus_per_task=4"]
    lab.sweep("ranks", "training.epochs=100", "hydra.launcher.canary=false", *shape)
    wait_for(lambda: lab.rows("ranks")[0].folder.newest_step >= 50, "the training")
    (row,) = lab.rows("ranks")
    subprocess.run(["scancel", "--signal=USR2", str(row.standing.job)], check=True)
    wait_for(lambda: len(attempts(row.folder)) == 2, "the second attempt")
    first, second = attempts(row.folder)
    assert first.ended == "saved and left"
    saved = second.step
    wait_for(lambda: row.folder.newest_step > saved, "the training to go on")
    place = f"hrm_lab.sweep train {load_manifest(lab.outputs, 'ranks').folder}"
    found = subprocess.run(["pgrep", "-f", f"^[^ ]*python.*{place}"], capture_output=True, text=True, check=True)
    (other,) = {int(pid) for pid in found.stdout.split()} - {second.pid}
    os.kill(other, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{second.pid}").exists(), "the main process to end", pause=0.1)
    (row,) = lab.wait("ranks", {COMPLETED})
    assert len(attempts(row.folder)) == 3
    assert journal_steps(row.folder, "train/lm_loss") == list(range(20, 401, 20))


def test_hydras_stock_launcher_keeps_working(lab: Lab) -> None:
    small = [text for text in lab.sweep_words("stock")[4:] if "launcher" not in text]
    command = [
        sys.executable,
        "-m",
        "hrm_lab.hydra_app",
        "-m",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=5",
        "+experiment=demo",
        "training.epochs=50",
        "seed=0,1",
        *small,
    ]
    done = subprocess.run(
        command, cwd=lab.folder, env=lab.environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    states = [file.read_text() for file in lab.outputs.glob("runs/*/state.json")]
    assert len(states) == 2
    assert all(COMPLETED in state for state in states)


def test_a_run_that_falls_behind_is_stopped_and_can_be_promoted(lab: Lab) -> None:
    # Two processes each; 24 steps, evaluated after 8 and 16 too; one after the other, and the worse one comes second.
    words = ["training.epochs=6", "training.eval_interval=2", "hydra.launcher.canary=false"]
    words += ["hydra.launcher.array_parallelism=1", "hydra.launcher.tasks_per_node=2"]
    words += ["stopping=asha", "stopping.min_peers=1", "stopping.metric=eval/lm_loss", "stopping.mode=min"]
    words += ["stopping.ask_timeout=60", "optim.lr_warmup_steps=0", "optim.lr=1e-2,1e-6"]
    lab.sweep("cut", *words)
    good, cut = lab.wait("cut", {COMPLETED, STOPPED})
    assert (good.standing.status, cut.standing.status) == (COMPLETED, STOPPED)
    assert journal_steps(cut.folder, "eval/lm_loss") == [8]
    wait_for(lambda: lab.record(cut.folder).status == "FINISHED", "MLflow to be told")
    assert lab.record(cut.folder).tags["stopping.rule"] == "asha"
    assert "lr=1e-06" in lab.run("decisions", "cut").stdout
    # MLflow knows before the processes are gone; until then nothing is promoted.
    wait_for(lambda: not cut.folder.attempts.is_alive(), "its processes to end", pause=0.1)
    lab.run("resume", "cut", "--promote", "1")
    # It is compared again at step 32, which it never reaches.
    lab.wait("cut", {COMPLETED})
    assert journal_steps(cut.folder, "eval/lm_loss") == [8, 16, 24]
    wait_for(lambda: "stopping.rule" not in lab.record(cut.folder).tags, "MLflow to be told")
    assert [step for step, _ in lab.store().history(cut.folder.run_id or "", "eval/lm_loss")] == [8, 16, 24]
