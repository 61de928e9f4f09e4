"""One learned vector per puzzle identifier, trained outside the autograd parameters (HRM_SPEC sections 1 and 4).

A table may hold a million rows of which a batch touches a few hundred, so the gradient is taken with respect to the
gathered rows only, and `optim/sign_sgd.py` updates just those rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PuzzleEmbedding(nn.Module):
    """A table (num_identifiers, E) of float32 rows, zero at first. A buffer: it is not counted among the parameters."""

    weights: Tensor

    def __init__(self, num_identifiers: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(num_identifiers, width))

    def gather(self, ids: Tensor) -> Tensor:
        """The rows (B, E) of `ids` (B,) as a leaf of the graph, whose `.grad` the sign-SGD step consumes."""
        rows = self.weights[ids].detach()
        return rows.requires_grad_(torch.is_grad_enabled())
