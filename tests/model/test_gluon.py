"""The kernels for Hopper, imitated, compute what torch does, and write every place once."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_lab.model.fused import Rows
from hrm_lab.model.layers import RotaryEmbedding
from tests.model.gluon import imitate

EPS, HEAD = 1e-5, 64
MODULES = [f"hrm_lab.model.{name}" for name in ("kernels", "hopper", "gradient_kernels")]


@pytest.fixture(params=[1, 3])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`gradient_kernels` on a device of some processors."""
    imitate(monkeypatch, *MODULES)
    found = [importlib.import_module(name) for name in MODULES]
    for module in found[1:]:
        monkeypatch.setattr(module, "_processors", lambda: request.param)
    torch.manual_seed(0)
    return found[-1]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


def waiting_rows(count: int, width: int) -> tuple[Rows, Tensor]:
    """Rows that await normalisation, and what each is to be scaled by (M, 1)."""
    sums = draw(count, width) * 2
    squares = sums.float().square()
    rows = Rows(sums, squares.view(count, 2, -1).sum(-1).t().contiguous())
    return rows, torch.rsqrt(squares.mean(1, keepdim=True) + EPS)


def close(ours: Tensor, exact: Tensor, kernel: Any) -> None:
    assert (ours.float() - exact).norm() < 0.01 * exact.norm()
    assert all((written == 1).all() for written in kernel.written)


@pytest.mark.parametrize(("length", "turns"), [(82, True), (40, False)])
def test_attention(kernels: Any, length: int, turns: bool) -> None:
    heads, sequences = 4, 2
    width, count = heads * HEAD, sequences * length
    rotary = RotaryEmbedding(HEAD, length, 10000.0) if turns else None
    rows, scale = waiting_rows(count, width)
    weight, d_mixed = draw(3 * width, width) / width**0.5 * 1.5, draw(count, width)
    product = (rows.values.float() @ weight.float().t()).requires_grad_()
    q, k, v = (product * scale).view(sequences, length, 3 * heads, HEAD).split(heads, 2)
    if rotary is not None:
        q, k = rotary(q), rotary(k)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / HEAD**0.5
    mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(count, width)
    (exact,) = torch.autograd.grad(mixed, product, d_mixed.float())
    log_sums = scores.detach().logsumexp(-1).view(-1, length) / math.log(2)

    qkv = torch.empty(count, 3 * width, dtype=torch.bfloat16)
    kernels.hopper._multiply_rows(rows, weight, qkv, EPS, 4, rotary=rotary, length=length)
    close(qkv, torch.cat([part.reshape(count, width) for part in (q, k, v)], 1).detach(), kernels.hopper._product)
    given = d_mixed, mixed.detach().bfloat16(), qkv, log_sums, rows, length, heads, rotary, EPS
    close(kernels.attention_backward(*given), exact, kernels._attention_backward)


@pytest.mark.parametrize("count", [300, 128])
def test_swiglu(kernels: Any, count: int) -> None:
    width, inner = 256, 384
    rows, scale = waiting_rows(count, width)
    gate_up_proj, down_proj, d_rows = draw(2 * inner, width) / 16, draw(width, inner) / 20, draw(count, width)
    product = (rows.values.float() @ gate_up_proj.float().t()).requires_grad_()
    gate, up = (product * scale).chunk(2, 1)
    opened = F.silu(gate) * up
    (exact,) = torch.autograd.grad(opened, product, d_rows.float() @ down_proj.float())

    out, gate_up = kernels.swiglu(rows, gate_up_proj, EPS)
    close(out, opened.detach(), kernels.hopper._product)
    close(gate_up, torch.cat((gate, up), 1).detach(), kernels.hopper._product)
    close(kernels.swiglu_backward(d_rows, down_proj, gate_up, rows, EPS), exact, kernels._swiglu_backward)


def test_residual(kernels: Any) -> None:
    count, width, depth = 300, 256, 384
    rows, scale = waiting_rows(count, width)
    x, weight = draw(count, depth), draw(width, depth) / depth**0.5
    exact = rows.values.float() * scale + x.float() @ weight.float().t()
    found = kernels.residual(x, weight, rows, EPS)
    close(found.values, exact, kernels.hopper._residual)
    torch.testing.assert_close(found.squares.sum(0), exact.square().sum(1), rtol=1e-3, atol=0)
