"""What a CPU is spared: pages from the system for every tensor, and arithmetic that it has no instructions for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hrm_lab.model import layers
from hrm_lab.model.layers import Attention, CastedLinear

COUNT_FAULTS = """
import resource, torch
from hrm_lab.training.cpu import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(4 << 20) + torch.ones(4 << 20)  # 16 MB each: 4,096 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


def test_freed_memory_is_taken_again() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    first, later = map(int, done.stdout.split())
    if first < 3000:
        pytest.skip("the C library here keeps memory by itself")
    assert later < first / 10


def test_bfloat16_in_wider_arithmetic_is_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    attention = Attention(32, 4, generator)
    head = CastedLinear(32, 7, generator, bias=True)
    x = torch.randn(3, 10, 32, generator=generator).bfloat16().requires_grad_()

    def outputs(widens: bool) -> list[torch.Tensor]:
        monkeypatch.setattr(layers, "WIDENS", widens)
        x.grad = attention.qkv_proj.weight.grad = None
        out = head(attention(x, None))
        out.float().square().sum().backward()
        assert out.dtype == x.grad.dtype == torch.bfloat16
        assert attention.qkv_proj.weight.grad.dtype == torch.float32
        return [out, x.grad, attention.qkv_proj.weight.grad]

    for narrow, wide in zip(outputs(False), outputs(True), strict=True):
        torch.testing.assert_close(narrow.float(), wide.float(), rtol=0.05, atol=0.02 * float(wide.float().abs().max()))
