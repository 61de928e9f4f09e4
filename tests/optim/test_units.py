"""Optimizers and schedule against the published trajectories."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hrm_lab.config import OptimConfig
from hrm_lab.optim.adam_atan2 import AdamATan2, FusedAdamATan2, build_adam_atan2
from hrm_lab.optim.schedule import cosine_with_warmup
from hrm_lab.optim.sign_sgd import sign_sgd_


def test_adam_atan2_follows_the_package(units: dict[str, Any]) -> None:
    beta1, beta2, weight_decay = units["atan2/beta1_beta2_wd"]
    parameter = torch.nn.Parameter(torch.from_numpy(units["atan2/p0"].copy()))
    optimizer = AdamATan2([parameter], lr=0.0, betas=(beta1, beta2), weight_decay=weight_decay)
    for step, lr in enumerate(units["atan2/lrs"]):
        optimizer.param_groups[0]["lr"] = float(lr)
        parameter.grad = torch.from_numpy(units["atan2/grads"][step].copy())
        optimizer.step()
        state = optimizer.state[parameter]
        np.testing.assert_allclose(state["exp_avg"], units["atan2/exp_avg"][step], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(state["exp_avg_sq"], units["atan2/exp_avg_sq"][step], rtol=1e-6, atol=1e-20)
        np.testing.assert_allclose(parameter.detach(), units["atan2/p"][step], atol=1e-7)


def test_sign_sgd_sums_per_row_and_decays_only_touched_rows(units: dict[str, Any]) -> None:
    weights, (lr, weight_decay) = torch.from_numpy(units["signsgd/w0"].copy()), units["signsgd/lr_wd"]
    ids, grads = torch.from_numpy(units["signsgd/ids"]), torch.from_numpy(units["signsgd/grad"])
    sign_sgd_(weights, ids, grads, float(lr), float(weight_decay))
    np.testing.assert_allclose(weights, units["signsgd/w1"], atol=1e-7)


def test_schedule(units: dict[str, Any]) -> None:
    for row, (base, warmup, total, ratio) in enumerate(units["lr/config_base_warmup_total_minratio"]):
        for column, step in enumerate(units["lr/steps"]):
            ours = cosine_with_warmup(int(step), base, int(warmup), int(total), ratio)
            np.testing.assert_allclose(ours, units["lr/value"][row, column], rtol=1e-12, atol=1e-18)


def test_the_fused_optimizers_state_goes_there_and_back() -> None:
    """Torch's own Adam stands in for the package, which needs CUDA: it keeps the same three things a parameter."""

    def made() -> FusedAdamATan2:
        return FusedAdamATan2(torch.optim.Adam([torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]))

    one, other = made(), made()
    for optimizer, steps in ((one, 3), (other, 2)):
        for n in range(steps):
            for p in optimizer.params:
                p.grad = torch.full_like(p, 0.1 * (n + 1))
            optimizer.step()
    assert one.state_dict()["steps"] == 3
    for ours, theirs in zip(one.params, other.params, strict=True):
        theirs.data.copy_(ours)
    other.load_state_dict(one.state_dict())
    for optimizer in (one, other):
        for p in optimizer.params:
            p.grad = torch.full_like(p, -0.5)
        optimizer.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one.params, other.params, strict=True))


def test_the_fused_optimizer_finds_what_it_calls_in_every_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "_cuda_graph_capture_health_check"
    monkeypatch.delattr(torch.optim.Optimizer, name, raising=False)  # as in torch 2.11

    class Package(torch.optim.Adam):
        def step(self) -> None:  # type: ignore[override]
            getattr(self, name)()

    monkeypatch.setitem(sys.modules, "adam_atan2", SimpleNamespace(AdamATan2=Package))
    config = OptimConfig(backend="fused", weight_decay=0.0)
    build_adam_atan2([torch.nn.Parameter(torch.ones(3))], config, torch.device("cuda")).step()
