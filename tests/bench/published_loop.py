"""The published implementation, from a clone of its repository, in the loop of `plain_loop.py`.

None of its code is here. What it calls FlashAttention is torch's attention where that is not installed, and the
optimizers are the loop's, since AdamATan2's package runs on CUDA only.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrm_lab.config import ModelConfig


class PublishedHRM(nn.Module):
    """Its model and loss head, called as the loop calls a model.

    Args:
        clone: folder of the repository (github.com/sapientinc/HRM).
    """

    def __init__(
        self, clone: Path, config: ModelConfig, vocab_size: int, seq_len: int, identifiers: int, batch: int
    ) -> None:
        super().__init__()
        if not (clone / "models/hrm/hrm_act_v1.py").exists():
            raise SystemExit(f"{clone} is no clone of the published repository: it has no models/hrm/hrm_act_v1.py")
        sys.path.insert(0, str(clone))
        if find_spec("flash_attn") is None and find_spec("flash_attn_interface") is None:
            sys.modules["flash_attn"] = _torchs_attention()
        given = {
            name: getattr(config, name)
            for name in (
                *("H_cycles", "L_cycles", "H_layers", "L_layers", "hidden_size", "num_heads", "expansion"),
                *("pos_encodings", "rms_norm_eps", "rope_theta", "halt_max_steps", "halt_exploration_prob"),
                *("forward_dtype", "puzzle_emb_ndim"),
            )
        }
        sizes = {"batch_size": batch, "seq_len": seq_len, "vocab_size": vocab_size}
        made = importlib.import_module("models.hrm.hrm_act_v1").HierarchicalReasoningModel_ACTV1(
            given | sizes | {"num_puzzle_identifiers": identifiers}
        )
        self.head: Any = importlib.import_module("models.losses").ACTLossHead(made, "stablemax_cross_entropy")
        embedding = made.puzzle_emb
        self.local, self.ids, self.puzzles = embedding.local_weights, embedding.local_ids, embedding.weights

    def initial_carry(self, batch: dict[str, Tensor]) -> Any:
        """Every slot is halted."""
        return self.head.initial_carry(batch)

    def forward(self, carry: Any, batch: dict[str, Tensor]) -> tuple[Any, Tensor, Tensor]:
        carry, loss, metrics, _, _ = self.head(carry=carry, batch=batch, return_keys=[])
        return carry, loss, torch.stack([metrics[name].double() for name in sorted(metrics)])


def _torchs_attention() -> ModuleType:
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).contiguous()

    module = ModuleType("flash_attn")
    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    return module
