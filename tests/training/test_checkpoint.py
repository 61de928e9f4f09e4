"""What lies on the disk: damage is found, told and survived; nothing is overwritten; what is to be kept is kept."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hrm_lab.config import TrainingConfig
from hrm_lab.errors import RunError
from hrm_lab.training.checkpoint import MANIFEST, POINTER, Checkpoints, Rows, State, newest_step
from hrm_lab.training.distributed import Ranks

CPU = Ranks(torch.device("cpu"))


def state_of(step: int, size: int = 1000) -> State:
    """A state of every kind of tensor and plain value that a trainer has."""
    return {
        "step": step,
        "model": {"weight": torch.full((size, 2), float(step)), "H_init": torch.ones(3, dtype=torch.bfloat16)},
        "carry": {"halted": Rows(torch.tensor([True, False])), "steps": Rows(torch.tensor([step, 2]))},
        "sums": torch.tensor([1 / 3], dtype=torch.float64),
        "stopped": None,
        "value": 0.1,
    }


@contextmanager
def opened(folder: Path, **training: object) -> Iterator[Checkpoints]:
    settings = TrainingConfig(**training)  # type: ignore[arg-type]
    checkpoints = Checkpoints(folder, settings, CPU, check=lambda: None)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def save(folder: Path, *steps: int, best: int | None = None, **training: object) -> Path:
    with opened(folder, **training) as checkpoints:
        for step in steps:
            checkpoints.save(step, best, state_of(step), sync=lambda: None)
        checkpoints.wait()
    return folder / "checkpoints"


def load(folder: Path) -> State | None:
    with opened(folder) as checkpoints:
        return checkpoints.load()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    save(tmp_path, 3)
    found = load(tmp_path)
    expected = state_of(3)
    assert found is not None
    for rows in expected["carry"]:
        expected["carry"][rows] = expected["carry"][rows].tensor
    assert_equal(expected, found)


def assert_equal(expected: object, found: object) -> None:
    if isinstance(expected, dict) and isinstance(found, dict):
        assert expected.keys() == found.keys()
        for key in expected:
            assert_equal(expected[key], found[key])
    elif isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        assert expected.dtype == found.dtype
        assert torch.equal(expected, found)
    else:
        assert expected == found


def test_a_save_is_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        state = state_of(1, size=200_000)
        checkpoints.save(1, None, state, sync=lambda: None)
        state["model"]["weight"].zero_()  # training goes on while it is written
        checkpoints.wait()
    found = load(tmp_path)
    assert found is not None
    assert found["model"]["weight"].unique().tolist() == [1.0]


def truncate(checkpoint: Path) -> None:
    os.truncate(shard(checkpoint), 100)


def flip_a_bit(checkpoint: Path) -> None:
    data = bytearray(shard(checkpoint).read_bytes())
    data[len(data) // 2] ^= 1
    shard(checkpoint).write_bytes(data)


def lose_a_shard(checkpoint: Path) -> None:
    shard(checkpoint).unlink()


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def garble_the_manifest(checkpoint: Path) -> None:
    os.truncate(checkpoint / MANIFEST, 50)


def flip_a_value(checkpoint: Path) -> None:
    text = (checkpoint / MANIFEST).read_text()
    (checkpoint / MANIFEST).write_text(text.replace('"value": 0.1', '"value": 0.3'))


def flip_a_key(checkpoint: Path) -> None:
    text = (checkpoint / MANIFEST).read_text()
    (checkpoint / MANIFEST).write_text(text.replace('"files"', '"fils"'))


def shard(checkpoint: Path) -> Path:
    return next(checkpoint.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "has 100 bytes"),
        (flip_a_bit, "has changed since it was written"),
        (lose_a_shard, "is missing"),
        (lose_the_manifest, "manifest.json is missing"),
        (garble_the_manifest, "manifest.json cannot be read"),
        (flip_a_value, "manifest.json has changed"),
        (flip_a_key, "manifest.json cannot be read"),
    ],
)
def test_damage_is_told_and_the_one_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], told: str
) -> None:
    folder = save(tmp_path, 1, 2, 3)
    damage(folder / "step_00000003")
    before = {path.name: path.read_bytes() for path in (folder / "step_00000003").iterdir()}
    found = load(tmp_path)
    assert found is not None
    assert found["step"] == 2
    assert told in caplog.text
    assert "put aside as damaged_step_00000003" in caplog.text
    # Nothing of it is lost, not even when the same step comes again.
    save(tmp_path, 3, 4)
    assert {path.name: path.read_bytes() for path in (folder / "damaged_step_00000003").iterdir()} == before
    assert names(folder) == ["damaged_step_00000003", "step_00000003", "step_00000004"]


def test_all_damaged_or_gone_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save(tmp_path, 1, 2)
    for checkpoint in folder.glob("step_*"):
        truncate(checkpoint)
    with pytest.raises(RunError, match="none of them can be used"):
        load(tmp_path)
    for checkpoint in folder.glob("damaged_*"):
        checkpoint.rename(tmp_path / checkpoint.name)
    with pytest.raises(RunError, match="none of them can be used"):  # the pointer knows that there was one
        load(tmp_path)
    assert "step_00000002 was written and is gone" in caplog.text
    (folder / POINTER).unlink()
    damaged = folder / "damaged_step_00000002"
    damaged.mkdir()
    with pytest.raises(RunError, match="none of them can be used"):  # and so does what was put aside
        load(tmp_path)


def test_killed_between_the_name_and_the_pointer(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, 2)
    (folder / POINTER).write_text(json.dumps({"name": "step_00000001", "step": 1}))
    found = load(tmp_path)
    assert found is not None
    assert found["step"] == 2


def test_retention(tmp_path: Path) -> None:
    folder = save(tmp_path, *range(1, 13), best=5, keep_checkpoints=2, keep_checkpoint_every=4)
    assert names(folder) == [f"step_{step:08d}" for step in (4, 5, 8, 11, 12)]
    assert newest_step(folder) == 12
    save(tmp_path, 13, best=5, keep_checkpoints=1, keep_best_checkpoint=False)
    assert names(folder) == ["step_00000013"]


def test_a_step_that_is_saved_again_replaces_nothing_before_it_is_there(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    save(tmp_path, 1)  # left before its evaluation, and saved once more after it
    assert names(folder) == ["step_00000001", "step_00000001-2"]
    truncate(folder / "step_00000001-2")
    found = load(tmp_path)
    assert found is not None
    assert names(folder) == ["damaged_step_00000001-2", "step_00000001"]


def test_the_newest_of_a_step_is_kept_however_often_it_is_saved(tmp_path: Path) -> None:
    for _ in range(4):
        folder = save(tmp_path, 1, keep_checkpoints=1)
    assert names(folder) == ["step_00000001-4"]
    assert json.loads((folder / POINTER).read_text())["name"] == "step_00000001-4"


def test_every_nth_is_kept_though_its_save_came_late(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, 3, 4, 7, 8, 9, keep_checkpoints=1, keep_checkpoint_every=2)
    assert names(folder) == [f"step_{step:08d}" for step in (3, 4, 7, 8, 9)]


def test_no_checkpoint_tells_of_weights_that_could_not_be_written(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with opened(tmp_path) as checkpoints:
        checkpoints.keep_weights({"weight": torch.ones(1)}, tmp_path / "not_there" / "best.safetensors")
        checkpoints.save(2, 2, state_of(2), sync=lambda: None)
        with pytest.raises(RunError, match=r"best\.safetensors could not be written"):
            checkpoints.wait()
    assert names(tmp_path / "checkpoints") == ["step_00000001"]


def test_what_a_kill_left_is_swept_up(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / ".saving_00000002_dead").mkdir()
    (tmp_path / ".best.safetensors.dead").touch()
    assert load(tmp_path) is not None
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_replaced_attempt_publishes_nothing(tmp_path: Path) -> None:
    class Replaced(RunError):
        pass

    def refuse() -> None:
        raise Replaced

    checkpoints = Checkpoints(tmp_path, TrainingConfig(), CPU, refuse)
    checkpoints.save(1, None, state_of(1), sync=lambda: None)
    with pytest.raises(Replaced):
        checkpoints.wait()
    checkpoints.close()
    assert names(tmp_path / "checkpoints") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no right to mount a file system here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_told_and_harms_no_earlier_checkpoint(small_disk: Path) -> None:
    save(small_disk, 1)
    with opened(small_disk) as checkpoints:
        checkpoints.save(2, None, state_of(2, size=200_000), sync=lambda: None)
        with pytest.raises(RunError, match=r"checkpoint of step 2 could not be written: No space left.*\n.*step 1"):
            checkpoints.wait()
    assert names(small_disk / "checkpoints") == ["step_00000001"]
    found = load(small_disk)
    assert found is not None
    assert found["step"] == 1
    save(small_disk, 2)  # there is room again: what was written in part is gone
    assert names(small_disk / "checkpoints") == ["step_00000001", "step_00000002"]


def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    save(small_disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with opened(small_disk) as checkpoints, pytest.raises(RunError, match="Read-only file system"):
        checkpoints.save(2, None, state_of(2), sync=lambda: None)
