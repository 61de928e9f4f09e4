"""Triton kernels for a pass that needs no gradient: what stands between two matrix products happens in one of them.

The rows of a stack are kept as sums that are not yet normalised, with the squares of each row added up beside them:
a product of normalised rows is the product of the sums, each row scaled after it, so no pass over memory is left that
only normalises. Rounding: as in `layers.py`, but a normalised row is not rounded to bfloat16 before it is multiplied,
and attention's and SwiGLU's insides stay in float32 as they do when compiled.

Imported on CUDA devices only, or with TRITON_INTERPRET=1: torch for other devices comes without triton.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hrm_lab.model.fused import Rows
from hrm_lab.model.layers import RotaryEmbedding


class Tiles(NamedTuple):
    """How a product is cut: rows, columns and depth of a tile; stages in flight; warps; programs at once
    on a processor."""

    rows: int
    columns: int
    depth: int
    stages: int
    warps: int
    programs: int = 1


class Heads(NamedTuple):
    """How attention is cut: queries at a time, warps."""

    queries: int
    warps: int


ATTENTION = Heads(128, 8)
SWIGLU = Tiles(128, 64, 64, 3, 4, 2)
RESIDUAL = Tiles(128, 256, 64, 3, 8)


def attention(
    qkv: Tensor,
    like: Rows,
    length: int,
    heads: int,
    rotary: RotaryEmbedding | None,
    eps: float,
    cut: Heads = ATTENTION,
) -> Tensor:
    """As `fused.attention`, from qkv (M, 3 D), the product of the rows `like`."""
    count, width = like.values.shape
    out = torch.empty_like(like.values)
    half = width // heads // 2
    turning = (rotary.cos_cached, rotary.sin_cached) if rotary is not None else (qkv, qkv)
    _attention[(count // length * heads,)](
        qkv, out, *turning, *_squares(like), count, eps,
        LENGTH=length, HEADS=heads, HALF=half, WIDTH=width, TURN=rotary is not None, PARTS=_parts(like),
        BLOCK=max(32, triton.next_power_of_2(length)), HALF_BLOCK=max(16, triton.next_power_of_2(half)),
        QUERIES=min(cut.queries, max(32, triton.next_power_of_2(length))), num_warps=cut.warps,
    )  # fmt: skip
    return out


def swiglu(rows: Rows, weight: Tensor, eps: float, tiles: Tiles = SWIGLU) -> Tensor:
    """As `fused.swiglu`; `tiles.columns` are of the gate and as many of what it opens."""
    (count, depth), inner = rows.values.shape, weight.shape[0] // 2
    both = weight.view(2, inner, depth)
    out = torch.empty(count, inner, device=weight.device, dtype=weight.dtype)
    _swiglu[_grid(tiles, count, inner)](
        _blocks(rows.values, tiles.rows, tiles.depth), _blocks(both, 2, tiles.columns, tiles.depth),
        _blocks(out, tiles.rows, tiles.columns), *_squares(rows), count, eps,
        DEPTH=depth, INNER=inner, PARTS=_parts(rows), **_cut(tiles),
    )  # fmt: skip
    return out


def residual(x: Tensor, weight: Tensor, rows: Rows, eps: float, tiles: Tiles = RESIDUAL) -> Rows:
    """As `fused.residual`, but the sums await normalisation."""
    (count, width), depth = rows.values.shape, x.shape[1]
    parts = triton.cdiv(width, tiles.columns)
    out = torch.empty_like(rows.values)
    squares = torch.empty(parts, count, device=x.device, dtype=torch.float32)
    _residual[_grid(tiles, count, width)](
        _blocks(x, tiles.rows, tiles.depth), _blocks(weight, tiles.columns, tiles.depth),
        _blocks(rows.values, tiles.rows, tiles.columns // 2), _blocks(out, tiles.rows, tiles.columns // 2),
        *_squares(rows), squares, count, eps, DEPTH=depth, WIDTH=width, PARTS=_parts(rows), **_cut(tiles),
    )  # fmt: skip
    return Rows(out, squares)


def normalised(rows: Rows, eps: float) -> Tensor:
    """The rows (M, D) of unit root mean square."""
    if rows.squares is None:
        return rows.values
    count, width = rows.values.shape
    out = torch.empty_like(rows.values)
    at_once = 4
    _normalise[(triton.cdiv(count, at_once),)](
        rows.values, out, rows.squares, count, eps,
        WIDTH=width, PARTS=_parts(rows), ROWS=at_once, BLOCK=triton.next_power_of_2(width),
    )  # fmt: skip
    return out


def _attention_of(
    rows: Rows, weight: Tensor, length: int, heads: int, rotary: RotaryEmbedding | None, eps: float
) -> Tensor:
    return attention(F.linear(rows.values, weight), rows, length, heads, rotary, eps)


PARTS: dict[str, Callable[..., Any]] = {
    "attention": _attention_of,
    "attention_out": residual,
    "swiglu": swiglu,
    "mlp_out": residual,
}


def _blocks(tensor: Tensor, *shape: int) -> Any:
    """What the copy engine needs to know to move blocks of a tensor; it leaves out what lies beyond the edge."""
    return TensorDescriptor.from_tensor(tensor, list(shape))


def _grid(tiles: Tiles, count: int, width: int) -> tuple[int]:
    """Programs that stay, and take one tile after another."""
    processors = 4  # where these are interpreted
    if torch.cuda.is_available():
        processors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    return (min(processors * tiles.programs, triton.cdiv(count, tiles.rows) * triton.cdiv(width, tiles.columns)),)


def _cut(tiles: Tiles) -> dict[str, int]:
    sizes = {"BLOCK_M": tiles.rows, "BLOCK_N": tiles.columns, "BLOCK_K": tiles.depth}
    return sizes | {"num_stages": tiles.stages, "num_warps": tiles.warps}


def _squares(rows: Rows) -> tuple[Tensor]:
    return (rows.values if rows.squares is None else rows.squares,)  # the first is not read


def _parts(rows: Rows) -> int:
    return 0 if rows.squares is None else rows.squares.shape[0]


@triton.jit  # type: ignore[untyped-decorator]
def _scale(squares, at, count, eps, WIDTH: tl.constexpr, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """What normalises the rows `at`."""
    total = tl.load(squares + at, mask=at < count, other=1.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(squares + part * count + at, mask=at < count, other=1.0)
    return tl.rsqrt(total / WIDTH + eps)


@triton.jit  # type: ignore[untyped-decorator]
def _normalise(  # type: ignore[no-untyped-def]
    x, out, squares, count, eps, WIDTH: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    place = at[:, None].to(tl.int64) * WIDTH + column[None, :]
    there = (at < count)[:, None] & (column < WIDTH)[None, :]
    wide = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    scale = _scale(squares, at, count, eps, WIDTH, PARTS)
    tl.store(out + place, (wide * scale[:, None]).to(out.dtype.element_ty), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _swiglu(  # type: ignore[no-untyped-def]
    x, weight, out, squares, count, eps, DEPTH: tl.constexpr, INNER: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Columns first: the tiles at work share their rows of x, and the weight stays in the cache.
    columns = tl.cdiv(INNER, BLOCK_N)
    tiles = tl.cdiv(count, BLOCK_M) * columns
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row = tile // columns * BLOCK_M
        column = tile % columns * BLOCK_N
        # One product for both halves: with two the assembler would not overlap them.
        both = tl.zeros((BLOCK_M, 2 * BLOCK_N), dtype=tl.float32)
        for depth in range(0, DEPTH, BLOCK_K):
            block = weight.load([0, column, depth]).reshape(2 * BLOCK_N, BLOCK_K)
            both = tl.dot(x.load([row, depth]), block.T, both)
        if PARTS > 0:
            both *= _scale(squares, row + tl.arange(0, BLOCK_M), count, eps, DEPTH, PARTS)[:, None]
        both = both.to(out.dtype).to(tl.float32)
        gate, up = both.reshape(BLOCK_M, 2, BLOCK_N).permute(0, 2, 1).split()
        out.store([row, column], (gate * tl.sigmoid(gate) * up).to(out.dtype))


@triton.jit  # type: ignore[untyped-decorator]
def _residual(  # type: ignore[no-untyped-def]
    x, weight, kept, out, squares, new_squares, count, eps, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(WIDTH, BLOCK_N)
    tiles = tl.cdiv(count, BLOCK_M) * columns
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        row = tile // columns * BLOCK_M
        part = tile % columns
        product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for depth in range(0, DEPTH, BLOCK_K):
            product = tl.dot(x.load([row, depth]), weight.load([part * BLOCK_N, depth]).T, product)
        at = row + tl.arange(0, BLOCK_M)
        scale = tl.full((BLOCK_M,), 1.0, tl.float32)
        if PARTS > 0:
            scale = _scale(squares, at, count, eps, WIDTH, PARTS)
        # In two halves, so that what is kept and what goes out find room beside the blocks of the next tile.
        left, right = product.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
        new = _added(left, kept, out, scale, row, part * BLOCK_N, PARTS)
        new += _added(right, kept, out, scale, row, part * BLOCK_N + BLOCK_N // 2, PARTS)
        tl.store(new_squares + part * count + at, new, mask=at < count)


@triton.jit  # type: ignore[untyped-decorator]
def _added(product, kept, out, scale, row, column, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store what is kept plus the product; the squares of each row, added up."""
    old = kept.load([row, column]).to(tl.float32)
    if PARTS > 0:
        old = (old * scale[:, None]).to(out.dtype).to(tl.float32)
    total = (old + product.to(out.dtype).to(tl.float32)).to(out.dtype)
    out.store([row, column], total)
    wide = total.to(tl.float32)
    return tl.sum(wide * wide, axis=1)


