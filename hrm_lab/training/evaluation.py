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
    glyphs, fills               (V,) str: the character and the colour (or "") of each token
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrm_lab.data.task import Appearance, Judged, Rows, Scorer
from hrm_lab.model.act import Batch
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
    per_set, own, shown = {}, {}, None
    for name, split in batches.dataset.test.items():
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=ranks.device)
        scorer = batches.scorer(split)
        for rows, batch in batches.evaluation(split, global_batch_size):
            prediction, thoughts = think(model, batch, steps)
            sums += eval_sums(prediction, batch, steps, token_loss)
            depth.add(thoughts, batch, torch.from_numpy(buckets.membership(split, rows.examples)).to(ranks.device))
            if scorer is not None:
                _add(scorer, rows, batch, thoughts)
            if shown is None:
                shown = _boards(rows, batch, thoughts, shown_puzzles)
            after_batch()
        per_set[name] = sums
        if scorer is not None:
            own[name] = scorer.metrics(ranks.gather_objects(scorer.collected()))
    ranks.sum_([*per_set.values(), depth.sums])
    model.train()
    values = {f"eval/{key}": value for key, value in _over_all(per_set, own).items()}
    if len(per_set) > 1:
        for name, sums in per_set.items():
            values |= {f"eval/{name}/{key}": value for key, value in (eval_metrics(sums) | own.get(name, {})).items()}
    arrays: Arrays = {**depth.summary(), "rating_low": buckets.low, "rating_high": buckets.high}
    if ranks.is_main and shown is not None:
        info = batches.dataset.info
        arrays |= shown | {"grid_shape": np.array(info.grid_shape)} | shown_as(batches.task.appearance(info))
    return Evaluation(values, arrays)


def _over_all(per_set: dict[str, Tensor], own: dict[str, dict[str, float]]) -> dict[str, float]:
    """Metrics over all test sets: of sums, and of the task's own the mean over sets."""
    values = eval_metrics(sum(per_set.values(), torch.zeros(())))
    names = [name for metrics in own.values() for name in metrics]
    return values | {name: float(np.mean([metrics[name] for metrics in own.values()])) for name in names}


def _add(scorer: Scorer, rows: Rows, batch: Batch, thoughts: Thoughts) -> None:
    """Give the task's own metrics a batch, without its padding."""
    present = np.flatnonzero(rows.examples >= 0)
    said = (batch.inputs, batch.labels.clamp_min(0), thoughts.tokens[:, -1])
    inputs, labels, predictions = (tensor[: len(present)].to(torch.uint8).cpu().numpy() for tensor in said)
    q_halt = thoughts.q_halt[: len(present), -1].float().cpu().numpy()
    scorer.add(Judged(rows.take(present), inputs, labels, predictions, q_halt))


def _boards(rows: Rows, batch: Batch, thoughts: Thoughts, count: int) -> Arrays:
    """The first puzzles of a batch, and what was said of them."""
    count = min(count, int((rows.examples >= 0).sum()))
    return {
        "inputs": batch.inputs[:count].to(torch.uint8).cpu().numpy(),
        "labels": batch.labels[:count].clamp_min(0).to(torch.uint8).cpu().numpy(),
        "predictions": thoughts.tokens[:count].cpu().numpy(),
        "q_halt": thoughts.q_halt[:count].sigmoid().cpu().numpy(),
    }


def shown_as(appearance: Appearance) -> Arrays:
    """How tokens are to be drawn, as arrays beside them."""
    arrays: Arrays = {"glyphs": np.array(list(appearance.glyphs))}
    if appearance.fills:
        arrays["fills"] = np.array(appearance.fills)
    if appearance.box_shape is not None:
        arrays["box_shape"] = np.array(appearance.box_shape)
    return arrays
