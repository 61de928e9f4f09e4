"""Evaluation on whole test sets: every sequence takes halt_max_steps ACT steps and is judged on the last.

What it came to on the way there is kept as arrays, for pictures and reports. T = halt_max_steps, R = buckets of
ratings (depth.py), K = shown puzzles, S = cells:

    accuracy, exact_accuracy    (T,) mean over all test puzzles of the prediction after 1 .. T steps
    puzzles, solved             (R,), (R, T) how many there are by rating; how many of them are solved after each step
    halting_step                (R,) mean of the first step with q_halt > q_continue: how long the model itself would
                                think; T where it never would stop
    rating_low, rating_high     (R,) int32: from where to where the ratings of a bucket go; empty where none are known
    inputs, labels              (K, S) uint8 tokens of the first puzzles of the first test set
    predictions, q_halt         (K, T, S) uint8, (K, T): what the model says of them after each step, and how likely it
                                is to be right by its own word
    grid_shape, box_shape       (2,) rows and columns of a board; of its boxes, where it has boxes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hrm_lab.data.format import DatasetInfo, Split
from hrm_lab.model.hrm import HRM
from hrm_lab.model.losses import SUMS, TOKEN_LOSSES, eval_metrics, eval_sums
from hrm_lab.training.batches import Batches
from hrm_lab.training.depth import Buckets, DepthSums, Thoughts, think

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Evaluation:
    """Metrics and arrays by name, the same on every process; the shown puzzles are on the main process only."""

    metrics: dict[str, float]
    arrays: Arrays


@torch.inference_mode()
def evaluate(
    model: HRM,
    batches: Batches,
    global_batch_size: int,
    after_batch: Callable[[], object] = lambda: None,
    shown_puzzles: int = 0,
) -> Evaluation:
    """Metrics `eval/<metric>` over all test sets, and `eval/<set>/<metric>` too where there are several.

    Every process takes its share of each batch and gets the same result.

    Args:
        after_batch: called after every batch; whatever it raises ends the evaluation.
        shown_puzzles: K; fewer are shown where the main process's share of a batch is smaller.
    """
    model.eval()
    ranks, steps = batches.ranks, model.config.halt_max_steps
    token_loss = TOKEN_LOSSES[model.config.loss_type]
    buckets = Buckets(batches.dataset.test.values())
    depth = DepthSums(len(buckets), steps, ranks.device)
    per_set, shown = {}, None
    for name, split in batches.dataset.test.items():
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=ranks.device)
        for rows, batch in batches.evaluation(split, global_batch_size):
            prediction, thoughts = think(model, batch, steps)
            sums += eval_sums(prediction, batch, steps, token_loss)
            depth.add(thoughts, batch, torch.from_numpy(buckets.membership(split, rows)).to(ranks.device))
            if shown is None:
                shown = Thoughts(*(said[:shown_puzzles] for said in thoughts))
            after_batch()
        per_set[name] = sums
    ranks.sum_([*per_set.values(), depth.sums])
    model.train()
    values = {f"eval/{key}": value for key, value in eval_metrics(sum(per_set.values(), torch.zeros(()))).items()}
    if len(per_set) > 1:
        for name, sums in per_set.items():
            values |= {f"eval/{name}/{key}": value for key, value in eval_metrics(sums).items()}
    arrays: Arrays = {**depth.summary(), "rating_low": buckets.low, "rating_high": buckets.high}
    if ranks.is_main and shown is not None:
        arrays |= _boards(shown, next(iter(batches.dataset.test.values())), batches.dataset.info)
    return Evaluation(values, arrays)


def _boards(shown: Thoughts, split: Split, info: DatasetInfo) -> Arrays:
    """The first puzzles of a split, as far as something was said of them, and what was said."""
    count = min(len(shown.tokens), len(split))  # without padding
    boards = {
        "inputs": np.array(split.inputs[:count]),
        "labels": np.array(split.labels[:count]),
        "predictions": shown.tokens[:count].cpu().numpy(),
        "q_halt": shown.q_halt[:count].sigmoid().cpu().numpy(),
        "grid_shape": np.array(info.grid_shape),
    }
    if "box_rows" in info.task_facts:
        boards["box_shape"] = np.array([info.task_facts["box_rows"], info.task_facts["box_cols"]])
    return boards
