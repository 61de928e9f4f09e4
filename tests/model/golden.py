"""The golden cases, and a replay of them through the very step that trains (no pytest: a GPU's machine may have none).

Used by test_golden.py here, and by tests/gpu/check_step.py on a GPU.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrm_lab.config import Config, ModelConfig, OptimConfig, TrainingConfig
from hrm_lab.model.act import IGNORE_LABEL_ID, Batch, Exploration, reason
from hrm_lab.model.hrm import HRM
from hrm_lab.model.interop import PUBLISHED_PREFIX, from_published
from hrm_lab.model.losses import SUMS, TOKEN_LOSSES, eval_metrics, eval_sums, train_metrics
from hrm_lab.optim.adam_atan2 import AdamATan2
from hrm_lab.optim.schedule import cosine_with_warmup
from hrm_lab.training.distributed import Ranks
from hrm_lab.training.step import TrainStep

FOLDER = Path(os.environ.get("HRM_GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
LOGITS = float(os.environ.get("HRM_GOLDEN_ATOL", 2e-5))
CASES = sorted(FOLDER.glob("case*.npz"))
# How far bfloat16 may be off, as a share; about twice what is seen.
BFLOAT16 = {"logits": 0.035, "lm_loss": 0.002, "q_halt_loss": 0.03, "gradient norm": 0.08}
REAL_LOSSES = ("lm_loss", "q_halt_loss", "q_continue_loss")


class Deviations:
    """Asserts closeness and remembers the largest deviation of each kind, for the report at the end."""

    def __init__(self, slack: float = 1.0) -> None:
        self.slack = slack  # tolerances are this many times as wide
        self.largest: dict[str, float] = {}

    def close(self, kind: str, ours: Any, golden: Any, atol: float, rtol: float = 0.0) -> None:
        ours, golden = _array(ours), _array(golden)
        assert ours.shape == golden.shape, f"{kind}: shape {ours.shape}, golden {golden.shape}"
        difference = np.abs(ours - golden)
        self.largest[kind] = max(self.largest.get(kind, 0.0), float(difference.max(initial=0)))
        np.testing.assert_allclose(ours, golden, atol=atol * self.slack, rtol=rtol * self.slack, err_msg=kind)

    def close_after_updates(self, kind: str, ours: Any, golden: Any, flip: float) -> None:
        """Close to 2e-6, but up to 0.1 % of the entries (one at least) may differ by `flip`.

        atan2 and sign give a full-sized step even on a gradient that is nothing but rounding noise.
        """
        ours, golden = _array(ours), _array(golden)
        difference = np.abs(ours - golden)
        outliers = difference > 2e-6 * self.slack
        self.largest[kind] = max(self.largest.get(kind, 0.0), float(difference.max(initial=0)))
        assert outliers.sum() <= max(1, 0.001 * outliers.size), f"{kind}: {outliers.sum()} of {outliers.size} differ"
        assert difference.max(initial=0) <= flip, f"{kind}: {difference.max()} > {flip}"


class Case:
    """One golden file: its configuration, its arrays, and the model in its initial state."""

    def __init__(self, path: Path, forward_dtype: str = "float32", device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.arrays = dict(np.load(path))
        self.config = json.loads(str(self.arrays["config_json"]))
        state = self._initial_state(path)
        arch = {key: value for key, value in self.config["arch"].items() if key in ModelConfig.__dataclass_fields__}
        arch |= {"forward_dtype": forward_dtype, "loss_type": self.config["loss_type"]}
        self.model = HRM(ModelConfig(**arch), self.config["V"], self.config["S"], self.config["n_ids"])
        self.model.load_state_dict(from_published(state))
        self.model.to(self.device)
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

    def step(self, execution: str) -> TrainStep:
        c = self.config
        config = Config(
            model=self.model.config,
            optim=OptimConfig(puzzle_emb_weight_decay=c["pe_wd"]),
            training=TrainingConfig(global_batch_size=c["B"]),
        )
        optimizer = AdamATan2(self.model.parameters(), lr=c["lr"], weight_decay=c["wd"])
        return TrainStep(config, self.model, optimizer, Ranks(self.device), self.batch("step1/batch"), execution)

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name]).to(self.device)

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


def replay(path: Path, execution: str = "eager", device: str = "cpu", slack: float = 1.0) -> str:
    """Every train step of a case and its evaluation, in float32; the largest deviations, in words.

    Raises:
        AssertionError: where one is larger than it may be.
    """
    case, deviations = Case(path, device=device), Deviations(slack)
    config, compute = case.config, case.step(execution)
    travelled = 0.0
    for step in range(1, config["steps"] + 1):
        name = f"step{step}"
        lr, puzzle_lr = case.lr(step, config["lr"]), case.lr(step, config["pe_lr"])
        deviations.close("lr", [puzzle_lr, lr], case.arrays[f"{name}/lr"], atol=0, rtol=1e-12)
        sums = compute(step, case.batch(f"{name}/batch"), case.exploration(name), lr, puzzle_lr)
        travelled += lr
        _check_forward(case, deviations, name, compute)
        _check_losses(case, deviations, name, sums)
        _check_gradients(case, deviations, name, compute)
        golden = case.arrays[f"{name}/puzzle_emb_weights"]
        table = case.model.puzzle_emb.weights
        deviations.close_after_updates("puzzle embedding", table, golden, 2 * step * config["pe_lr"])
        _check_parameters(case, deviations, name, flip=2 * travelled)
    check_evaluation(case, deviations)
    return ", ".join(f"{kind} {value:.1e}" for kind, value in deviations.largest.items())


def _array(values: Any) -> Any:
    if isinstance(values, torch.Tensor):
        return values.detach().double().cpu().numpy()
    if isinstance(values, list) and values and isinstance(values[0], torch.Tensor):
        return torch.stack(values).double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _check_forward(case: Case, deviations: Deviations, name: str, compute: TrainStep) -> None:
    golden, carry, (prediction,), (target,) = case.arrays, compute.carry, compute.predictions, compute.targets
    for field, ours in zip(Batch._fields, carry.data, strict=True):
        np.testing.assert_array_equal(ours.cpu(), golden[f"{name}/current_data/{field}"])
    np.testing.assert_array_equal(carry.halted.cpu(), golden[f"{name}/halted"])
    np.testing.assert_array_equal(carry.steps.cpu(), golden[f"{name}/steps"])
    deviations.close("logits", prediction.logits, golden[f"{name}/logits"], LOGITS)
    deviations.close("q", prediction.q_halt, golden[f"{name}/q_halt_logits"], LOGITS)
    deviations.close("q", prediction.q_continue, golden[f"{name}/q_continue_logits"], LOGITS)
    if f"{name}/target_q_continue" in golden:
        deviations.close("q target", target, golden[f"{name}/target_q_continue"], LOGITS)
    if f"{name}/z_H" in golden:
        deviations.close("carry", carry.latents.z_H, golden[f"{name}/z_H"], LOGITS)
        deviations.close("carry", carry.latents.z_L, golden[f"{name}/z_L"], LOGITS)


def _check_losses(case: Case, deviations: Deviations, name: str, sums: torch.Tensor) -> None:
    golden, summed = case.arrays, dict(zip(SUMS, sums.tolist(), strict=True))
    total = summed["lm_loss"] + 0.5 * (summed["q_halt_loss"] + summed["q_continue_loss"])
    deviations.close("losses", total, golden[f"{name}/raw/total_loss"], 2e-6, rtol=2e-6)
    for key, ours in summed.items():
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


def _check_gradients(case: Case, deviations: Deviations, name: str, compute: TrainStep) -> None:
    golden = case.arrays
    norms = [float(p.grad.double().norm()) for p in case.ordered]
    deviations.close("gradient norms", norms, golden[f"{name}/grad_norms"], 1e-8, rtol=1e-5)
    for key in golden:
        if key.startswith(f"{name}/grad/"):
            parameter = case.parameters[key.removeprefix(f"{name}/grad/").removeprefix(PUBLISHED_PREFIX)]
            deviations.close("gradients", parameter.grad, golden[key], 2e-6)
    ids, rows = compute.puzzle_gradient()
    deviations.close("gradients", rows, golden[f"{name}/local_weights_grad"], 2e-6)
    np.testing.assert_array_equal(ids.cpu(), golden[f"{name}/local_ids"])


def _check_parameters(case: Case, deviations: Deviations, name: str, flip: float) -> None:
    golden = case.arrays
    flat = [p.detach().flatten() for p in case.ordered]
    heads = [p[torch.linspace(0, p.numel() - 1, 8).long().to(p.device)] for p in flat]
    deviations.close_after_updates("parameters", torch.stack(heads), golden[f"{name}/param_head8"], flip)
    deviations.close(
        "parameter norms", [float(p.double().norm()) for p in flat], golden[f"{name}/param_l2"], 2e-6, rtol=1e-5
    )
    totals = [float(p.double().sum()) for p in flat]
    slack = np.array([2e-6 * len(p) ** 0.5 + flip for p in flat])
    assert (np.abs(np.array(totals) - golden[f"{name}/param_sum"]) <= slack).all()
    for key in golden:
        if key.startswith(f"{name}/params/"):
            parameter = case.parameters[key.removeprefix(f"{name}/params/").removeprefix(PUBLISHED_PREFIX)]
            deviations.close_after_updates("parameters", parameter, golden[key], flip)


@torch.inference_mode()
def check_evaluation(case: Case, deviations: Deviations) -> None:
    golden, model = case.arrays, case.model
    total, padding_loss, index = torch.zeros(len(SUMS), dtype=torch.float64, device=case.device), 0.0, 0
    while f"eval/batch{index}/inputs" in golden:
        name, batch = f"eval/batch{index}", case.batch(f"eval/batch{index}")
        acts = int(golden[f"{name}/n_act_steps"])
        assert acts == model.config.halt_max_steps
        for act, prediction in enumerate(reason(model, batch, acts), start=1):
            q = torch.stack((prediction.q_halt, prediction.q_continue))
            deviations.close("eval q", q, golden[f"{name}/act{act}/q"], 2 * LOGITS)
            np.testing.assert_array_equal(prediction.logits.argmax(-1).cpu(), golden[f"{name}/act{act}/argmax"])
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


def replay_bfloat16(path: Path, execution: str = "eager", device: str = "cpu") -> str:
    """The same with a bfloat16 forward pass, which has 3 digits: slots halt alike, and all stays near the float32.

    Raises:
        AssertionError: where something is further off than it may be.
    """
    case, largest = Case(path, "bfloat16", device), dict.fromkeys(BFLOAT16, 0.0)
    config, golden, compute = case.config, case.arrays, case.step(execution)
    for step in range(1, config["steps"] + 1):
        name = f"step{step}"
        rates = case.lr(step, config["lr"]), case.lr(step, config["pe_lr"])
        said = compute(step, case.batch(f"{name}/batch"), case.exploration(name), *rates)
        sums = dict(zip(SUMS, said.tolist(), strict=True))
        np.testing.assert_array_equal(compute.carry.halted.cpu(), golden[f"{name}/halted"])
        gradient = np.linalg.norm([float(p.grad.double().norm()) for p in case.ordered])
        logits = golden[f"{name}/logits"]
        found = {
            "logits": np.linalg.norm(_array(compute.predictions[0].logits) - logits) / np.linalg.norm(logits),
            "lm_loss": abs(sums["lm_loss"] / golden[f"{name}/raw/lm_loss"] - 1),
            "q_halt_loss": abs(sums["q_halt_loss"] / golden[f"{name}/raw/q_halt_loss"] - 1),
            "gradient norm": abs(gradient / np.linalg.norm(golden[f"{name}/grad_norms"]) - 1),
        }
        for kind, off in found.items():
            assert off <= BFLOAT16[kind], f"{kind} of {name}: {off:.1e} off, {BFLOAT16[kind]} allowed"
            largest[kind] = max(largest[kind], float(off))
    return ", ".join(f"{kind} {off:.1e}" for kind, off in largest.items())
