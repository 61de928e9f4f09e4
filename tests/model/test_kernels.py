"""The kernels of `kernels.py`, interpreted on the CPU, compute what the functions of `fused.py` say."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton comes with torch for CUDA alone")

# Interpreted, every kernel of a process is; and half precision is float16, since numpy has no bfloat16.
CHECK = """
import torch
from triton.runtime import interpreter
from hrm_lab.model import fused, gradient_kernels, kernels
from hrm_lab.model.fused import Rows
from hrm_lab.model.layers import RotaryEmbedding, rms_norm

own = interpreter._patch_lang_tensor


def patch(tensor, scope):  # Triton 3.6 has numpy make an index of an array, which it no longer does
    own(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = patch
torch.manual_seed(0)
length, heads, width, inner, eps = 17, 2, 64, 96, 1e-5
count = 5 * length  # no multiple of a tile
rotary = RotaryEmbedding(width // heads, length, 10000.0)
draw = lambda *shape: torch.randn(shape, dtype=torch.float16)
sums = draw(count, width) * 2
waiting = Rows(sums, sums.float().square().view(count, 2, -1).sum(-1).t().contiguous())
qkv, out, gate_up, down = (draw(n, k) / k**0.5 for n, k in
                           ((3 * width, width), (width, width), (2 * inner, width), (width, inner)))
given = {
    "attention": (fused.attention, (qkv, length, heads, rotary, eps)),
    "swiglu": (fused.swiglu, (gate_up, eps)),
}
for rows in (waiting, Rows(rms_norm(sums, eps))):
    for part, (plain, more) in given.items():
        one, other = kernels.PARTS[part](rows, *more), plain(rows, *more)
        torch.testing.assert_close(one, other, rtol=2e-2, atol=5e-3, msg=lambda said: f"{part}: {said}")
    for weight in (out, down):
        x = draw(count, weight.shape[1])
        one = kernels.normalised(kernels.residual(x, weight, rows, eps), eps)
        other = fused.residual(x, weight, rows, eps).values
        torch.testing.assert_close(one, other, rtol=2e-2, atol=5e-3)
product, kept, leaf = draw(count, width), draw(count, width), sums.float().requires_grad_()
scale = torch.rsqrt(leaf.detach().square().mean(1, keepdim=True) + eps)
other, = torch.autograd.grad(rms_norm(leaf, eps), leaf, kept.float() + product.float() / scale)
one = gradient_kernels.norm_backward(product, kept, waiting, eps)
torch.testing.assert_close(one.float(), other, rtol=2e-2, atol=5e-3)
"""


def test_kernels_compute_what_fused_says() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CHECK], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
