"""Which examples make which batch: a function of (seed, step) alone, for any number of processes and any restart.

The order is the published loader's (HRM_SPEC section 6, "Train sampler"), but addressed instead of consumed: an
iteration of `eval_interval` epochs walks through that many permutations of the groups, draws one of the puzzles of
each, and takes its examples, as many as the batch has room for. Its generator is keyed by (seed, iteration), so any
step's batch can be computed from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hrm_lab.data.addressed import random_words
from hrm_lab.data.format import Split
from hrm_lab.data.task import Rows

Ints = NDArray[np.int64]
_EXAMPLES, _SUBSET = 0x5A01, 0x5A02  # what random words are for; see `random_words`


class Puzzles:
    """A split's puzzles with their variants, numbered through: stored puzzle p has the numbers from first[p] on.

    Args:
        split: of the dataset.
        num_variants: (P,) of each stored puzzle, itself included.
    """

    def __init__(self, split: Split, num_variants: Ints) -> None:
        self.split = split
        self.first = np.concatenate([[0], np.cumsum(num_variants)])
        self.first_of_group = self.first[split.group_offsets]
        self.sizes = np.diff(split.puzzle_offsets)  # examples of each stored puzzle
        self.mean_size = float((self.sizes * num_variants).sum() / self.first[-1])

    def stored(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Of puzzle numbers: the stored puzzle and the variant of it."""
        puzzles = np.searchsorted(self.first, numbers, side="right") - 1
        return puzzles, numbers - self.first[puzzles]

    def rows(self, numbers: Ints, places: Ints) -> Rows:
        """Example number `places` (B,) of puzzles `numbers` (B,)."""
        puzzles, variants = self.stored(numbers)
        examples = self.split.puzzle_offsets[puzzles] + places
        return Rows(examples, puzzles, places, variants, self.split.puzzle_identifiers[puzzles])


@dataclass(frozen=True)
class _Walk:
    """The puzzles of one iteration in order, and where each batch begins among them; its end is the next one's begin.

    A batch takes of its last puzzle what it has room for; the rest of that puzzle's examples is dropped, as published.
    """

    numbers: Ints
    begins: Ints  # (steps + 1,)


