"""Evaluation on whole test sets: every sequence takes halt_max_steps ACT steps and is judged on the last."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hrm_lab.model.act import reason
from hrm_lab.model.hrm import HRM
from hrm_lab.model.losses import SUMS, TOKEN_LOSSES, eval_metrics, eval_sums
from hrm_lab.training.batches import Batches


@torch.inference_mode()
def evaluate(
    model: HRM, batches: Batches, global_batch_size: int, after_batch: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Metrics `eval/<metric>` over all test sets, and `eval/<set>/<metric>` too where there are several.

    Every process takes its share of each batch and gets the same result.

    Args:
        after_batch: called after every batch; whatever it raises ends the evaluation.
    """
    model.eval()
    ranks, steps = batches.ranks, model.config.halt_max_steps
    token_loss = TOKEN_LOSSES[model.config.loss_type]
    per_set = {}
    for name, split in batches.dataset.test.items():
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=ranks.device)
        for batch in batches.evaluation(split, global_batch_size):
            *_, prediction = reason(model, batch, steps)
            sums += eval_sums(prediction, batch, steps, token_loss)
            after_batch()
        ranks.sum_([sums])
        per_set[name] = sums
    model.train()
    values = {f"eval/{key}": value for key, value in eval_metrics(sum(per_set.values(), torch.zeros(()))).items()}
    if len(per_set) > 1:
        for name, sums in per_set.items():
            values |= {f"eval/{name}/{key}": value for key, value in eval_metrics(sums).items()}
    return values
