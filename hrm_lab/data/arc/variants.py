"""Which variants a task has: a dihedral symmetry and a renaming of the colours 1..9 for each, no two of them alike.

The published builder draws symmetries until it has k images of a task that differ from each other and from the task
itself, but no more than 5k times (HRM_SPEC section 6, ARC). It makes every image to hash it. Here what an image hashes
to is looked up: the cells of one colour, under one dihedral symmetry, have a sum of random words (`cell_sums`, stored
with the dataset), whatever colour they are given; and an image of a pair is the sum of those, each times a word of its
new colour.

A symmetry's code is (dihedral id) * 9! + (number of the permutation in lexical order): 0 is the identity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hrm_lab.data.addressed import Ints, Words, random_words
from hrm_lab.data.arc.canvas import NUM_COLOURS
from hrm_lab.data.arc.files import MAX_SIDE, ArcTask
from hrm_lab.data.dihedral import dihedral

Codes = npt.NDArray[np.int32]

NUM_DIHEDRALS = 8
NUM_PERMUTATIONS = math.factorial(NUM_COLOURS - 1)
TRIES = 5  # draws for each variant that is wanted
_CELLS, _COLOURS, _PAIRS, _DRAWS = 0xA2C1, 0xA2C2, 0xA2C3, 0xA2C4  # what random words are for; see `random_words`


def cell_sums(tasks: Sequence[ArcTask]) -> Words:
    """(E, 8, 10) of all pairs, task by task: by dihedral id and colour, the sum over the cells of input and output."""
    words = random_words(_CELLS, count=2 * MAX_SIDE**2).reshape(2, MAX_SIDE, MAX_SIDE)
    pairs = [pair for task in tasks for pair in (*task.train, *task.test)]
    sums = np.zeros((len(pairs), NUM_DIHEDRALS, NUM_COLOURS), np.uint64)
    for number, pair in enumerate(pairs):
        for tid in range(NUM_DIHEDRALS):
            for side, grid in enumerate(pair):
                moved = dihedral(grid, tid).astype(np.intp)
                np.add.at(sums[number, tid], moved, words[side, : moved.shape[0], : moved.shape[1]])
    return sums


def image_hashes(sums: Words, codes: Codes) -> Words:
    """(n,) what a task's images hash to; the order of its pairs does not matter.

    Args:
        sums: (E, 8, 10) of the task's pairs.
        codes: (n,) of the symmetries.
    """
    present = np.flatnonzero(sums.any(axis=(0, 1)))  # P colours; tasks that need many tries have few
    colour_words = random_words(_COLOURS, count=NUM_COLOURS)[0] | np.uint64(1)
    weights = colour_words[new_colours(codes)[:, present]]  # (n, P)
    moved = sums[:, :, present][:, codes // NUM_PERMUTATIONS]  # (E, n, P)
    pairs: Words = random_words(_PAIRS, (moved * weights).sum(-1, dtype=np.uint64), count=1)[..., 0]
    total: Words = pairs.sum(0, dtype=np.uint64)
    return total


def distinct_codes(sums: Words, seed: int, task: int, count: int) -> Codes:
    """The codes of a task's variants, the identity first: 1 + `count`, or fewer where there are not as many images.

    Args:
        sums: (E, 8, 10) of the task's pairs.
        seed: of the run.
        task: its number.
    """
    codes, hashes = np.zeros(1, np.int32), image_hashes(sums, np.zeros(1, np.int32))
    first = np.zeros(1, np.intp)
    tried = 0
    while len(first) <= count and tried < TRIES * count:
        # What has been drawn before decides only how many are drawn at once.
        more = min(TRIES * count - tried, 2 * (1 + count - len(first)) if tried else count)
        drawn = _drawn(seed, task, np.arange(tried, tried + more))
        codes, hashes = np.concatenate([codes, drawn]), np.concatenate([hashes, image_hashes(sums, drawn)])
        first = np.sort(np.unique(hashes, return_index=True)[1])
        tried += more
    return codes[first[: 1 + count]]


def _drawn(seed: int, task: int, tries: Ints) -> Codes:
    words = random_words(_DRAWS, seed, task, tries, count=1)[:, 0]
    return (((words >> np.uint64(32)) * np.uint64(NUM_DIHEDRALS * NUM_PERMUTATIONS)) >> np.uint64(32)).astype(np.int32)


def new_colours(codes: Codes) -> npt.NDArray[np.uint8]:
    """(..., 10) what each colour becomes; black stays black."""
    return _permutations()[codes % NUM_PERMUTATIONS]


@lru_cache(maxsize=1)
def _permutations() -> npt.NDArray[np.uint8]:
    """(9!, 10), in lexical order; 3.6 MB."""
    flat = itertools.chain.from_iterable(itertools.permutations(range(1, NUM_COLOURS)))
    table = np.zeros((NUM_PERMUTATIONS, NUM_COLOURS), np.uint8)
    table[:, 1:] = np.fromiter(flat, np.uint8, NUM_PERMUTATIONS * (NUM_COLOURS - 1)).reshape(-1, NUM_COLOURS - 1)
    return table
