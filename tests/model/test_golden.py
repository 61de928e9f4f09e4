"""HRM to the last digit: every train step and the evaluation of the published implementation, replayed.

The vectors were made by running the published code on the CPU in float32 (tests/golden/README.md). Another folder in
the same form is tested by HRM_GOLDEN_DIR, another tolerance of the logits by HRM_GOLDEN_ATOL.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm_lab.config import ModelConfig
from hrm_lab.model.act import IGNORE_LABEL_ID, Batch, Exploration, initial_carry, reason, train_segment
from hrm_lab.model.hrm import HRM
from hrm_lab.model.interop import PUBLISHED_PREFIX, from_published
from hrm_lab.model.losses import SUMS, TOKEN_LOSSES, eval_metrics, eval_sums, train_loss, train_metrics
from hrm_lab.optim.adam_atan2 import AdamATan2
from hrm_lab.optim.schedule import cosine_with_warmup
from hrm_lab.optim.sign_sgd import sign_sgd_

FOLDER = Path(os.environ.get("HRM_GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
LOGITS = float(os.environ.get("HRM_GOLDEN_ATOL", 2e-5))
CASES = sorted(FOLDER.glob("case*.npz"))
REAL_LOSSES = ("lm_loss", "q_halt_loss", "q_continue_loss")


class Deviations:
    """Asserts closeness and remembers the largest deviation of each kind, for the report at the end."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}

    def close(self, kind: str, ours: Any, golden: Any, atol: float, rtol: float = 0.0) -> None:
        ours, golden = np.asarray(ours, dtype=np.float64), np.asarray(golden, dtype=np.float64)
        assert ours.shape == golden.shape, f"{kind}: shape {ours.shape}, golden {golden.shape}"
        difference = np.abs(ours - golden)
        self.largest[kind] = max(self.largest.get(kind, 0.0), float(difference.max(initial=0)))
        np.testing.assert_allclose(ours, golden, atol=atol, rtol=rtol, err_msg=kind)

    def close_after_updates(self, kind: str, ours: Any, golden: Any, flip: float) -> None:
        """Close to 2e-6, but up to 0.1 % of the entries (one at least) may differ by `flip`.

        atan2 and sign give a full-sized step even on a gradient that is nothing but rounding noise.
        """
        ours, golden = np.asarray(ours, dtype=np.float64), np.asarray(golden, dtype=np.float64)
        difference = np.abs(ours - golden)
        outliers = difference > 2e-6
        self.largest[kind] = max(self.largest.get(kind, 0.0), float(difference.max(initial=0)))
        assert outliers.sum() <= max(1, 0.001 * outliers.size), f"{kind}: {outliers.sum()} of {outliers.size} differ"
        assert difference.max(initial=0) <= flip, f"{kind}: {difference.max()} > {flip}"


