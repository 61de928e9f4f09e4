"""The parts of a pass that needs no gradient, for Hopper's own instructions: faster than those of `kernels.py`.

Products: one warp brings blocks and two groups of four multiply them. Where the depth fits, the groups take turns, so
that one multiplies while the other turns its sums into what goes out, and the rows of x stay in shared memory while
the columns of the weight go by, which halves what the L2 cache has to give. Queries and keys are turned where they
are multiplied, so attention is a kernel that moves blocks, and little else.

Rounding: as in `layers.py`, but what is not stored stays in float32.

The language, Gluon, is experimental, and may be missing or changed in another Triton: see `fused.parts_for`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor as PlainDescriptor

from hrm_lab.model.fused import Rows
from hrm_lab.model.layers import RotaryEmbedding

HEAD = 64  # the size of a head that these are made for
DEEPEST = 512  # of which the rows of a tile fit in shared memory
ROWS, DEEP = 128, 64  # of a tile, and its depth at a time
LAUNCH = {"num_warps": 4, "maxnreg": 168}  # of the first group; three in all


def fits(width: int, inner: int, heads: int) -> bool:
    """Whether a block is of the shape that these are made for."""
    return width == heads * HEAD and width % 256 == 0 and width <= DEEPEST and inner % 128 == 0


def attention(
    rows: Rows, weight: Tensor, length: int, heads: int, rotary: RotaryEmbedding | None, eps: float, slots: int = 4
) -> Tensor:
    """As `fused.attention`."""
    qkv = torch.empty(rows.values.shape[0], weight.shape[0], device=weight.device, dtype=weight.dtype)
    _multiply_rows(rows, weight, qkv, eps, slots, rotary=rotary, length=length)
    return mixed(qkv, length, heads)


def mixed(qkv: Tensor, length: int, heads: int, log_sums: Tensor | None = None) -> Tensor:
    """Attention (M, D) of queries, keys and values (M, 3 D).

    Args:
        log_sums: (B h, L), filled with log2 of what the weights of each query are divided by.
    """
    count, width = qkv.shape[0], qkv.shape[1] // 3
    out = torch.empty(count, width, device=qkv.device, dtype=qkv.dtype)
    block, items = max(64, triton.next_power_of_2(length)), count // length * heads
    by_sequence = (
        PlainDescriptor.from_tensor(tensor.view(-1, length, tensor.shape[1]), [1, block, width // heads])
        for tensor in (qkv, out)
    )
    _attention[(min(2 * _processors(), items),)](
        *by_sequence, out if log_sums is None else log_sums, items, KEEP=log_sums is not None, LENGTH=length,
        HEADS=heads, SIZE=width // heads, BLOCK=block, num_warps=8,
    )  # fmt: skip
    return out


def swiglu(rows: Rows, weight: Tensor, eps: float, slots: int = 4) -> Tensor:
    """As `fused.swiglu`."""
    out = torch.empty(rows.values.shape[0], weight.shape[0] // 2, device=weight.device, dtype=weight.dtype)
    _multiply_rows(rows, weight, out, eps, slots, opened=True)
    return out


def residual(x: Tensor, weight: Tensor, rows: Rows, eps: float, slots: int = 3) -> Rows:
    """As `fused.residual`, but the sums await normalisation."""
    (count, width), depth = rows.values.shape, x.shape[1]
    parts = width // 256
    out = torch.empty_like(rows.values)
    squares = torch.empty(parts, count, device=x.device, dtype=torch.float32)
    _residual[(_processors() // parts * parts,)](
        _blocks(x, ROWS, DEEP), _blocks(weight, 256, DEEP), _blocks(rows.values, ROWS // 2, 128),
        _blocks(out, ROWS // 2, 128), rows.values if rows.squares is None else rows.squares, squares,
        count, eps, DEPTH=depth, WIDTH=width, PARTS=_parts(rows), ROWS=ROWS, COLUMNS=256, DEEP=DEEP, SLOTS=slots,
        **LAUNCH,
    )  # fmt: skip
    return Rows(out, squares)


PARTS: dict[str, Callable[..., Any]] = {
    "attention": attention,
    "attention_out": residual,
    "swiglu": swiglu,
    "mlp_out": residual,
}


def _multiply_rows(
    rows: Rows,
    weight: Tensor,
    out: Tensor,
    eps: float,
    slots: int,
    opened: bool = False,
    gate_up: Tensor | None = None,
    rotary: RotaryEmbedding | None = None,
    length: int = 1,
) -> None:
    """Normalised rows by a weight: SwiGLU of it, with what it is made of in `gate_up` (M, 2 W) where that is there; or
    heads, of which queries and keys are turned."""
    (count, depth), squares = rows.values.shape, rows.values if rows.squares is None else rows.squares
    tiles = -(-count // ROWS) * (weight.shape[0] // 128)
    _product[(min(_processors(), tiles),)](
        _blocks(rows.values, ROWS, DEEP), _blocks(weight, 64, DEEP), _blocks(out, ROWS, 64),
        _blocks(out if gate_up is None else gate_up, ROWS, 64), squares,
        squares if rotary is None else rotary.frequency, count, tiles, eps, OPEN=opened, KEEP=gate_up is not None,
        TURN=rotary is not None, LENGTH=length, DEPTH=depth, WIDTH=weight.shape[0], PARTS=_parts(rows),
        ROWS=ROWS, COLUMNS=128, DEEP=DEEP, SLOTS=slots, **LAUNCH,
    )  # fmt: skip


def _blocks(tensor: Tensor, *shape: int) -> Any:
    """What the copy engine needs to know to move blocks of a tensor; it leaves out what lies beyond the edge."""
    layout = gl.NVMMASharedLayout.get_default_for(list(shape), gl.bfloat16)
    return TensorDescriptor.from_tensor(tensor, list(shape), layout)


def _processors() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count


def _parts(rows: Rows) -> int:
    return 0 if rows.squares is None else rows.squares.shape[0]


@gluon.jit(do_not_specialize=["count", "tiles"])  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    x, weight, out, gate_up, squares, frequency, count, tiles, eps, OPEN: gl.constexpr, KEEP: gl.constexpr,
    TURN: gl.constexpr, LENGTH: gl.constexpr, DEPTH: gl.constexpr, WIDTH: gl.constexpr, PARTS: gl.constexpr,
    ROWS: gl.constexpr, COLUMNS: gl.constexpr, DEEP: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    steps: gl.constexpr = DEPTH // DEEP
    a = gl.allocate_shared_memory(gl.bfloat16, [steps, ROWS, DEEP], x.layout)
    b = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, COLUMNS, DEEP], weight.layout)
    staging = gl.allocate_shared_memory(gl.bfloat16, [2, ROWS, COLUMNS // 2], out.layout)
    # A block is brought when all who used its place have said that it is empty, and used when it is full.
    a_full, a_empty = _barriers(steps, 1), _barriers(steps, 2)
    b_full, b_empty, turns = _barriers(SLOTS, 1), _barriers(SLOTS, 1), _barriers(2, 1)
    # An even share of all tiles, one after the other: the columns of some rows, then of the next.
    first = tiles * gl.program_id(0) // gl.num_programs(0)
    own = tiles * (gl.program_id(0) + 1) // gl.num_programs(0) - first
    gl.warp_specialize(
        [
            (_multiply, (out, gate_up, a, b, staging.index(0), a_full, a_empty, b_full, b_empty, turns, squares,
                         frequency, first, own, count, eps, 0, OPEN, KEEP, WIDTH, PARTS, TURN, LENGTH)),
            (_multiply, (out, gate_up, a, b, staging.index(1), a_full, a_empty, b_full, b_empty, turns, squares,
                         frequency, first, own, count, eps, 1, OPEN, KEEP, WIDTH, PARTS, TURN, LENGTH)),
            (_bring, (x, weight, a, b, a_full, a_empty, b_full, b_empty, first, own, OPEN, WIDTH)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def _barriers(number: gl.constexpr, arrivals: gl.constexpr):  # type: ignore[no-untyped-def]
    barriers = gl.allocate_shared_memory(gl.int64, [number, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(number):
        mbarrier.init(barriers.index(i), count=arrivals)
    return barriers


@gluon.jit  # type: ignore[untyped-decorator]
def _bring(  # type: ignore[no-untyped-def]
    x, weight, a, b, a_full, a_empty, b_full, b_empty, first, tiles, OPEN: gl.constexpr, WIDTH: gl.constexpr
):
    steps: gl.constexpr = a.shape[0]
    rows: gl.constexpr = a.shape[1]
    deep: gl.constexpr = a.shape[2]
    slots: gl.constexpr = b.shape[0]
    half: gl.constexpr = b.shape[1] // 2
    columns: gl.constexpr = WIDTH // (2 * half)
    # A tile is of the gate and of what it opens, or of columns that lie side by side.
    stride: gl.constexpr = half if OPEN else 2 * half
    apart: gl.constexpr = WIDTH // 2 if OPEN else half
    taken = 0
    for i in range(tiles):
        panel = (first + i) // columns
        column = (first + i) % columns * stride
        fresh = (i == 0) | (column == 0)
        phase = (panel - first // columns) & 1
        for k in range(steps):
            if fresh:
                mbarrier.wait(a_empty.index(k), phase ^ 1)
                mbarrier.expect(a_full.index(k), x.block_type.nbytes)
                tma.async_copy_global_to_shared(x, [panel * rows, k * deep], a_full.index(k), a.index(k))
            full, block = b_full.index(taken % slots), b.index(taken % slots)
            mbarrier.wait(b_empty.index(taken % slots), (taken // slots & 1) ^ 1)
            mbarrier.expect(full, 2 * weight.block_type.nbytes)
            tma.async_copy_global_to_shared(weight, [column, k * deep], full, block.slice(0, half))
            tma.async_copy_global_to_shared(weight, [column + apart, k * deep], full, block.slice(half, half))
            taken += 1


@gluon.jit  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]
    out, gate_up, a, b, staging, a_full, a_empty, b_full, b_empty, turns, squares, frequency, first, tiles,
    count, eps, WHICH: gl.constexpr, OPEN: gl.constexpr, KEEP: gl.constexpr, WIDTH: gl.constexpr,
    PARTS: gl.constexpr, TURN: gl.constexpr, LENGTH: gl.constexpr,
):  # fmt: skip
    steps: gl.constexpr = a.shape[0]
    rows: gl.constexpr = a.shape[1]
    slots: gl.constexpr = b.shape[0]
    half: gl.constexpr = b.shape[1] // 2
    columns: gl.constexpr = WIDTH // (2 * half)
    narrow: gl.constexpr = _sums(half)
    start = first // columns
    if (WHICH == 1) & (tiles > 1) & ((first + 1) // columns != start):  # no tile of the first rows is ours
        for k in range(steps):
            mbarrier.wait(a_full.index(k), 0)
            mbarrier.arrive(a_empty.index(k))
    taken = WHICH * steps + 0
    turn = 1 - WHICH
    for i in range(WHICH, tiles, 2):
        panel = (first + i) // columns
        column = (first + i) % columns
        row = panel * rows
        phase = (panel - start) & 1
        last = (first + i + 2) // columns != panel
        at = row + gl.arange(0, rows, layout=gl.SliceLayout(1, narrow))
        scale = _scale(squares, at, count, eps, steps * a.shape[2], PARTS)
        acc = gl.zeros((rows, 2 * half), gl.float32, _sums(2 * half))
        # A barrier tells odd from even only: who waits too early takes the block before last for his own.
        mbarrier.wait(turns.index(WHICH), turn)
        for k in range(steps):
            mbarrier.wait(a_full.index(k), phase)
            mbarrier.wait(b_full.index(taken % slots), taken // slots & 1)
            acc = warpgroup_mma(a.index(k), b.index(taken % slots).permute((1, 0)), acc, is_async=True)
            acc = warpgroup_mma_wait(1, deps=(acc,))
            mbarrier.arrive(b_empty.index((taken - 1) % slots), pred=k > 0)
            mbarrier.arrive(a_empty.index((k - 1) % steps), pred=last & (k > 0))
            taken += 1
        mbarrier.arrive(turns.index(1 - WHICH))
        turn ^= 1
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(b_empty.index((taken - 1) % slots))
        mbarrier.arrive(a_empty.index(steps - 1), pred=last)
        taken += steps  # the next tile is the other's
        left, right = acc.reshape((rows, 2, half)).permute((0, 2, 1)).split()
        left = gl.convert_layout(left, narrow) * scale[:, None]
        right = gl.convert_layout(right, narrow) * scale[:, None]
        if OPEN:
            if KEEP:
                _send(gate_up, [row, column * half], staging, left)
                _send(gate_up, [row, WIDTH // 2 + column * half], staging, right)
            _send(out, [row, column * half], staging, left * _sigmoid(left) * right)
        else:
            if TURN:
                turned = column < columns * 2 // 3
                cosine, sine = _turns(row, frequency, turned, rows, half // 2, LENGTH)
                left = _turned(left, cosine, sine)
                right = _turned(right, cosine, sine)
            _send(out, [row, column * 2 * half], staging, left)
            _send(out, [row, column * 2 * half + half], staging, right)
    tma.store_wait(0)


@gluon.constexpr_function  # type: ignore[untyped-decorator]
def _sums(columns: int) -> Any:
    """How a group's sums lie in registers."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit  # type: ignore[untyped-decorator]
