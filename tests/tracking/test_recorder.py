"""Journal and store with a real SQLite store: nothing lost, nothing twice, no race at the start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hrm_lab.config import TrackingConfig
from hrm_lab.tracking.recorder import Journal, TrackingRecorder, read_journal
from hrm_lab.tracking.store import Store


def test_a_replayed_run_stores_every_value_once(tmp_path: Path) -> None:
    store = Store.open(TrackingConfig(), tmp_path)
    run_id = store.create_run("run", {}, None)
    journal = tmp_path / "journal.jsonl"

    def attempt(begin: int, end: int) -> None:
        recorder = TrackingRecorder(Journal(journal), store, run_id, flush_interval=0.05)
        recorder.start(begin, 10)
        for step in range(begin + 1, end + 1):
            recorder.metrics(step, {"train/lm_loss": step / 10})
            if step % 4 == 0:
                recorder.metrics(step, {"eval/accuracy": step / 100})
        assert recorder.close()

    attempt(0, 7)  # killed after step 7, with a checkpoint of step 3
    journal.write_text(journal.read_text() + '{"step": 8, "metr')
    attempt(3, 10)
    attempt(10, 10)
    assert store.history(run_id, "train/lm_loss") == [(step, step / 10) for step in range(1, 11)]
    assert store.history(run_id, "eval/accuracy") == [(4, 0.04), (8, 0.08)]
    steps = [entry["step"] for entry in read_journal(journal) if "metrics" in entry]
    assert steps == sorted(steps)
    assert steps.count(5) == 1


def test_what_the_store_missed_is_sent_by_the_next_attempt(tmp_path: Path) -> None:
    store = Store.open(TrackingConfig(), tmp_path)
    run_id = store.create_run("run", {}, None)
    untracked = TrackingRecorder(Journal(tmp_path / "journal.jsonl"), None, None, flush_interval=1.0)
    untracked.start(0, 4)
    untracked.metrics(2, {"train/lm_loss": 0.5})
    untracked.close()
    recorder = TrackingRecorder(Journal(tmp_path / "journal.jsonl"), store, run_id, flush_interval=1.0)
    recorder.start(2, 4)
    assert recorder.close()
    assert store.history(run_id, "train/lm_loss") == [(2, 0.5)]


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
