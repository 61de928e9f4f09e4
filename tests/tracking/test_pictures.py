"""What a run shows besides its numbers: pictures, the machine, and the params that matter; with a real store."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from hrm_lab.config import Config, identity_dict
from hrm_lab.files import write_arrays
from hrm_lab.mirror.folder import Mirror, sync
from hrm_lab.mirror.params import with_a_say
from hrm_lab.mirror.pictures import draw
from hrm_lab.mirror.system import Gauges, watched
from hrm_lab.progress import PlainProgress
from hrm_lab.run_folder import COMPLETED, RunFolder, State
from hrm_lab.tracking.journal import Journal, JournalRecorder, read_journal
from hrm_lab.tracking.store import Store
from tests.analysis.test_boards import evaluation
from tests.tracking.test_mirror import prepared


def store_of(run: RunFolder) -> Store:
    return Store.open(run.config().tracking, run.path.parents[1])


def files(run: RunFolder, folder: str) -> set[str]:
    """Artifacts by their path."""
    assert run.run_id
    return {file.path for file in store_of(run).client.list_artifacts(run.run_id, folder)}


def test_evaluations_are_drawn_once_and_a_bad_one_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(tmp_path)
    recorder = JournalRecorder(Journal(run.journal), PlainProgress(), run.path)
    recorder.start(0, 10, None)
    for step in (2, 4):
        recorder.arrays(step, "evaluations", evaluation(2, 2, 2))
    recorder.arrays(6, "evaluations", {})
    recorder.metrics(6, {"eval/accuracy": 0.5})
    mirror = Mirror(run)
    mirror.sync()
    assert files(run, "boards") == {"boards/step_00000002.png"}  # while it runs, one at a time
    assert len(files(run, "evaluations")) == 3
    (run.path / "boards/step_00000002.png").unlink()
    run.state = State(COMPLETED)
    sync(run)  # by another process
    assert files(run, "boards") == {"boards/step_00000002.png", "boards/step_00000004.png"}
    assert not (run.path / "boards/step_00000002.png").exists()
    assert "step_00000006.npz: cannot be drawn" in caplog.text
    recorder.start(6, 10, recorder.high_water())  # goes on
    recorder.arrays(8, "evaluations", evaluation(2, 2, 2))
    (run.path / "evaluations/step_00000006.npz").unlink()
    caplog.clear()
    mirror.sync()
    assert "boards/step_00000008.png" in files(run, "boards")
    assert files(run, "figures") >= {"figures/act_depth.png", "figures/difficulty.png"}
    assert not caplog.text  # what could not be drawn is not tried again
    recorder.journal.close()


def test_one_unreadable_file_takes_no_other_picture_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    for step in (2, 4, 6):
        write_arrays(tmp_path / f"evaluations/step_{step:08d}.npz", evaluation(2, 2, 2))
    (tmp_path / "evaluations/step_00000004.npz").write_bytes(b"PK torn")
    drawn = draw(folder, "evaluations/step_00000006.npz")
    assert [path.name for path in drawn] == ["step_00000006.png", "difficulty.png", "act_depth.png"]
    assert "step_00000004.npz: cannot be drawn" in caplog.text
    assert "step_00000006.npz" not in caplog.text


class Nvml(ModuleType):
    """A driver with two GPUs, which tell no power: there is no such machine here."""

    class NVMLError(Exception):
        """What NVML says of a gauge that a GPU does not have."""

    nvmlInit = staticmethod(lambda: None)
    nvmlDeviceGetCount = staticmethod(lambda: 2)
    nvmlDeviceGetHandleByIndex = staticmethod(lambda index: index)
    nvmlDeviceGetHandleByUUID = staticmethod({"GPU-b": 1}.__getitem__)
    nvmlDeviceGetUtilizationRates = staticmethod(lambda gpu: SimpleNamespace(gpu=50 + gpu))
    nvmlDeviceGetMemoryInfo = staticmethod(lambda _: SimpleNamespace(used=1e9, total=4e9))

    @classmethod
    def nvmlDeviceGetPowerUsage(cls, _: int) -> float:
        raise cls.NVMLError


@pytest.mark.parametrize(("visible", "loads"), [(None, [50, 51]), ("1", [51]), ("GPU-b,0", [51, 50]), ("", [])])
def test_each_gauge_of_the_gpus_that_are_used(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, loads: list[int]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml("pynvml"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    values = {key: value for key, value in Gauges(os.getpid()).read().items() if "/gpu_" in key}
    assert [values[f"system/gpu_{index}_utilization_percentage"] for index in range(len(loads))] == loads
    assert len(values) == 3 * len(loads)


def test_the_machine_is_looked_at_and_every_look_is_stored_once(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    for last in (2, 4):
        with watched(run, 0.02, os.getpid(), lambda: True):
            while max((entry.get("step", 0) for entry in read_journal(run.system)), default=0) < last:
                time.sleep(0.02)
        sync(run)
        with run.system.open("a") as file:
            file.write('{"step": 99, "met')  # killed in the middle of a line
    with watched(run, 0.02, os.getpid(), lambda: False):  # of an attempt that was replaced
        time.sleep(0.1)
    with watched(run, None, os.getpid(), lambda: True):
        pass
    sync(run)
    looks = [entry for entry in read_journal(run.system) if "metrics" in entry]
    assert [entry["step"] for entry in looks] == list(range(1, len(looks) + 1))
    assert run.run_id
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "training_memory_megabytes"):
        key = f"system/{name}"
        history = store_of(run).history(run.run_id, key)
        assert history == [(entry["step"], entry["metrics"][key]) for entry in looks]
    assert not any(key.startswith("system/") for entry in read_journal(run.journal) for key in entry.get("metrics", ()))


def test_params_are_the_settings_that_have_a_say() -> None:
    everything = identity_dict(Config())
    shown = with_a_say(everything)
    assert 30 <= len(shown) <= 45
    assert {"model.H_cycles", "optim.lr", "training.epochs", "stopping.metric", "seed"} <= shown.keys()
    assert not any(value in (None, "none") for value in shown.values())
    changed = with_a_say(everything | {"stopping.pruner": "asha", "stopping.patience": 3})
    added = changed.keys() - shown.keys()
    assert {"stopping.pruner", "stopping.patience", "stopping.min_delta", "stopping.reduction_factor"} <= added
    assert "stopping.overfit_drop" not in added
