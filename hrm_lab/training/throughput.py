"""How much arithmetic a training step is, and what share of the device's peak that reaches (MFU)."""

from __future__ import annotations

import torch

from hrm_lab.config import Config, ModelConfig
from hrm_lab.model.layers import swiglu_width
from hrm_lab.training.distributed import Ranks

# By the name that CUDA gives a device, whole: a part of one (MIG), a laptop's and a "Ti" of the same name are others.
# Dense peaks in FLOP/s: bfloat16 with float32 accumulation, float32 without tensor cores. From NVIDIA's data sheets of
# H100, H200, A100 and L40S (H100's and H200's bfloat16 is printed with sparsity, twice this), and from its architecture
# whitepapers "Ada" and "Ampere GA102", appendix A.
HOPPER_SXM, HOPPER_NVL, A100 = (989e12, 67e12), (835e12, 60e12), (312e12, 19.5e12)
PEAKS: dict[str, tuple[float, float]] = {
    "NVIDIA H200": HOPPER_SXM,
    "NVIDIA H200 NVL": HOPPER_NVL,
    "NVIDIA H100 80GB HBM3": HOPPER_SXM,
    "NVIDIA H100 NVL": HOPPER_NVL,
    "NVIDIA H100 PCIe": (756e12, 51e12),
    "NVIDIA A100-SXM4-40GB": A100,
    "NVIDIA A100-SXM4-80GB": A100,
    "NVIDIA A100-PCIE-40GB": A100,
    "NVIDIA A100 80GB PCIe": A100,
    "NVIDIA L40S": (362e12, 91.6e12),
    "NVIDIA GeForce RTX 4090": (165.2e12, 82.6e12),
    "NVIDIA GeForce RTX 3090": (71e12, 35.6e12),
}


def step_flops(model: ModelConfig, seq_len: int, batch_size: int) -> float:
    """Floating-point operations of one training step: what the recurrence asks for, and nothing done twice.

    A layer pass is the four matrix products of a block and its attention, a multiply-add counted as two. Only the last
    low-level and the last high-level call are gone back through, which costs twice what they cost forwards; the
    bootstrapped Q target is a segment of its own. Embeddings and heads are left out: less than 0.1 % at width 512.

    Args:
        seq_len: S, cells; the puzzle embedding's positions come on top.
        batch_size: over all processes.
    """
    width, inner = model.hidden_size, swiglu_width(model.hidden_size, model.expansion)
    length = seq_len + -(model.puzzle_emb_ndim // -width)
    weights = 4 * width**2 + 3 * width * inner
    layer_pass = batch_size * length * (2 * weights + 4 * length * width)
    segment = model.H_cycles * (model.L_cycles * model.L_layers + model.H_layers)
    backward = 2 * (model.L_layers + model.H_layers)
    target = segment if model.halt_max_steps > 1 else 0
    return float(layer_pass * (segment + backward + target))


def device_peak(device_name: str, dtype: str) -> float | None:
    """Peak of a device by its name, in FLOP/s; None where it is not known."""
    if device_name not in PEAKS:
        return None
    bfloat16, float32 = PEAKS[device_name]
    return bfloat16 if dtype == "bfloat16" else float32


class Throughput:
    """Pace in samples, FLOP/s and, where the devices' peak is known, as a share of it."""

    def __init__(self, config: Config, seq_len: int, ranks: Ranks) -> None:
        self.batch_size = config.training.global_batch_size
        self.flops = step_flops(config.model, seq_len, self.batch_size)
        peak = config.training.peak_flops
        if peak is None and ranks.device.type == "cuda":
            peak = device_peak(torch.cuda.get_device_name(ranks.device), config.model.forward_dtype)
        self.peak = peak * ranks.world_size if peak is not None else None

    def values(self, steps_per_second: float) -> dict[str, float]:
        """What is logged of a pace, over all processes."""
        achieved = self.flops * steps_per_second
        values = {"perf/samples_per_s": steps_per_second * self.batch_size, "perf/flops_per_s": achieved}
        return values | ({"perf/mfu": achieved / self.peak} if self.peak is not None else {})