@triton.jit  # type: ignore[untyped-decorator]
def _turned(  # type: ignore[no-untyped-def]
    qkv, cos, sin, column, at, there, half, scale, HALF: tl.constexpr, WIDTH: tl.constexpr, TURN: tl.constexpr
):
    """Both halves of the heads of some positions, scaled and turned by their position."""
    place = qkv + column + half
    first = tl.load(place, mask=there, other=0.0)
    second = tl.load(place + HALF, mask=there, other=0.0)
    first = (first.to(tl.float32) * scale[:, None]).to(first.dtype)
    second = (second.to(tl.float32) * scale[:, None]).to(second.dtype)
    if TURN:
        c = tl.load(cos + at[:, None] * 2 * HALF + half, mask=there, other=0.0)
        s = tl.load(sin + at[:, None] * 2 * HALF + half, mask=there, other=0.0)
        one, two = first.to(tl.float32), second.to(tl.float32)
        first = (one * c - two * s).to(first.dtype)
        second = (two * c + one * s).to(second.dtype)
    return first, second


@triton.jit  # type: ignore[untyped-decorator]
def _attention(  # type: ignore[no-untyped-def]
    qkv, out, cos, sin, squares, count, eps, LENGTH: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
    WIDTH: tl.constexpr, TURN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr,
    QUERIES: tl.constexpr,
):  # fmt: skip
    # One program takes a head of a sequence: all keys and values, and its queries some at a time.
    start = tl.program_id(0) // HEADS * LENGTH
    column = tl.program_id(0) % HEADS * 2 * HALF
    half = tl.arange(0, HALF_BLOCK)[None, :]
    at = tl.arange(0, BLOCK)
    there = (at < LENGTH)[:, None] & (half < HALF)
    scale = tl.full((BLOCK,), 1.0, tl.float32)
    if PARTS > 0:
        scale = _scale(squares, start + at, count, eps, WIDTH, PARTS)
    rows = qkv + (start + at)[:, None].to(tl.int64) * 3 * WIDTH
    key1, key2 = _turned(rows + WIDTH, cos, sin, column, at, there, half, scale, HALF, WIDTH, TURN)
    value1, value2 = _turned(rows + 2 * WIDTH, cos, sin, column, at, there, half, scale, HALF, WIDTH, False)
    for first in tl.static_range(0, LENGTH, QUERIES):
        at = first + tl.arange(0, QUERIES)
        there = (at < LENGTH)[:, None] & (half < HALF)
        scale = tl.full((QUERIES,), 1.0, tl.float32)
        if PARTS > 0:
            scale = _scale(squares, start + at, count, eps, WIDTH, PARTS)
        row = (start + at)[:, None].to(tl.int64)
        query1, query2 = _turned(qkv + row * 3 * WIDTH, cos, sin, column, at, there, half, scale, HALF, WIDTH, TURN)
        scores = tl.dot(query2, key2.T, tl.dot(query1, key1.T)) * (1.4426950408889634 / (2 * HALF) ** 0.5)
        scores = tl.where((tl.arange(0, BLOCK) < LENGTH)[None, :], scores, float("-inf"))
        weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
        share = 1 / tl.sum(weights, axis=1)[:, None]
        weights = weights.to(value1.dtype)
        place = out + row * WIDTH + column + half
        tl.store(place, (tl.dot(weights, value1) * share).to(value1.dtype), mask=there)
        tl.store(place + HALF, (tl.dot(weights, value2) * share).to(value1.dtype), mask=there)
