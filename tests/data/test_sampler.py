"""The training order: the published one, the same for any number of processes and from any step."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm_lab.data.format import Split
from hrm_lab.data.sampler import Puzzles, Sampler, eval_rows, evaluation_rows, exploration_draws


def puzzles_of(groups: int, variants: int) -> Puzzles:
    """Groups of one puzzle of one example, in so many variants."""
    nothing = np.zeros((groups, 1), np.uint8)
    return Puzzles(Split.of_single_examples(nothing, nothing), np.full(groups, variants))


def test_published_order_on_any_number_of_processes(units: dict[str, Any]) -> None:
    # 10 groups of 3 puzzles, global batch 6, 2 epochs an iteration; 20 rows make 3 batches, 2 rows are dropped.
    sampler = Sampler(puzzles_of(10, 3), epochs=4, eval_interval=2, global_batch_size=6, seed=0)
    assert (sampler.steps_per_iteration, sampler.total_steps) == (3, 6)
    for iteration in (1, 2):
        draws = [sampler.draw((iteration - 1) * 3 + step) for step in range(3)]
        ours = np.stack([draw.puzzles * 3 + draw.variants for draw in draws])
        for world in (1, 2):
            golden = [
                units[f"sampler/train/world{world}/rank{rank}/iter{iteration}/example_ids"] for rank in range(world)
            ]
            np.testing.assert_array_equal(ours, np.concatenate(golden, axis=1))
    np.testing.assert_array_equal(np.concatenate([sampler.draw(s).puzzles for s in range(3)]), _first_order(units))


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
    arguments = (puzzles_of(groups, variants), interval * iterations, interval, batch, seed)
    walk = Sampler(*arguments)
    if walk.steps_per_iteration == 0:
        return
    for step in range(walk.total_steps):
        draw, alone = walk.draw(step), Sampler(*arguments).draw(step)
        np.testing.assert_array_equal(draw, alone)
        assert len(draw.puzzles) == batch
        assert draw.puzzles.max() < groups
        assert draw.variants.max() < variants
    # One epoch visits no group twice.
    first = np.concatenate([walk.draw(s).puzzles for s in range(walk.steps_per_iteration)])[:groups]
    assert len(np.unique(first)) == len(first)


def test_exploration_is_addressed_by_seed_and_step() -> None:
    explore, min_steps = exploration_draws(seed=3, step=7, global_batch_size=1000, halt_max_steps=5)
    again, _ = exploration_draws(seed=3, step=7, global_batch_size=1000, halt_max_steps=5)
    other, _ = exploration_draws(seed=3, step=8, global_batch_size=1000, halt_max_steps=5)
    np.testing.assert_array_equal(explore, again)
    assert (explore != other).any()
    assert set(min_steps) == {2, 3, 4, 5}


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_puzzles_of_several_examples_fill_batches_as_the_published_walk_does(data: st.DataObject) -> None:
    """Whole puzzles, the last one cut where the batch is full, no example of a puzzle twice."""
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    variants = np.array(data.draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes))))
    batch, seed = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 99))
    nothing = np.zeros((sum(sizes), 1), np.uint8)
    offsets, each = np.concatenate([[0], np.cumsum(sizes)]), np.arange(len(sizes) + 1)
    split = Split(nothing, nothing, np.arange(len(sizes), dtype=np.int32), offsets, each)
    sampler = Sampler(Puzzles(split, variants), 6, 3, batch, seed)
    for step in range(sampler.total_steps):
        draw = sampler.draw(step)
        assert (draw.variants < variants[draw.puzzles]).all()
        assert (draw.examples == offsets[draw.puzzles] + draw.places).all()
        assert (draw.identifiers == draw.puzzles).all()
        taken = _published_batch(sizes, variants, batch, seed, *divmod(step, sampler.steps_per_iteration))
        assert [puzzle for puzzle, count in taken for _ in range(count)] == draw.puzzles.tolist()
        ends = np.cumsum([count for _, count in taken])
        for end, (_, count) in zip(ends, taken, strict=True):
            assert len(set(draw.places[end - count : end].tolist())) == count
    rows = evaluation_rows(sampler.puzzles)
    assert len(rows.examples) == int((np.array(sizes) * variants).sum())
    assert len({*zip(rows.examples.tolist(), rows.variants.tolist(), strict=True)}) == len(rows.examples)


def _published_batch(
    sizes: list[int], variants: np.ndarray[Any, Any], batch: int, seed: int, iteration: int, within: int
) -> list[tuple[int, int]]:
    """(puzzle, examples taken of it) of one batch, as the published loader's loop goes through an iteration."""
    generator = np.random.Generator(np.random.Philox(seed=seed + iteration + 1))
    walk: list[int] = []
    batches: list[list[tuple[int, int]]] = []
    while True:
        if not walk:
            walk = np.concatenate([generator.permutation(len(sizes)) for _ in range(3)]).tolist()
            bounds = variants if (variants != variants[0]).any() else np.full(len(sizes), variants[0])
            generator.integers(0, bounds[walk], size=len(walk))  # which variant: not looked at here
        if not batches or sum(count for _, count in batches[-1]) == batch:
            batches.append([])
        puzzle, room = walk.pop(0), batch - sum(count for _, count in batches[-1])
        batches[-1].append((puzzle, min(sizes[puzzle], room)))
        if len(batches) > within and sum(count for _, count in batches[-1]) == batch:
            return batches[within]
