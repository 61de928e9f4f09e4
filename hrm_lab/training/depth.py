"""What the model says after each ACT step, and how that adds up by how hard the puzzles are.

B sequences, S cells, T = halt_max_steps, R buckets of ratings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrm_lab.data.format import Split
from hrm_lab.model.act import IGNORE_LABEL_ID, Batch, reason
from hrm_lab.model.hrm import HRM, Prediction

MAX_BUCKETS = 8


class Thoughts(NamedTuple):
    """Of a batch after each step: tokens (B, T, S) uint8, q_halt (B, T), and whether it would halt (B, T) bool."""

    tokens: Tensor
    q_halt: Tensor
    halts: Tensor


def think(model: HRM, batch: Batch, steps: int) -> tuple[Prediction, Thoughts]:
    """The prediction after all steps, and of those before it what they come to."""
    tokens, q_halt, halts = [], [], []
    with model.weights_cast_once():
        for prediction in reason(model, batch, steps):
            tokens.append(prediction.logits.argmax(-1).to(torch.uint8))
            q_halt.append(prediction.q_halt)
            halts.append(prediction.q_halt > prediction.q_continue)
    return prediction, Thoughts(torch.stack(tokens, 1), torch.stack(q_halt, 1), torch.stack(halts, 1))


class Buckets:
    """Test puzzles by rating: each rating by itself where they are few, else equal shares as far as ties allow.

    Where a split has no ratings, all puzzles are in one bucket.
    """

    def __init__(self, splits: Iterable[Split]) -> None:
        per_split = [split.ratings for split in splits]
        rated = [ratings for ratings in per_split if ratings is not None]
        ratings = np.concatenate(rated) if rated and len(rated) == len(per_split) else np.zeros(0, np.int32)
        values = np.unique(ratings)
        if len(values) > MAX_BUCKETS:
            values = np.unique(np.quantile(ratings, np.arange(MAX_BUCKETS) / MAX_BUCKETS, method="lower"))
        self.low = values.astype(np.int32)  # (R,) least rating of each, or empty where nothing is rated
        above = [*(self.low[1:] - 1), ratings.max(initial=0)] if len(values) else []
        self.high = np.array(above, np.int32)  # (R,) rating that it goes up to

    def __len__(self) -> int:
        return max(1, len(self.low))

    def membership(self, split: Split, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(B, R) one where a row is in a bucket; nowhere for padding, row -1."""
        bucket = np.zeros(len(rows), np.int64)
        if len(self.low) and split.ratings is not None:
            bucket = np.searchsorted(self.low, split.ratings[rows], side="right") - 1
        is_member: NDArray[np.bool_] = (bucket[:, None] == np.arange(len(self))) & (rows >= 0)[:, None]
        return is_member.astype(np.float64)


class DepthSums:
    """Sums over puzzles by bucket: how many, their first halting step, cells right and solved after each step."""

    def __init__(self, buckets: int, steps: int, device: torch.device) -> None:
        self.steps = steps
        self.sums = torch.zeros(buckets, 2 + 2 * steps, dtype=torch.float64, device=device)

    def add(self, thoughts: Thoughts, batch: Batch, membership: Tensor) -> None:
        """Add a batch; membership is (B, R). Sequences with nothing supervised add nothing."""
        supervised = batch.labels != IGNORE_LABEL_ID
        length = supervised.sum(-1, keepdim=True)
        right = (supervised[:, None] & (thoughts.tokens == batch.labels[:, None])).sum(-1)
        halts = thoughts.halts.clone()
        halts[:, -1] = True  # there it has no choice
        first = halts.int().argmax(1, keepdim=True) + 1
        counted = torch.cat((torch.ones_like(first), first, right / length.clamp_min(1), right == length), 1)
        self.sums += (membership * (length > 0)).T @ counted.double()

    def summary(self) -> dict[str, NDArray[np.float64]]:
        """Over all that was added; as in evaluation.py."""
        sums = self.sums.cpu().numpy()
        puzzles, halting, cells, solved = np.split(sums, [1, 2, 2 + self.steps], axis=1)
        total = max(1.0, puzzles.sum())
        return {
            "accuracy": cells.sum(0) / total,
            "exact_accuracy": solved.sum(0) / total,
            "puzzles": puzzles[:, 0],
            "solved": solved,
            "halting_step": halting[:, 0] / np.maximum(1.0, puzzles[:, 0]),
        }
