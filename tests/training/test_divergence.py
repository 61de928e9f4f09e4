"""A run that diverges ends, says where and of what, and leaves nothing damaged behind."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hrm_lab.config import TrackingConfig
from hrm_lab.run_folder import FAILED
from hrm_lab.tracking.journal import STOPPING_REASON, read_journal
from hrm_lab.tracking.store import Store
from hrm_lab.training.checkpoint import newest_step
from hrm_lab.training.divergence import TrainingDiverged
from hrm_lab.training.trainer import Trainer
from tests.small import free_port, hrm_lab, small_config
from tests.training.test_trainer import make_trainer

RARELY = {"log_interval": 100, "checkpoint_interval": None}  # nobody looks between the evaluations at steps 4 and 8


def spoil_gradient(trainer: Trainer, name: str, at_step: int, by: float) -> None:
    """The gradient of one parameter, times a number on one step."""
    parameter = dict(trainer.model.named_parameters())[name]
    parameter.register_hook(lambda grad: grad * by if trainer.step + 1 == at_step else grad)


def spoil_loss(trainer: Trainer, at_step: int) -> None:
    """A training loss that is no number on one step."""
    sound = trainer.compute.token_loss

    def loss(*arguments: Any) -> torch.Tensor:
        return sound(*arguments) * (math.nan if trainer.step + 1 == at_step and trainer.model.training else 1.0)

    trainer.compute.token_loss = loss


def assert_undamaged(folder: Path, last_good: int) -> None:
    assert newest_step(folder / "checkpoints") == last_good
    for weights in [folder / "best.safetensors", *(folder / "checkpoints").glob("*/*.safetensors")]:
        for name, tensor in load_file(weights).items():
            assert torch.isfinite(tensor.float()).all(), (weights, name)
    assert not (folder / "last.safetensors").exists()


@pytest.mark.parametrize("by", [math.nan, math.inf, 1e30])  # a gradient whose square is beyond float32 counts
def test_the_step_and_the_parameter_are_named_however_late_it_is_found(tmp_path: Path, by: float) -> None:
    config, folder, name = small_config(tmp_path, **RARELY), tmp_path / "run", "lm_head.weight"
    trainer, memory = make_trainer(config, folder)
    spoil_gradient(trainer, name, 6, by)
    with pytest.raises(TrainingDiverged) as diverged:
        trainer.fit()
    message = str(diverged.value)
    assert message.startswith(f"the gradient of {name} is no number at step 6\n")
    assert "optim.lr=0.005" in message
    assert "the last good checkpoint is of step 4" in message
    (decision,) = memory.decisions
    assert (decision.rule, decision.stops, decision.reason) == ("divergence", True, message.splitlines()[0])
    assert decision.evidence["step"] == 6
    assert decision.evidence["parameters"] == [name]
    assert decision.evidence["last_checkpoint"] == 4
    assert_undamaged(folder, 4)
    again, after = make_trainer(config, folder)  # unspoilt, it goes on from there
    assert (again.fit().step, after.began) == (8, 4)


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    trainer, memory = make_trainer(small_config(tmp_path, **RARELY), tmp_path / "run")
    spoil_loss(trainer, 3)
    with pytest.raises(TrainingDiverged) as diverged:
        trainer.fit()
    # The embedding of the tokens comes first in the model, the puzzles' own last.
    names = [name for name, _ in trainer.model.named_parameters()]
    told = f"the loss and the gradient of {names[0]} \\(and \\d+ more\\) are no number at step 3\n"
    assert diverged.match(told)
    assert "no checkpoint came before it" in str(diverged.value)
    assert memory.decisions[0].evidence["parameters"][-1] == "puzzle_emb.weights"
    assert memory.decisions[0].evidence["last_checkpoint"] is None


def test_weights_that_are_no_numbers_are_neither_saved_nor_kept(tmp_path: Path) -> None:
    config = small_config(tmp_path, **RARELY)
    config.stopping.metric = "eval/steps"  # finite, whatever the weights are
    trainer, memory = make_trainer(config, tmp_path / "run")
    trainer.train_step()
    with torch.no_grad():
        trainer.model.lm_head.weight[0, 0] = math.inf
    for look in (trainer.save, trainer._end_iteration):
        with pytest.raises(TrainingDiverged, match=r"the weight of lm_head\.weight is no number at step 1\n"):
            look()
    assert memory.decisions[0].evidence["kind"] == "weight"
    assert list((tmp_path / "run").rglob("*.safetensors")) == []
    trainer.checkpoints.close()


TWO = """
import sys
from pathlib import Path
from tests.small import small_config
from tests.training.test_divergence import RARELY, TrainingDiverged, make_trainer, spoil_loss
trainer, _ = make_trainer(small_config(Path(sys.argv[1]), **RARELY), Path(sys.argv[1]) / "run")
if trainer.ranks.rank == 1:
    spoil_loss(trainer, 6)
try:
    trainer.fit()
except TrainingDiverged as error:
    print(error)
trainer.ranks.close()
"""


def test_two_processes_leave_together_though_one_alone_has_seen_it(tmp_path: Path) -> None:
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
    assert "are no number at step 6\n" in one
    assert "the last good checkpoint is of step 4" in one
    assert_undamaged(tmp_path / "run", 4)


def test_an_exploding_rate_is_told_everywhere(tmp_path: Path) -> None:
    """In the terminal, the state, the journal, and MLflow."""
    settings = ["data.num_train=64", "data.num_test=32", "model.hidden_size=16", "model.halt_max_steps=2"]
    settings += ["training.epochs=4", "training.eval_interval=2", "training.global_batch_size=16"]
    done = hrm_lab(tmp_path, "train", "+experiment=demo", *settings, "training.eval_first=false", "optim.lr=1e38")
    assert done.returncode == 1
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    state = json.loads((folder / "state.json").read_text())
    assert state["status"] == FAILED
    (decision,) = [entry["decision"] for entry in read_journal(folder / "journal.jsonl") if "decision" in entry]
    assert decision["rule"] == "divergence"
    assert decision["reason"] in state["detail"]
    assert decision["reason"] in done.stdout + done.stderr
    assert f"at step {decision['evidence']['step']}" in decision["reason"]
    tracked = json.loads((folder / "tracking.json").read_text())
    store = Store.open(TrackingConfig(uri=tracked["uri"]), tmp_path / "outputs")
    (run,) = store.runs([tracked["run_id"]])
    assert run.status == "FAILED"
    assert run.tags[STOPPING_REASON] == decision["reason"]
    assert json.loads(store.text(run.run_id, "stopping/decisions.json") or "") == [decision]
