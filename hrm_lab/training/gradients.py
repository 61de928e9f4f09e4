"""The sum of gradients over all processes: in a few flat buckets, each sent while the backward makes the next one."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hrm_lab.training.distributed import Ranks

BUCKET_BYTES = 25 * 2**20  # one collective's worth: more would wait longer, less would pay for its start more often


class Bucket:
    """A flat tensor with a place for the gradient of each of its parameters."""

    def __init__(self, params: list[nn.Parameter], extra: int, dtype: torch.dtype, device: torch.device) -> None:
        self.params = params
        sizes = [p.numel() for p in params]
        self.flat = torch.zeros(sum(sizes) + extra, dtype=dtype, device=device)
        parts = torch.split(self.flat, [*sizes, extra])
        self.views = [part.view_as(p) for part, p in zip(parts[:-1], params, strict=True)]
        self.extra = parts[-1]
        self.missing = 0  # gradients that are yet to come
        self.work: dist.Work | None = None


class GradientSum:
    """Sums gradients over all processes; where there is one only, it does nothing.

    The buckets are those of the parameters in reverse, which is about the order that their gradients come in. They are
    sent in this order whatever comes first, so that all processes do the same, and the same bits come out every time.

    Args:
        params: of the model, in its order.
        dtype: that they travel and are summed in.
        overlaps: whether a bucket is sent as soon as it is full; else all of them are when `finish` is called.
    """

    def __init__(self, params: Iterable[nn.Parameter], ranks: Ranks, dtype: torch.dtype, overlaps: bool) -> None:
        self.ranks, self.overlaps = ranks, overlaps
        self.buckets: list[Bucket] = []
        self._sent, self._is_last = 0, False
        if ranks.world_size == 1:
            return
        gathered: list[list[nn.Parameter]] = [[]]
        for p in reversed(list(params)):
            if gathered[-1] and sum(other.numel() for other in gathered[-1]) * dtype.itemsize >= BUCKET_BYTES:
                gathered.append([])
            gathered[-1].append(p)
        for some in gathered:
            self.buckets.append(Bucket(some, int(some is gathered[-1]), dtype, ranks.device))
        for bucket in self.buckets:
            for p, view in zip(bucket.params, bucket.views, strict=True):
                hook = functools.partial(self._came, bucket=bucket, view=view)
                p.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    @property
    def bytes_sent(self) -> int:
        """That one process puts into the sum on every step."""
        return sum(bucket.flat.nbytes for bucket in self.buckets)

    def begin(self) -> None:
        """Before the last backward of a step: what comes now is whole."""
        self._sent, self._is_last = 0, True
        for bucket in self.buckets:
            bucket.missing, bucket.work = len(bucket.params), None

    def finish(self, pulse: Tensor) -> None:
        """After it: every parameter that has a gradient has that of all processes, and so has `pulse`, one number."""
        self._is_last = False
        if not self.buckets:
            return
        self.buckets[-1].extra.copy_(pulse)
        for bucket in self.buckets[self._sent :]:
            bucket.work = self.ranks.start_sum(bucket.flat)
        for bucket in self.buckets:
            self.ranks.wait_for(bucket.work)
            _hand_out(bucket)
        pulse.copy_(self.buckets[-1].extra[0])

    def _came(self, p: Tensor, bucket: Bucket, view: Tensor) -> None:
        if not self._is_last or p.grad is None:
            return
        view.copy_(p.grad)
        bucket.missing -= 1
        # The last one has the pulse to wait for.
        while self.overlaps and self._sent < len(self.buckets) - 1 and not self.buckets[self._sent].missing:
            full = self.buckets[self._sent]
            full.work = self.ranks.start_sum(full.flat)
            self._sent += 1


def _hand_out(bucket: Bucket) -> None:
    """To the parameters: the bucket's own place where it has their dtype, else a copy."""
    if bucket.flat.dtype == torch.float32:
        for p, view in zip(bucket.params, bucket.views, strict=True):
            if p.grad is not None:
                p.grad = view
        return
    pairs = [(p.grad, view) for p, view in zip(bucket.params, bucket.views, strict=True) if p.grad is not None]
    if pairs:
        torch._foreach_copy_([grad for grad, _ in pairs], [view for _, view in pairs])
