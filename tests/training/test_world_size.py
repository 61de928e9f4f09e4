"""The number of processes is no part of the result: real processes on gloo, compared with one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import free_port
from tests.training.test_trainer import assert_equal_but_rounding

STEPS = 8


def train(folder: Path, name: str, world_size: int, last_step: int = STEPS) -> dict[str, Any]:
    """Train the small run, or go on with it, in so many processes: its metrics, draws and last carry."""
    several = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = os.environ | several
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.one_rank", str(folder), name, str(last_step)],
            env={**environment, "RANK": str(rank), "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        for rank in range(world_size)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * world_size
    found: dict[str, Any] = torch.load(folder / f"{name}.pt", weights_only=True)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return train(folder, "alone", 1)


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_processes_is_one_but_for_rounding(folder: Path, alone: dict[str, Any], world_size: int) -> None:
    together = train(folder, f"on{world_size}", world_size)
    # Order, augmentation and exploration of all steps, to the bit: five tensors a step.
    assert len(together["drawn"]) == len(alone["drawn"]) == 5 * STEPS
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(alone["drawn"], together["drawn"], strict=True))
    assert_same_run(alone, together)


def test_a_checkpoint_of_two_processes_goes_on_with_one_and_with_four(folder: Path, alone: dict[str, Any]) -> None:
    before = train(folder, "half", 2, last_step=5)
    for world_size in (1, 4):
        name = f"half_then_{world_size}"
        shutil.copytree(folder / "half", folder / name)
        after = train(folder, name, world_size)
        assert len(after["drawn"]) == 5 * 3  # it did go on
        assert before["values"].keys().isdisjoint(after["values"])
        after["values"] = before["values"] | after["values"]
        assert_same_run(alone, after)


def test_a_missing_shard_of_one_process_is_told_and_the_one_before_is_taken(
    folder: Path, alone: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    train(folder, "lost", 2, last_step=5)
    newest = folder / "lost" / "checkpoints" / "step_00000005"
    shards = sorted(newest.glob("*.safetensors"))
    assert len(shards) == 2
    shards[1].unlink()
    after = train(folder, "lost", 1)
    assert f"{shards[1].name} is missing" in capfd.readouterr().err
    assert len(after["drawn"]) > 5 * 3  # from an earlier step
    for field in ("inputs", "labels", "puzzle_identifiers", "steps", "halted"):
        assert torch.equal(alone["carry"][f"/carry/{field}"], after["carry"][f"/carry/{field}"]), field


def assert_same_run(expected: dict[str, Any], found: dict[str, Any]) -> None:
    assert_equal_but_rounding(expected["values"], found["values"])
    # Which sequence each slot holds, for how long, and whether it has halted does not depend on rounding.
    for field in ("inputs", "labels", "puzzle_identifiers", "steps", "halted"):
        assert torch.equal(expected["carry"][f"/carry/{field}"], found["carry"][f"/carry/{field}"]), field
