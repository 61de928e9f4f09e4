"""Adaptive computation time: the carry, halting, exploration and the bootstrapped Q target (HRM_SPEC section 2).

A batch is a set of slots that outlive the optimizer step. A slot whose sequence has halted takes the next row of the
incoming batch and starts afresh; every other slot keeps its sequence and its latents, and its incoming row is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hrm_lab.model.hrm import HRM, Latents, Prediction

IGNORE_LABEL_ID = -100  # positions with this label are not supervised


class Batch(NamedTuple):
    """Sequences: inputs (B, S), labels (B, S) with IGNORE_LABEL_ID, puzzle_identifiers (B,); all int32."""

    inputs: Tensor
    labels: Tensor
    puzzle_identifiers: Tensor


class Carry(NamedTuple):
    """What the slots hold between steps: latents, ACT steps taken (B,) int32, halted (B,) bool, and their sequences."""

    latents: Latents
    steps: Tensor
    halted: Tensor
    data: Batch


class Exploration(NamedTuple):
    """Random draws of one step: explore (B,) float32 in [0, 1), min_steps (B,) int32 in 2 .. halt_max_steps."""

    explore: Tensor
    min_steps: Tensor


class Segment(NamedTuple):
    """One ACT step of every slot; `target_q_continue` (B,) is there in training when sequences may halt early."""

    prediction: Prediction
    target_q_continue: Tensor | None


def initial_carry(model: HRM, batch: Batch) -> Carry:
    """A carry whose every slot is halted, so that the first step fills it."""
    size = batch.inputs.shape[0]
    return Carry(
        fresh_latents(model, batch),
        torch.zeros(size, dtype=torch.int32, device=batch.inputs.device),
        torch.ones(size, dtype=torch.bool, device=batch.inputs.device),
        Batch(*(torch.zeros_like(field) for field in batch)),
    )


def fresh_latents(model: HRM, batch: Batch) -> Latents:
    """The latents (B, L, D) that every sequence starts from."""
    size, length = batch.inputs.shape
    shape = (size, length + model.num_puzzle_tokens, model.config.hidden_size)
    return Latents(model.H_init.expand(shape).contiguous(), model.L_init.expand(shape).contiguous())


def refill(model: HRM, carry: Carry, batch: Batch) -> Carry:
    """Give every halted slot the batch's row and fresh latents; leave the others alone."""
    halted = carry.halted
    latents = Latents(
        torch.where(halted[:, None, None], model.H_init, carry.latents.z_H),
        torch.where(halted[:, None, None], model.L_init, carry.latents.z_L),
    )
    data = Batch(
        *(
            torch.where(halted.view(-1, *(1,) * (new.dim() - 1)), new, old)
            for new, old in zip(batch, carry.data, strict=True)
        )
    )
    return Carry(latents, torch.where(halted, 0, carry.steps), halted, data)


def train_segment(
    model: HRM, carry: Carry, puzzle_rows: Tensor | None, exploration: Exploration | None
) -> tuple[Carry, Segment]:
    """One training segment of every slot.

    Args:
        carry: refilled.
        puzzle_rows: (B, E) of the puzzles that the slots hold now; the leaf whose gradient their optimizer takes.
        exploration: this step's draws; needed when halt_max_steps > 1.

    Returns:
        the carry for the next step, and the segment with its graph.
    """
    config = model.config
    x = model.embed(carry.data.inputs, puzzle_rows)
    latents, prediction = model(carry.latents, x)
    steps = carry.steps + 1
    is_last = steps >= config.halt_max_steps
    halted, target = is_last, None
    if config.halt_max_steps > 1:
        assert exploration is not None
        with torch.no_grad():
            halted = is_last | (prediction.q_halt > prediction.q_continue)
            explores = exploration.explore < config.halt_exploration_prob
            halted = halted & (steps >= torch.where(explores, exploration.min_steps, 0))
            # One more segment from the new latents says what continuing is worth. It depends on is_last, not on
            # halted: a sequence that halts early still has a value of going on.
            q_halt, q_continue = model.look_ahead(latents, x)
            best = torch.where(is_last, q_halt, torch.maximum(q_halt, q_continue))
            target = torch.sigmoid(best)
    return Carry(latents, steps, halted, carry.data), Segment(prediction, target)


def reason(model: HRM, batch: Batch, max_steps: int) -> Iterator[Prediction]:
    """Yield the prediction after each of `max_steps` ACT steps on fresh latents; evaluation never halts early."""
    x = model.embed(batch.inputs, model.gather_puzzle_rows(batch.puzzle_identifiers))
    latents = fresh_latents(model, batch)
    for _ in range(max_steps):
        latents, prediction = model(latents, x)
        yield prediction
