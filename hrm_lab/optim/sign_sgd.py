"""Sign-SGD for the puzzle embedding's touched rows (HRM_SPEC section 4, "Sparse sign-SGD")."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sign_sgd_(weights: Tensor, ids: Tensor, grads: Tensor, lr: float | Tensor, weight_decay: float) -> None:
    """w = w (1 - lr wd) - lr sign(sum of its gradients), in place, for the rows named in `ids` only.

    Args:
        weights: (N, E), the table.
        ids: (B,) rows touched by the global batch; a row may come several times, its gradients are summed.
        grads: (B, E), gradient of each gathered row.
        lr: a number, or one on the device.

    All shapes are static and nothing is copied to the host, so that the step can be captured in a CUDA graph.
    """
    ids, order = ids.long().sort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    row = first.cumsum(0) - 1
    summed = torch.zeros_like(grads).index_add_(0, row, grads[order])
    # A row that comes several times is written several times with the same value.
    weights[ids] = weights[ids] * (1 - lr * weight_decay) - lr * summed[row].sign()
