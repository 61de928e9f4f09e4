"""Budgets, in the rule and in real trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from hrm_lab.config import StoppingConfig
from hrm_lab.decision import BUDGET, TIME_BUDGET
from hrm_lab.stopping.budget import Budget
from hrm_lab.tracking.journal import STOPPING_RULE
from hrm_lab.tracking.logged import Logged
from hrm_lab.tracking.store import RunRecord
from hrm_lab.training.checkpoint import newest_step
from tests.small import free_port, small_config
from tests.training.test_trainer import make_trainer

LIMITS = st.none() | st.integers(1, 10)


@given(LIMITS, LIMITS, LIMITS, st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_it_is_spent_exactly_when_it_decides(
    steps: int | None, hours: int | None, gpu_hours: int | None, step: int, wall: int, gpu: int
) -> None:
    budget = Budget(StoppingConfig(max_steps=steps, max_hours=hours, max_gpu_hours=gpu_hours))
    spent = any(given is not None and used >= given for used, given in ((step, steps), (wall, hours), (gpu, gpu_hours)))
    assert budget.is_spent(step, wall * 3600, gpu * 3600) == spent
    decision = budget.update(step, {"perf/wall_s": wall * 3600, "perf/gpu_s": gpu * 3600})
    assert (decision is not None) == spent
    if decision is not None:
        assert decision.evidence["value"] >= decision.evidence["threshold"]
        assert f"stopping.{decision.evidence['metric']}=" in decision.reason


@pytest.mark.parametrize(("max_steps", "evaluated"), [(4, [4]), (6, [4, 6])])
def test_so_many_steps_are_taken_and_judged_once(tmp_path: Path, max_steps: int, evaluated: list[int]) -> None:
    config = small_config(tmp_path)
    config.stopping.max_steps = max_steps
    folder = tmp_path / "run"
    trainer, memory = make_trainer(config, folder)
    outcome = trainer.fit()
    assert outcome.step == newest_step(folder / "checkpoints") == max_steps
    assert [step for step, key in memory.values if key == "eval/exact_accuracy"] == evaluated
    (decision,) = memory.decisions
    assert (decision.rule, decision.stops, decision.reason) == ("budget", True, outcome.stopped)
    last = load_file(folder / "last.safetensors")
    (head,) = (weights for name, weights in last.items() if name.endswith("lm_head.weight"))
    assert (head == trainer.model.lm_head.weight).all()
    again, after = make_trainer(config, folder)
    assert again.fit() == outcome  # it stays stopped
    assert (after.values, after.decisions) == ({}, [])


def test_wall_time_counts_over_all_attempts(tmp_path: Path) -> None:
    config, folder = small_config(tmp_path), tmp_path / "run"
    first, _ = make_trainer(config, folder)
    first.fit(last_step=2)
    config.stopping.max_hours = (first.seconds + 1e-3) / 3600  # a new attempt has a millisecond left
    trainer, memory = make_trainer(config, folder)
    outcome = trainer.fit()
    assert outcome.step == newest_step(folder / "checkpoints") == 3
    assert "stopping.max_hours" in str(outcome.stopped)
    assert (3, "eval/exact_accuracy") in memory.values
    assert (memory.decisions[0].rule, memory.decisions[0].evidence["metric"]) == (TIME_BUDGET, "max_hours")


@pytest.mark.parametrize(("rule", "finished"), [(None, True), (BUDGET, True), ("asha", False), (TIME_BUDGET, False)])
def test_what_the_clock_has_stopped_is_reproduced_as_far_as_it_got(rule: str | None, finished: bool) -> None:
    record = RunRecord("id", "name", "FINISHED", {}, {}, {STOPPING_RULE: rule} if rule else {})
    assert Logged(record, "", {}, {}, {}, {}).is_finished == finished


TWO = """
import sys
from pathlib import Path
from hrm_lab.data.build import ensure_dataset
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.distributed import connect
from hrm_lab.training.protocols import Uncontrolled, Unrecorded
from hrm_lab.training.trainer import Trainer
from tests.small import small_config

folder = Path(sys.argv[1])
ranks = connect(small_config(folder).training)
for setting, limit in (("max_steps", 3), ("max_hours", 0.0)):
    config = small_config(folder)
    setattr(config.stopping, setting, limit)
    dataset = ensure_dataset(config.data, config.paths.data)
    run, rules = folder / setting, Rules(config.stopping)
    print(Trainer(config, dataset, run, Unrecorded(), rules, ranks, Uncontrolled()).fit().stopped)
ranks.close()
"""


def test_two_processes_stop_together(tmp_path: Path) -> None:
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path)],
            env={**environment, "RANK": str(rank), "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    one, two = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert one == two
    of_steps, of_time = one.splitlines()
    assert of_steps == "budget spent at step 3: 3 steps, stopping.max_steps=3"
    assert of_time.startswith("budget spent at step 2")  # it is agreed on, a step late
