"""What is in a dataset, counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hrm_lab.data.format import DatasetInfo, Split

Ints = npt.NDArray[np.int64]
_CHUNK_TOKENS = 1 << 22


@dataclass(frozen=True)
class SplitFacts:
    """One split, counted."""

    inputs: Ints  # (V,) how often each token is in the inputs
    labels: Ints  # (V,) likewise
    identifiers: tuple[int, int, int]  # lowest, highest, how many different ones
    ratings: list[tuple[str, int]]  # how many examples have a rating of 0, 1, 2-3, 4-7, ...; empty where none is known
    median_rating: float | None


def split_facts(info: DatasetInfo, split: Split) -> SplitFacts:
    """Count a split; every token is read."""
    counts = {}
    for key in ("inputs", "labels"):
        counts[key] = np.zeros(info.vocab_size, np.int64)
        for rows in chunks(getattr(split, key)):
            counts[key] += np.bincount(rows.reshape(-1), minlength=info.vocab_size)[: info.vocab_size]
    named = split.puzzle_identifiers
    return SplitFacts(
        counts["inputs"],
        counts["labels"],
        (int(named.min()), int(named.max()), len(np.unique(named))),
        _by_rating(split.ratings),
        None if split.ratings is None else float(np.median(split.ratings)),
    )


def chunks(rows: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Rows (N, S) some at a time, so that they need not fit into memory."""
    size = max(1, _CHUNK_TOKENS // rows.shape[1])
    for start in range(0, len(rows), size):
        yield np.asarray(rows[start : start + size])


def _by_rating(ratings: npt.NDArray[np.int32] | None) -> list[tuple[str, int]]:
    if ratings is None:
        return []
    edges = [0, *(1 << power for power in range(int(ratings.max()).bit_length() + 1))]
    found, _ = np.histogram(ratings, [*edges, np.inf])
    names = [f"{low}" if high - low <= 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    return [(name, int(count)) for name, count in zip(names, found, strict=False)]
