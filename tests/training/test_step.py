"""The step can be taken as a CUDA graph: it reads nothing on the host, and what it leaves stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hrm_lab.errors import ConfigError
from hrm_lab.model.act import Batch, Exploration
from hrm_lab.model.hrm import HRM
from hrm_lab.optim.adam_atan2 import AdamATan2
from hrm_lab.training.distributed import Ranks
from hrm_lab.training.step import TrainStep
from hrm_lab.validation import validate
from tests.small import small_config
from tests.training.test_trainer import all_tensors, make_trainer

READS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique_consecutive"}


class NothingIsRead(TorchDispatchMode):
    """Raises where the host asks for a value, or for a shape that depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_mask = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool for index in (args[1] if isinstance(args[1], list) else [])
        )
        assert name not in READS, f"aten.{name} waits for the device"
        assert not is_mask, f"aten.{name} by a mask: its shape depends on values"
        return func(*args, **(kwargs or {}))


def step_on(device: str, parts: int = 1) -> tuple[TrainStep, Batch, Exploration]:
    config = small_config(Path(), gradient_accumulation_steps=parts)
    config.model.forward_dtype = "bfloat16"
    size = config.training.global_batch_size
    generator = torch.Generator().manual_seed(0)
    model = HRM(config.model, 6, 16, 3, generator).to(device)
    boards = torch.randint(2, 6, (2, size, 16), dtype=torch.int32, generator=generator)
    batch = Batch(boards[0], boards[1], torch.randint(0, 3, (size,), dtype=torch.int32, generator=generator))
    draws = Exploration(torch.rand(size, generator=generator), torch.full((size,), 2, dtype=torch.int32))
    empty = Batch(*(torch.zeros_like(field, device=device) for field in batch))
    return (
        TrainStep(config, model, AdamATan2(model.parameters(), 1e-3), Ranks(torch.device(device)), empty),
        batch,
        draws,
    )


def test_a_step_reads_nothing_on_the_host() -> None:
    step, batch, draws = step_on("cpu")
    with NothingIsRead(), pytest.raises(AssertionError, match="waits for the device"):
        step.sums.sum().item()
    for number in (1, 2):
        with NothingIsRead():
            step(number, batch, draws, 1e-3, 1e-2)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_is_computed_where_there_is_nothing_to_read(parts: int) -> None:
    """Tensors of the meta device have shapes and no values."""
    step, batch, draws = step_on("meta", parts)
    for number in (1, 2):
        step(number, batch, draws, 1e-3, 1e-2)


def test_everything_stays_where_it_is(tmp_path: Path) -> None:
    """Weights, moments and carry, also when a checkpoint is loaded: a CUDA graph knows them by their addresses."""
    config = small_config(tmp_path)
    trainer, _ = make_trainer(config, tmp_path / "run")
    for _ in range(2):
        trainer.train_step()
    before = {name: tensor.data_ptr() for name, tensor in all_tensors(trainer).items() if "window" not in name}
    trainer.save()
    trainer.checkpoints.wait()
    state = trainer.checkpoints.load()
    trainer.train_step()
    trainer.load_state_dict(state)
    trainer.train_step()
    after = {name: tensor.data_ptr() for name, tensor in all_tensors(trainer).items()}
    assert {name: after[name] for name in before if "iteration" not in name} == {
        name: address for name, address in before.items() if "iteration" not in name
    }
    trainer.checkpoints.close()


def test_a_cuda_graph_on_a_cpu_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path, execution="captured")
    validate(config)  # another machine may have a GPU
    config.training.device = "cpu"
    with pytest.raises(ConfigError, match="execution"):
        validate(config)
