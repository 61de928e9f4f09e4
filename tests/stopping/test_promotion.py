"""A run that its siblings have stopped and a person has promoted goes on as if nothing had happened, also if killed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hrm_lab.config import Config, StoppingConfig
from hrm_lab.data.build import ensure_dataset
from hrm_lab.decision import PROMOTION, Decision, Promotion
from hrm_lab.stopping.pruning import History
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.distributed import connect
from hrm_lab.training.protocols import Uncontrolled
from hrm_lab.training.trainer import Trainer
from tests.small import Memory, small_config

PROMOTED = Promotion(4, "promoted at step 4")


@dataclass
class Better:
    """One sibling, that nobody is as good as."""

    signature: str = "mine"
    name: str = "mine"

    def ask(self) -> Mapping[str, History]:
        return {"better": History("better", {4: 0.0, 8: 0.0})}


class Decisions(Memory):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[int, str]] = []

    def decision(self, decision: Decision) -> None:
        self.made.append((decision.step, decision.rule))


def trainer(config: Config, folder: Path, rules: Rules) -> tuple[Trainer, Decisions]:
    folder.mkdir(parents=True, exist_ok=True)
    memory, dataset = Decisions(), ensure_dataset(config.data, config.paths.data)
    return Trainer(config, dataset, folder, memory, rules, connect(config.training), Uncontrolled()), memory


def test_it_ends_with_the_bits_of_one_that_was_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(tmp_path)
    rule = {"metric": "eval/lm_loss", "mode": "min", "min_peers": 1}
    config.stopping = StoppingConfig(pruner="asha", reduction_factor=4, **rule)  # rungs at steps 4 and 16 of 8
    whole, recorded = trainer(config, tmp_path / "whole", Rules(config.stopping))
    whole.fit()

    first, before = trainer(config, tmp_path / "cut", Rules(config.stopping, Better()))
    assert first.fit().stopped == (
        f"asha at step 4 (rung 0): eval/lm_loss = {before.values[4, 'eval/lm_loss']:.4g}, "
        "short of the 0 that 1 siblings ask for"
    )
    again, _ = trainer(config, tmp_path / "cut", Rules(config.stopping, Better(), Promotion(3, "of another time")))
    assert again.fit().step == 4

    killed, after = trainer(config, tmp_path / "cut", Rules(config.stopping, Better(), PROMOTED))
    monkeypatch.setattr(killed, "save", lambda: None)  # before it has written a checkpoint of its own
    killed.fit(last_step=6)
    assert after.made == [(4, PROMOTION)]
    last, after = trainer(config, tmp_path / "cut", Rules(config.stopping, Better(), PROMOTED))
    assert last.fit().stopped is None
    assert (after.began, after.made) == (4, [(4, PROMOTION)])
    assert before.values | after.values == recorded.values
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, last.model.state_dict()[name]), name


def test_it_is_compared_again_later(tmp_path: Path) -> None:
    config = small_config(tmp_path, epochs=8)  # 16 steps
    config.stopping = StoppingConfig(
        metric="eval/lm_loss", mode="min", pruner="asha", grace_steps=4, reduction_factor=2, min_peers=1
    )
    first, _ = trainer(config, tmp_path / "run", Rules(config.stopping, Better()))
    first.fit()
    last, after = trainer(config, tmp_path / "run", Rules(config.stopping, Better(), PROMOTED))
    assert "rung 1" in (last.fit().stopped or "")
    assert after.made == [(4, PROMOTION), (8, "asha")]


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_a_promotion_holds_where_the_newest_checkpoint_is_lost(tmp_path: Path, pruner: str) -> None:
    config = small_config(tmp_path)
    config.stopping = StoppingConfig(metric="eval/lm_loss", mode="min", pruner=pruner, min_peers=1)
    first, _ = trainer(config, tmp_path / "run", Rules(config.stopping, Better()))
    assert first.fit().step == 4
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    last, after = trainer(config, tmp_path / "run", Rules(config.stopping, Better(), PROMOTED))
    outcome = last.fit()
    # At step 8, the last one, the better sibling is there again, and there is nothing left to stop.
    assert (outcome.step, outcome.stopped) == (8, None)
    assert 0 < after.began < 4
    assert after.made == [(4, PROMOTION)]
