"""What the trainer asks of its surroundings. It knows these shapes and nothing of MLflow, SLURM or terminals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Recorder(Protocol):
    """Takes what the run has to say. Called on the main process only, with steps that never decrease."""

    def start(self, step: int, total_steps: int) -> None:
        """Training begins, or goes on after a checkpoint of `step`; later steps will come again."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name (`train/lm_loss`, `eval/exact_accuracy`, `perf/samples_per_s`, ...) after `step` steps."""

    def tick(self, step: int) -> None:
        """One more step is done; nothing to record, but something to show."""


class Stopper(Protocol):
    """Decides after each evaluation whether the run goes on. Its state is part of every checkpoint."""

    def update(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """The reason to stop, or None."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
