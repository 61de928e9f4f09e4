"""One optimizer step: refill, one ACT segment, its losses, one backward, a sum over processes, two optimizers.

It works on tensors that stay where they are (batch, draws, factors, carry, weights, moments), and nothing in it waits
for the device or asks the host: so a CUDA graph can take it whole. What the host has to say is copied in before.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrm_lab.config import Config
from hrm_lab.model.act import Batch, Carry, Exploration, Segment, initial_carry, refill, train_segment
from hrm_lab.model.fused import fuse
from hrm_lab.model.hrm import HRM, Latents, Prediction
from hrm_lab.model.losses import SUMS, TOKEN_LOSSES, TokenLoss, train_loss
from hrm_lab.optim.adam_atan2 import AdamATan2, FusedAdamATan2, atan2_rule
from hrm_lab.optim.sign_sgd import sign_sgd_
from hrm_lab.training.cpu import keep_freed_memory, kind_of_cpu, trust_vectors
from hrm_lab.training.distributed import Ranks
from hrm_lab.training.divergence import Vitals, pulse
from hrm_lab.training.gradients import GradientSum

WARM_UP = 3  # calls before a graph is recorded: libraries make their handles and workspaces in the first ones


def forward(
    model: HRM, carry: Carry, puzzle_rows: Tensor | None, exploration: Exploration | None, token_loss: TokenLoss
) -> tuple[Carry, Segment, Tensor, Tensor]:
    """One segment of refilled slots: what is carried on, what it says, its loss, and its metric sums."""
    carry, segment = train_segment(model, carry, puzzle_rows, exploration)
    return carry, segment, *train_loss(segment, carry.data, carry.halted, carry.steps, token_loss)


class TrainStep:
    """Computes optimizer steps. What it leaves behind is overwritten by the next step.

    Args:
        empty: this process's batch, zeros.
        execution: eager, compiled or captured (on a CUDA device).
        cache: folder of what is compiled; None = torch's own.

    Attributes:
        carry: what the slots hold.
        sums: (8,) metric sums of the last step, this process's share.
        predictions, targets: of the last step, for each part of the batch.
    """

    def __init__(
        self,
        config: Config,
        model: HRM,
        optimizer: AdamATan2 | FusedAdamATan2,
        ranks: Ranks,
        empty: Batch,
        execution: str = "eager",
        cache: Path | None = None,
    ) -> None:
        training, size, device = config.training, empty.inputs.shape[0], ranks.device
        if device.type == "cpu":
            keep_freed_memory()
        self.model, self.optimizer, self.ranks = model, optimizer, ranks
        self.global_batch_size = training.global_batch_size
        self.puzzle_emb_weight_decay = config.optim.puzzle_emb_weight_decay
        self.token_loss = TOKEN_LOSSES[config.model.loss_type]
        self.refill, self.forward = refill, forward  # or what a compiler has made of them
        self.vitals = Vitals(model, device)
        self.carry = initial_carry(model, empty)
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.predictions: list[Prediction] = []
        self.targets: list[Tensor | None] = []

        self._batch = Batch(*(torch.zeros_like(field) for field in empty))
        self._exploration: Exploration | None = None
        if config.model.halt_max_steps > 1:
            draws = torch.zeros(size, device=device), torch.zeros(size, dtype=torch.int32, device=device)
            self._exploration = Exploration(*draws)
        # The number of the step, the puzzle embedding's rate, and the optimizer's factors.
        self._numbers = torch.zeros(5, dtype=torch.float64, device=device)
        part = size // training.gradient_accumulation_steps
        self._parts = [slice(start, start + part) for start in range(0, size, part)]
        self._pulse = torch.zeros((), device=device)
        width = 0 if model.puzzle_emb is None else config.model.puzzle_emb_ndim
        self._puzzle_ids = torch.zeros(training.global_batch_size, dtype=torch.int32, device=device)
        self._puzzle_grads = torch.zeros(training.global_batch_size, width, device=device)
        if execution != "eager":
            compile_step(self, cache)
        captured = execution == "captured"
        # A graph of the backward holds no collective: the sum of a replayed step begins when the graph has ended.
        dtype = getattr(torch, training.gradient_dtype)
        self.gradients = GradientSum(model.parameters(), ranks, dtype, overlaps=not captured)
        self._phases = self._recorded() if captured else [self._gradients, self._exchange, self._update]

    def __call__(
        self, number: int, batch: Batch, exploration: Exploration | None, lr: float, puzzle_emb_lr: float
    ) -> Tensor:
        """Compute a step; its metric sums.

        Args:
            number: of the step, counted from 1.
            batch, exploration: this process's, on the host or the device; exploration is needed when
                halt_max_steps > 1.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        numbers = [float(number), puzzle_emb_lr, 0.0, 0.0, 0.0]
        if isinstance(self.optimizer, AdamATan2):
            numbers[2:] = self.optimizer.next_factors()
        fill(self._numbers, torch.tensor(numbers, dtype=torch.float64))
        for own, given in zip(self._batch, batch, strict=True):
            fill(own, given)
        if self._exploration is not None:
            assert exploration is not None
            for own, given in zip(self._exploration, exploration, strict=True):
                fill(own, given)
        for phase in self._phases:
            phase()
        return self.sums

    def puzzle_gradient(self) -> tuple[Tensor, Tensor]:
        """Of the last step, over all processes: identifiers (B,), and the gradient (B, E) of each one's row."""
        return self._puzzle_ids, self._puzzle_grads

    def _recorded(self) -> list[Callable[[], None]]:
        """The phases as CUDA graphs; what other processes or another package's optimizer take part in is not in one."""
        if not isinstance(self.optimizer, AdamATan2):
            return [Recorded(self._gradients), self._exchange, self._update]
        if self.ranks.world_size > 1:
            return [Recorded(self._gradients), self._exchange, Recorded(self._update)]
        return [Recorded(self._gradients, self._update)]

    def _gradients(self) -> None:
        """Forwards and backwards; the carry goes on to the next step."""
        self.predictions, self.targets = [], []
        ids, row_grads = [], []
        self.sums.zero_()
        for p in self.model.parameters():
            p.grad = None  # and not zeroed: the first gradient that comes takes its place
        with self.model.weights_cast_once():
            for rows in self._parts:
                held, batch = _rows(self.carry, rows), Batch(*(field[rows] for field in self._batch))
                draws = self._exploration and Exploration(*(field[rows] for field in self._exploration))
                carry = self.refill(self.model, held, batch)
                puzzle_rows = self.model.gather_puzzle_rows(carry.data.puzzle_identifiers)
                carry, segment, loss, sums = self.forward(self.model, carry, puzzle_rows, draws, self.token_loss)
                if rows == self._parts[-1]:
                    self.gradients.begin()
                # Scaled by the global batch, so gradients add up over parts and processes to the mean over sequences.
                (loss / self.global_batch_size).backward()  # type: ignore[no-untyped-call]
                self.sums += sums
                self.predictions.append(Prediction(*(said.detach() for said in segment.prediction)))
                self.targets.append(segment.target_q_continue)
                if puzzle_rows is not None and puzzle_rows.grad is not None:
                    ids.append(carry.data.puzzle_identifiers)
                    row_grads.append(puzzle_rows.grad)
                for own, new in zip(_tensors(held), _tensors(carry), strict=True):
                    own.copy_(new)
        self._pulse.copy_(pulse(self.sums))
        if row_grads:
            share = self.ranks.share(self.global_batch_size)
            self._puzzle_ids[share] = torch.cat(ids)
            self._puzzle_grads[share] = torch.cat(row_grads)

    def _exchange(self) -> None:
        """Sum over all processes; the rows of the puzzle embedding are gathered, with their identifiers in front."""
        if self.ranks.world_size == 1:
            return
        self.gradients.finish(self._pulse)
        if self.model.puzzle_emb is not None:
            share = self.ranks.share(self.global_batch_size)
            ids = self._puzzle_ids[share, None].view(torch.float32)  # the bits: nobody computes with them
            whole = self.ranks.gather(torch.cat((ids, self._puzzle_grads[share]), 1))
            self._puzzle_ids.copy_(whole[:, 0].view(torch.int32))
            self._puzzle_grads.copy_(whole[:, 1:])

    def _update(self) -> None:
        """Both optimizers, the puzzle embedding's first."""
        self.vitals.note(self._numbers[0], self._pulse, self._puzzle_grads)
        if self.model.puzzle_emb is not None:
            table, rate, decay = self.model.puzzle_emb.weights, self._numbers[1], self.puzzle_emb_weight_decay
            sign_sgd_(table, self._puzzle_ids, self._puzzle_grads, rate, decay)
        if isinstance(self.optimizer, AdamATan2):
            self.optimizer.apply(self._numbers[2:].float())
        else:
            self.optimizer.step()


