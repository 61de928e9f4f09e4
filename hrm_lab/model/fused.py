"""A stack of blocks: the same function as `ReasoningModule`, in fewer passes over memory.

Where no gradient is wanted, a stack is four parts a block. They are computed by the kernels of `hopper.py`, or of
`kernels.py` where those do not run; the functions here take and give the same, and say what is computed.

Where one is wanted, forward and backward are written out, for what `hopper.py` fits: `gradient_kernels.py` computes
what is between the matrix products of the backward, and the products are torch's.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hrm_lab.errors import one_line
from hrm_lab.model.layers import RotaryEmbedding, rms_norm

if TYPE_CHECKING:
    from hrm_lab.model.hrm import HRM, ReasoningModule

log = logging.getLogger(__name__)

LONGEST = 128  # positions that the kernel of attention holds at once


class Rows(NamedTuple):
    """`values` (M, D); with `squares` (T, M), the sum of a row's squares in T parts, they await normalisation."""

    values: Tensor
    squares: Tensor | None = None


def attention(
    rows: Rows, weight: Tensor, length: int, heads: int, rotary: RotaryEmbedding | None, eps: float
) -> Tensor:
    """Attention (M, D), with rotary encoding, of normalised rows (M = B length) and a weight (3 D, D)."""
    count, width = rows.values.shape
    parts = _scaled(F.linear(rows.values, weight), rows, eps).view(-1, length, 3 * heads, width // heads)
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
        parts, eps = self.parts, layer.eps
        qkv_proj, o_proj, gate_up_proj, down_proj = _weights(layer, rows.values.dtype)
        mixed = parts["attention"](rows, qkv_proj, length, layer.self_attn.num_heads, self.rotary, eps)
        rows = parts["attention_out"](mixed, o_proj, rows, eps)
        inner = parts["swiglu"](rows, gate_up_proj, eps)
        out: Rows = parts["mlp_out"](inner, down_proj, rows, eps)
        return out


class Kept(NamedTuple):
    """What the backward of a block takes from its forward; `values` and `squares` are `Rows`."""

    values: Tensor
    squares: Tensor | None
    qkv: Tensor
    mixed: Tensor
    log_sums: Tensor
    middle_values: Tensor
    middle_squares: Tensor
    gate_up: Tensor
    inner: Tensor


class Blocks(torch.autograd.Function):
    """The normalised rows (M, D) that some blocks make of x (M, D).

    Of a block's rows s, y is what they are normalised: s1 = y0 + attention(y0 qkv_proj) o_proj, and
    s2 = y1 + swiglu(y1 gate_up_proj) down_proj. d_x is the gradient by x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        length: int,
        heads: int,
        rotary: RotaryEmbedding | None,
        eps: float,
        parts: Any,
        *weights: Tensor,
    ) -> Tensor:
        """`weights` are of each block qkv_proj, o_proj, gate_up_proj and down_proj."""
        rows, kept = Rows(x), list[Tensor | None]()
        for qkv_proj, o_proj, gate_up_proj, down_proj in _parted(weights, 4):
            mixed, qkv, log_sums = parts.attention(rows, qkv_proj, length, heads, rotary, eps)
            middle = parts.residual(mixed, o_proj, rows, eps)
            inner, gate_up = parts.swiglu(middle, gate_up_proj, eps)
            kept += (*rows, qkv, mixed, log_sums, *middle, gate_up, inner)  # a `Kept`
            rows = parts.residual(inner, down_proj, middle, eps)
        ctx.save_for_backward(*rows, *weights, *kept)
        ctx.given = length, heads, rotary, eps, parts
        out: Tensor = parts.normalised(rows, eps)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """By x and the weights."""
        values, squares, *saved = ctx.saved_tensors
        length, heads, rotary, eps, parts = ctx.given
        blocks = len(saved) // (4 + len(Kept._fields))
        weights, kept = _parted(saved[: 4 * blocks], 4), _parted(saved[4 * blocks :], len(Kept._fields))
        d_weights: list[Tensor] = []
        d_rows = parts.norm_backward(None, d_out.contiguous(), Rows(values, squares), eps)
        for (qkv_proj, o_proj, gate_up_proj, down_proj), fields in zip(reversed(weights), reversed(kept), strict=True):
            own = Kept(*fields)
            rows, middle = Rows(own.values, own.squares), Rows(own.middle_values, own.middle_squares)
            d_gate_up = parts.swiglu_backward(d_rows, down_proj, own.gate_up, middle, eps)
            d_mlp = d_gate_up.t() @ middle.values, d_rows.t() @ own.inner
            d_rows = parts.norm_backward(d_gate_up @ gate_up_proj, d_rows, middle, eps)
            d_qkv = parts.attention_backward(
                d_rows @ o_proj, own.mixed, own.qkv, own.log_sums, rows, length, heads, rotary, eps
            )
            d_weights[:0] = d_qkv.t() @ rows.values, d_rows.t() @ own.mixed, *d_mlp
            d_rows = parts.norm_backward(d_qkv @ qkv_proj, d_rows, rows, eps)
        return d_rows, None, None, None, None, None, *d_weights


class DifferentiableStack:
    """Computes a module's blocks, with a gradient."""

    def __init__(self, module: ReasoningModule, rotary: RotaryEmbedding | None) -> None:
        self.module, self.rotary = module, rotary
        self.parts = importlib.import_module("hrm_lab.model.gradient_kernels")

    def __call__(self, state: Tensor, injection: Tensor) -> Tensor:
        """All positions (B, L, D)."""
        layers: Any = self.module.layers
        weights = [weight for layer in layers for weight in _weights(layer, state.dtype)]
        x = (state + injection).view(-1, state.shape[2])
        heads, eps = layers[0].self_attn.num_heads, layers[0].eps
        given = state.shape[1], heads, self.rotary, eps, self.parts
        out: Tensor = Blocks.apply(x, *given, *weights)  # type: ignore[no-untyped-call]
        return out.view(state.shape)


def _weights(layer: Any, dtype: torch.dtype) -> list[Tensor]:
    """Of a block: qkv_proj, o_proj, gate_up_proj and down_proj, as they are used."""
    attend, mlp = layer.self_attn, layer.mlp
    return [linear.weight_in(dtype) for linear in (attend.qkv_proj, attend.o_proj, mlp.gate_up_proj, mlp.down_proj)]


def _parted(items: Any, size: int) -> list[Any]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def fuse(model: HRM, positions: int) -> bool:
    """Have a model's passes computed so, where there are kernels for them; says whether."""
    weight = model.lm_head.weight
    head = model.config.hidden_size // model.config.num_heads
    # A head's halves are turned against each other, and its keys and values lie in shared memory.
    fits = positions <= LONGEST and model.config.hidden_size % 8 == 0 and head % 2 == 0 and head <= 128
    if not fits or model.dtype != torch.bfloat16 or weight.device.type != "cuda":
        return False
    if torch.cuda.get_device_capability(weight.device)[0] != 9:  # the kernels are cut for Hopper
        return False
    parts, differentiable = parts_for(model, positions), is_differentiable(model, positions)
    for module in (model.L_level, model.H_level):
        module.fused = FusedStack(module, model.rotary_emb, parts)
        if differentiable:
            module.differentiable = DifferentiableStack(module, model.rotary_emb)
    return True


def parts_for(model: HRM, positions: int) -> dict[str, Callable[..., Any]]:
    """The parts of `hopper.py` where it fits the model and runs, those of `kernels.py` elsewhere."""
    plain: dict[str, Callable[..., Any]] = importlib.import_module("hrm_lab.model.kernels").PARTS
    layer: Any = model.L_level.layers[0]
    try:  # one sequence, since the language they are written in is experimental
        hopper = importlib.import_module("hrm_lab.model.hopper")
        width, inner = layer.mlp.down_proj.weight.shape
        if not hopper.fits(width, inner, layer.self_attn.num_heads):
            return plain
        state = torch.zeros(1, positions, width, device=layer.mlp.down_proj.weight.device, dtype=model.dtype)
        with torch.no_grad():
            FusedStack(model.L_level, model.rotary_emb, hopper.PARTS)(state, state)
        torch.cuda.synchronize()
        return dict(hopper.PARTS)
    except Exception as error:
        log.warning("this Triton does not make the fastest kernels, slower ones are used (%s)", one_line(error))
        return plain


def is_differentiable(model: HRM, positions: int) -> bool:
    """Whether the kernels of `gradient_kernels.py` fit a model and run; elsewhere blocks are compiled."""
    layer: Any = model.L_level.layers[0]
    try:
        hopper = importlib.import_module("hrm_lab.model.hopper")
        width, inner = layer.mlp.down_proj.weight.shape
        if not hopper.fits(width, inner, layer.self_attn.num_heads):
            return False
        shape, device = (1, positions, width), layer.mlp.down_proj.weight.device
        with torch.enable_grad():
            state = torch.zeros(shape, device=device, dtype=model.dtype, requires_grad=True)
            out = DifferentiableStack(model.L_level, model.rotary_emb)(state, state)
            torch.autograd.grad(out, state, out)
        torch.cuda.synchronize()
        return True
    except Exception as error:
        log.warning("this Triton does not make the kernels of a gradient, blocks are compiled (%s)", one_line(error))
        return False
