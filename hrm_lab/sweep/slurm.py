"""SLURM's own commands: what is queued, how it ended, what the cluster has, and the few things that change a job.

An array task is named as squeue writes it, 12_3. Each question is one call, whatever the number of tasks.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from submitit.helpers import clean_env
from submitit.slurm.slurm import read_job_id

from hrm_lab.errors import UserError
from hrm_lab.launchers import SlurmLauncherConfig

AT_ONCE = 200  # tasks named in one command
COMMAND_S = 60.0  # SLURM's own limit for an answer is 10 s and more on busy clusters
# Of those that squeue shows.
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")


REFUSALS = {  # of sbatch, and what to do about them
    "SubmitJobLimit": "fewer jobs: more hydra.launcher.points_per_job, or wait; what was queued goes on, and "
    "`hrm-lab resume` submits the rest",
    "invalid qos": "another hydra.launcher.qos; `sacctmgr show qos` lists them",
    "nvalid account": "another hydra.launcher.account; `sacctmgr show assoc user=$USER` lists yours",
    "partition": "another hydra.launcher.partition; `sinfo` lists them",
    "nvalid generic resource": "another hydra.launcher.gres; `sinfo -o '%N %G'` lists them",
}


class SlurmError(UserError):
    """A SLURM command that did not do what it was asked for."""


@dataclass(frozen=True)
class Queued:
    """A task that SLURM still has in its queue, running or not. `reason` is why it waits."""

    state: str
    node: str
    reason: str

    @property
    def is_waiting(self) -> bool:
        """Whether no process of it runs."""
        return self.state in WAITING


@dataclass(frozen=True)
class Ended:
    """How SLURM remembers a task that has left the queue."""

    state: str
    node: str
    seconds_ago: float


@dataclass(frozen=True)
class Partition:
    """What one partition has and allows."""

    name: str
    is_up: bool
    is_default: bool
    max_time_min: float  # infinity where there is no limit
    nodes: int


@dataclass(frozen=True)
class Node:
    """One node as it is seen in one partition."""

    partition: str
    cpus: int
    memory_mb: int
    gres: str


def call(*command: str) -> str:
    """Run a SLURM command and return what it prints.

    Raises:
        SlurmError: with SLURM's own words.
    """
    if shutil.which(command[0]) is None:
        raise SlurmError(
            f"{command[0]}: there is no such command on this machine\n"
            "  way out: run this on a login node of the cluster, `make cluster-up` for a cluster on this machine, "
            "or hydra/launcher=local"
        )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, check=False, env=_environment()
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gives no answer\n  way out: try again when the controller is back") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise SlurmError(f"{command[0]}: {said}\n  way out: {_hint(said)}")
    return done.stdout


def _hint(said: str) -> str:
    if "configuration source" in said:
        return (
            "this machine belongs to no cluster that it knows of; run this on a login node, or set SLURM_CONF "
            '(for the cluster of `make cluster-up`: eval "$(launch/slurm/cluster.sh env)")'
        )
    for word, way_out in REFUSALS.items():
        if word in said:
            return way_out
    return "see `sinfo` and `scontrol ping`"


def _environment() -> dict[str, str]:
    """The environment, without the variables of the job that this is called in: a submission must not inherit them."""
    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    conf = {key: os.environ[key] for key in ("SLURM_CONF",) if key in os.environ}
    with clean_env():
        return dict(os.environ) | conf


def asked_of_any_job(launcher: SlurmLauncherConfig) -> dict[str, Any]:
    """What a profile asks for whatever its job runs, as parameters of submitit's executor."""
    optional = {
        "partition": launcher.partition,
        "account": launcher.account,
        "qos": launcher.qos,
        "gres": launcher.gres,
        "mem": None if launcher.mem_gb is None else f"{int(launcher.mem_gb * 1024)}M",
    }
    return {
        "time": launcher.time_min,
        "signal_delay_s": launcher.signal_lead_s,
        "stderr_to_stdout": True,
        "wckey": None,  # submitit's own would be refused where such keys are enforced
        "additional_parameters": {"requeue" if launcher.requeue else "no-requeue": True, **launcher.sbatch},
        **{key: value for key, value in optional.items() if value is not None},
    }


def sbatch(script: Path) -> str:
    """Submit a script; the id of its job."""
    answer = call("sbatch", "--parsable", str(script))
    return answer.strip().partition(";")[0]


def queue(job_ids: Iterable[str]) -> dict[str, Queued]:
    """Every task of these jobs that is still in the queue."""
    wanted = set(job_ids)
    if not wanted:
        return {}
    # All of the user's jobs, and not `-j`: that fails as a whole when one of them has been forgotten.
    text = call("squeue", "--me", "-h", "-r", "-o", "%F|%i|%T|%N|%r")
    rows = (line.split("|") for line in text.splitlines() if line)
    return {task: Queued(state, node, reason) for job, task, state, node, reason in rows if job in wanted}


