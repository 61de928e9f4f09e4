"""Run folder and mirror with a real SQLite store: nothing lost, nothing twice, no race at the start."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hrm_lab.config import TrackingConfig
from hrm_lab.mirror.folder import Mirror, sync
from hrm_lab.progress import PlainProgress
from hrm_lab.run_folder import COMPLETED, RUNNING, Point, RunFolder, State
from hrm_lab.tracking.journal import Journal, JournalRecorder, read_journal
from hrm_lab.tracking.store import Store
from tests.small import small_config


def prepared(folder: Path) -> RunFolder:
    """A run folder as a training leaves it before its first step."""
    config = small_config(folder)
    config.tracking.enabled = True
    run = RunFolder.of(config)
    run.prepare(config, Point("small"))
    run.write_provenance()
    run.state = State(RUNNING)
    return run


def attempt(run: RunFolder, begin: int, end: int) -> None:
    """The journal of an attempt from one step to another, which goes on from a checkpoint where it begins later."""
    recorder = JournalRecorder(Journal(run.journal), PlainProgress(), run.path)
    recorder.start(begin, 10, high_water(run, begin) if begin else None)
    for step in range(begin + 1, end + 1):
        recorder.metrics(step, {"train/lm_loss": step / 10})
        if step % 4 == 0:
            recorder.metrics(step, {"eval/accuracy": step / 100})
    recorder.journal.close()


def high_water(run: RunFolder, step: int) -> int:
    """What a checkpoint of that step knows of the journal: its bytes up to there."""
    lines = run.journal.read_bytes().splitlines(keepends=True)
    beyond = (n for n, line in enumerate(lines) if line.endswith(b"\n") and json.loads(line).get("step", 0) > step)
    return sum(len(line) for line in lines[: next(beyond, len(lines))])


def test_a_replayed_run_stores_every_value_once(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    attempt(run, 0, 7)  # killed after step 7, with a checkpoint of step 3
    run.journal.write_text(run.journal.read_text() + '{"step": 8, "metr')
    follower = Mirror(run)
    follower.sync()
    attempt(run, 3, 10)
    sync(run)
    follower.sync()  # one that lives through the restart
    attempt(run, 10, 10)
    run.state = State(COMPLETED, best_step=8)
    (run.path / "tracking.json").unlink()  # killed before it could remember the run: found again by its signature
    sync(run)
    sync(run)
    store = Store.open(run.config().tracking, run.path.parents[1])
    assert run.run_id
    assert store.history(run.run_id, "train/lm_loss") == [(step, step / 10) for step in range(1, 11)]
    assert store.history(run.run_id, "eval/accuracy") == [(4, 0.04), (8, 0.08)]
    (record,) = store.runs([run.run_id])
    assert record.status == "FINISHED"
    assert record.tags["hrm_lab.best_step"] == "8"
    steps = [entry["step"] for entry in read_journal(run.journal) if "metrics" in entry]
    assert steps == sorted(steps)
    assert steps.count(5) == 1


def test_a_replaced_attempts_mirror_sends_nothing(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    attempt(run, 0, 2)
    sync(run)
    attempt(run, 0, 4)
    Mirror(run, may_write=lambda: False).sync()
    store = Store.open(run.config().tracking, run.path.parents[1])
    assert run.run_id
    assert [step for step, _ in store.history(run.run_id, "train/lm_loss")] == [1, 2]


def test_processes_that_open_a_fresh_store_at_once_share_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hrm_lab.config import TrackingConfig;"
        "from hrm_lab.tracking.store import Store; store = Store.open(TrackingConfig(), Path(sys.argv[1]));"
        "print(store.experiment_id, store.create_run('run', {}, None))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    lines = [process.communicate(timeout=120)[0].split() for process in processes]
    store = Store.open(TrackingConfig(), tmp_path)
    assert store.experiment_id != "0"  # MLflow's "Default", where racing clients put their runs
    assert {experiment for experiment, _ in lines} == {store.experiment_id}
    assert {record.run_id for record in store.runs(run_id for _, run_id in lines)} == {run for _, run in lines}


def test_what_comes_again_has_its_stamps_and_what_the_clock_said(tmp_path: Path) -> None:
    """So a request that is still on its way when a run is killed, once or twice, does no harm when it arrives."""
    path, water = tmp_path / "journal.jsonl", 0

    def attempt(begin: int, end: int) -> list[dict[str, Any]]:
        journal = Journal(path)
        journal.begin(begin, 4, water or None)
        for step in range(begin + 1, end + 1):
            journal.append(step, metrics={"train/loss": step / 10, "perf/clock": time.perf_counter()})
            time.sleep(0.002)
            journal.append(step, metrics={"eval/accuracy": step / 100})
        journal.close()
        return [entry for entry in read_journal(path) if "metrics" in entry]

    first = attempt(0, 4)
    water = sum(len(line) for line in path.read_bytes().splitlines(keepends=True)[:5])  # up to step 2
    assert attempt(2, 3) == first[:6]
    assert attempt(2, 4) == first
    water = 0  # its checkpoint is lost
    assert attempt(0, 4) == first