class Case:
    """One golden file: its configuration, its arrays, and the model in its initial state."""

    def __init__(self, path: Path) -> None:
        self.arrays = dict(np.load(path))
        self.config = json.loads(str(self.arrays["config_json"]))
        state = self._initial_state(path)
        arch = {key: value for key, value in self.config["arch"].items() if key in ModelConfig.__dataclass_fields__}
        arch |= {"forward_dtype": "float32", "loss_type": self.config["loss_type"]}
        self.model = HRM(ModelConfig(**arch), self.config["V"], self.config["S"], self.config["n_ids"])
        self.model.load_state_dict(from_published(state))
        self.token_loss = TOKEN_LOSSES[self.config["loss_type"]]
        self.parameters = dict(self.model.named_parameters())
        names = [name.removeprefix(PUBLISHED_PREFIX) for name in self.arrays["param_names"].tolist()]
        self.ordered = [self.parameters[name] for name in names]
        assert list(self.parameters) == names

    def _initial_state(self, path: Path) -> dict[str, torch.Tensor]:
        """A case that stores only part of its state stands on top of case1."""
        own = {k.removeprefix("init/"): v for k, v in self.arrays.items() if k.startswith("init/")}
        if self.config.get("init_only"):
            base = np.load(next(path.parent.glob("case1*.npz")))
            own = {k.removeprefix("init/"): base[k] for k in base.files if k.startswith("init/")} | own
        return {name: torch.from_numpy(array) for name, array in own.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def batch(self, prefix: str) -> Batch:
        return Batch(*(self.tensor(f"{prefix}/{field}") for field in Batch._fields))

    def exploration(self, name: str) -> Exploration | None:
        """The draws of a step; there are none where every sequence takes one ACT step."""
        if f"{name}/rand" not in self.arrays:
            return None
        return Exploration(self.tensor(f"{name}/rand"), self.tensor(f"{name}/randint"))

    def lr(self, step: int, base: float) -> float:
        c = self.config
        return cosine_with_warmup(step, base, c["warmup"], c["total_steps"], c["lr_min_ratio"])


def test_there_are_cases() -> None:
    assert CASES, f"no case*.npz in {FOLDER}"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_published_trajectory(path: Path, record_property: Any) -> None:
    case, deviations = Case(path), Deviations()
    config, model = case.config, case.model
    optimizer = AdamATan2(model.parameters(), lr=config["lr"], weight_decay=config["wd"])
    carry = initial_carry(model, case.batch("step1/batch"))
    travelled = 0.0
    for step in range(1, config["steps"] + 1):
        name = f"step{step}"
        draws = case.exploration(name)
        carry, segment = train_segment(model, carry, case.batch(f"{name}/batch"), draws)
        loss, sums = train_loss(segment, carry.data, carry.halted, carry.steps, case.token_loss)
        (loss / config["B"]).backward()
        _check_forward(case, deviations, name, carry, segment)
        _check_losses(case, deviations, name, loss, sums)
        _check_gradients(case, deviations, name, segment, carry)

        lr, puzzle_lr = case.lr(step, config["lr"]), case.lr(step, config["pe_lr"])
        deviations.close("lr", [puzzle_lr, lr], case.arrays[f"{name}/lr"], atol=0, rtol=1e-12)
        travelled += lr
        if segment.puzzle_rows is not None:
            sign_sgd_(
                model.puzzle_emb.weights,
                carry.data.puzzle_identifiers,
                segment.puzzle_rows.grad,
                puzzle_lr,
                config["pe_wd"],
            )
            golden = case.arrays[f"{name}/puzzle_emb_weights"]
            deviations.close_after_updates(
                "puzzle embedding", model.puzzle_emb.weights, golden, 2 * step * config["pe_lr"]
            )
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        _check_parameters(case, deviations, name, flip=2 * travelled)
    _check_evaluation(case, deviations)
    report = ", ".join(f"{kind} {value:.1e}" for kind, value in deviations.largest.items())
    record_property("largest deviations", report)
    print(f"\n{path.stem}: {report}")


def _check_forward(case: Case, deviations: Deviations, name: str, carry: Any, segment: Any) -> None:
    golden, prediction = case.arrays, segment.prediction
    for field, ours in zip(Batch._fields, carry.data, strict=True):
        np.testing.assert_array_equal(ours, golden[f"{name}/current_data/{field}"])
    np.testing.assert_array_equal(carry.halted, golden[f"{name}/halted"])
    np.testing.assert_array_equal(carry.steps, golden[f"{name}/steps"])
    deviations.close("logits", prediction.logits.detach(), golden[f"{name}/logits"], LOGITS)
    deviations.close("q", prediction.q_halt.detach(), golden[f"{name}/q_halt_logits"], LOGITS)
    deviations.close("q", prediction.q_continue.detach(), golden[f"{name}/q_continue_logits"], LOGITS)
    if f"{name}/target_q_continue" in golden:
        deviations.close("q target", segment.target_q_continue, golden[f"{name}/target_q_continue"], LOGITS)
    if f"{name}/z_H" in golden:
        deviations.close("carry", carry.latents.z_H, golden[f"{name}/z_H"], LOGITS)
        deviations.close("carry", carry.latents.z_L, golden[f"{name}/z_L"], LOGITS)


def _check_losses(case: Case, deviations: Deviations, name: str, loss: torch.Tensor, sums: torch.Tensor) -> None:
    golden = case.arrays
    deviations.close("losses", loss.detach(), golden[f"{name}/raw/total_loss"], 2e-6, rtol=2e-6)
    for key, ours in zip(SUMS, sums.tolist(), strict=True):
        if f"{name}/raw/{key}" in golden:
            kind = "losses" if key in REAL_LOSSES else "metrics"
            deviations.close(kind, ours, golden[f"{name}/raw/{key}"], 2e-6, rtol=2e-6)
    logged = train_metrics(sums, case.config["B"])
    for key in SUMS[1:]:
        expected = golden.get(f"{name}/metrics/train/{key}")
        if expected is None:
            continue
        if key in logged:
            deviations.close("metrics", logged[key], expected, 2e-6, rtol=2e-6)
        else:
            assert sums[0] == 0, f"{key} is missing though sequences halted"


def _check_gradients(case: Case, deviations: Deviations, name: str, segment: Any, carry: Any) -> None:
    golden = case.arrays
    norms = [float(p.grad.double().norm()) for p in case.ordered]
    deviations.close("gradient norms", norms, golden[f"{name}/grad_norms"], 1e-8, rtol=1e-5)
    for key in golden:
        if key.startswith(f"{name}/grad/"):
            parameter = case.parameters[key.removeprefix(f"{name}/grad/").removeprefix(PUBLISHED_PREFIX)]
            deviations.close("gradients", parameter.grad, golden[key], 2e-6)
    if segment.puzzle_rows is not None:
        deviations.close("gradients", segment.puzzle_rows.grad, golden[f"{name}/local_weights_grad"], 2e-6)
        np.testing.assert_array_equal(carry.data.puzzle_identifiers, golden[f"{name}/local_ids"])


def _check_parameters(case: Case, deviations: Deviations, name: str, flip: float) -> None:
    golden = case.arrays
    flat = [p.detach().flatten() for p in case.ordered]
    heads = [p[torch.linspace(0, p.numel() - 1, 8).long()] for p in flat]
    deviations.close_after_updates("parameters", torch.stack(heads), golden[f"{name}/param_head8"], flip)
    deviations.close("parameter norms", [p.double().norm() for p in flat], golden[f"{name}/param_l2"], 2e-6, rtol=1e-5)
    totals = [p.double().sum() for p in flat]
    slack = np.array([2e-6 * len(p) ** 0.5 + flip for p in flat])
    assert (np.abs(np.array(totals) - golden[f"{name}/param_sum"]) <= slack).all()
    for key in golden:
        if key.startswith(f"{name}/params/"):
            parameter = case.parameters[key.removeprefix(f"{name}/params/").removeprefix(PUBLISHED_PREFIX)]
            deviations.close_after_updates("parameters", parameter.detach(), golden[key], flip)


@torch.inference_mode()
def _check_evaluation(case: Case, deviations: Deviations) -> None:
    golden, model = case.arrays, case.model
    total, padding_loss, index = torch.zeros(len(SUMS), dtype=torch.float64), 0.0, 0
    while f"eval/batch{index}/inputs" in golden:
        name, batch = f"eval/batch{index}", case.batch(f"eval/batch{index}")
        acts = int(golden[f"{name}/n_act_steps"])
        assert acts == model.config.halt_max_steps
        for act, prediction in enumerate(reason(model, batch, acts), start=1):
            q = torch.stack((prediction.q_halt, prediction.q_continue))
            deviations.close("eval q", q, golden[f"{name}/act{act}/q"], 2 * LOGITS)
            np.testing.assert_array_equal(prediction.logits.argmax(-1), golden[f"{name}/act{act}/argmax"])
        deviations.close("eval logits", prediction.logits, golden[f"{name}/logits_last"], 4 * LOGITS)
        total += eval_sums(prediction, batch, acts, case.token_loss)
        padding = (batch.labels == IGNORE_LABEL_ID).all(-1)
        padding_loss += float(torch.nn.functional.softplus(-prediction.q_halt[padding]).sum())
        index += 1
    assert index > 0
    for key, ours in eval_metrics(total).items():
        expected = float(golden[f"eval/metrics/{key}"])
        if key == "q_halt_loss":
            # The published sum counts padding rows as solved sequences; ours leaves them out.
            expected -= padding_loss / float(total[0])
        deviations.close("eval metrics", ours, expected, 4e-6, rtol=4e-6)
