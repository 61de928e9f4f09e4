"""A stack of blocks whose backward is written out, against autograd through the blocks themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_lab.config import ModelConfig
from hrm_lab.model import fused
from hrm_lab.model.fused import DifferentiableStack, Rows
from hrm_lab.model.hrm import ReasoningModule
from hrm_lab.model.layers import RotaryEmbedding, rms_norm


class Parts:
    """What `gradient_kernels.py` computes, by torch; backwards by autograd."""

    normalised = staticmethod(lambda rows, eps: rms_norm(rows.values, eps))

    def attention(self, rows: Rows, weight: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        product = F.linear(rows.values, weight)
        return _attention(product, rows, *given), product, product.new_empty(0)

    def attention_backward(
        self, d_mixed: Tensor, mixed: Tensor, qkv: Tensor, log_sums: Tensor, rows: Rows, *given: Any
    ) -> Tensor:
        return _gradient(lambda x: _attention(x, rows, *given), qkv, d_mixed)

    def residual(self, x: Tensor, weight: Tensor, rows: Rows, eps: float) -> Rows:
        sums = fused._scaled(rows.values, rows, eps) + F.linear(x, weight)
        return Rows(sums, sums.square().sum(1)[None])

    def swiglu(self, rows: Rows, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return fused.swiglu(rows, weight, eps), F.linear(rows.values, weight)

    def swiglu_backward(self, d_rows: Tensor, weight: Tensor, gate_up: Tensor, rows: Rows, eps: float) -> Tensor:
        def opened(x: Tensor) -> Tensor:
            gate, up = fused._scaled(x, rows, eps).chunk(2, dim=-1)
            return F.silu(gate) * up

        return _gradient(opened, gate_up, d_rows @ weight)

    def norm_backward(self, product: Tensor | None, kept: Tensor, rows: Rows, eps: float) -> Tensor:
        added = 0 if product is None else product
        if rows.squares is None:
            return kept + added
        scale = torch.rsqrt(rows.values.square().mean(1, keepdim=True) + eps)
        return _gradient(lambda x: rms_norm(x, eps), rows.values, kept + added / scale)


def _attention(
    product: Tensor, rows: Rows, length: int, heads: int, rotary: RotaryEmbedding | None, eps: float
) -> Tensor:
    qkv = fused._scaled(product, rows, eps).view(-1, length, 3 * heads, product.shape[1] // (3 * heads))
    q, k, v = qkv.split(heads, dim=2)
    if rotary is not None:
        q, k = rotary(q), rotary(k)
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return mixed.transpose(1, 2).reshape(len(product), -1)


def _gradient(function: Any, x: Tensor, d_out: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(function(leaf), leaf, d_out)
    return found


@pytest.mark.parametrize("turns", [True, False])
def test_written_out_backward(turns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused.importlib, "import_module", lambda name: Parts())
    generator = torch.Generator().manual_seed(0)
    module = ReasoningModule(ModelConfig(hidden_size=16, num_heads=2), 2, generator)
    rotary = RotaryEmbedding(8, 5, 10000.0) if turns else None
    state, injection, d_out = torch.randn(3, 3, 5, 16, generator=generator)
    leaves = [injection.requires_grad_(), *module.parameters()]
    ours = DifferentiableStack(module, rotary)(state, injection)
    theirs = module(state, injection, rotary)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(ours, leaves, d_out), torch.autograd.grad(theirs, leaves, d_out), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6 * float(other.abs().max()) * 10, rtol=1e-5)
