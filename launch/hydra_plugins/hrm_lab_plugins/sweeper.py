"""`hydra/sweeper=grid`: a multirun's points from Hydra's own grammar, all checked before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hrm_lab_plugins.launcher import LocalLauncher, SlurmLauncher
from omegaconf import DictConfig

from hrm_lab.launchers import GridSweeperConfig

ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConfig, provider="hrm_lab")


class GridSweeper(Sweeper):
    """Like Hydra's basic sweeper, but composes once for each set of group choices and not twice for each point."""

    def __init__(self, params: Mapping[str, Any] | None) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher that hydra/launcher names."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Expand, check, launch; raises what the first failed point raised."""
        from hrm_lab.sweep.grid import compose_points, expand

        loader = self.hydra_context.config_loader
        points = expand(self.params, arguments, loader)
        if not isinstance(self.launcher, (LocalLauncher, SlurmLauncher)):  # which checks them itself
            compose_points(loader, self.config, points)
        results = self.launcher.launch(points, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises
        return [results]
