"""Token losses, the two Q losses, and the sums that every metric is made of (HRM_SPEC section 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_lab.model.act import IGNORE_LABEL_ID, Batch, Segment
from hrm_lab.model.hrm import Prediction

# The order of the entries of a sums vector.
SUMS = (
    "count",
    "accuracy",
    "exact_accuracy",
    "q_halt_accuracy",
    "steps",
    "lm_loss",
    "q_halt_loss",
    "q_continue_loss",
)
TokenLoss = Callable[[Tensor, Tensor], Tensor]


def log_stablemax(logits: Tensor) -> Tensor:
    """log of s(x) / sum s(x) over the last axis, s(x) = x + 1 for x >= 0 and 1 / (1 - x) below; in float64."""
    x = logits.double()
    s = torch.where(x < 0, 1 / (1 - x + 1e-30), x + 1)
    return torch.log(s / s.sum(-1, keepdim=True))


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of stablemax per position.

    Args:
        logits: (..., V).
        labels: (...), IGNORE_LABEL_ID where not supervised.

    Returns:
        (...) float64, 0 where not supervised.
    """
    # Chosen by a mask and not by `gather`, whose gradient a GPU adds up in any order. IGNORE_LABEL_ID is no token.
    chosen = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    return -torch.where(chosen, log_stablemax(logits), 0).sum(-1)


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of softmax per position, in float32; shapes as for stablemax_cross_entropy."""
    flat = F.cross_entropy(
        logits.float().flatten(0, -2), labels.long().flatten(), ignore_index=IGNORE_LABEL_ID, reduction="none"
    )
    return flat.view(labels.shape)


TOKEN_LOSSES: dict[str, TokenLoss] = {
    "stablemax_cross_entropy": stablemax_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
}


def train_loss(
    segment: Segment, data: Batch, halted: Tensor, steps: Tensor, token_loss: TokenLoss
) -> tuple[Tensor, Tensor]:
    """The loss of one training segment, summed (not averaged) over slots, and its metric sums.

    Every slot is trained on, but only slots that halted with something supervised are counted in the metrics.

    Args:
        data: what the slots hold after the refill, so each slot is judged on its own sequence.
        halted, steps: (B,), the carry's after this segment.

    Returns:
        lm_loss + 0.5 * (q_halt_loss + q_continue_loss), and a detached float64 vector in the order of SUMS.
    """
    lm_loss, supervised, accuracy, exact = _judge(segment.prediction, data, token_loss)
    q_halt_loss = _binary_cross_entropy(segment.prediction.q_halt, exact)
    loss = lm_loss.sum() + 0.5 * q_halt_loss.sum()
    q_continue_loss = torch.zeros_like(q_halt_loss)
    if segment.target_q_continue is not None:
        q_continue_loss = _binary_cross_entropy(segment.prediction.q_continue, segment.target_q_continue)
        loss = loss + 0.5 * q_continue_loss.sum()
    counted = halted & supervised
    right_q = (segment.prediction.q_halt >= 0) == exact
    return loss, _sums(counted, accuracy, exact, right_q, steps, lm_loss, q_halt_loss, q_continue_loss)


def eval_sums(prediction: Prediction, data: Batch, steps: int, token_loss: TokenLoss) -> Tensor:
    """Metric sums of a finished evaluation batch. Padding rows (nothing supervised) add nothing to any of them."""
    lm_loss, supervised, accuracy, exact = _judge(prediction, data, token_loss)
    q_halt_loss = _binary_cross_entropy(prediction.q_halt, exact) * supervised
    right_q = (prediction.q_halt >= 0) == exact
    taken = torch.full_like(lm_loss, steps)
    return _sums(supervised, accuracy, exact, right_q, taken, lm_loss, q_halt_loss, torch.zeros_like(lm_loss))


def train_metrics(sums: Tensor, sequences: int) -> dict[str, float]:
    """Logged values from sums: losses per slot, the rest per finished sequence, and left out when none finished.

    Args:
        sums: in the order of SUMS, over any number of steps and processes.
        sequences: slots those steps computed, that is global_batch_size times the number of steps.
    """
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    count = values.pop("count")
    losses = {key: value / sequences for key, value in values.items() if key.endswith("loss")}
    if count == 0:
        return losses
    return {key: value / count for key, value in values.items() if key not in losses} | losses


def eval_metrics(sums: Tensor) -> dict[str, float]:
    """Every sum per test sequence; there is no q_continue_loss in evaluation."""
    values = dict(zip(SUMS, sums.tolist(), strict=True))
    count = values.pop("count")
    del values["q_continue_loss"]
    return {key: value / count for key, value in values.items()} if count else {}


def _judge(prediction: Prediction, data: Batch, token_loss: TokenLoss) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per sequence: token loss (mean over its positions), whether any position is supervised, accuracy, exactness."""
    mask = data.labels != IGNORE_LABEL_ID
    length = mask.sum(-1)
    divisor = length.clamp_min(1)
    lm_loss = (token_loss(prediction.logits, data.labels) / divisor[:, None]).sum(-1)
    with torch.no_grad():
        correct = (mask & (prediction.logits.argmax(-1) == data.labels)).sum(-1)
        return lm_loss, length > 0, correct / divisor, correct == length


def _binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")


@torch.no_grad()
def _sums(counted: Tensor, accuracy: Tensor, exact: Tensor, right_q: Tensor, steps: Tensor, *losses: Tensor) -> Tensor:
    per_sequence = (counted, *(torch.where(counted, x, 0) for x in (accuracy, exact, right_q, steps)), *losses)
    return torch.stack([x.double().sum() for x in per_sequence])
