"""`hydra/launcher=local`: Hydra's door to `hrm_lab.sweep`. Thin on purpose; Hydra imports it at every start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hrm_lab.config import LocalLauncherConfig

ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="hrm_lab")


class LocalLauncher(Launcher):
    """Runs the points of a multirun on this machine, as many together as its cores allow, each in its own process."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what launch needs; the jobs do not call Hydra's task function."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Check every point, then run those that are not done; one JobReturn for each, when all have ended.

        The return value of a point is its best watched metric, which is what an optimizing sweeper asks for.
        """
        from hrm_lab.sweep.grid import compose_points

        configs = compose_points(self.hydra_context.config_loader, self.config, job_overrides)
        from hrm_lab.sweep.local import run_sweep  # only now: a bad point must not wait for these imports

        results = run_sweep(configs, job_overrides, LocalLauncherConfig(**self.settings))
        returns = []
        for overrides, result in zip(job_overrides, results, strict=True):
            job = JobReturn(overrides=overrides, working_dir=str(result.folder))
            job.status = JobStatus.FAILED if result.error else JobStatus.COMPLETED
            job.return_value = result.error or result.best_value
            returns.append(job)
        return returns
