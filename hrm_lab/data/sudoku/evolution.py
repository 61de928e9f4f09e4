"""Generated puzzles of a minimum rating: random ones where that suffices, and from there a pool that evolves.

Random puzzles hardly ever take more than ten guesses. The pool gets as far as the older forum lists, and never to the
hardest of the forum (a rating of 30 and more): such puzzles come from files.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hrm_lab.data.addressed import permutations, random_words
from hrm_lab.data.sudoku.generator import Held, dig, random_grid
from hrm_lab.data.sudoku.rating import ratings
from hrm_lab.data.sudoku.search import evolve, score_all, tables_of
from hrm_lab.data.sudoku.solver import Puzzles
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

_ORDER, _EVOLUTION = 0x6005, 0x6006  # what a random word is for; see `random_words`
_DRAWS = 8  # random puzzles of which a pool takes the hardest, unless one is hard enough
_SMALLEST_POOL = 50
_CHUNK = 500  # steps between looks at what has been reached
_MOST_STEPS = 2_000  # for each puzzle of the pool
_STANDSTILL = 100  # steps for each puzzle of the pool without a rise, after which it is given up


class _Pool:
    """A split in the making.

    A puzzle that is rated high enough has at least the score `min_rating`, another one less: it is replaced before.
    One that may not be used has -1.
    """

    def __init__(self, config: SudokuDataConfig, split: int, size: int, held: Held) -> None:
        self.shape = (config.box_rows, config.box_cols)
        self.wanted, self.held = config.min_rating or 0, held
        cells = (config.box_rows * config.box_cols) ** 2
        self.questions, self.answers = np.zeros((size, cells), np.uint8), np.zeros((size, cells), np.uint8)
        self.scores, self.ratings = np.zeros(size, np.int64), np.zeros(size, np.int32)
        self.config, self.split = config, split
        self.seed, self.scoring_seed = random_words(_EVOLUTION, config.build_seed, split, count=2)[0]

    def draw(self, number: int) -> None:
        """Random puzzles for a place, of which the hardest is taken."""
        for attempt in range(_DRAWS):
            address = (self.config.build_seed, self.split, number, attempt)
            grid = random_grid(*self.shape, *address)
            order = permutations(random_words(_ORDER, *address, count=len(grid))[0])
            question = np.frombuffer(dig(grid, order, *self.shape), np.uint8)
            rating = int(ratings(question[None], *self.shape)[0])
            if attempt == 0 or rating > self.ratings[number]:
                self.questions[number], self.ratings[number] = question, rating
                self.answers[number] = np.frombuffer(grid, np.uint8)
            if rating >= self.wanted:
                break

    def score(self) -> None:
        """Once all places are filled."""
        score_all(self.questions, self.scores, tables_of(*self.shape), self.scoring_seed)
        self._look(np.arange(len(self.scores)))

    def step(self, first: int) -> None:
        """Evolve by a chunk of steps."""
        before = self.questions.copy()
        evolve(self.questions, self.answers, self.scores, tables_of(*self.shape), self.seed, first, _CHUNK)
        changed = np.flatnonzero((before != self.questions).any(axis=1))
        if changed.size:
            self.ratings[changed] = ratings(self.questions[changed], *self.shape)
            self._look(changed)

    def _look(self, changed: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Part those that will do from those that will not, and refuse those that the test set has."""
        is_fine = self.ratings[changed] >= self.wanted
        fine, others = changed[is_fine], changed[~is_fine]
        self.scores[fine] = np.maximum(self.scores[fine], self.wanted)
        self.scores[others] = np.minimum(self.scores[others], self.wanted - 1)
        refused = fine[self.held.holds(self.questions[fine], self.answers[fine])]
        self.scores[refused], self.ratings[refused] = -1, -1

    @property
    def ready(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Places of the puzzles that will do."""
        return np.flatnonzero(self.ratings >= self.wanted)


def generate_rated(config: SudokuDataConfig, split: int, size: int, held: Held, done: Callable[[int], None]) -> Puzzles:
    """So many puzzles of a split, each with at least `min_rating` and as few clues as its solution allows.

    Args:
        config: with `min_rating`.
        split: TRAIN or TEST.
        size: puzzles.
        held: what no puzzle may be.
        done: called with the number of puzzles that are there.

    Raises:
        DataError: when it cannot be reached; says what can.
    """
    pool = _Pool(config, split, max(size, _SMALLEST_POOL), held)
    for number in range(len(pool.scores)):
        pool.draw(number)
        done(min(size, len(pool.ready)))
    pool.score()
    steps = rise = highest = 0
    while len(pool.ready) < size:
        pool.step(steps)
        steps += _CHUNK
        done(len(pool.ready))
        if int(pool.scores.sum()) > highest:
            highest, rise = int(pool.scores.sum()), steps
        if steps >= _MOST_STEPS * len(pool.scores) or steps - rise >= _STANDSTILL * len(pool.scores):
            reached = max(0, int(np.sort(pool.ratings)[-size]))
            raise DataError(
                f"data.min_rating={config.min_rating}: {steps} steps found {len(pool.ready)} of {size} such puzzles\n"
                f"  way out: all reached data.min_rating={reached}; ask for that, for fewer puzzles, "
                "or take a file of hard ones (data.source=csv)"
            )
    chosen = pool.ready[:size]
    return Puzzles(pool.questions[chosen], pool.answers[chosen])
