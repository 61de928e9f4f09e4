"""The training's metrics over a stretch of steps: sums on the device, which nothing waits for until they are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrm_lab.model.losses import SUMS, train_metrics
from hrm_lab.training.checkpoint import Rows
from hrm_lab.training.distributed import Ranks


class Window:
    """Sums since it was last closed: this process's share of them.

    Args:
        global_batch_size: sequences of one step, over all processes.
    """

    def __init__(self, ranks: Ranks, global_batch_size: int) -> None:
        self.ranks, self.global_batch_size = ranks, global_batch_size
        self.steps, self.sums = 0, zero_sums(ranks.device)

    def add(self, sums: Tensor) -> None:
        """Take one step's sums, in the order of SUMS."""
        self.sums += sums
        self.steps += 1

    def close(self) -> dict[str, float]:
        """Means over all steps and processes, and begin anew. Where nothing has halted there is no accuracy."""
        self.ranks.sum_([self.sums])
        means = train_metrics(self.sums, self.steps * self.global_batch_size)
        self.steps, self.sums = 0, zero_sums(self.ranks.device)
        return means

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": Rows(self.sums[None]), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """To every process its own sums, so that they are added up in the same order as ever.

        To another number of processes their total.
        """
        sums, self.steps = state["sums"].to(self.ranks.device), state["steps"]
        if len(sums) == self.ranks.world_size:
            self.sums = sums[self.ranks.rank]
        else:
            self.sums = sums.sum(0) if self.ranks.is_main else zero_sums(self.ranks.device)


def zero_sums(device: torch.device) -> Tensor:
    """Nothing yet, in the order of SUMS."""
    return torch.zeros(len(SUMS), dtype=torch.float64, device=device)
