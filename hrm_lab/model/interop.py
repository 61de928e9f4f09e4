"""Names of the published checkpoints, and weights that leave the lab as safetensors (HRM_SPEC section 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from hrm_lab.model.hrm import HRM

PUBLISHED_PREFIX = "model.inner."  # the published model wraps HRM twice: loss head, then ACT


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for a published state dict, with or without the `_orig_mod.` that torch.compile adds."""
    names = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    return {name.removeprefix(PUBLISHED_PREFIX): tensor for name, tensor in names.items()}


def save_weights(model: HRM, path: Path) -> None:
    """Write parameters and persistent buffers under the published names."""
    state = {f"{PUBLISHED_PREFIX}{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path)
