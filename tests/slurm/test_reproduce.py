"""A reproduction as a job of a real cluster: followed to its exit status, and requeued when it is told to leave."""

from __future__ import annotations

import os
import subprocess

from hrm_lab.tracking.store import DATA_FINGERPRINT
from tests.slurm.conftest import SMALL, Lab, wait_for
from tests.test_reproduce import copy_of_the_working_tree

RUN = [*(word for word in SMALL if not word.startswith("hydra.")), "training.epochs=200", "name=first"]


def in_clone(lab: Lab) -> None:
    """Have the lab's commands run a repository of their own: a worktree of this one would be made in this one."""
    clone = lab.folder / "clone"
    copy_of_the_working_tree(clone)
    lab.environment["PYTHONPATH"] = os.pathsep.join([str(clone), str(clone / "launch")])


def test_a_job_that_is_told_to_leave_goes_on_and_gives_the_verdict(lab: Lab) -> None:
    in_clone(lab)
    lab.run("train", "+experiment=demo", *RUN)
    (record,) = lab.store().find("first")
    assert record.tags[DATA_FINGERPRINT]
    words = ["reproduce", "first", "--on", "slurm_dev"]
    follower = subprocess.Popen(
        lab.command(*words),
        cwd=lab.folder,
        env=lab.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def has_begun() -> bool:
        return any('"step"' in path.read_text() for path in lab.outputs.glob("reproductions/*/runs/*/journal.jsonl"))

    wait_for(has_begun, "the job to train")
    (place,) = lab.outputs.glob("reproductions/*")
    subprocess.run(["scancel", "--signal=USR2", "--name", f"reproduce.{place.name}"], check=True)
    said = follower.communicate(timeout=180)[0]
    assert follower.returncode == 0, said
    assert said.splitlines()[-1].startswith("identical: "), said
    assert "weights equal" in said
    assert "asked to leave: saved after step" in said, said
    assert "submitted as job" in said
    assert lab.store().runs([record.run_id]) == [record]


def test_a_store_that_no_node_reaches_is_refused(lab: Lab) -> None:
    in_clone(lab)
    del lab.environment["MLFLOW_TRACKING_URI"]
    refused = lab.run("reproduce", "first", "--on", "slurm_dev", check=False)
    assert refused.returncode == 2
    for text in ("tracking.uri=sqlite", "make server"):
        assert text in refused.stderr
    lab.environment["MLFLOW_TRACKING_URI"] = lab.server
    local = lab.run("reproduce", "first", "--on", "local", check=False)
    assert local.returncode == 2
    assert "submits nothing to SLURM" in local.stderr
