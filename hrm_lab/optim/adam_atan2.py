"""AdamATan2: Adam whose division is an arctangent, so there is no epsilon and every step is bounded.

The rule is that of package adam-atan2 0.0.3 (HRM_SPEC section 4), restated in torch so that it runs anywhere. It is not
the rule of adam-atan2-pytorch, which scales by 1.27 and corrects the first moment inside the arctangent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hrm_lab.config import OptimConfig
from hrm_lab.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer


Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float, float], None]


def atan2_rule(
    p: Tensor, grad: Tensor, average: Tensor, square: Tensor, factors: Tensor, beta1: float, beta2: float
) -> None:
    """Update one parameter and its two moments in place, all of one shape; `factors` (3,) as from `next_factors`."""
    decay, correction, scale = factors.unbind()
    p.mul_(decay)
    average.lerp_(grad, 1 - beta1)
    square.lerp_(grad.square(), 1 - beta2)
    p.addcmul_(torch.atan2(average, square.sqrt().div_(correction)), scale)


class AdamATan2:
    """p *= 1 - lr wd;  m, v as in Adam;  p -= lr / (1 - b1^t) * atan2(m, sqrt(v / (1 - b2^t))).

    The first moment's bias correction stands outside the arctangent, as in the package. It behaves like an optimizer of
    torch and is none: making the first of those loads torch's compiler, which takes each process two seconds.
    A step is in two parts, so that the second can be recorded as a CUDA graph: what the host has to say to it
    (`next_factors`), and what the device does (`apply`).
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1
    ) -> None:
        self.params = list(params)
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, "betas": betas, "weight_decay": weight_decay}]
        self.steps = 0
        self.state: dict[Tensor, dict[str, Tensor]] = {}  # the two moments of each parameter, named as torch does
        self.rule: Rule = atan2_rule  # or what a compiler has made of it

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        if any(p.grad is not None for p in self.params):
            self.apply(torch.tensor(self.next_factors(), device=self.params[0].device))

    def next_factors(self) -> tuple[float, float, float]:
        """Count a step, and say what it multiplies the weights by, divides the scales by, multiplies the angles by."""
        self.steps += 1
        (group,) = self.param_groups
        lr, (beta1, beta2), t = group["lr"], group["betas"], self.steps
        return 1 - lr * group["weight_decay"], math.sqrt(1 - beta2**t), -lr / (1 - beta1**t)

    @torch.no_grad()
    def apply(self, factors: Tensor) -> None:
        """Update every parameter that has a gradient; `factors` (3,) float32 are on the device."""
        beta1, beta2 = self.param_groups[0]["betas"]
        for p in self.params:
            if p.grad is None:
                continue
            if p not in self.state:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            moments = self.state[p]
            # One shape for all, so that one compiled rule fits all.
            average, square = moments["exp_avg"].view(-1), moments["exp_avg_sq"].view(-1)
            self.rule(p.view(-1), p.grad.view(-1), average, square, factors, beta1, beta2)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Steps and moments, by the parameter's place; what a config sets is no state."""
        return {
            "steps": self.steps,
            "state": {str(n): self.state[p] for n, p in enumerate(self.params) if p in self.state},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.steps = state["steps"]
        for place, moments in state["state"].items():
            p = self.params[int(place)]
            own = self.state.setdefault(p, {})
            for name, moment in moments.items():
                # In place where there is one: a CUDA graph knows it by its address.
                own[name] = own[name].copy_(moment) if name in own else moment.to(p.device, copy=True)


class FusedAdamATan2:
    """The package's optimizer behind the same state as ours, so that a checkpoint fits both.

    Args:
        inner: keeps `step`, `exp_avg` and `exp_avg_sq` for each parameter, as torch's own Adam does.
    """

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups
        self.params: list[Tensor] = [p for group in inner.param_groups for p in group["params"]]
        self.step, self.zero_grad = inner.step, inner.zero_grad

    def state_dict(self) -> dict[str, Any]:
        """Steps and moments, by the parameter's place."""
        known = {n: self.inner.state[p] for n, p in enumerate(self.params) if p in self.inner.state}
        return {
            "steps": max((int(state["step"]) for state in known.values()), default=0),
            "state": {str(n): {name: state[name] for name in ("exp_avg", "exp_avg_sq")} for n, state in known.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for place, moments in state["state"].items():
            p = self.params[int(place)]
            steps = torch.tensor(float(state["steps"]), device=p.device)  # its kernel reads it there
            self.inner.state[p] = {"step": steps} | {
                name: moment.to(p.device, copy=True) for name, moment in moments.items()
            }


def build_adam_atan2(params: Iterable[Tensor], config: OptimConfig, device: torch.device) -> AdamATan2 | FusedAdamATan2:
    """The optimizer that `optim.backend` asks for.

    Raises:
        ConfigError: when the fused package is asked for and cannot run here.
    """
    betas = (config.beta1, config.beta2)
    if config.backend == "torch":
        return AdamATan2(params, config.lr, betas, config.weight_decay)
    way_out = "take optim.backend=torch, the same rule"
    if device.type != "cuda":
        raise ConfigError("optim.backend", "fused", f"the fused kernels need CUDA, this run is on {device}", way_out)
    try:
        # A plain install of the package "succeeds" without its kernels; the import tells.
        from adam_atan2 import AdamATan2 as Fused
    except ImportError as error:
        raise ConfigError(
            "optim.backend", "fused", f"package adam-atan2 cannot be imported ({error})", way_out
        ) from None
    if not hasattr(Fused, "_cuda_graph_capture_health_check"):  # its step calls what torch 2.11 has under another name
        Fused._cuda_graph_capture_health_check = Fused._accelerator_graph_capture_health_check
    return FusedAdamATan2(Fused(params, lr=config.lr, betas=betas, weight_decay=config.weight_decay))
