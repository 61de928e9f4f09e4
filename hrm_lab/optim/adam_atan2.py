"""AdamATan2: Adam whose division is an arctangent, so there is no epsilon and every step is bounded.

The rule is that of package adam-atan2 0.0.3 (HRM_SPEC section 4), restated in torch so that it runs anywhere. It is not
the rule of adam-atan2-pytorch, which scales by 1.27 and corrects the first moment inside the arctangent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hrm_lab.config import OptimConfig
from hrm_lab.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AdamATan2:
    """p *= 1 - lr wd;  m, v as in Adam;  p -= lr / (1 - b1^t) * atan2(m, sqrt(v / (1 - b2^t))).

    The first moment's bias correction stands outside the arctangent, as in the package. It behaves like an optimizer of
    torch and is none: making the first of those loads torch's compiler, which takes each process two seconds.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1
    ) -> None:
        self.params = list(params)
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, "betas": betas, "weight_decay": weight_decay}]
        self.steps = 0
        self.state: dict[Tensor, dict[str, Tensor]] = {}  # the two moments of each parameter, named as torch does

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        params = [p for p in self.params if p.grad is not None]
        if not params:
            return
        self.steps += 1
        (group,) = self.param_groups
        lr, (beta1, beta2), t = group["lr"], group["betas"], self.steps
        for p in params:
            if p not in self.state:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        grads = [p.grad for p in params if p.grad is not None]
        averages = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(averages, grads, 1 - beta1)
        torch._foreach_lerp_(squares, [g.square() for g in grads], 1 - beta2)
        scales = torch._foreach_sqrt(squares)
        torch._foreach_div_(scales, math.sqrt(1 - beta2**t))
        angles = [torch.atan2(m, s) for m, s in zip(averages, scales, strict=True)]  # there is no _foreach_atan2
        torch._foreach_add_(params, angles, alpha=-lr / (1 - beta1**t))

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
        self.state = {
            self.params[int(place)]: {
                name: m.to(self.params[int(place)].device, copy=True) for name, m in moments.items()
            }
            for place, moments in state["state"].items()
        }


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
    return FusedAdamATan2(Fused(params, lr=config.lr, betas=betas, weight_decay=config.weight_decay))