def ended(job_ids: Iterable[str]) -> dict[str, Ended]:
    """Every task of these jobs that accounting knows, in its last life; empty where there is no accounting."""
    wanted = sorted(set(job_ids), key=int)
    if not wanted:
        return {}
    try:
        text = call("sacct", "-n", "-P", "-X", "-j", ",".join(wanted), "-o", "JobID,State,NodeList,End")
    except SlurmError:
        return {}
    now = datetime.now()
    found: dict[str, Ended] = {}
    for line in text.splitlines():
        text_id, state, node, end = line.split("|")
        age = (now - datetime.fromisoformat(end)).total_seconds() if re.match(r"\d", end) else 0.0
        for parts in read_job_id(text_id):  # a range of tasks that never started stands in one line
            first, last = int(parts[1]) if len(parts) > 1 else -1, int(parts[-1]) if len(parts) > 1 else -1
            for index in range(first, last + 1):
                name = parts[0] if index < 0 else f"{parts[0]}_{index}"
                found[name] = Ended(state.split()[0], node, age)
    return found


def restarts(task: str) -> int:
    """How often SLURM has put a task back into the queue."""
    match = re.search(r"Restarts=(\d+)", call("scontrol", "show", "job", "-o", task))
    return int(match.group(1)) if match else 0


def job_of_name(name: str) -> str | None:
    """The id of the job that was submitted under this name, if SLURM has not forgotten it."""
    text = call("squeue", "--me", "-h", "-t", "all", "-n", name, "-o", "%F")
    return text.split()[0] if text.split() else None


def tasks_in_queue() -> int:
    """All tasks of all users that count against the cluster's limit."""
    return len(call("squeue", "-h", "-r", "-o", "%i").splitlines())


def settings() -> dict[str, str]:
    """What `scontrol show config` says."""
    pairs = (line.partition("=") for line in call("scontrol", "show", "config").splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def max_array_tasks(config: Mapping[str, str]) -> int:
    """Tasks that one array may have: MaxArraySize (its indices stay below), or less."""
    size = int(config.get("MaxArraySize", "1001"))
    match = re.search(r"max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    return max(1, min(size, int(match.group(1))) if match else size)


def partitions() -> dict[str, Partition]:
    """All partitions by name."""
    found = {}
    for line in call("scontrol", "show", "partition", "-o").splitlines():
        facts = dict(word.partition("=")[::2] for word in line.split())
        name = facts["PartitionName"]
        found[name] = Partition(
            name,
            facts.get("State") == "UP",
            facts.get("Default") == "YES",
            minutes(facts.get("MaxTime", "UNLIMITED")),
            int(facts.get("TotalNodes", 0)),
        )
    return found


def nodes() -> list[Node]:
    """All nodes, once for each partition they are in."""
    text = call("sinfo", "-h", "-N", "-o", "%R|%c|%m|%G")
    rows = (line.split("|") for line in text.splitlines())
    return [Node(name, int(cpus), int(memory), gres) for name, cpus, memory, gres in rows]


def accounts() -> list[str] | None:
    """The user's accounts, or all of them where users have none; None where there is no accounting to ask."""
    try:
        mine = call("sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", "format=account").split()
        return sorted(set(mine or call("sacctmgr", "-n", "-P", "show", "account", "format=account").split())) or None
    except SlurmError:
        return None


def minutes(text: str) -> float:
    """SLURM's D-HH:MM:SS, HH:MM:SS, MM:SS or MM in minutes."""
    if not re.match(r"\d", text):
        return float("inf")
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        parts = (parts + [0, 0])[:3]
    elif len(parts) < 3:
        parts = [0, *parts] if len(parts) == 2 else [0, parts[0], 0]
    hours, mins, seconds = parts
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def hold(job_ids: Sequence[str]) -> None:
    """Keep the tasks of these jobs that have not started from starting."""
    _change_waiting("hold", job_ids)


def release(job_ids: Sequence[str]) -> None:
    """Let the held tasks of these jobs start."""
    _change_waiting("release", job_ids)


def _change_waiting(verb: str, job_ids: Sequence[str]) -> None:
    tasks = [task for task, queued in queue(job_ids).items() if queued.is_waiting]
    for start in range(0, len(tasks), AT_ONCE):
        try:
            call("scontrol", verb, ",".join(tasks[start : start + AT_ONCE]))
        except SlurmError as error:
            if "already finished" not in str(error):  # by one of them, since it was looked at
                raise


def requeue(task: str) -> None:
    """Put exactly this task back into the queue."""
    call("scontrol", "requeue", task)


def cancel(tasks: Sequence[str]) -> None:
    """End tasks; running ones get SIGTERM first, and save."""
    for start in range(0, len(tasks), AT_ONCE):
        call("scancel", *tasks[start : start + AT_ONCE])
