"""Divergence: a loss, a gradient or a weight that is no number any more.

Every step is looked at, and nothing waits for it: the device itself notes the first bad step of the loss and of each
parameter. The notes are read where the host waits for the device anyway, before anything is logged or saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hrm_lab.decision import Decision
from hrm_lab.errors import RunError
from hrm_lab.model.hrm import HRM

PUZZLE_EMB = "puzzle_emb.weights"  # its name in a state dict: it is no parameter


class TrainingDiverged(RunError):
    """The run cannot go on, and would come here again."""


@dataclass(frozen=True)
class Damage:
    """What was no number, and on which step it was first so.

    Args:
        kind: `gradient`, `weight`, or a metric's name.
        names: of the parameters, in the model's order.
        loss: whether the training loss was no number on this step too.
    """

    step: int
    kind: str
    names: tuple[str, ...] = ()
    loss: bool = False

    def __str__(self) -> str:
        what = ["the loss"] if self.loss else []
        if self.names:
            more = f" (and {len(self.names) - 1} more)" if len(self.names) > 1 else ""
            what.append(f"the {self.kind} of {self.names[0]}{more}")
        elif not self.loss:
            what.append(self.kind)
        return f"{' and '.join(what)} {'are' if len(what) > 1 else 'is'} no number at step {self.step}"

    def decision(self, step: int, last_good: int) -> Decision:
        """That the run ends by it.

        Args:
            step: where this was found.
            last_good: step of the newest checkpoint; 0 = there is none.
        """
        evidence = {
            "step": self.step,
            "kind": self.kind,
            "parameters": list(self.names),
            "loss": self.loss,
            "last_checkpoint": last_good or None,
        }
        return Decision(step, "divergence", True, str(self), evidence)

    def error(self, last_good: int, lr: float) -> TrainingDiverged:
        """The same, to be raised.

        Args:
            lr: the setting that the run has.
        """
        kept = f"the last good checkpoint is of step {last_good}" if last_good else "no checkpoint came before it"
        return TrainingDiverged(
            f"{self}\n"
            f"  way out: a run with a lower rate: hrm-lab train ... optim.lr={lr / 2:g}, or with more "
            f"optim.lr_warmup_steps; with these settings it would come here again ({kept})"
        )


class Vitals:
    """Notes, on the device, the first step on which the loss or a gradient was no number.

    A gradient counts as none, too, when the sum of its squares is beyond float32: the optimizer keeps its squares.
    """

    def __init__(self, model: HRM, device: torch.device) -> None:
        self.model = model
        self.names = [name for name, _ in model.named_parameters()]
        if model.puzzle_emb is not None:
            self.names.append(PUZZLE_EMB)
        self._no_gradient = torch.zeros(1, device=device)
        self._first = torch.zeros(1 + len(self.names), dtype=torch.int64, device=device)  # of the loss, then of each

    @torch.no_grad()
    def note(self, step: Tensor, pulse: Tensor, row_grads: Tensor) -> None:
        """Look at one step. Nothing is copied to the host.

        Args:
            step: its number, on the device.
            pulse: see `pulse`; summed over all processes like the gradients, so that all of them note the same.
            row_grads: (B, E) of the puzzle embedding, of all processes.
        """
        grads = [pulse, *(p.grad for p in self.model.parameters())]
        if self.model.puzzle_emb is not None:
            grads.append(row_grads)
        norms = torch.stack(torch._foreach_norm([self._no_gradient if grad is None else grad for grad in grads]))
        is_first = ~norms.isfinite() & (self._first == 0)
        self._first.copy_(torch.where(is_first, step.long(), self._first))  # `masked_fill_` would read the step

    def damage(self) -> Damage | None:
        """The first that was noted. Waits for the device."""
        loss, *first = self._first.tolist()
        step = min((bad for bad in (loss, *first) if bad), default=0)
        if not step:
            return None
        names = (name for name, bad in zip(self.names, first, strict=True) if bad == step)
        return Damage(step, "gradient", tuple(names), loss == step)

    def damaged_weights(self, step: int) -> Damage | None:
        """Weights that an update with sound gradients has spoilt. Waits for the device."""
        state = self.model.state_dict()
        names = tuple(_not_finite(list(state), [weights.float() for weights in state.values()]))
        return Damage(step, "weight", names) if names else None


def pulse(sums: Tensor) -> Tensor:
    """0, or NaN where any of the sums is no number: what can be added to another process's."""
    return (sums * 0).sum().float()


@torch.no_grad()
def _not_finite(names: Sequence[str], tensors: list[Tensor]) -> Iterable[str]:
    finite = torch.stack(torch._foreach_norm(tensors)).isfinite().tolist()
    return (name for name, sound in zip(names, finite, strict=True) if not sound)
