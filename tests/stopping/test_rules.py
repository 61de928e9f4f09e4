"""All rules together, and which settings are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hrm_lab.config import TRAINED, StoppingConfig
from hrm_lab.data.build import ensure_dataset
from hrm_lab.errors import ConfigError
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.distributed import Ranks
from hrm_lab.training.protocols import Uncontrolled
from hrm_lab.training.trainer import Trainer
from hrm_lab.validation import check_metric, validate
from tests.small import Memory, small_config
from tests.training.test_trainer import make_trainer

METRIC = "eval/exact_accuracy"
VALUES = st.floats(0, 1) | st.just(math.nan)
HISTORIES = st.lists(st.dictionaries(st.sampled_from([METRIC, TRAINED]), VALUES), max_size=15)
CONFIG = StoppingConfig(patience=3, overfit_accuracy=0.5, goal=0.95)


@given(HISTORIES, st.integers(0, 15))
def test_a_restart_at_any_moment_changes_nothing(history: list[dict[str, float]], restart: int) -> None:
    plain, cut = Rules(CONFIG), Rules(CONFIG)
    for step, values in enumerate(history):
        if step == restart:
            state, cut = json.loads(json.dumps(cut.state_dict())), Rules(CONFIG)
            cut.load_state_dict(state)
        assert cut.update(step, values) == plain.update(step, values)


def test_of_several_that_would_stop_the_first_does_and_all_have_seen_it() -> None:
    rules = Rules(StoppingConfig(patience=1, max_steps=2, goal=0.9))
    assert rules.update(1, {METRIC: 0.95})[0].rule == "goal"
    assert [decision.rule for decision in rules.update(2, {METRIC: 0.5})] == ["budget"]
    assert rules.patience.waited == 1


@given(HISTORIES)
def test_without_settings_nothing_stops(history: list[dict[str, float]]) -> None:
    rules = Rules(StoppingConfig())
    assert not any(rules.update(step, values) for step, values in enumerate(history))
    assert not rules.is_spent(10**9, 1e9, 1e9)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"metric": "train/lr"}, "stopping.metric=train/lr"),
        ({"metric": "exact_accuracy"}, "eval/exact_accuracy"),
        ({"metric": "train/lm_loss"}, "train_mean/lm_loss"),  # its windows are those of the log
        ({"metric": "train_mean/all/lm_loss"}, "train_mean/lm_loss"),
        ({"metric": "train_mean/lm_loss", "overfit_accuracy": 0.9}, "stopping.overfit_accuracy"),
        ({"max_gpu_hours": 1.0}, "stopping.max_hours"),
        ({"grace_steps": 8}, "stopping.pruner=asha or median or percentile"),
        ({"pruner_patience": 1}, "stopping.pruner_patience=1"),
        ({"pruner": "median", "reduction_factor": 2}, "stopping.pruner=asha"),
        ({"pruner": "asha", "peers": "finished"}, "stopping.pruner=median or percentile"),
    ],
)
def test_what_could_never_decide_is_refused(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    config = small_config(tmp_path, device="cpu")
    config.stopping = StoppingConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=told):
        validate(config)


def test_a_test_set_that_is_not_there_is_refused() -> None:
    watched = StoppingConfig(metric="eval/hard/accuracy")
    check_metric(watched, ["easy", "hard"])
    check_metric(StoppingConfig(metric="train_mean/lm_loss"), ["all"])
    with pytest.raises(ConfigError, match=r"easy.*\n.*eval/easy/accuracy"):
        check_metric(watched, ["easy", "harder"])
    with pytest.raises(ConfigError, match=r"one of eval/accuracy$"):  # a single set has no metrics of its own
        check_metric(watched, ["hard"])


def test_patience_on_a_training_metric(tmp_path: Path) -> None:
    """Its mean since the evaluation before decides, whatever is logged, and the best weights are those of its best."""
    outcomes = []
    for log_interval in (1, 3):
        config = small_config(tmp_path, epochs=8, log_interval=log_interval)
        config.stopping = StoppingConfig(metric="train_mean/lm_loss", mode="max", patience=2)  # the loss falls
        validate(config)
        trainer, memory = make_trainer(config, tmp_path / f"every{log_interval}")
        outcomes.append(trainer.fit())
        (decision,) = memory.decisions
        assert (decision.rule, decision.evidence["metric"]) == ("patience", "train_mean/lm_loss")
        means = {step: value for (step, key), value in memory.values.items() if key == "train_mean/lm_loss"}
        assert outcomes[-1].best_value == means[4] == decision.evidence["best"]
        assert (tmp_path / f"every{log_interval}" / "best.safetensors").exists()
        if log_interval == 1:
            for end in (4, 8, 12):
                steps = [memory.values[(step, "train/lm_loss")] for step in range(end - 3, end + 1)]
                assert means[end] == pytest.approx(sum(steps) / 4)
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0].best_step, outcomes[0].step) == (4, 12)


def test_after_the_last_step_only_the_goal_speaks(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.stopping = StoppingConfig(metric="eval/lm_loss", mode="max", patience=1, max_steps=8)  # it falls, by step 8
    trainer, memory = make_trainer(config, tmp_path / "run")
    outcome = trainer.fit()
    assert (outcome.step, outcome.best_step, outcome.stopped, memory.decisions) == (8, 4, None, [])
    (decision,) = Rules(StoppingConfig(goal=0.9, max_steps=8)).update(8, {METRIC: 0.9}, is_last=True)
    assert decision.rule == "goal"


def test_a_gpu_budget_is_refused_where_the_device_turns_out_to_be_a_cpu(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.stopping = StoppingConfig(max_gpu_hours=1.0)
    validate(config)
    with pytest.raises(ConfigError, match=r"stopping\.max_gpu_hours=1\.0: would never.*\n.*stopping\.max_hours"):
        Trainer(
            config,
            ensure_dataset(config.data, config.paths.data),
            tmp_path,
            Memory(),
            Rules(config.stopping),
            Ranks(torch.device("cpu")),
            Uncontrolled(),
        )
