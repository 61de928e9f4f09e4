"""The Hierarchical Reasoning Model: two recurrent transformer modules and the one-step gradient (HRM_SPEC section 1).

One call of `HRM.forward` is one ACT segment: H_cycles high-level updates, each after L_cycles low-level updates, all
without a gradient but the last of each. Halting and the carry are `act.py`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hrm_lab.config import ModelConfig
from hrm_lab.model.fused import DifferentiableStack, FusedStack
from hrm_lab.model.layers import Block, Casted, CastedEmbedding, CastedLinear, RotaryEmbedding, truncated_normal
from hrm_lab.model.puzzle_embedding import PuzzleEmbedding

Q_HEAD_BIAS = -5.0  # so that no sequence halts before the Q head has learned anything


class Latents(NamedTuple):
    """The state of both modules, each (B, L, D) in the forward dtype."""

    z_H: Tensor
    z_L: Tensor


class Prediction(NamedTuple):
    """What one segment says: logits (B, S, V) in the forward dtype; q_halt and q_continue (B,) in float32."""

    logits: Tensor
    q_halt: Tensor
    q_continue: Tensor


class ReasoningModule(nn.Module):
    """A stack of blocks that takes an injection into its state: blocks(state + injection)."""

    fused: FusedStack | None = None  # computes the same, without a gradient
    differentiable: DifferentiableStack | None = None  # and with one

    def __init__(self, config: ModelConfig, depth: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Block(config.hidden_size, config.num_heads, config.expansion, config.rms_norm_eps, generator)
            for _ in range(depth)
        )

    def forward(
        self, state: Tensor, injection: Tensor, rotary: RotaryEmbedding | None, first_only: bool = False
    ) -> Tensor:
        """All positions (B, L, D), or the first one alone (B, 1, D)."""
        state = state + injection
        *layers, last = self.layers
        for layer in layers:
            state = layer(state, rotary)
        out: Tensor = last(state, rotary, first_only)
        return out

    def advance(
        self, state: Tensor, injection: Tensor, rotary: RotaryEmbedding | None, first_only: bool = False
    ) -> Tensor:
        """The same, in the fastest way there is."""
        if self.fused is not None and not torch.is_grad_enabled():
            return self.fused(state, injection, first_only)
        if self.differentiable is not None and torch.is_grad_enabled() and not first_only:
            return self.differentiable(state, injection)
        out: Tensor = self(state, injection, rotary, first_only)
        return out


class HRM(nn.Module):
    """HRM for one task.

    Args:
        config: the architecture.
        vocab_size: V, tokens with padding.
        seq_len: S, positions of the task (puzzle tokens come on top).
        num_puzzle_identifiers: rows of the puzzle embedding, the blank one included.
        generator: source of the initial weights, drawn on the CPU in the published order, so that a seed gives the
            published initialisation bit for bit; None takes torch's global one.
    """

    H_init: Tensor
    L_init: Tensor

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        seq_len: int,
        num_puzzle_identifiers: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.dtype = getattr(torch, config.forward_dtype)
        self.num_puzzle_tokens = -(config.puzzle_emb_ndim // -width)
        positions = seq_len + self.num_puzzle_tokens

        self.embed_tokens = CastedEmbedding(vocab_size, width, 1 / math.sqrt(width), generator)
        self.lm_head = CastedLinear(width, vocab_size, generator)
        self.q_head = CastedLinear(width, 2, generator, bias=True)
        self.puzzle_emb = (
            PuzzleEmbedding(num_puzzle_identifiers, config.puzzle_emb_ndim) if config.puzzle_emb_ndim else None
        )
        self.embed_pos, self.rotary_emb = None, None
        if config.pos_encodings == "learned":
            self.embed_pos = CastedEmbedding(positions, width, 1 / math.sqrt(width), generator)
        else:
            self.rotary_emb = RotaryEmbedding(width // config.num_heads, positions, config.rope_theta)
        self.H_level = ReasoningModule(config, config.H_layers, generator)
        self.L_level = ReasoningModule(config, config.L_layers, generator)
        # Drawn once and never trained, so they are part of the model and of every checkpoint.
        self.register_buffer("H_init", truncated_normal((width,), 1.0, generator, self.dtype))
        self.register_buffer("L_init", truncated_normal((width,), 1.0, generator, self.dtype))

        assert self.q_head.bias is not None
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, Q_HEAD_BIAS)

    def gather_puzzle_rows(self, puzzle_identifiers: Tensor) -> Tensor | None:
        """The puzzle-embedding rows (B, E) of a batch, a leaf of the graph, or None where there is no embedding."""
        return None if self.puzzle_emb is None else self.puzzle_emb.gather(puzzle_identifiers)

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        """The input embedding (B, L, D): puzzle tokens in front of the tokens `inputs` (B, S), times sqrt(D)."""
        width = self.config.hidden_size
        x: Tensor = self.embed_tokens(inputs, self.dtype)
        if puzzle_rows is not None:
            padding = self.num_puzzle_tokens * width - puzzle_rows.shape[1]
            rows = nn.functional.pad(puzzle_rows.to(self.dtype), (0, padding))
            x = torch.cat((rows.view(-1, self.num_puzzle_tokens, width), x), dim=1)
        if self.embed_pos is not None:
            # 1 / sqrt(2) keeps the variance of the sum of two unit-variance terms; the published constant.
            x = 0.707106781 * (x + self.embed_pos.table(self.dtype))
        return math.sqrt(width) * x

    @contextmanager
    def weights_cast_once(self) -> Iterator[None]:
        """Within, a weight is cast to the forward dtype once, however often it is used; its gradient adds up there."""
        holders = [module for module in self.modules() if isinstance(module, Casted)]
        for holder in holders:
            holder.cast(self.dtype)
        try:
            yield
        finally:
            for holder in holders:
                holder.uncast()

    def recur(self, latents: Latents, x: Tensor, first_only: bool = False) -> Latents:
        """All cycles of one segment; only the last low-level and the last high-level update carry a gradient.

        Args:
            first_only: z_H is asked for at the first position alone, so the last block computes no other.
        """
        (z_H, z_L), rotary = latents, self.rotary_emb
        with torch.no_grad():
            for cycle in range(self.config.H_cycles):
                is_last, injection = cycle == self.config.H_cycles - 1, z_H + x
                for _ in range(self.config.L_cycles - is_last):
                    z_L = self.L_level.advance(z_L, injection, rotary)
                if not is_last:
                    z_H = self.H_level.advance(z_H, z_L, rotary)
        z_L = self.L_level.advance(z_L, z_H + x, rotary)
        return Latents(self.H_level.advance(z_H, z_L, rotary, first_only), z_L)

    def forward(self, latents: Latents, x: Tensor) -> tuple[Latents, Prediction]:
        """One segment from `latents` on the input embedding x; the new latents are cut from the graph."""
        z_H, z_L = self.recur(latents, x)
        logits = self.lm_head(z_H)[:, self.num_puzzle_tokens :]
        return Latents(z_H.detach(), z_L.detach()), Prediction(logits, *self._q_values(z_H))

    def look_ahead(self, latents: Latents, x: Tensor) -> tuple[Tensor, Tensor]:
        """q_halt and q_continue (B,) after one more segment, of which nothing else is asked."""
        return self._q_values(self.recur(latents, x, first_only=True).z_H)

    def _q_values(self, z_H: Tensor) -> tuple[Tensor, Tensor]:
        q = self.q_head(z_H[:, 0]).float()
        return q[:, 0], q[:, 1]
