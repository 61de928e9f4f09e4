"""The layers HRM is made of (HRM_SPEC section 1): float32 master weights, arithmetic in the dtype of the input.

Shapes: B sequences, L positions (puzzle tokens first), D channels, h heads of hd = D / h channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRUNCATION = 2.0  # the normal is cut at this many (uncorrected) standard deviations
# Without AVX-512 a processor has nothing for bfloat16, and torch's products of it take ten times as long as float32's.
WIDENS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX")


def truncated_normal(
    shape: tuple[int, ...], std: float, generator: torch.Generator | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw from a normal cut at two deviations, widened so that the realised deviation is `std`.

    `torch.nn.init.trunc_normal_` does not correct the deviation and is a different distribution
    (HRM_SPEC section 1, "Truncated normal init"). Draws directly in `dtype`.
    """
    if std == 0:
        return torch.zeros(shape, dtype=dtype)
    bound = math.erf(TRUNCATION / math.sqrt(2))
    density = math.exp(-0.5 * TRUNCATION**2) / math.sqrt(2 * math.pi)
    corrected = std / math.sqrt(1 - 2 * TRUNCATION * density / bound)
    uniform = torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)
    normal = uniform.erfinv_().mul_(math.sqrt(2) * corrected)
    return normal.clip_(-TRUNCATION * corrected, TRUNCATION * corrected)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Normalise the last axis to unit root mean square in float32; there is no weight."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def add_and_norm(x: Tensor, change: Tensor, eps: float) -> Tensor:
    """rms_norm(x + change)."""
    if _written_out(x):
        out: Tensor = AddAndNorm.apply(x, change, eps)  # type: ignore[no-untyped-call]
        return out
    return rms_norm(x + change, eps)


def _written_out(x: Tensor) -> bool:
    """Whether an operation takes the form with the fewest passes over memory, which is what a CPU waits for."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class AddAndNorm(torch.autograd.Function):
    """n = s / sqrt(mean(s^2) + eps) of s = x + change; by s, d_n has the gradient (d_n - n mean(d_n n)) / sqrt(...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Tensor, eps: float) -> Tensor:
        wide = (x + change).float()
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(wide.mul_(scale), scale)
        return wide.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        normal, scale = ctx.saved_tensors
        wide = d_out.float()
        along = (wide * normal).mean(-1, keepdim=True)
        d_sum = torch.addcmul(wide, normal, along, value=-1).mul_(scale).to(d_out.dtype)
        return d_sum, d_sum, None


class Casted(nn.Module):
    """Has float32 weights that are used in another dtype: cast at every use, or once for many uses by `cast`."""

    in_use: dict[str, Tensor] | None = None  # the cast weights by name

    def cast(self, dtype: torch.dtype) -> None:
        """Cast now, as a part of the graph; every use until `uncast` takes these."""
        if dtype != torch.float32:
            self.in_use = {name: weight.to(dtype) for name, weight in self.named_parameters(recurse=False)}

    def uncast(self) -> None:
        """Cast at every use again."""
        self.in_use = None

    def _cast(self, name: str, dtype: torch.dtype) -> Tensor:
        weight: Tensor = getattr(self, name)
        return weight.to(dtype) if self.in_use is None else self.in_use[name]


class CastedLinear(Casted):
    """A linear map whose float32 weight (out, in) is cast to the input's dtype."""

    def __init__(self, fan_in: int, fan_out: int, generator: torch.Generator | None, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((fan_out, fan_in), 1 / math.sqrt(fan_in), generator))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """All outputs, or those of some rows of the weight."""
        weight = self.weight_in(x.dtype)[rows]
        bias = None if self.bias is None else self._cast("bias", x.dtype)[rows]
        if WIDENS and x.dtype == torch.bfloat16 and x.device.type == "cpu":  # sums are float32's in either case
            return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
        return F.linear(x, weight, bias)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) as it is used with inputs of a dtype."""
        return self._cast("weight", dtype)


class CastedEmbedding(Casted):
    """A lookup table (n, D) in float32, cast to `dtype`."""

    def __init__(self, count: int, width: int, std: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.embedding_weight = nn.Parameter(truncated_normal((count, width), std, generator))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.table(dtype))

    def table(self, dtype: torch.dtype) -> Tensor:
        """All of it."""
        return self._cast("embedding_weight", dtype)


class RotaryEmbedding(nn.Module):
    """Rotary position encoding, half-split layout: channel j turns with channel j + hd / 2."""

    frequency: Tensor  # of each pair of channels, radians a position
    cos_cached: Tensor
    sin_cached: Tensor

    def __init__(self, head_dim: int, positions: int, theta: float) -> None:
        super().__init__()
        inverse_frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle = torch.outer(torch.arange(positions, dtype=torch.float32), inverse_frequency).repeat(1, 2)
        self.register_buffer("frequency", inverse_frequency, persistent=False)
        self.register_buffer("cos_cached", angle.cos(), persistent=False)
        self.register_buffer("sin_cached", angle.sin(), persistent=False)
        self._rows: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by heads; the tables above never change

    def forward(self, x: Tensor) -> Tensor:
        """Turn x (B, L, h, hd) by its position, in float32."""
        if _written_out(x):
            out: Tensor = Turn.apply(x, self)  # type: ignore[no-untyped-call]
            return out
        wide, length = x.float(), x.shape[1]
        first, second = wide.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        cos, sin = self.cos_cached[:length, None], self.sin_cached[:length, None]
        return (wide * cos + turned * sin).to(x.dtype)

    def turn_rows(self, x: Tensor, sense: int) -> Tensor:
        """The same, or back (sense -1), over rows of h * hd channels: a head's other half is half a head further on.

        Beyond a head's end there are zeros to multiply by; so what is no number in one head is none in its neighbours.
        """
        batch, length, heads, size = x.shape
        half = size // 2
        cos, second, first = self._tables(heads)
        wide = x.reshape(batch, length, heads * size).float()
        out = wide * cos[:length]
        out[..., :-half].addcmul_(wide[..., half:], second[:length], value=sense)
        out[..., half:].addcmul_(wide[..., :-half], first[:length], value=sense)
        return out.view(x.shape).to(x.dtype)

    def _tables(self, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows (L, h * hd): cosines; sines of the second halves, for the first; and of the first, for the second."""
        if heads not in self._rows:
            half = self.cos_cached.shape[1] // 2
            is_first = torch.arange(2 * half) < half
            cos, sin = self.cos_cached.cpu(), self.sin_cached.cpu()
            second, first = torch.where(is_first, -sin, 0.0), torch.where(is_first, 0.0, sin)
            rows = (cos.repeat(1, heads), second.repeat(1, heads)[:, :-half], first.repeat(1, heads)[:, half:])
            self._rows[heads] = rows
        return self._rows[heads]