class Sampler:
    """The training order.

    Args:
        puzzles: of the training split; an epoch visits each of its groups once.
        epochs, eval_interval: in epochs; eval_interval divides epochs.
        global_batch_size: rows of one step over all processes.
        seed: of the run.
    """

    def __init__(self, puzzles: Puzzles, epochs: int, eval_interval: int, global_batch_size: int, seed: int) -> None:
        self.puzzles = puzzles
        self.num_groups = puzzles.split.num_groups
        self.epochs_per_iteration = eval_interval
        self.iterations = epochs // eval_interval
        self.global_batch_size = global_batch_size
        self.seed = seed
        # Rows left over at the end of an iteration are dropped, as published. What a batch drops of its last puzzle is
        # made up for by a few groups of a further epoch, so that every iteration has as many steps as the schedule.
        examples_per_epoch = self.num_groups * puzzles.mean_size
        self.steps_per_iteration = int(eval_interval * examples_per_epoch / global_batch_size)
        # What the learning-rate schedule calls the end; a little more than the steps taken where rows are dropped.
        self.schedule_steps = int(epochs * examples_per_epoch / global_batch_size)
        self._walk = lru_cache(maxsize=2)(self._compute_walk)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.iterations * self.steps_per_iteration

    def draw(self, step: int) -> Rows:
        """The global batch of optimizer step `step`, counted from 0. Every process computes all of it."""
        iteration, within = divmod(step, self.steps_per_iteration)
        walk = self._walk(iteration)
        begin, end = walk.begins[within : within + 2]
        numbers = walk.numbers[begin:end]
        stored, _ = self.puzzles.stored(numbers)
        sizes = self.puzzles.sizes[stored]
        if sizes.max() == 1:
            return self.puzzles.rows(numbers, np.zeros_like(numbers))
        return self.puzzles.rows(*self._examples(numbers, sizes, iteration, np.arange(begin, end)))

    def _examples(self, numbers: Ints, sizes: Ints, iteration: int, positions: Ints) -> tuple[Ints, Ints]:
        """All examples of each puzzle in random order, cut where the batch is full."""
        words = random_words(_EXAMPLES, self.seed, iteration, positions, count=int(sizes.max()))
        words[np.arange(words.shape[1]) >= sizes[:, None]] = np.iinfo(np.uint64).max
        places = np.argsort(words, axis=1, kind="stable")
        within = np.arange(words.shape[1]) < sizes[:, None]
        room = self.global_batch_size
        chosen: Ints = places[within][:room]
        return np.repeat(numbers, sizes)[:room], chosen

    def _compute_walk(self, iteration: int) -> _Walk:
        generator = np.random.Generator(np.random.Philox(seed=self.seed + iteration + 1))
        numbers, begins = np.zeros(0, np.int64), [0]
        while len(begins) <= self.steps_per_iteration:
            numbers = np.concatenate([numbers, self._visit_groups(generator)])
            stored, _ = self.puzzles.stored(numbers)
            filled = np.cumsum(self.puzzles.sizes[stored])
            while len(begins) <= self.steps_per_iteration:
                before = int(filled[begins[-1] - 1]) if begins[-1] else 0
                last = int(np.searchsorted(filled, before + self.global_batch_size))
                if last == len(filled):
                    break
                begins.append(last + 1)
        return _Walk(numbers, np.array(begins))

    def _visit_groups(self, generator: np.random.Generator) -> Ints:
        """An iteration's permutations of the groups, and one puzzle drawn of each."""
        groups = np.concatenate([generator.permutation(self.num_groups) for _ in range(self.epochs_per_iteration)])
        first = self.puzzles.first_of_group
        sizes = np.diff(first)
        # One bound for all where there is one: so numpy draws what the published loader draws one by one.
        bounds = int(sizes[0]) if (sizes == sizes[0]).all() else sizes[groups]
        drawn: Ints = first[groups] + generator.integers(0, bounds, size=len(groups))
        return drawn


def exploration_draws(
    seed: int, step: int, global_batch_size: int, halt_max_steps: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Exploration of optimizer step `step` (from 0): uniforms in [0, 1) and minima of 2 .. halt_max_steps, each (B,).

    Keyed by (seed, step), with one entry for each global slot, so that it does not depend on the number of processes.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    uniform = generator.random(global_batch_size, dtype=np.float32)
    return uniform, generator.integers(2, halt_max_steps + 1, size=global_batch_size, dtype=np.int32)


def evaluation_rows(puzzles: Puzzles, groups: Ints | None = None) -> Rows:
    """Every example of a test split in every variant, puzzle by puzzle; of some groups only, where they are given."""
    split = puzzles.split
    chosen = np.arange(split.num_groups) if groups is None else groups
    numbers = _ranges(puzzles.first_of_group[chosen], puzzles.first_of_group[chosen + 1])
    stored, _ = puzzles.stored(numbers)
    sizes = puzzles.sizes[stored]
    return puzzles.rows(np.repeat(numbers, sizes), _ranges(np.zeros_like(sizes), sizes))


def _ranges(begins: Ints, ends: Ints) -> Ints:
    """All whole numbers from begins[i] up to ends[i], one range after the other."""
    sizes = ends - begins
    starts = np.cumsum(sizes) - sizes
    numbers: Ints = np.arange(int(sizes.sum())) - np.repeat(starts - begins, sizes)
    return numbers


def evaluation_subset(num_groups: int, size: int) -> Ints:
    """`size` test groups, in order: a function of the numbers alone, so that runs of all seeds are judged alike."""
    words = random_words(_SUBSET, num_groups, count=num_groups)[0]
    return np.sort(np.argsort(words, kind="stable")[:size]).astype(np.int64)


def eval_rows(count: int, global_batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Ints]:
    """Walk through `count` test rows in order: this process's share of each global batch, -1 where it is padded."""
    local = global_batch_size // world_size
    for start in range(0, count, global_batch_size):
        rows = start + rank * local + np.arange(local)
        yield np.where(rows < count, rows, -1)
