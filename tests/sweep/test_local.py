"""A real sweep of real trainings: Hydra multirun, submitit, MLflow, a point that fails, a kill, a second run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hrm_lab.analysis.frames import load_curves, load_sweep
from hrm_lab.config import TrackingConfig
from hrm_lab.errors import ConfigError
from hrm_lab.launchers import LocalLauncherConfig
from hrm_lab.manifest import load_manifest
from hrm_lab.run_folder import COMPLETED, FAILED
from hrm_lab.sweep.local import job_limit
from hrm_lab.tracking.journal import read_journal
from hrm_lab.tracking.store import Store
from tests.small import hrm_lab, small_config

SMALL = [
    "data.num_train=64",
    "data.num_test=32",
    "model.hidden_size=16",
    "model.halt_max_steps=2",
    "training.epochs=4",
    "training.eval_interval=2",
    "training.global_batch_size=16",
    "training.log_interval=2",
    "training.checkpoint_interval=1",
    "name=try",
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A grid of two learning rates, one of them absurd, in a folder of its own."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = [*SMALL, "hydra.sweeper.params=null", "optim.lr=1e-3,1e38"]
    return folder, hrm_lab(folder, "sweep", "demo", *arguments)


def test_a_failed_point_is_told_and_harms_no_other(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = swept
    assert done.returncode == 1, done.stderr
    frame = load_sweep(load_manifest(folder / "outputs", "try")).set_index("point")
    assert frame.loc["lr=0.001", "state"] == COMPLETED
    assert frame.loc["lr=1e+38", "state"] == FAILED
    assert "TrainingDiverged" in frame.loc["lr=1e+38", "detail"]
    log = Path(frame.loc["lr=1e+38", "folder"]) / "log.txt"
    assert "Traceback" in log.read_text()
    for text in ("lr=1e+38", "TrainingDiverged", str(log), "samples", "learning_curves.png", "make ui"):
        assert text in done.stdout + done.stderr, text


def test_the_store_holds_a_parent_and_a_child_for_each_point(
    swept: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = swept
    manifest = load_manifest(folder / "outputs", "try")
    frame = load_sweep(manifest).set_index("point")
    store = Store.open(TrackingConfig(), folder / "outputs")
    records = {record.name: record for record in store.runs(frame["run_id"])}
    good, bad = records["lr=0.001"], records["lr=1e+38"]
    parent = store.sweep_run("try", "")
    assert {record.tags["mlflow.parentRunId"] for record in (good, bad)} == {parent}
    assert (good.status, bad.status) == ("FINISHED", "FAILED")
    assert "TrainingDiverged" in bad.tags["hrm_lab.reason"]
    assert good.params["optim.lr"] == "0.001"
    assert good.params["model.H_cycles"] == "2"
    for tag in ("hrm_lab.signature", "hrm_lab.seed", "hrm_lab.data_fingerprint", "mlflow.note.content"):
        assert good.tags[tag]
    # Sixteen steps: logged every two, evaluated before the first and after each half.
    assert [step for step, _ in store.history(good.run_id, "train/lm_loss")] == list(range(2, 17, 2))
    assert [step for step, _ in store.history(good.run_id, "eval/exact_accuracy")] == [0, 8, 16]
    artifacts = folder / "outputs/artifacts" / good.run_id / "artifacts"
    found = {str(file.relative_to(artifacts)) for file in artifacts.rglob("*") if file.is_file()}
    assert found >= {
        "config/config.yaml",
        "config/overrides.yaml",
        "code/provenance.json",
        "code/requirements.txt",
        "data/dataset.json",
        "weights/best.safetensors",
        "weights/last.safetensors",
        "figures/learning_curves.png",
        "log.txt",
    }
    assert set(load_curves(manifest)["point"]) >= {"lr=0.001"}
    of_sweep = folder / "outputs/artifacts" / parent / "artifacts"
    assert (of_sweep / "report/report.html").read_text() == (manifest.folder / "report.html").read_text()
    assert (of_sweep / "figures/learning_curves.png").exists()


def test_running_it_again_leaves_what_is_done_alone(swept: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = swept
    arguments = [*SMALL, "hydra.sweeper.params=null", "optim.lr=1e-3,2e-3"]
    done = hrm_lab(folder, "sweep", "demo", *arguments)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 points to run" in done.stderr
    assert len(load_sweep(load_manifest(folder / "outputs", "try"))) == 2
    again = hrm_lab(folder, "train", "+experiment=demo", *SMALL, "optim.lr=1e-3")
    assert again.returncode == 0, again.stderr
    assert "trained already" in again.stdout


def _checkpoints(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("outputs/runs/*/checkpoints/step_*")]


def test_a_killed_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    arguments = ["train", "+experiment=demo", *SMALL, "training.epochs=400", "training.eval_interval=200"]
    command = [sys.executable, "-m", "hrm_lab.cli", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(name > "step_00000002" for name in _checkpoints(tmp_path)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    second = hrm_lab(tmp_path, *arguments)
    assert second.returncode == 1
    assert "another process is training this run" in second.stderr
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shorter = [*arguments, "training.epochs=400"]
    third = subprocess.Popen(
        [sys.executable, "-m", "hrm_lab.cli", *shorter],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert third.stderr is not None
    began = next(line for line in third.stderr if "training from step" in line)
    os.killpg(third.pid, signal.SIGINT)
    third.wait(timeout=60)
    assert int(began.split("from step ")[1].split()[0]) >= 3
    (journal,) = tmp_path.glob("outputs/runs/*/journal.jsonl")
    steps = [entry["step"] for entry in read_journal(journal) if "train/lm_loss" in entry.get("metrics", {})]
    assert steps == list(range(2, 2 * len(steps) + 1, 2))


def test_an_interrupted_training_saves_the_step_it_has_reached(tmp_path: Path) -> None:
    arguments = ["train", "+experiment=demo", *SMALL, "training.epochs=400", "training.eval_interval=200"]
    command = [sys.executable, "-m", "hrm_lab.cli", *arguments, "training.checkpoint_interval=null"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(entry.get("step", 0) > 3 for file in _journals(tmp_path) for entry in read_journal(file)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    (checkpoint,) = _checkpoints(tmp_path)
    (journal,) = _journals(tmp_path)
    last = max(entry.get("step", 0) for entry in read_journal(journal))
    assert last <= int(checkpoint.removeprefix("step_")) <= last + 2


def _journals(folder: Path) -> list[Path]:
    return list(folder.glob("outputs/runs/*/journal.jsonl"))


def test_as_many_jobs_as_the_cores_allow(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    config = small_config(tmp_path)
    assert job_limit([config], LocalLauncherConfig()) == cores
    config.training.threads = cores
    assert job_limit([config], LocalLauncherConfig()) == 1
    assert job_limit([config], LocalLauncherConfig(max_parallel_jobs=3)) == 3
    with pytest.raises(ConfigError, match="max_parallel_jobs=0"):
        job_limit([config], LocalLauncherConfig(max_parallel_jobs=0))
    with pytest.raises(ConfigError, match=r"training\.global_batch_size=8"):
        job_limit([config], LocalLauncherConfig(processes_per_job=3))


def test_a_gpu_that_no_point_gets_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "--on local_gpu" in hrm_lab(tmp_path, "sweep", "demo", *SMALL, "hydra.launcher.dry_run=true").stderr
    told = hrm_lab(tmp_path, "sweep", "demo", *SMALL, "--on", "local_gpu", "hydra.launcher.dry_run=true")
    assert told.returncode == 0, told.stderr
    assert "GPU" not in told.stderr
