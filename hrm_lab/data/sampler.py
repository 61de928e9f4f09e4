"""Which examples make which batch: a function of (seed, step) alone, for any number of processes and any restart.

The order is the published loader's (HRM_SPEC section 6, "Train sampler"), but addressed instead of consumed: an
iteration of `eval_interval` epochs walks through that many permutations of the groups and draws one of the 1 + k
variants of each. Its generator is keyed by (seed, iteration), so any step's batch can be computed from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Draw(NamedTuple):
    """One batch's choice, each (B,) int64: the group (a puzzle before augmentation) and its variant, 0 = as it is."""

    groups: NDArray[np.int64]
    variants: NDArray[np.int64]


class Sampler:
    """The training order.

    Args:
        num_groups: training groups; an epoch visits each once.
        num_variants: 1 + k, variants of every group.
        epochs, eval_interval: in epochs; eval_interval divides epochs.
        global_batch_size: rows of one step over all processes.
        seed: of the run.
    """

    def __init__(
        self, num_groups: int, num_variants: int, epochs: int, eval_interval: int, global_batch_size: int, seed: int
    ) -> None:
        self.num_groups = num_groups
        self.num_variants = num_variants
        self.epochs_per_iteration = eval_interval
        self.iterations = epochs // eval_interval
        self.global_batch_size = global_batch_size
        self.seed = seed
        # The rows left over at the end of an iteration are dropped, as published.
        self.steps_per_iteration = eval_interval * num_groups // global_batch_size
        # What the learning-rate schedule calls the end; a little more than the steps taken where rows are dropped.
        self.schedule_steps = epochs * num_groups // global_batch_size
        self._order = lru_cache(maxsize=2)(self._compute_order)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.iterations * self.steps_per_iteration

    def draw(self, step: int) -> Draw:
        """The global batch of optimizer step `step`, counted from 0. Every process computes all of it."""
        iteration, within = divmod(step, self.steps_per_iteration)
        rows = slice(within * self.global_batch_size, (within + 1) * self.global_batch_size)
        order = self._order(iteration)
        return Draw(order.groups[rows], order.variants[rows])

    def _compute_order(self, iteration: int) -> Draw:
        generator = np.random.Generator(np.random.Philox(seed=self.seed + iteration + 1))
        groups = np.concatenate([generator.permutation(self.num_groups) for _ in range(self.epochs_per_iteration)])
        return Draw(groups, generator.integers(0, self.num_variants, size=len(groups)))


def exploration_draws(
    seed: int, step: int, global_batch_size: int, halt_max_steps: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Exploration of optimizer step `step` (from 0): uniforms in [0, 1) and minima of 2 .. halt_max_steps, each (B,).

    Keyed by (seed, step), with one entry for each global slot, so that it does not depend on the number of processes.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    uniform = generator.random(global_batch_size, dtype=np.float32)
    return uniform, generator.integers(2, halt_max_steps + 1, size=global_batch_size, dtype=np.int32)


def eval_rows(count: int, global_batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[NDArray[np.int64]]:
    """Walk through `count` test examples in order: this process's rows of each global batch, -1 where it is padded."""
    local = global_batch_size // world_size
    for start in range(0, count, global_batch_size):
        rows = start + rank * local + np.arange(local)
        yield np.where(rows < count, rows, -1)