def _scale(  # type: ignore[no-untyped-def]
    squares, at, count, eps, WIDTH: gl.constexpr, PARTS: gl.constexpr
):
    """What normalises the rows `at`."""
    if PARTS == 0:
        return gl.full(at.shape, 1.0, gl.float32, at.type.layout)
    total = gl.load(squares + at, mask=at < count, other=1.0)
    for part in gl.static_range(1, PARTS):
        total += gl.load(squares + part * count + at, mask=at < count, other=1.0)
    return gl.rsqrt(total / WIDTH + eps)


@gluon.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    """In four instructions; the compiler takes twelve, for digits that are rounded away."""
    return gl.inline_asm_elementwise(
        "{ .reg .f32 t; mul.f32 t, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 t, t; add.f32 t, t, 0f3F800000; "
        "rcp.approx.ftz.f32 $0, t; }",
        "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def _turns(  # type: ignore[no-untyped-def]
    row, frequency, turned, ROWS: gl.constexpr, HALF: gl.constexpr, LENGTH: gl.constexpr
):
    """Cosine and sine (to five digits) of each position's angles, or of 0 where nothing is to be turned."""
    layout: gl.constexpr = _sums(HALF)
    place = (row + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))) % LENGTH
    slow = gl.load(frequency + gl.arange(0, HALF, layout=gl.SliceLayout(0, layout)), mask=turned, other=0.0)
    angle = place.to(gl.float32)[:, None] * slow[None, :]
    cosine = gl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", [angle], gl.float32, True, 1)
    sine = gl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", [angle], gl.float32, True, 1)
    return cosine, sine


