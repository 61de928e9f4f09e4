"""The training order: the published one, the same for any number of processes and from any step."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm_lab.data.sampler import Sampler, eval_rows, exploration_draws


def test_published_order_on_any_number_of_processes(units: dict[str, Any]) -> None:
    # 10 groups of 3 puzzles, global batch 6, 2 epochs an iteration; 20 rows make 3 batches, 2 rows are dropped.
    sampler = Sampler(num_groups=10, num_variants=3, epochs=4, eval_interval=2, global_batch_size=6, seed=0)
    assert (sampler.steps_per_iteration, sampler.total_steps) == (3, 6)
    for iteration in (1, 2):
        draws = [sampler.draw((iteration - 1) * 3 + step) for step in range(3)]
        ours = np.stack([draw.groups * 3 + draw.variants for draw in draws])
        for world in (1, 2):
            golden = [
                units[f"sampler/train/world{world}/rank{rank}/iter{iteration}/example_ids"] for rank in range(world)
            ]
            np.testing.assert_array_equal(ours, np.concatenate(golden, axis=1))
    np.testing.assert_array_equal(np.concatenate([sampler.draw(s).groups for s in range(3)]), _first_order(units))


def test_published_test_order_on_any_number_of_processes(units: dict[str, Any]) -> None:
    for world in (1, 2):
        for rank in range(world):
            golden = units[f"sampler/test/world{world}/rank{rank}/labels0"]  # example i has label i, padding -100
            ours = np.stack(list(eval_rows(11, 4, rank, world)))
            np.testing.assert_array_equal(np.where(ours < 0, -100, ours), golden)


def _first_order(units: dict[str, Any]) -> np.ndarray:
    return units["sampler/philox_seed1_perm10_x2"][:18]


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 40),
    variants=st.integers(1, 5),
    interval=st.integers(1, 4),
    iterations=st.integers(1, 3),
    batch=st.integers(1, 16),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_step_alone_gives_what_the_walk_gives(
    groups: int, variants: int, interval: int, iterations: int, batch: int, seed: int
) -> None:
    arguments = (groups, variants, interval * iterations, interval, batch, seed)
    walk = Sampler(*arguments)
    if walk.steps_per_iteration == 0:
        return
    for step in range(walk.total_steps):
        draw, alone = walk.draw(step), Sampler(*arguments).draw(step)
        np.testing.assert_array_equal(draw, alone)
        assert len(draw.groups) == batch
        assert draw.groups.max() < groups
        assert draw.variants.max() < variants
    # One epoch visits no group twice.
    first = np.concatenate([walk.draw(s).groups for s in range(walk.steps_per_iteration)])[:groups]
    assert len(np.unique(first)) == len(first)


def test_exploration_is_addressed_by_seed_and_step() -> None:
    explore, min_steps = exploration_draws(seed=3, step=7, global_batch_size=1000, halt_max_steps=5)
    again, _ = exploration_draws(seed=3, step=7, global_batch_size=1000, halt_max_steps=5)
    other, _ = exploration_draws(seed=3, step=8, global_batch_size=1000, halt_max_steps=5)
    np.testing.assert_array_equal(explore, again)
    assert (explore != other).any()
    assert set(min_steps) == {2, 3, 4, 5}
