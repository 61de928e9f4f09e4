"""A stack of blocks where no gradient is wanted: the same function as `ReasoningModule`, in fewer passes over memory.

A stack is four parts a block. Each is computed by a kernel of `kernels.py` or, where that is no faster, by what the
compiler makes of the functions here, which take and give the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_lab.model.layers import RotaryEmbedding, rms_norm

if TYPE_CHECKING:
    from hrm_lab.model.hrm import HRM, ReasoningModule

LONGEST = 128  # positions that the kernel of attention holds at once


class Rows(NamedTuple):
    """`values` (M, D); with `squares` (T, M), the sum of a row's squares in T parts, they await normalisation."""

    values: Tensor
    squares: Tensor | None = None


def attention(qkv: Tensor, like: Rows, length: int, heads: int, rotary: RotaryEmbedding | None, eps: float) -> Tensor:
    """Rotary encoding and attention (M, D) from qkv (M, 3 D), the product of the rows `like` (M = B length)."""
    count, width = like.values.shape
    parts = _scaled(qkv, like, eps).view(-1, length, 3 * heads, width // heads)
    queries_keys, v = parts.tensor_split((2 * heads,), dim=2)
    q, k = (queries_keys if rotary is None else rotary(queries_keys)).chunk(2, dim=2)
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return mixed.transpose(1, 2).reshape(count, width)


def swiglu(rows: Rows, weight: Tensor, eps: float) -> Tensor:
    """silu(gate) * up (M, W) of normalised rows and a weight (2 W, D), gate first."""
    gate, up = _scaled(F.linear(rows.values, weight), rows, eps).chunk(2, dim=-1)
    return F.silu(gate) * up


def residual(x: Tensor, weight: Tensor, rows: Rows, eps: float) -> Rows:
    """The normalised rows (M, D) and the product of x (M, K) and a weight (D, K), added up."""
    return Rows(rms_norm(_scaled(rows.values, rows, eps) + F.linear(x, weight), eps))


def _scaled(x: Tensor, like: Rows, eps: float) -> Tensor:
    """A product of rows, as it is of normalised rows."""
    if like.squares is None:
        return x
    mean = like.squares.sum(0) / like.values.shape[1]
    return (x.float() * torch.rsqrt(mean + eps)[:, None]).to(x.dtype)


class FusedStack:
    """Computes a module's blocks.

    Args:
        parts: what computes attention, attention_out, swiglu and mlp_out.
    """

    def __init__(
        self, module: ReasoningModule, rotary: RotaryEmbedding | None, parts: dict[str, Callable[..., Any]]
    ) -> None:
        self.module, self.rotary, self.parts = module, rotary, parts
        self.normalised = importlib.import_module("hrm_lab.model.kernels").normalised

    def __call__(self, state: Tensor, injection: Tensor, first_only: bool = False) -> Tensor:
        """All positions (B, L, D), or the first one alone (B, 1, D)."""
        shape, layers = state.shape, list(self.module.layers)
        if first_only:
            layers.pop()
        rows = Rows((state + injection).view(-1, shape[-1]))
        for layer in layers:
            rows = self._block(layer, rows, shape[1])
        out: Tensor = self.normalised(rows, self.module.layers[-1].eps).view(shape)
        if first_only:
            out = self.module.layers[-1](out, self.rotary, True)
        return out

    def _block(self, layer: Any, rows: Rows, length: int) -> Rows:
        parts, attend, mlp, eps = self.parts, layer.self_attn, layer.mlp, layer.eps
        qkv_proj, o_proj, gate_up_proj, down_proj = (
            linear.weight_in(rows.values.dtype)
            for linear in (attend.qkv_proj, attend.o_proj, mlp.gate_up_proj, mlp.down_proj)
        )
        qkv = F.linear(rows.values, qkv_proj)
        mixed = parts["attention"](qkv, rows, length, attend.num_heads, self.rotary, eps)
        rows = parts["attention_out"](mixed, o_proj, rows, eps)
        inner = parts["swiglu"](rows, gate_up_proj, eps)
        out: Rows = parts["mlp_out"](inner, down_proj, rows, eps)
        return out


def fuse(model: HRM, positions: int) -> bool:
    """Have a model's passes without a gradient computed so, where there are kernels for them; says whether."""
    weight = model.lm_head.weight
    head = model.config.hidden_size // model.config.num_heads
    # A head's halves are turned against each other, and its keys and values lie in shared memory.
    fits = positions <= LONGEST and model.config.hidden_size % 8 == 0 and head % 2 == 0 and head <= 128
    if not fits or model.dtype != torch.bfloat16 or weight.device.type != "cuda":
        return False
    if torch.cuda.get_device_capability(weight.device)[0] != 9:  # the kernels are cut for Hopper
        return False
    parts = importlib.import_module("hrm_lab.model.kernels").PARTS
    for module in (model.L_level, model.H_level):
        module.fused = FusedStack(module, model.rotary_emb, parts)
    return True