@gluon.jit
def _turned(head, cosine, sine):  # type: ignore[no-untyped-def]
    """A head whose halves are turned against each other."""
    rows: gl.constexpr = head.shape[0]
    size: gl.constexpr = head.shape[1]
    one, two = head.reshape((rows, 2, size // 2)).permute((0, 2, 1)).split()
    one = gl.convert_layout(one, cosine.type.layout)
    two = gl.convert_layout(two, cosine.type.layout)
    both = gl.join(one * cosine - two * sine, two * cosine + one * sine)
    return gl.convert_layout(both.permute((0, 2, 1)).reshape((rows, size)), head.type.layout)


@gluon.jit
def _send(out, place, staging, block):  # type: ignore[no-untyped-def]
    tma.store_wait(0)
    staging.store(block.to(gl.bfloat16))
    fence_async_shared()
    tma.async_copy_shared_to_global(out, place, staging)


@gluon.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _residual(  # type: ignore[no-untyped-def]
    x, weight, kept, out, squares, new_squares, count, eps, DEPTH: gl.constexpr, WIDTH: gl.constexpr,
    PARTS: gl.constexpr, ROWS: gl.constexpr, COLUMNS: gl.constexpr, DEEP: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    # Of any depth: both groups multiply the same columns, each by half of the rows.
    a = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, ROWS, DEEP], x.layout)
    b = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, COLUMNS, DEEP], weight.layout)
    one = gl.allocate_shared_memory(gl.bfloat16, [2, ROWS // 2, COLUMNS // 2], out.layout)
    two = gl.allocate_shared_memory(gl.bfloat16, [2, ROWS // 2, COLUMNS // 2], out.layout)
    full, empty, kept_full = _barriers(SLOTS, 1), _barriers(SLOTS, 2), _barriers(2, 1)
    columns: gl.constexpr = WIDTH // COLUMNS
    panels = (count + ROWS - 1) // ROWS
    team, teams, part = gl.program_id(0) // columns, gl.num_programs(0) // columns, gl.program_id(0) % columns
    first = panels * team // teams
    last = panels * (team + 1) // teams
    gl.warp_specialize(
        [
            (_multiply_both, (kept, out, a, b, one, full, empty, kept_full.index(0), squares, new_squares, count, eps,
                              first, last, part, 0, DEPTH, WIDTH, PARTS)),
            (_multiply_both, (kept, out, a, b, two, full, empty, kept_full.index(1), squares, new_squares, count, eps,
                              first, last, part, 1, DEPTH, WIDTH, PARTS)),
            (_bring_both, (x, weight, a, b, full, empty, first, last, part, DEPTH)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def _bring_both(  # type: ignore[no-untyped-def]
    x, weight, a, b, full, empty, first, last, part, DEPTH: gl.constexpr
):
    slots: gl.constexpr = a.shape[0]
    taken = 0
    for panel in range(first, last):
        for depth in range(0, DEPTH, a.shape[2]):
            there = full.index(taken % slots)
            mbarrier.wait(empty.index(taken % slots), (taken // slots & 1) ^ 1)
            mbarrier.expect(there, x.block_type.nbytes + weight.block_type.nbytes)
            tma.async_copy_global_to_shared(x, [panel * a.shape[1], depth], there, a.index(taken % slots))
            tma.async_copy_global_to_shared(weight, [part * b.shape[1], depth], there, b.index(taken % slots))
            taken += 1


@gluon.jit  # type: ignore[untyped-decorator]
def _multiply_both(  # type: ignore[no-untyped-def]
    kept, out, a, b, staging, full, empty, kept_full, squares, new_squares, count, eps, first, last, part,
    WHICH: gl.constexpr, DEPTH: gl.constexpr, WIDTH: gl.constexpr, PARTS: gl.constexpr,
):  # fmt: skip
    slots: gl.constexpr = a.shape[0]
    rows: gl.constexpr = a.shape[1] // 2
    half: gl.constexpr = b.shape[1] // 2
    narrow: gl.constexpr = _sums(half)
    column = part * 2 * half
    taken = 0
    turn = 0
    for panel in range(first, last):
        row = panel * (2 * rows) + WHICH * rows
        at = row + gl.arange(0, rows, layout=gl.SliceLayout(1, narrow))
        acc = gl.zeros((rows, 2 * half), gl.float32, _sums(2 * half))
        for depth in range(0, DEPTH, a.shape[2]):
            mbarrier.wait(full.index(taken % slots), taken // slots & 1)
            block = a.index(taken % slots).slice(WHICH * rows, rows)
            acc = warpgroup_mma(block, b.index(taken % slots).permute((1, 0)), acc, is_async=True)
            acc = warpgroup_mma_wait(1, deps=(acc,))
            mbarrier.arrive(empty.index((taken + slots - 1) % slots), pred=depth > 0)
            if depth == a.shape[2]:
                tma.store_wait(0)
                mbarrier.expect(kept_full, 2 * kept.block_type.nbytes)
                tma.async_copy_global_to_shared(kept, [row, column], kept_full, staging.index(0))
                tma.async_copy_global_to_shared(kept, [row, column + half], kept_full, staging.index(1))
            taken += 1
        scale = _scale(squares, at, count, eps, WIDTH, PARTS)  # while the last multiplications go on
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(empty.index((taken - 1) % slots))
        mbarrier.wait(kept_full, turn)
        turn ^= 1
        left, right = acc.reshape((rows, 2, half)).permute((0, 2, 1)).split()
        new = _added(left, out, [row, column], staging.index(0), scale)
        new += _added(right, out, [row, column + half], staging.index(1), scale)
        gl.store(new_squares + part * count + at, new, mask=at < count)
    tma.store_wait(0)


@gluon.jit
def _added(product, out, place, staging, scale):  # type: ignore[no-untyped-def]
    """Send what is kept plus the product; the squares of each row, added up."""
    layout: gl.constexpr = scale.type.layout.parent
    total = staging.load(layout).to(gl.float32) * scale[:, None] + gl.convert_layout(product, layout)
    staging.store(total.to(gl.bfloat16))
    fence_async_shared()
    tma.async_copy_shared_to_global(out, place, staging)
    return gl.sum(total * total, axis=1)


@triton.jit(do_not_specialize=["items"])  # type: ignore[untyped-decorator]
def _attention(  # type: ignore[no-untyped-def]
    qkv, out, log_sums, items, KEEP: tl.constexpr, LENGTH: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    factor: tl.constexpr = 1.4426950408889634 / SIZE**0.5
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0), num_stages=2):
        place = item // HEADS
        column = item % HEADS * SIZE
        query = qkv.load([place, 0, column]).reshape(BLOCK, SIZE)
        key = qkv.load([place, 0, column + HEADS * SIZE]).reshape(BLOCK, SIZE)
        value = qkv.load([place, 0, column + 2 * HEADS * SIZE]).reshape(BLOCK, SIZE)
        scores = tl.dot(query, key.T)
        scores = tl.where((tl.arange(0, BLOCK) < LENGTH)[None, :], scores, float("-inf"))
        most = tl.max(scores, axis=1) * factor
        weights = scores * factor - most[:, None]
        weights = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [weights], tl.float32, True, 1)
        total = tl.sum(weights, axis=1)
        if KEEP:
            at = tl.arange(0, BLOCK)
            tl.store(log_sums + item * LENGTH + at, most + tl.log2(total), mask=at < LENGTH)
        share = 1 / total
        mixed = tl.dot(weights.to(value.dtype), value) * share[:, None]
        out.store([place, 0, column], mixed.to(value.dtype).reshape(1, BLOCK, SIZE))