class Turn(torch.autograd.Function):
    """Rotary encoding; its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rotary: RotaryEmbedding) -> Tensor:
        ctx.rotary = rotary
        return rotary.turn_rows(x, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None]:
        rotary: RotaryEmbedding = ctx.rotary
        return rotary.turn_rows(d_out, -1), None


class Attention(nn.Module):
    """Full (non-causal, unmasked) self-attention with one fused projection for q, k and v."""

    def __init__(self, hidden_size: int, num_heads: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = CastedLinear(hidden_size, 3 * hidden_size, generator)
        self.o_proj = CastedLinear(hidden_size, hidden_size, generator)

    def forward(self, x: Tensor, rotary: RotaryEmbedding | None, first_only: bool = False) -> Tensor:
        """What every position, or the first one alone, takes from all of them."""
        batch, length, width = x.shape
        heads, size = self.num_heads, width // self.num_heads
        if first_only:
            q = self.qkv_proj(x[:, :1], slice(width)).view(batch, 1, heads, size)
            k, v = self.qkv_proj(x, slice(width, None)).view(batch, length, 2 * heads, size).chunk(2, dim=2)
            if rotary is not None:
                q, k = rotary(q), rotary(k)
        else:
            qkv = self.qkv_proj(x).view(batch, length, 3 * heads, size)
            queries_keys, v = qkv.split((2 * heads, heads), dim=2)
            if rotary is not None:
                queries_keys = rotary(queries_keys)
            q, k = queries_keys.chunk(2, dim=2)
        # A CPU's gradient of attention takes five times as long in bfloat16 as in float32; without one it is faster.
        if x.device.type == "cpu" and (WIDENS or torch.is_grad_enabled()):
            q, k, v = q.float(), k.float(), v.float()
        # SDPA wants heads before positions.
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, -1, width).to(x.dtype))
        return out


def swiglu_width(hidden_size: int, expansion: float) -> int:
    """Inner width of SwiGLU: two thirds of the expanded width, rounded up to a multiple of 256."""
    return -(round(expansion * hidden_size * 2 / 3) // -256) * 256


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one projection, gate first."""

    def __init__(self, hidden_size: int, expansion: float, generator: torch.Generator | None) -> None:
        super().__init__()
        width = swiglu_width(hidden_size, expansion)
        self.gate_up_proj = CastedLinear(hidden_size, 2 * width, generator)
        self.down_proj = CastedLinear(width, hidden_size, generator)

    def forward(self, x: Tensor) -> Tensor:
        gate_up = self.gate_up_proj(x)
        out: Tensor = self.down_proj(gated(gate_up))
        return out


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; without a gradient, a CPU overwrites gate."""
    if torch.is_grad_enabled() and _written_out(gate_up):
        out: Tensor = Gated.apply(gate_up)  # type: ignore[no-untyped-call]
        return out
    gate, up = gate_up.chunk(2, dim=-1)
    if torch.is_grad_enabled():
        return F.silu(gate) * up
    return F.silu(gate, inplace=_written_out(gate_up)).mul_(up)


class Gated(torch.autograd.Function):
    """silu(gate) * up, whose gradients are written beside each other at once."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        d_gate_up = torch.empty_like(gate_up)
        (gate, up), (d_gate, d_up) = gate_up.chunk(2, dim=-1), d_gate_up.chunk(2, dim=-1)
        torch.mul(d_out, opened, out=d_up)
        torch.ops.aten.silu_backward(d_out * up, gate, grad_input=d_gate)
        return d_gate_up


class Block(nn.Module):
    """One post-norm transformer block: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(
        self, hidden_size: int, num_heads: int, expansion: float, eps: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.self_attn = Attention(hidden_size, num_heads, generator)
        self.mlp = SwiGLU(hidden_size, expansion, generator)

    def forward(self, x: Tensor, rotary: RotaryEmbedding | None, first_only: bool = False) -> Tensor:
        """All positions (B, L, D), or the first one alone (B, 1, D)."""
        kept = x[:, :1] if first_only else x
        x = add_and_norm(kept, self.self_attn(x, rotary, first_only), self.eps)
        return add_and_norm(x, self.mlp(x), self.eps)
