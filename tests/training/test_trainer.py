"""The loop on real runs: resume, processes, accumulation, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hrm_lab.config import Config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.errors import RunError
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.checkpoint import Rows
from hrm_lab.training.distributed import connect
from hrm_lab.training.evaluation import evaluate
from hrm_lab.training.protocols import Uncontrolled
from hrm_lab.training.trainer import Trainer
from tests.small import Memory, small_config


def make_trainer(config: Config, folder: Path) -> tuple[Trainer, Memory]:
    folder.mkdir(parents=True, exist_ok=True)
    memory = Memory()
    dataset = ensure_dataset(config.data, config.paths.data)
    ranks = connect(config.training)
    return Trainer(config, dataset, folder, memory, Rules(config.stopping), ranks, Uncontrolled()), memory


def all_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything in a state that is a tensor, by its place."""
    found: dict[str, torch.Tensor] = {}

    def look(state: Any, place: str) -> None:
        if isinstance(state, dict):
            for key, value in state.items():
                look(value, f"{place}/{key}")
        elif isinstance(state, Rows):
            found[place] = state.tensor
        elif isinstance(state, torch.Tensor):
            found[place] = state

    look(trainer.state_dict(), "")
    return found


def test_a_run_cut_anywhere_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    whole, recorded = make_trainer(config, tmp_path / "whole")
    whole.fit()
    assert whole.step == whole.sampler.total_steps == 8
    for cut in (1, 4, 7):
        first, before = make_trainer(config, tmp_path / f"cut{cut}")
        first.sampler.iterations = 2
        for _ in range(cut):
            first.train_step()
            first._log_window()
            if first.step == 4:
                first._end_iteration()
        first.save()
        first.checkpoints.wait()
        second, after = make_trainer(config, tmp_path / f"cut{cut}")
        second.fit()
        assert after.began == cut
        assert before.values.keys().isdisjoint(after.values)
        assert before.values | after.values == recorded.values
        assert_same_bits(whole, second)


def assert_same_bits(one: Trainer, two: Trainer) -> None:
    for name, tensor in all_tensors(one).items():
        assert torch.equal(tensor, all_tensors(two)[name]), name


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_of_one_config_are_equal_and_another_seed_is_not(tmp_path: Path, threads: int) -> None:
    config = small_config(tmp_path, threads=threads)
    (one, a), (two, b) = make_trainer(config, tmp_path / "a"), make_trainer(config, tmp_path / "b")
    one.fit()
    two.fit()
    assert a.values == b.values
    assert_same_bits(one, two)
    config.seed = 1
    other, c = make_trainer(config, tmp_path / "c")
    other.fit()
    assert a.values != c.values


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    whole, a = make_trainer(small_config(tmp_path), tmp_path / "whole")
    parts, b = make_trainer(small_config(tmp_path, gradient_accumulation_steps=4), tmp_path / "parts")
    whole.fit()
    parts.fit()
    assert_equal_but_rounding(a.values, b.values)


def assert_equal_but_rounding(expected: dict[Any, float], found: dict[Any, float]) -> None:
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_steps_on_which_nothing_halts_report_no_accuracy(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.model.halt_exploration_prob = 0.0
    trainer, memory = make_trainer(config, tmp_path / "run")
    trainer.fit()
    # At first q_halt and q_continue are equal, so every slot takes its three ACT steps and halts on step 3.
    assert (1, "train/lm_loss") in memory.values
    assert (1, "train/exact_accuracy") not in memory.values
    assert memory.values[(3, "train/steps")] == 3.0


def test_padding_rows_add_nothing_to_an_evaluation(tmp_path: Path) -> None:
    trainer, _ = make_trainer(small_config(tmp_path), tmp_path / "run")
    trainer.fit()
    exact = evaluate(trainer.model, trainer.batches, 10).metrics
    for size in (1, 3, 7, 64):
        padded = evaluate(trainer.model, trainer.batches, size).metrics
        assert padded == pytest.approx(exact, rel=1e-5)
    assert set(exact) >= {"eval/accuracy", "eval/exact_accuracy", "eval/steps", "eval/lm_loss", "eval/q_halt_loss"}


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    make_trainer(config, tmp_path / "run")[0].fit()
    config.data.build_seed = 1
    trainer, _ = make_trainer(config, tmp_path / "run")
    with pytest.raises(RunError, match="fingerprint"):
        trainer.fit()


def test_bfloat16_forward_keeps_float32_masters(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.model.forward_dtype = "bfloat16"
    trainer, memory = make_trainer(config, tmp_path / "run")
    trainer.fit()
    assert trainer.carry.latents.z_H.dtype == torch.bfloat16
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert memory.values[(8, "train/lm_loss")] < memory.values[(1, "train/lm_loss")]


def test_stopping_early_is_remembered_across_restarts(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.stopping.goal = 0.0
    outcome = make_trainer(config, tmp_path / "run")[0].fit()
    assert outcome.step == 4
    assert "goal reached at step 4" in str(outcome.stopped)
    again = make_trainer(config, tmp_path / "run")[0].fit()
    assert (again.step, again.stopped) == (4, outcome.stopped)


def test_a_run_that_is_killed_while_its_end_is_judged_does_not_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path, eval_puzzles=4)
    config.stopping.mode = "min"  # of a metric that has its best early, so that the best weights are not the last
    whole, recorded = make_trainer(config, tmp_path / "whole")
    whole.fit()
    assert (whole.best.step, whole.step) == (4, 8)
    final = {place: value for place, value in recorded.values.items() if place[1].startswith("final")}
    assert {step for step, _ in final} == {8}
    assert {key.partition("/")[0] for _, key in final} == {"final", "final_best"}
    assert recorded.values[8, "final/lm_loss"] != recorded.values[8, "eval/lm_loss"]  # of ten puzzles, not of four

    killed, before = make_trainer(config, tmp_path / "killed")

    def kill() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(killed, "_best_model", kill)
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    again, after = make_trainer(config, tmp_path / "killed")
    again.fit()
    assert after.began == 8
    assert after.values == {place: value for place, value in final.items() if place[1].startswith("final_best/")}
    assert before.values | after.values == recorded.values
    assert_same_bits(whole, again)
    once_more, nothing = make_trainer(config, tmp_path / "killed")
    once_more.fit()
    assert nothing.values == {}


def test_without_a_part_there_is_no_second_evaluation(tmp_path: Path) -> None:
    for puzzles in (None, 10):
        trainer, memory = make_trainer(small_config(tmp_path, eval_puzzles=puzzles), tmp_path / f"{puzzles}")
        trainer.fit()
        assert not [key for _, key in memory.values if key.startswith("final")]
