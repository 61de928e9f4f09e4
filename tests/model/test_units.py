"""Layers, losses and the initial distribution against the published functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hrm_lab.config import ModelConfig
from hrm_lab.model.layers import Attention, RotaryEmbedding, SwiGLU, rms_norm, swiglu_width, truncated_normal
from hrm_lab.model.losses import log_stablemax, softmax_cross_entropy, stablemax_cross_entropy

Units = dict[str, Any]


def tensors(units: Units, prefix: str) -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): torch.from_numpy(np.asarray(v)) for key, v in units.items() if key.startswith(prefix)
    }


@pytest.mark.parametrize("scale", ["s1", "s10", "s100"])
def test_token_losses(units: Units, scale: str) -> None:
    golden = tensors(units, f"loss/{scale}/")
    logits = golden["logits"].requires_grad_()
    torch.testing.assert_close(log_stablemax(logits).detach(), golden["log_stablemax_f64"], atol=1e-12, rtol=1e-12)
    softmax = softmax_cross_entropy(logits, golden["labels"])
    torch.testing.assert_close(softmax.detach(), golden["softmax_ce"], atol=2e-6, rtol=2e-6)
    loss = stablemax_cross_entropy(logits, golden["labels"])
    torch.testing.assert_close(loss.detach(), golden["stablemax_ce"], atol=1e-12, rtol=1e-12)
    lengths = (golden["labels"] != -100).sum(-1, keepdim=True).clamp_min(1)
    total = (loss / lengths).sum()
    total.backward()
    torch.testing.assert_close(total.detach(), golden["lm_loss_sum"], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(logits.grad, golden["grad"], atol=1e-7, rtol=1e-6)


def test_stablemax_transform(units: Units) -> None:
    x, s = units["loss/s_input"], units["loss/s_value"]
    ours = log_stablemax(torch.from_numpy(x)).exp()
    np.testing.assert_allclose(ours, s / s.sum(), rtol=1e-12)


def test_rotary_embedding(units: Units) -> None:
    for key, golden in units.items():
        if key.startswith("rope/cos"):
            width, positions = (int(part[1:]) for part in key.split("_")[1:])
            rotary = RotaryEmbedding(width, positions, 10000.0)
            np.testing.assert_allclose(rotary.cos_cached, golden, atol=1e-6)
            np.testing.assert_allclose(rotary.sin_cached, units[key.replace("cos", "sin")], atol=1e-6)
    rotary = RotaryEmbedding(8, 6, 10000.0)
    for name in ("q", "k"):
        ours = rotary(torch.from_numpy(units[f"rope/{name}"]))
        np.testing.assert_allclose(ours, units[f"rope/{name}_out"], atol=1e-6)


@torch.no_grad()
def test_layers(units: Units) -> None:
    normed = rms_norm(torch.from_numpy(units["rmsnorm/x"]), 1e-5)
    np.testing.assert_allclose(normed, units["rmsnorm/y_eps1e-5"], atol=1e-6)
    x = torch.from_numpy(units["attn/x"])
    attention = Attention(16, 2, None)
    attention.qkv_proj.weight.copy_(torch.from_numpy(units["attn/qkv_w"]))
    attention.o_proj.weight.copy_(torch.from_numpy(units["attn/o_w"]))
    np.testing.assert_allclose(attention(x, RotaryEmbedding(8, 6, 10000.0)), units["attn/y_rope"], atol=2e-6)
    np.testing.assert_allclose(attention(x, None), units["attn/y_norope"], atol=2e-6)
    mlp = SwiGLU(16, 4.0, None)
    mlp.gate_up_proj.weight.copy_(torch.from_numpy(units["swiglu/gate_up_w"]))
    mlp.down_proj.weight.copy_(torch.from_numpy(units["swiglu/down_w"]))
    np.testing.assert_allclose(mlp(x), units["swiglu/y"], atol=2e-6)
    for hidden, expansion, width in units["swiglu/width_table_hidden_expansion_inter"]:
        assert swiglu_width(int(hidden), expansion) == width


def test_truncated_normal(units: Units) -> None:
    draw = truncated_normal((1_000_000,), 1.0, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(draw[:32], units["trunc/seed0_std1_n1e6_first32"], atol=1e-6)
    mean, std, low, high = units["trunc/n1e6_mean_std_min_max"]
    np.testing.assert_allclose([draw.mean(), draw.std(), draw.min(), draw.max()], [mean, std, low, high], atol=1e-5)
    factor, clip = units["trunc/comp_std_factor_and_clip"]
    assert draw.abs().max() <= clip + 1e-6
    assert clip == pytest.approx(2 * factor)
    half = truncated_normal((1_000_000,), 1.0, torch.Generator().manual_seed(0), torch.bfloat16).double()
    golden = units["trunc/bf16_n1e6_mean_std_min_max"]
    np.testing.assert_allclose([half.mean(), half.std(), half.min(), half.max()], golden, atol=2e-2)


def test_published_size_has_the_published_number_of_parameters() -> None:
    from hrm_lab.model.hrm import HRM

    with torch.device("meta"):
        model = HRM(ModelConfig(), vocab_size=11, seq_len=81, num_puzzle_identifiers=1)
    assert sum(p.numel() for p in model.parameters()) == 27_275_266
