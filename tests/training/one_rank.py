"""One process of a run of several; started by test_world_size.py with torch.distributed's environment.

python -m tests.training.one_rank FOLDER RUN LAST_STEP
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hrm_lab.training.trainer import Trainer
from tests.small import small_config
from tests.training.test_trainer import all_tensors, make_trainer


def recorded(trainer: Trainer) -> list[torch.Tensor]:
    """What is drawn for this process: a list that fills while it trains."""
    drawn: list[torch.Tensor] = []
    make_batch, explore = trainer.batches.train, trainer._exploration

    def batch(*arguments: Any) -> Any:
        made = make_batch(*arguments)
        drawn.extend(made)
        return made

    def exploration() -> Any:
        made = explore()
        drawn.extend(made or ())
        return made

    trainer.batches.train, trainer._exploration = batch, exploration  # type: ignore[method-assign]
    return drawn


folder, name, last_step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
trainer, memory = make_trainer(small_config(folder, log_interval=3), folder / name)
ranks = trainer.ranks
drawn = recorded(trainer)
trainer.fit(last_step)
whole = [ranks.gather(tensor) for tensor in drawn]
carry = {place: ranks.gather(tensor) for place, tensor in all_tensors(trainer).items() if place.startswith("/carry")}
if ranks.is_main:
    torch.save({"values": memory.values, "drawn": whole, "carry": carry}, folder / f"{name}.pt")
if ranks.world_size > 1:
    dist.barrier()
ranks.close()