class Recorded:
    """Functions over fixed CUDA tensors: called a few times, then recorded as a CUDA graph and replayed for good.

    All calls before the recording run on a stream of their own, as the recording does: autograd goes back through a
    parameter on the stream that it has first seen it on.
    """

    def __init__(self, *functions: Callable[[], None]) -> None:
        self.functions = functions
        self._calls = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do what the functions do."""
        if self._graph is None and self._calls == WARM_UP:
            self._graph = torch.cuda.CUDAGraph()
            # Other threads (a checkpoint being written) may do meanwhile what a recording could not.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._call()
        if self._graph is not None:
            self._graph.replay()
            return
        self._calls += 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._call()
        torch.cuda.current_stream().wait_stream(self._stream)

    def _call(self) -> None:
        for function in self.functions:
            function()


def compile_step(step: TrainStep, cache: Path | None) -> None:
    """Have torch's compiler make what it can of a step. It is loaded here and nowhere else: that takes two seconds.

    A block of the model is compiled for itself, and neither the stack of them nor the segment as a whole: once with a
    gradient, once without, once for the look ahead; and all blocks share what comes of it. What a compiler could fuse
    over a block's end is no more than an addition.
    """
    on_cpu = step.ranks.device.type == "cpu"
    if cache is not None:
        cache = cache / kind_of_cpu() if on_cpu else cache
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.resolve()))
    importlib.import_module("torch._dynamo").config.recompile_limit = 64  # one for each batch size, and the like
    if on_cpu:
        trust_vectors(cache)
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    for block in (*step.model.L_level.layers, *step.model.H_level.layers):
        block.compile(**options)
    fuse(step.model, step.carry.latents.z_H.shape[1])
    if isinstance(step.optimizer, AdamATan2):
        # For each size on a GPU: one rule for all sizes is tuned there on a small one, and 30 times slower on the rest
        # (8.2 against 0.27 ms for 27 M parameters on an H200). A CPU is spared the compiling.
        step.optimizer.rule = torch.compile(atan2_rule, fullgraph=True, dynamic=on_cpu)


def fill(own: Tensor, given: Tensor) -> None:
    """Copy into a fixed tensor; from the host to a GPU by way of pinned memory, so that nobody waits."""
    if own.device.type == "cuda" and given.device.type == "cpu":
        given = given.pin_memory()
    own.copy_(given, non_blocking=True)


def _tensors(carry: Carry) -> list[Tensor]:
    return [*carry.latents, carry.steps, carry.halted, *carry.data]


def _rows(carry: Carry, rows: slice) -> Carry:
    """Views of some slots."""
    z_H, z_L, steps, halted, *data = (tensor[rows] for tensor in _tensors(carry))
    return Carry(Latents(z_H, z_L), steps, halted, Batch(*data))
