"""Kernels for a pass with a gradient, on Hopper: what stands between two products of its backward is one of them.

The rows of a stack are sums that await normalisation, as in `hopper.py`: y = r s, with r what normalises a row s. The
gradient by a product of rows that are not yet scaled is r times that by the scaled product, and what comes of it
through the weight is so scaled too: `norm_backward` takes it like that. Every sum is taken in one order, so the same
bits come out every time.

Imported where `hopper.py` is.
"""

from __future__ import annotations

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

from hrm_lab.model import hopper
from hrm_lab.model.fused import Rows
from hrm_lab.model.hopper import (
    DEEP,
    LAUNCH,
    ROWS,
    _barriers,
    _blocks,
    _parts,
    _processors,
    _scale,
    _sigmoid,
    _sums,
    _turned,
    _turns,
)
from hrm_lab.model.hopper import residual as residual
from hrm_lab.model.kernels import _scale as _scale_of_rows
from hrm_lab.model.kernels import normalised as normalised
from hrm_lab.model.layers import RotaryEmbedding

COLUMNS = 128  # of a tile of SwiGLU's backward
BLOCK = 64  # positions of a sequence that are moved at once


def attention(
    rows: Rows, weight: Tensor, length: int, heads: int, rotary: RotaryEmbedding | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fused.attention`; what it is made of, qkv (M, 3 D), turned; and (B h, L) log2 of the sums of its weights."""
    qkv = torch.empty(rows.values.shape[0], weight.shape[0], device=weight.device, dtype=weight.dtype)
    hopper._multiply_rows(rows, weight, qkv, eps, 4, rotary=rotary, length=length)
    log_sums = torch.empty(len(qkv) // length * heads, length, device=qkv.device, dtype=torch.float32)
    return hopper.mixed(qkv, length, heads, log_sums), qkv, log_sums


def attention_backward(
    d_mixed: Tensor,
    mixed: Tensor,
    qkv: Tensor,
    log_sums: Tensor,
    rows: Rows,
    length: int,
    heads: int,
    rotary: RotaryEmbedding | None,
    eps: float,
) -> Tensor:
    """The gradient (M, 3 D) by the product of rows and weight, from that (M, D) by what attention gives."""
    count, width = mixed.shape
    out = torch.empty_like(qkv)
    by_sequence = (
        _blocks(tensor.view(-1, length, tensor.shape[1]), 1, BLOCK, width // heads)
        for tensor in (qkv, mixed, d_mixed, out)
    )
    _attention_backward[(count // length * heads,)](
        *by_sequence, log_sums, log_sums if rotary is None else rotary.frequency,
        log_sums if rows.squares is None else rows.squares, count, eps, LENGTH=length, HEADS=heads,
        SIZE=width // heads, TURN=rotary is not None, PARTS=_parts(rows),
        REST=triton.next_power_of_2(max(length - BLOCK, 16)), num_warps=4,
    )  # fmt: skip
    return out


def swiglu(rows: Rows, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `fused.swiglu`; and what it is made of, gate and up (M, 2 W)."""
    gate_up = torch.empty(rows.values.shape[0], weight.shape[0], device=weight.device, dtype=weight.dtype)
    out = gate_up.new_empty(len(gate_up), weight.shape[0] // 2)
    hopper._multiply_rows(rows, weight, out, eps, 4, opened=True, gate_up=gate_up)
    return out, gate_up


def swiglu_backward(d_rows: Tensor, weight: Tensor, gate_up: Tensor, rows: Rows, eps: float) -> Tensor:
    """The gradient (M, 2 W) by the product of rows and weight, from that (M, D) by SwiGLU's with `weight` (D, W)."""
    (count, depth), inner = d_rows.shape, weight.shape[1]
    out = torch.empty_like(gate_up)
    tiles = -(-count // ROWS) * (inner // COLUMNS)
    _swiglu_backward[(min(_processors(), tiles),)](
        _blocks(d_rows, ROWS, DEEP), _blocks(weight, DEEP, COLUMNS), _blocks(gate_up, ROWS // 2, COLUMNS),
        _blocks(out, ROWS // 2, COLUMNS), d_rows if rows.squares is None else rows.squares, count, tiles, eps,
        DEPTH=depth, INNER=inner, PARTS=_parts(rows), SLOTS=3, **LAUNCH,
    )  # fmt: skip
    return out


def norm_backward(product: Tensor | None, kept: Tensor, rows: Rows, eps: float) -> Tensor:
    """The gradient (M, D) by rows, from those by the normalised ones: `kept`, and `product`, already scaled."""
    count, width = kept.shape
    out, at_once = torch.empty_like(kept), 4
    _norm_backward[(triton.cdiv(count, at_once),)](
        kept if product is None else product, kept, rows.values,
        rows.values if rows.squares is None else rows.squares, out, count, eps,
        WIDTH=width, PARTS=_parts(rows), ADDED=product is not None, ROWS=at_once, BLOCK=triton.next_power_of_2(width),
    )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _norm_backward(  # type: ignore[no-untyped-def]
    product, kept, values, squares, out, count, eps, WIDTH: tl.constexpr, PARTS: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    place = at[:, None].to(tl.int64) * WIDTH + column[None, :]
    there = (at < count)[:, None] & (column < WIDTH)[None, :]
    total = tl.load(kept + place, mask=there, other=0.0).to(tl.float32)
    if PARTS > 0:
        scale = _scale_of_rows(squares, at, count, eps, WIDTH, PARTS)[:, None]
        total *= scale
    if ADDED:
        total += tl.load(product + place, mask=there, other=0.0).to(tl.float32)
    if PARTS > 0:
        y = tl.load(values + place, mask=there, other=0.0).to(tl.float32) * scale
        total -= y * (tl.sum(y * total, axis=1) / WIDTH)[:, None]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=there)


@gluon.jit(do_not_specialize=["count", "tiles"])  # type: ignore[untyped-decorator]
def _swiglu_backward(  # type: ignore[no-untyped-def]
    x, weight, gate_up, out, squares, count, tiles, eps, DEPTH: gl.constexpr, INNER: gl.constexpr,
    PARTS: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    # One warp brings blocks, and two groups of four multiply them, each by half of the rows.
    rows: gl.constexpr = x.block_type.shape[0]
    deep: gl.constexpr = x.block_type.shape[1]
    columns: gl.constexpr = weight.block_type.shape[1]
    a = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, rows, deep], x.layout)
    b = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, deep, columns], weight.layout)
    one = gl.allocate_shared_memory(gl.bfloat16, [4, rows // 2, columns], gate_up.layout)
    two = gl.allocate_shared_memory(gl.bfloat16, [4, rows // 2, columns], gate_up.layout)
    full, empty, here = _barriers(SLOTS, 1), _barriers(SLOTS, 2), _barriers(4, 1)
    gl.warp_specialize(
        [
            (_open_back, (gate_up, out, a, b, one, full, empty, here, squares, count, tiles, eps, 0, DEPTH, INNER,
                          PARTS)),
            (_open_back, (gate_up, out, a, b, two, full, empty, here, squares, count, tiles, eps, 1, DEPTH, INNER,
                          PARTS)),
            (_bring, (x, weight, a, b, full, empty, tiles, DEPTH, INNER)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@gluon.jit  # type: ignore[untyped-decorator]
def _bring(  # type: ignore[no-untyped-def]
    x, weight, a, b, full, empty, tiles, DEPTH: gl.constexpr, INNER: gl.constexpr
):
    slots: gl.constexpr = a.shape[0]
    columns: gl.constexpr = INNER // b.shape[2]
    taken = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        for depth in range(0, DEPTH, a.shape[2]):
            there = full.index(taken % slots)
            mbarrier.wait(empty.index(taken % slots), (taken // slots & 1) ^ 1)
            mbarrier.expect(there, x.block_type.nbytes + weight.block_type.nbytes)
            tma.async_copy_global_to_shared(x, [tile // columns * a.shape[1], depth], there, a.index(taken % slots))
            place = [depth, tile % columns * b.shape[2]]
            tma.async_copy_global_to_shared(weight, place, there, b.index(taken % slots))
            taken += 1


@gluon.jit  # type: ignore[untyped-decorator]
def _fetch(  # type: ignore[no-untyped-def]
    gate_up, buffers, there, at, tile, WHICH: gl.constexpr, INNER: gl.constexpr
):
    """Bring what a group's sums of a tile will meet into the pair `at` of its buffers."""
    rows: gl.constexpr = buffers.shape[1]
    size: gl.constexpr = buffers.shape[2]
    row = tile // (INNER // size) * (2 * rows) + WHICH * rows
    column = tile % (INNER // size) * size
    mbarrier.expect(there, 2 * gate_up.block_type.nbytes)
    tma.async_copy_global_to_shared(gate_up, [row, column], there, buffers.index(2 * at))
    tma.async_copy_global_to_shared(gate_up, [row, INNER + column], there, buffers.index(2 * at + 1))


@gluon.jit  # type: ignore[untyped-decorator]
def _open_back(  # type: ignore[no-untyped-def]
    gate_up, out, a, b, buffers, full, empty, here, squares, count, tiles, eps, WHICH: gl.constexpr,
    DEPTH: gl.constexpr, INNER: gl.constexpr, PARTS: gl.constexpr,
):  # fmt: skip
    slots: gl.constexpr = a.shape[0]
    rows: gl.constexpr = buffers.shape[1]
    size: gl.constexpr = buffers.shape[2]
    steps: gl.constexpr = DEPTH // a.shape[2]
    early: gl.constexpr = steps - 2 if steps > 1 else 0
    layout: gl.constexpr = _sums(size)
    taken = 0
    _fetch(gate_up, buffers, here.index(2 * WHICH), 0, gl.program_id(0), WHICH, INNER)
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        number = tile // gl.num_programs(0)
        row = tile // (INNER // size) * (2 * rows) + WHICH * rows
        column = tile % (INNER // size) * size
        at = row + gl.arange(0, rows, layout=gl.SliceLayout(1, layout))
        scale = _scale(squares, at, count, eps, DEPTH, PARTS)[:, None]
        given = gl.zeros((rows, size), gl.float32, layout)
        for k in range(steps):
            mbarrier.wait(full.index(taken % slots), taken // slots & 1)
            block = a.index(taken % slots).slice(WHICH * rows, rows)
            given = warpgroup_mma(block, b.index(taken % slots), given, is_async=True)
            given = warpgroup_mma_wait(1, deps=(given,))
            mbarrier.arrive(empty.index((taken + slots - 1) % slots), pred=k > 0)
            after = tile + gl.num_programs(0)
            if (k == early) & (after < tiles):
                tma.store_wait(0)
                other = number + 1 & 1
                _fetch(gate_up, buffers, here.index(2 * WHICH + other), other, after, WHICH, INNER)
            taken += 1
        given = warpgroup_mma_wait(0, deps=(given,))
        mbarrier.arrive(empty.index((taken + slots - 1) % slots))
        own = 2 * (number & 1)
        mbarrier.wait(here.index(2 * WHICH + (number & 1)), number // 2 & 1)
        gate = buffers.index(own).load(layout).to(gl.float32)
        up = buffers.index(own + 1).load(layout).to(gl.float32)
        given *= scale
        share = _sigmoid(gate)
        opened = gate * share
        buffers.index(own).store((given * up * (share + opened - opened * share)).to(gl.bfloat16))
        buffers.index(own + 1).store((given * opened).to(gl.bfloat16))
        fence_async_shared()
        tma.async_copy_shared_to_global(out, [row, column], buffers.index(own))
        tma.async_copy_shared_to_global(out, [row, INNER + column], buffers.index(own + 1))
    tma.store_wait(0)


@gluon.jit
def _exp2(x):  # type: ignore[no-untyped-def]
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, True, 1)


@gluon.jit  # type: ignore[untyped-decorator]
def _common(given, gave, layout: gl.constexpr):  # type: ignore[no-untyped-def]
    """Of each query, the sum of what is given times what it gave."""
    size: gl.constexpr = given.shape[1]
    across: gl.constexpr = gl.BlockedLayout([1, 8], [256 // size, size // 8], [4, 1], [1, 0])
    product = given.load(across).to(gl.float32) * gave.load(across).to(gl.float32)
    return gl.convert_layout(gl.sum(product, axis=1), gl.SliceLayout(0, layout))


@gluon.jit
def _send_block(out, place, tile, block):  # type: ignore[no-untyped-def]
    tile.reshape((tile.shape[1], tile.shape[2])).store(block.to(gl.bfloat16))
    fence_async_shared()
    tma.async_copy_shared_to_global(out, place, tile)


@gluon.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _attention_backward(  # type: ignore[no-untyped-def]
    qkv, mixed, d_mixed, out, log_sums, frequency, squares, count, eps, LENGTH: gl.constexpr, HEADS: gl.constexpr,
    SIZE: gl.constexpr, TURN: gl.constexpr, PARTS: gl.constexpr, REST: gl.constexpr,
):  # fmt: skip
    # One program takes a head of a sequence: two blocks of its keys, and for each all queries, a block and the rest.
    # Scores are (keys, queries), so that what the products over queries take is where the scores are: in registers.
    block: gl.constexpr = qkv.block_type.shape[1]
    width: gl.constexpr = HEADS * SIZE
    low: gl.constexpr = _sums(block)
    high: gl.constexpr = _sums(REST)
    heads: gl.constexpr = _sums(SIZE)
    operand: gl.constexpr = gl.DotOperandLayout(0, heads, 2)
    sequence = gl.program_id(0) // HEADS
    column = gl.program_id(0) % HEADS * SIZE

    # Two blocks each of queries, of what is given, of keys, of values, and of what attention gave.
    tiles = gl.allocate_shared_memory(gl.bfloat16, [10, 1, block, SIZE], qkv.layout)
    turned = gl.allocate_shared_memory(gl.bfloat16, [2, block, block], gl.NVMMASharedLayout(128, 16, 2))
    ready = _barriers(2, 1)
    for i in gl.static_range(2):
        mbarrier.expect(ready.index(i), 5 * qkv.block_type.nbytes)
    for i in gl.static_range(2):  # what the first products take comes first
        tma.async_copy_global_to_shared(qkv, [sequence, i * block, column], ready.index(0), tiles.index(i))
        tma.async_copy_global_to_shared(d_mixed, [sequence, i * block, column], ready.index(0), tiles.index(2 + i))
    tma.async_copy_global_to_shared(qkv, [sequence, 0, width + column], ready.index(0), tiles.index(4))
    tma.async_copy_global_to_shared(qkv, [sequence, 0, 2 * width + column], ready.index(1), tiles.index(6))
    for i in gl.static_range(2):
        tma.async_copy_global_to_shared(mixed, [sequence, i * block, column], ready.index(1), tiles.index(8 + i))
    tma.async_copy_global_to_shared(qkv, [sequence, block, width + column], ready.index(1), tiles.index(5))
    tma.async_copy_global_to_shared(qkv, [sequence, block, 2 * width + column], ready.index(1), tiles.index(7))
    query_low = tiles.index(0).reshape((block, SIZE))
    query_high = tiles.index(1).reshape((block, SIZE)).slice(0, REST)
    given_low = tiles.index(2).reshape((block, SIZE))
    given_high = tiles.index(3).reshape((block, SIZE)).slice(0, REST)
    low_at = gl.arange(0, block, gl.SliceLayout(0, low))
    high_at = block + gl.arange(0, REST, gl.SliceLayout(0, high))
    own_sums = log_sums + gl.program_id(0) * LENGTH
    low_sum = gl.load(own_sums + low_at, mask=low_at < LENGTH, other=0.0)
    high_sum = gl.load(own_sums + high_at, mask=high_at < LENGTH, other=0.0)

    factor: gl.constexpr = 1.4426950408889634 / SIZE**0.5
    d_query_low = gl.zeros((block, SIZE), gl.float32, heads)
    d_query_high = gl.zeros((block, SIZE), gl.float32, heads)
    mbarrier.wait(ready.index(0), 0)
    for i in gl.static_range(2):
        key = tiles.index(4 + i).reshape((block, SIZE))
        value = tiles.index(6 + i).reshape((block, SIZE))
        no_low = gl.zeros((block, block), gl.float32, low)
        no_high = gl.zeros((block, REST), gl.float32, high)
        none = gl.zeros((block, SIZE), gl.float32, heads)
        scores_low = warpgroup_mma(key, query_low.permute((1, 0)), no_low, use_acc=False, is_async=True)
        scores_high = warpgroup_mma(key, query_high.permute((1, 0)), no_high, use_acc=False, is_async=True)
        if i == 0:
            mbarrier.wait(ready.index(1), 0)
            low_common = _common(given_low, tiles.index(8).reshape((block, SIZE)), low)
            high_common = _common(given_high, tiles.index(9).reshape((block, SIZE)).slice(0, REST), high)
        d_low = warpgroup_mma(value, given_low.permute((1, 0)), no_low, use_acc=False, is_async=True)
        d_high = warpgroup_mma(value, given_high.permute((1, 0)), no_high, use_acc=False, is_async=True)
        scores_low, scores_high = warpgroup_mma_wait(2, deps=(scores_low, scores_high))
        # No weight is above one but of keys that are not there, and theirs must be finite: they meet zeros.
        low_weights = _exp2(gl.minimum(scores_low * factor - low_sum[None, :], 0.0))
        high_weights = _exp2(gl.minimum(scores_high * factor - high_sum[None, :], 0.0))
        one = gl.convert_layout(low_weights.to(gl.bfloat16), operand)
        two = gl.convert_layout(high_weights.to(gl.bfloat16), operand)
        d_value = warpgroup_mma(one, given_low, none, use_acc=False, is_async=True)
        d_value = warpgroup_mma(two, given_high, d_value, is_async=True)
        d_low, d_high = warpgroup_mma_wait(2, deps=(d_low, d_high))
        d_low = (low_weights * (d_low - low_common[None, :])).to(gl.bfloat16)
        d_high = (high_weights * (d_high - high_common[None, :])).to(gl.bfloat16)
        turned.index(0).store(d_low)
        turned.index(1).slice(0, REST, dim=1).store(d_high)
        fence_async_shared()
        d_key = warpgroup_mma(gl.convert_layout(d_low, operand), query_low, none, use_acc=False, is_async=True)
        d_key = warpgroup_mma(gl.convert_layout(d_high, operand), query_high, d_key, is_async=True)
        gl.thread_barrier()
        d_query_low = warpgroup_mma(turned.index(0).permute((1, 0)), key, d_query_low, use_acc=i > 0, is_async=True)
        d_query_high = warpgroup_mma(turned.index(1).permute((1, 0)), key, d_query_high, use_acc=i > 0, is_async=True)
        at = i * block + gl.arange(0, block, gl.SliceLayout(1, heads))
        scale = _scale(squares, sequence * LENGTH + at, count, eps, width, PARTS)
        d_value = warpgroup_mma_wait(4, deps=(d_value,))
        _send_block(out, [sequence, i * block, 2 * width + column], tiles.index(6 + i), d_value * scale[:, None])
        scale *= SIZE**-0.5
        d_key = warpgroup_mma_wait(2, deps=(d_key,)) * scale[:, None]
        if TURN:
            cosine, sine = _turns(i * block, frequency, True, block, SIZE // 2, LENGTH)
            d_key = _turned(d_key, cosine, -sine)
        _send_block(out, [sequence, i * block, width + column], tiles.index(8 + i), d_key)
        d_query_low, d_query_high = warpgroup_mma_wait(0, deps=(d_query_low, d_query_high))
    for i in gl.static_range(2):
        at = i * block + gl.arange(0, block, gl.SliceLayout(1, heads))
        scale = _scale(squares, sequence * LENGTH + at, count, eps, width, PARTS) * SIZE**-0.5
        d_query = (d_query_low if i == 0 else d_query_high) * scale[:, None]
        if TURN:
            cosine, sine = _turns(i * block, frequency, True, block, SIZE // 2, LENGTH)
            d_query = _turned(d_query, cosine, -sine)
        _send_block(out, [sequence, i * block, column], tiles.index(i), d_query)
    tma.store_wait(0)
