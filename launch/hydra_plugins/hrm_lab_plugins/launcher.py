"""`hydra/launcher=local` and `slurm`: Hydra's doors to `hrm_lab.sweep`. Thin; Hydra imports them at every start."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hrm_lab.config import Config
from hrm_lab.launchers import LocalLauncherConfig, SlurmLauncherConfig

STORE = ConfigStore.instance()
STORE.store(group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="hrm_lab")
STORE.store(group="hydra/launcher", name="slurm_settings", node=SlurmLauncherConfig, provider="hrm_lab")


class PointLauncher(Launcher):
    """Composes and checks every point before the first one is run; jobs do not call Hydra's task function."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run or submit the points that are neither done nor on their way; one JobReturn for each.

        The return value of a point is its best watched metric, which is what an optimizing sweeper asks for, as far
        as it is known: through SLURM that takes hydra.launcher.wait=true.
        """
        from hrm_lab.sweep.grid import compose_points

        configs = compose_points(self.hydra_context.config_loader, self.config, job_overrides)
        returns = []
        for overrides, result in zip(job_overrides, self.run(configs, job_overrides), strict=True):
            job = JobReturn(overrides=overrides, working_dir=str(result.folder))
            job.status = JobStatus.FAILED if result.error else JobStatus.COMPLETED
            job.return_value = result.error or result.best_value
            returns.append(job)
        return returns

    @abstractmethod
    def run(self, configs: list[Config], job_overrides: Sequence[Sequence[str]]) -> Sequence[Any]:
        """What makes one launcher differ from the other. Imported late: a bad point must not wait for it."""


class LocalLauncher(PointLauncher):
    """Runs the points on this machine, as many together as its cores allow, and waits for them."""

    def run(self, configs: list[Config], job_overrides: Sequence[Sequence[str]]) -> Sequence[Any]:
        """See sweep/local.py."""
        from hrm_lab.sweep.local import run_sweep

        return run_sweep(configs, job_overrides, LocalLauncherConfig(**self.settings))


class SlurmLauncher(PointLauncher):
    """Submits the points to SLURM and returns."""

    def run(self, configs: list[Config], job_overrides: Sequence[Sequence[str]]) -> Sequence[Any]:
        """See sweep/cluster.py."""
        from hrm_lab.sweep.cluster import submit_sweep

        return submit_sweep(configs, job_overrides, SlurmLauncherConfig(**self.settings))
