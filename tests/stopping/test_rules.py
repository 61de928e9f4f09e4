"""All rules together, and which settings are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm_lab.config import StoppingConfig, check_metric, validate
from hrm_lab.errors import ConfigError
from hrm_lab.stopping.rules import Rules
from tests.small import small_config
from tests.training.test_trainer import make_trainer

METRIC, TRAINED = "eval/exact_accuracy", "train/exact_accuracy"
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
        ({"metric": "train/all/lm_loss"}, "train/lm_loss"),
        ({"metric": "train/lm_loss", "overfit_accuracy": 0.9}, "stopping.overfit_accuracy"),
        ({"max_gpu_hours": 1.0}, "stopping.max_hours"),
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
    check_metric(StoppingConfig(metric="train/lm_loss"), ["all"])
    with pytest.raises(ConfigError, match=r"easy.*\n.*eval/easy/accuracy"):
        check_metric(watched, ["easy", "harder"])
    with pytest.raises(ConfigError, match=r"one of eval/accuracy$"):  # a single set has no metrics of its own
        check_metric(watched, ["hard"])


def test_patience_on_a_training_metric(tmp_path: Path) -> None:
    """It is looked at where evaluations are, and the best weights are those of its best value."""
    config = small_config(tmp_path, epochs=8)
    config.stopping = StoppingConfig(metric="train/lm_loss", mode="max", patience=2)  # the loss falls
    validate(config)
    trainer, memory = make_trainer(config, tmp_path / "run")
    outcome = trainer.fit()
    (decision,) = memory.decisions
    assert (decision.rule, decision.evidence["metric"]) == ("patience", "train/lm_loss")
    assert outcome.best_step == decision.evidence["best_step"]
    assert outcome.best_value == memory.values[(outcome.best_step or 0, "train/lm_loss")]
    assert (tmp_path / "run" / "best.safetensors").exists()
