"""Our training step on a batch of random boards, as the trainer makes it, for the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hrm_lab.config import Config, ModelConfig, OptimConfig, TrainingConfig
from hrm_lab.data.sampler import exploration_draws
from hrm_lab.model.act import Batch, Exploration
from hrm_lab.model.hrm import HRM
from hrm_lab.optim.adam_atan2 import build_adam_atan2
from hrm_lab.training.distributed import Ranks
from hrm_lab.training.step import TrainStep
from tests.bench.trend import spread as spread

SEQ_LEN, VOCAB_SIZE = 81, 11  # of a 9x9 Sudoku


class OurLoop:
    """`step()` is what is measured: the host's part (draws, rates, copies) is in it."""

    def __init__(
        self,
        model: ModelConfig,
        batch: int,
        device: torch.device,
        execution: str,
        cache: Path | None = None,
        backend: str = "torch",
        ranks: Ranks | None = None,
        gradient_dtype: str = "float32",
    ) -> None:
        self.config = Config(
            model=model,
            optim=OptimConfig(lr_warmup_steps=0, weight_decay=1.0, puzzle_emb_lr=1e-4, backend=backend),
            training=TrainingConfig(global_batch_size=batch, gradient_dtype=gradient_dtype),
        )
        generator = torch.Generator().manual_seed(0)
        self.model = HRM(model, VOCAB_SIZE, SEQ_LEN, 2, generator).to(device)
        optimizer = build_adam_atan2(self.model.parameters(), self.config.optim, device)
        self.ranks = ranks or Ranks(device)
        self.generator = np.random.default_rng(0)
        # Resident on the device, as uint8 would be; gathered there.
        self.batches = [self._batch(batch // self.ranks.world_size, device) for _ in range(4)]
        self.compute = TrainStep(self.config, self.model, optimizer, self.ranks, self.batches[0], execution, cache)
        self.number, self.batch = 0, batch

    def _batch(self, size: int, device: torch.device) -> Batch:
        inputs = self.generator.integers(1, VOCAB_SIZE, (size, SEQ_LEN), dtype=np.int32)
        labels = self.generator.integers(2, VOCAB_SIZE, (size, SEQ_LEN), dtype=np.int32)
        return Batch(*(torch.from_numpy(a).to(device) for a in (inputs, labels, np.zeros(size, np.int32))))

    def step(self) -> None:
        self.number += 1
        draws = exploration_draws(0, self.number, self.batch, self.config.model.halt_max_steps)
        share = self.ranks.share(self.batch)
        exploration = Exploration(*(torch.from_numpy(draw[share]) for draw in draws))
        self.compute(self.number, self.batches[self.number % 4], exploration, 1e-4, 1e-4)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long a work takes, what a GPU does of it included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
