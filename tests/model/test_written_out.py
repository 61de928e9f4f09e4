"""What is written out for a CPU, with its gradient, beside torch's own gradient of what it means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_lab.model import layers
from hrm_lab.model.layers import RotaryEmbedding, add_and_norm, gated, rms_norm

HEADS, POSITIONS, BATCH = 6, 7, 3


def turned(x: Tensor, rotary: RotaryEmbedding) -> Tensor:
    """x1 cos - x2 sin and x2 cos + x1 sin."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = (table[:POSITIONS, None].chunk(2, dim=-1)[0] for table in (rotary.cos_cached, rotary.sin_cached))
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def cases(dtype: torch.dtype) -> dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]]:
    """Written out, what it means, and inputs."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    rotary = RotaryEmbedding(8, POSITIONS + 2, 10000.0)
    return {
        "norm": (
            lambda x, change: add_and_norm(x, change, 1e-5),
            lambda x, change: rms_norm(x + change, 1e-5),
            [draw(BATCH, POSITIONS, 16), draw(BATCH, POSITIONS, 16)],
        ),
        # Of a part of the channels, as in attention.
        "rotary": (
            lambda x: rotary(x[:, :, :HEADS]),
            lambda x: turned(x[:, :, :HEADS], rotary),
            [draw(BATCH, POSITIONS, HEADS + 3, 8)],
        ),
        "swiglu": (
            gated,
            lambda x: F.silu(x.chunk(2, dim=-1)[0]) * x.chunk(2, dim=-1)[1],
            [draw(BATCH, POSITIONS, 24)],
        ),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", cases(torch.float32))
def test_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    written_out, meant, inputs = cases(dtype)[name]
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    expected_inputs = [value.clone().requires_grad_() for value in inputs]
    expected = meant(*expected_inputs)
    with torch.no_grad():
        torch.testing.assert_close(written_out(*(value.clone() for value in inputs)), expected, **near)
    ours_inputs = [value.clone().requires_grad_() for value in inputs]
    ours = written_out(*ours_inputs)
    torch.testing.assert_close(ours, expected, **near)
    weight = torch.linspace(-1, 1, expected.numel()).view(expected.shape).to(dtype)
    gradients = torch.autograd.grad(ours, ours_inputs, weight)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, expected_inputs, weight), **near)
    for before, after in zip(inputs, ours_inputs, strict=True):
        assert torch.equal(before, after.detach())  # nothing that has a gradient is overwritten


def test_a_cpu_takes_them() -> None:
    block = layers.Block(16, 2, 4.0, 1e-5, None)
    rotary = RotaryEmbedding(8, POSITIONS, 10000.0)
    x = torch.randn(BATCH, POSITIONS, 16)
    with torch.inference_mode():  # an evaluation comes first, and makes the tables
        before = block(x, rotary)
    out = block(x.requires_grad_(), rotary)
    torch.testing.assert_close(out, before)
    names, seen = set[str](), [out.grad_fn]
    while seen:
        node = seen.pop()
        names.add(type(node).__name__)
        seen += [after for after, _ in getattr(node, "next_functions", ()) if after is not None]
    assert names >= {"AddAndNormBackward", "TurnBackward", "GatedBackward"}
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), [x, *block.parameters()]))
