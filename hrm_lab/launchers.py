"""The typed settings of `hydra/launcher` and `hydra/sweeper`: where and how the points of a sweep are run.

They are no part of a run's config: nothing here changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from hrm_lab.config import setting
from hrm_lab.errors import ConfigError
from hrm_lab.validation import check_ranges

# Hydra's structured configs resolve annotations at run time and know `Optional[int]`, not `int | None`.
# ruff: noqa: UP045

KEY = "hydra.launcher."


@dataclass
class LocalLauncherConfig:
    """`hydra/launcher=local`: submitit's local executor with a limit on how many jobs run together."""

    _target_: str = "hydra_plugins.hrm_lab_plugins.launcher.LocalLauncher"
    _convert_: str = "all"
    max_parallel_jobs: Optional[int] = setting(
        None, "jobs that run together; null = cores // (processes_per_job * training.threads)", unit="jobs", low=1
    )
    processes_per_job: int = setting(1, "data-parallel processes of one job", unit="processes", low=1)
    gpus_per_job: int = setting(0, "GPUs given to one job; 0 = it sees none", unit="GPUs", low=0)
    timeout_min: int = setting(24 * 60, "time limit of one job", unit="min", low=1)
    rerun_failed: bool = setting(True, "run points that failed before again")
    dry_run: bool = setting(False, "print the plan and do nothing")


@dataclass
class SlurmLauncherConfig:
    """`hydra/launcher=slurm`: job arrays that go on by themselves; the command returns as soon as they are queued."""

    _target_: str = "hydra_plugins.hrm_lab_plugins.launcher.SlurmLauncher"
    _convert_: str = "all"
    # What one array task gets.
    partition: Optional[str] = setting(None, "partition; null = the cluster's default")
    account: Optional[str] = setting(None, "account that is charged; null = the user's default")
    qos: Optional[str] = setting(None, "quality of service; null = the default")
    nodes: int = setting(1, "nodes of one task", unit="nodes", low=1)
    tasks_per_node: int = setting(1, "data-parallel processes on each node", unit="processes", low=1)
    cpus_per_task: int = setting(2, "CPU cores of each process", unit="cores", low=1)
    gres: Optional[str] = setting("gpu:1", "generic resources of each node: gpu:COUNT or gpu:TYPE:COUNT; null = none")
    mem_gb: Optional[float] = setting(None, "memory of each node; null = the cluster's default", unit="GB", low=0.1)
    time_min: int = setting(240, "time limit; a run that needs longer goes on in the next one", unit="min", low=1)
    signal_lead_s: int = setting(
        90, "how long before the time limit a run is told to save; SLURM may add up to 60 s", unit="s", low=1
    )
    setup: list[str] = setting([], "shell lines before the training: module load, a container's environment")
    srun_args: list[str] = setting([], "more arguments of srun, such as --container-image=FILE")
    sbatch: dict[str, Any] = setting({}, "more options of sbatch, such as {constraint: a100, exclude: node7}")
    # How the sweep uses them.
    array_parallelism: Optional[int] = setting(
        None, "tasks of the sweep that run together; null = as many as the cluster gives", unit="tasks", low=1
    )
    points_per_job: int = setting(1, "points that one task trains", unit="points", low=1)
    points_at_once: int = setting(1, "of those, how many side by side on the same GPU", unit="points", low=1)
    requeue: bool = setting(True, "put a task that was preempted, timed out or killed back into the queue")
    max_restarts: int = setting(
        3, "restarts from the same step before a run is given up as a crash loop", unit="restarts", low=0
    )
    canary: bool = setting(True, "hold the array until point 0 has trained two steps on the cluster")
    fail_fast: Optional[int] = setting(
        3, "points that fail with the same error before the rest is held; null = never", unit="points", low=1
    )
    # What the command does.
    wait: bool = setting(False, "stay and show progress until every point has ended")
    rerun_failed: bool = setting(False, "run points that failed before again")
    dry_run: bool = setting(False, "print the plan and do nothing")

    @property
    def world_size(self) -> int:
        """Processes of one run."""
        return self.nodes * self.tasks_per_node

    @property
    def gpus_per_node(self) -> int:
        """The number that `gres` ends with, where it asks for GPUs."""
        name, _, count = (self.gres or "").rpartition(":")
        if not name:
            return 1 if count == "gpu" else 0
        return int(count) if name.split(":")[0] == "gpu" and count.isdigit() else 1


@dataclass
class GridSweeperConfig:
    """`hydra/sweeper=grid`: the product of every swept key."""

    _target_: str = "hydra_plugins.hrm_lab_plugins.sweeper.GridSweeper"
    params: Optional[dict[str, Any]] = None  # swept keys of an experiment: KEY: CHOICES in Hydra's grammar


def check_slurm(launcher: SlurmLauncherConfig) -> None:
    """Refuse values out of range and combinations that cannot be submitted.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    check_ranges(launcher, KEY)
    if launcher.points_at_once > launcher.points_per_job:
        raise ConfigError(
            f"{KEY}points_at_once",
            launcher.points_at_once,
            f"is more than hydra.launcher.points_per_job={launcher.points_per_job}",
            f"take hydra.launcher.points_per_job={launcher.points_at_once} or more",
        )
    if launcher.points_at_once > 1 and launcher.world_size > 1:
        raise ConfigError(
            f"{KEY}points_at_once",
            launcher.points_at_once,
            f"points side by side are small ones, and these take {launcher.world_size} processes each",
            "take nodes=1 and tasks_per_node=1, or points_at_once=1",
        )
    if launcher.signal_lead_s >= launcher.time_min * 60:
        raise ConfigError(
            f"{KEY}signal_lead_s",
            launcher.signal_lead_s,
            f"is not before the end of time_min={launcher.time_min}",
            f"take less than {launcher.time_min * 60}",
        )
