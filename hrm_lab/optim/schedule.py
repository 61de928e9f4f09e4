"""Learning rate: linear warm-up, then a cosine down to a share of the peak (HRM_SPEC section 4)."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, base_lr: float, warmup_steps: int, total_steps: int, min_ratio: float) -> float:
    """Learning rate of optimizer step `step`, counted from 1.

    Not clamped past `total_steps`, as published; `min_ratio` = 1 keeps the peak for good.
    """
    if step < warmup_steps:
        return base_lr * step / max(1, warmup_steps)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base_lr * (min_ratio + max(0.0, (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))))
