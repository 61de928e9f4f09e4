"""Addressed randomness: every draw is a function of its address, a counter-based hash of whole numbers.

So there is no generator whose state would have to be carried, shared between processes, or saved. An address starts
with a purpose (a constant of the module that draws), so that two uses of one seed share no word.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_GAMMA = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: the step of SplitMix64's counter
_WORD = 0xFFFFFFFFFFFFFFFF
_INDEX_BITS = 10  # room for the position inside a sort key: permutations of up to 1,024 things
_INDEX_MASK = (1 << _INDEX_BITS) - 1


def random_words(*address: int | npt.ArrayLike, count: int) -> Words:
    """Random 64-bit words as a pure function of an address.

    The address is folded part by part, h <- mix(h XOR mix(part + gamma)), and word number d is mix(h + (d + 1) gamma),
    where mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014) and all arithmetic is modulo 2**64.

    Args:
        address: whole numbers, or arrays of them that broadcast together to a shape (...).
        count: words for each address.

    Returns:
        (..., count) uint64. Neither the other rows nor `count` change a word.
    """
    state: Words = np.zeros((), np.uint64)
    for part in address:
        state = _mix(state ^ _mix(_as_words(part) + np.uint64(_GAMMA)))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    return _mix(state[..., None] + steps)


def _as_words(part: int | npt.ArrayLike) -> Words:
    """Whole numbers modulo 2**64; always at least one axis, where numpy wraps around without a warning."""
    if isinstance(part, int):
        return np.array([part & _WORD], np.uint64)
    return np.atleast_1d(np.asarray(part)).astype(np.uint64)


def _mix(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def permutations(words: Words) -> Ints:
    """Turn words (..., m) into a permutation of 0..m-1 along the last axis, m at most 1,024.

    The position is written into the low bits of the key, so no two keys are equal and the result is the same
    whichever sorting algorithm numpy takes.
    """
    size = words.shape[-1]
    if size > _INDEX_MASK + 1:
        raise ValueError(f"a permutation of {size} things: at most {_INDEX_MASK + 1}")
    keys = (words & np.uint64(_WORD ^ _INDEX_MASK)) | np.arange(size, dtype=np.uint64)
    keys.sort(axis=-1)
    return (keys & np.uint64(_INDEX_MASK)).astype(np.int64)


def small_permutations(words: Words, size: int) -> Ints:
    """Turn each word (...) into a permutation (..., size) of 0..size-1, size at most 5: one word is enough for it."""
    table = _all_permutations(size)
    # The upper half of a word times the number of permutations, and of that the upper half: no division, no overflow.
    places = ((words >> np.uint64(32)) * np.uint64(len(table))) >> np.uint64(32)
    return table[places.astype(np.intp)]


@lru_cache(maxsize=8)
def _all_permutations(size: int) -> Ints:
    if math.factorial(size) > 120:
        raise ValueError(f"a table of all permutations of {size} things: at most 5")
    return np.array(list(itertools.permutations(range(size))), np.int64)
