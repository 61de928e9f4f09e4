"""What our step is measured against: the structure of the published training loop, plainly written for the benchmark.

Eager modules that cast every weight at every use; a second full segment for the Q target, its logits included; rows
gathered from a memory-mapped int64 file of augmented data; blocking copies to the device; one all-reduce for each
parameter; the metrics fetched after every step. It computes the same function as our step, and shares no code with it
but the optimizers' formulae and the loss.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hrm_lab.config import ModelConfig
from hrm_lab.model.layers import swiglu_width
from tests.bench.published_loop import PublishedHRM

IGNORE = -100


class Cast(nn.Module):
    """A linear map with float32 weights."""

    def __init__(self, fan_in: int, fan_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def norm(x: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    half = x.shape[-1] // 2
    turned = torch.cat((-wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos[:, None] + turned * sin[:, None]).to(x.dtype)


class Layer(nn.Module):
    """Attention and SwiGLU, normalised after each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, swiglu_width(config.hidden_size, config.expansion)
        self.heads = config.num_heads
        self.qkv, self.out = Cast(width, 3 * width), Cast(width, width)
        self.gate_up, self.down = Cast(width, 2 * inner), Cast(inner, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3 * self.heads, width // self.heads)
        q, k, v = qkv[:, :, : self.heads], qkv[:, :, self.heads : 2 * self.heads], qkv[:, :, 2 * self.heads :]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = norm(x + self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return norm(x + self.down(F.silu(gate) * up))


class Level(nn.Module):
    """A stack of layers with an injection."""

    def __init__(self, config: ModelConfig, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(depth))

    def forward(self, state: Tensor, injection: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        state = state + injection
        for layer in self.layers:
            state = layer(state, cos, sin)
        return state


class PlainHRM(nn.Module):
    """Inner model, ACT wrapper and losses in one, as the published loop compiles them together."""

    def __init__(self, config: ModelConfig, vocab_size: int, seq_len: int, identifiers: int, batch: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.config, self.dtype = config, getattr(torch, config.forward_dtype)
        self.tokens = nn.Parameter(torch.randn(vocab_size, width) / math.sqrt(width))
        self.lm_head, self.q_head = Cast(width, vocab_size), Cast(width, 2, bias=True)
        self.H_level, self.L_level = Level(config, config.H_layers), Level(config, config.L_layers)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, -5.0)
        self.register_buffer("puzzles", torch.zeros(identifiers, width))
        self.register_buffer("local", torch.zeros(batch, width).requires_grad_(), persistent=False)
        self.register_buffer("ids", torch.zeros(batch, dtype=torch.int32))
        self.register_buffer("H_init", torch.randn(width).to(self.dtype))
        self.register_buffer("L_init", torch.randn(width).to(self.dtype))
        size = width // config.num_heads
        angle = torch.outer(torch.arange(seq_len + 1), 1 / 10000 ** (torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.register_buffer("cos", angle.cos().float())
        self.register_buffer("sin", angle.sin().float())

    def initial_carry(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every slot is halted."""
        size, seq_len = batch["inputs"].shape
        state = torch.empty(size, seq_len + 1, self.config.hidden_size, dtype=self.dtype)
        steps = torch.zeros(size, dtype=torch.int32)
        return {"z_H": state, "z_L": state, "steps": steps, "halted": torch.ones(size, dtype=torch.bool)} | {
            name: torch.zeros_like(value) for name, value in batch.items()
        }

    def segment(self, z_H: Tensor, z_L: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        c, turn = self.config, (self.cos, self.sin)
        with torch.no_grad():
            for high in range(c.H_cycles):
                for low in range(c.L_cycles):
                    if not (high == c.H_cycles - 1 and low == c.L_cycles - 1):
                        z_L = self.L_level(z_L, z_H + x, *turn)
                if high != c.H_cycles - 1:
                    z_H = self.H_level(z_H, z_L, *turn)
        z_L = self.L_level(z_L, z_H + x, *turn)
        z_H = self.H_level(z_H, z_L, *turn)
        q = self.q_head(z_H[:, 0]).to(torch.float32)
        return z_H.detach(), z_L.detach(), self.lm_head(z_H)[:, 1:], q[..., 0], q[..., 1]

    def forward(self, carry: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        c, halted = self.config, carry["halted"]
        z_H = torch.where(halted.view(-1, 1, 1), self.H_init, carry["z_H"])
        z_L = torch.where(halted.view(-1, 1, 1), self.L_init, carry["z_L"])
        steps = torch.where(halted, 0, carry["steps"])
        data = {k: torch.where(halted.view(-1, *(1,) * (v.dim() - 1)), v, carry[k]) for k, v in batch.items()}
        with torch.no_grad():
            self.local.copy_(self.puzzles[data["puzzle_identifiers"]])
            self.ids.copy_(data["puzzle_identifiers"])
        x = F.embedding(data["inputs"], self.tokens.to(self.dtype))
        x = math.sqrt(c.hidden_size) * torch.cat((self.local.to(self.dtype)[:, None], x), dim=1)
        z_H, z_L, logits, q_halt, q_continue = self.segment(z_H, z_L, x)
        steps = steps + 1
        with torch.no_grad():
            last = steps >= c.halt_max_steps
            halted = last | (q_halt > q_continue)
            least = (torch.rand_like(q_halt) < c.halt_exploration_prob) * torch.randint_like(
                steps, low=2, high=c.halt_max_steps + 1
            )
            halted = halted & (steps >= least)
            _, _, _, halt, go_on = self.segment(z_H, z_L, x)
            target = torch.sigmoid(torch.where(last, halt, torch.maximum(halt, go_on)))
        mask = data["labels"] != IGNORE
        length = mask.sum(-1)
        wide = logits.to(torch.float64)
        s = torch.where(wide < 0, 1 / (1 - wide + 1e-30), wide + 1)
        log = torch.log(s / s.sum(-1, keepdim=True))
        picked = log.gather(-1, torch.where(mask, data["labels"], 0).long()[..., None])[..., 0]
        token = torch.where(mask, -picked, 0) / length.clamp_min(1)[:, None]
        right = mask & (logits.argmax(-1) == data["labels"])
        solved = right.sum(-1) == length
        halt_loss = F.binary_cross_entropy_with_logits(q_halt, solved.to(q_halt.dtype), reduction="sum")
        go_on_loss = F.binary_cross_entropy_with_logits(q_continue, target, reduction="sum")
        counted = halted & (length > 0)
        metrics = (
            counted.sum(),
            torch.where(counted, right.sum(-1) / length.clamp_min(1), 0).sum(),
            (counted & solved).sum(),
            (counted & ((q_halt >= 0) == solved)).sum(),
            torch.where(counted, steps, 0).sum(),
            token.sum().detach(),
            halt_loss.detach(),
            go_on_loss.detach(),
        )
        carry = {"z_H": z_H, "z_L": z_L, "steps": steps, "halted": halted, **data}
        return carry, token.sum() + 0.5 * (halt_loss + go_on_loss), torch.stack([m.double() for m in metrics])


def augmented_file(folder: Path, rows: int, seq_len: int, vocab_size: int) -> tuple[Any, Any]:
    """Inputs and labels as such a file holds them; int64, memory-mapped."""
    generator, arrays = np.random.default_rng(0), []
    for name, low in (("inputs", 1), ("labels", 2)):
        np.save(folder / f"{name}.npy", generator.integers(low, vocab_size, (rows, seq_len)))
        arrays.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    return arrays[0], arrays[1]


class PlainLoop:
    """Trains; `step()` is what is measured.

    Args:
        published: a clone of the published repository; its model takes the place of the plain one.
    """

    def __init__(
        self,
        model: ModelConfig,
        batch: int,
        folder: Path,
        device: torch.device,
        compiled: bool,
        published: Path | None = None,
    ) -> None:
        seq_len, vocab_size = 81, 11
        self.device, self.batch = device, batch
        self.inputs, self.labels = augmented_file(folder, 20000, seq_len, vocab_size)
        shape = model, vocab_size, seq_len, 2, batch
        with torch.device(device):
            self.model: Any = PlainHRM(*shape) if published is None else PublishedHRM(published, *shape)
            self.number, self.metrics = 0, np.zeros(8)
            self.carry: Any = self.model.initial_carry(self._batch())
        self.call = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.params = list(self.model.parameters())
        self.averages = [torch.zeros_like(p) for p in self.params]
        self.squares = [torch.zeros_like(p) for p in self.params]

    def _batch(self) -> dict[str, Tensor]:
        rows = np.random.Generator(np.random.Philox(self.number)).integers(0, len(self.inputs), self.batch)
        host = {
            "inputs": torch.from_numpy(self.inputs[rows].astype(np.int32)),
            "labels": torch.from_numpy(self.labels[rows].astype(np.int32)),
            "puzzle_identifiers": torch.zeros(self.batch, dtype=torch.int32, device="cpu"),
        }
        return {name: tensor.to(self.device) for name, tensor in host.items()}

    def step(self) -> None:
        self.number += 1
        self.carry, loss, metrics = self.call(self.carry, self._batch())
        (loss / self.batch).backward()
        if dist.is_initialized():
            for p in self.params:
                dist.all_reduce(p.grad)
        with torch.no_grad():
            self._sign_sgd(1e-4, 1.0)
            self._adam_atan2(1e-4, 1.0)
        for p in (*self.params, self.model.local):
            p.grad = None
        self.metrics = metrics.cpu().numpy()

    def _sign_sgd(self, lr: float, decay: float) -> None:
        ids, inverse = self.model.ids.unique(return_inverse=True)
        grad = self.model.local.grad
        summed = torch.zeros(len(ids), grad.shape[1], device=self.device).scatter_add_(
            0, inverse[:, None].expand(-1, grad.shape[1]), grad
        )
        self.model.puzzles[ids] = self.model.puzzles[ids] * (1 - lr * decay) - lr * summed.sign()

    def _adam_atan2(self, lr: float, decay: float, beta1: float = 0.9, beta2: float = 0.95) -> None:
        grads = [p.grad for p in self.params]
        torch._foreach_mul_(self.params, 1 - lr * decay)
        torch._foreach_lerp_(self.averages, grads, 1 - beta1)
        torch._foreach_lerp_(self.squares, [g.square() for g in grads], 1 - beta2)
        scales = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(scales, math.sqrt(1 - beta2**self.number))
        angles = [torch.atan2(m, s) for m, s in zip(self.averages, scales, strict=True)]
        torch._foreach_add_(self.params, angles, alpha=-lr / (1 - beta1**self.number))
