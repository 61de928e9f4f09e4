"""Run folder and mirror with a real SQLite store: nothing lost, nothing twice, no race at the start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrm_lab import run_folder
from hrm_lab.config import TrackingConfig
from hrm_lab.data.build import ensure_dataset
from hrm_lab.decision import Decision
from hrm_lab.errors import RunError
from hrm_lab.manifest import load_manifest, make_manifest
from hrm_lab.mirror import pictures
from hrm_lab.mirror.folder import Mirror, sync, sync_or_warn
from hrm_lab.progress import PlainProgress
from hrm_lab.run_folder import COMPLETED, FAILED, LOST, PENDING, RUNNING, Point, RunFolder, State
from hrm_lab.sweep import control
from hrm_lab.sweep.closing import open_sweep
from hrm_lab.tracking.journal import STOPPING_REASON, UNSTOPPED, Journal, JournalRecorder, read_journal
from hrm_lab.tracking.logged import find
from hrm_lab.tracking.store import Store
from tests.small import small_config


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a store that several tests share: to make one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    return Store.open(TrackingConfig(), folder).uri


def prepared(folder: Path, uri: str | None = "", seed: int = 0) -> RunFolder:
    """A run folder as a training leaves it before its first step.

    Args:
        uri: of its store; empty for one of its own, None for none.
    """
    config = small_config(folder)
    config.seed, config.tracking.enabled, config.tracking.uri = seed, uri is not None, uri or None
    run = RunFolder.of(config)
    run.prepare(config, Point("small"))
    run.write_provenance()
    run.state = State(RUNNING)
    return run


def store_of(run: RunFolder, uri: str | None = None) -> Store:
    return Store.open(TrackingConfig(uri=uri or run.config().tracking.uri), run.path.parents[1])


def attempt(run: RunFolder, begin: int, end: int, scale: int = 1, arrays: bool = False) -> None:
    """The journal of an attempt from one step to another, which goes on from a checkpoint where it begins later."""
    recorder = JournalRecorder(Journal(run.journal), PlainProgress(), run.path)
    recorder.start(begin, 10, high_water(run, begin) if begin else None)
    for step in range(begin + 1, end + 1):
        recorder.metrics(step, {"train/lm_loss": scale * step / 10})
        if arrays:
            recorder.arrays(step, "evaluations", {"step": np.array(step)})
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


def test_a_replaced_attempts_mirror_sends_nothing(tmp_path: Path, uri: str) -> None:
    run = prepared(tmp_path, uri, seed=8)
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
    attempt(2, 2)
    water = 0  # it begins afresh, maybe with other code: nothing comes again
    stamps = {entry["ms"] for entry in first}
    assert not stamps & {entry["ms"] for entry in attempt(0, 4)}
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_begins_afresh_is_another_one(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other code and other numbers; whoever follows it must not mix the two."""
    run = prepared(tmp_path, uri, seed=1)
    follower = Mirror(run)
    attempt(run, 0, 7)
    run.state = State(FAILED, "no first checkpoint")
    follower.sync()
    first, store = run.run_id, store_of(run)
    run.state = State(PENDING)
    follower.sync()  # waits: nothing to tell
    assert [found.status for found in store.find(run.path.name)] == ["FAILED"]
    new = replace(run.provenance(), commit="f" * 40, diff="", host="elsewhere")
    monkeypatch.setattr(run_folder, "collect", lambda: new)
    run.write_provenance()
    run.state = State(RUNNING)
    follower.sync()  # before there is a new journal: the old one is of no use
    attempt(run, 0, 2, scale=2)
    follower.sync()
    (record,) = store.find(run.path.name)
    assert record.run_id == run.run_id != first
    assert store.history(record.run_id, "train/lm_loss") == [(1, 0.2), (2, 0.4)]
    assert (record.tags["mlflow.source.git.commit"], record.tags["hrm_lab.host"]) == ("f" * 40, "elsewhere")
    assert (record.tags["hrm_lab.dirty"], store.text(record.run_id, "code/uncommitted.patch")) == ("false", None)


def test_folders_of_one_signature_are_runs_of_their_own(tmp_path: Path, uri: str) -> None:
    """Of two users of one server, say."""
    runs = [prepared(tmp_path / user, uri, seed=2) for user in ("ann", "bob")]
    for run, steps in zip(runs, (3, 5), strict=True):
        attempt(run, 0, steps)
        sync(run)
        run.state = State(COMPLETED)
        (run.path / "tracking.json").unlink()  # killed before it could remember
    sync(runs[1])
    store, signature = store_of(runs[0]), runs[0].path.name
    assert {found.status for found in store.find(signature)} == {"RUNNING", "FINISHED"}
    sync(runs[0])
    ids = {run.run_id or "" for run in runs}
    assert {found.run_id for found in store.find(signature)} == ids
    assert [len(store.history(run.run_id or "", "train/lm_loss")) for run in runs] == [3, 5]
    with pytest.raises(RunError, match="2 runs have this name"):
        find(store, signature)


def test_files_hold_up_nothing(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither one that is gone here, nor one that the server refuses; and each is sent once."""
    run = prepared(tmp_path, uri, seed=3)
    dataset = ensure_dataset(run.config().data, tmp_path / "data")
    run.write_dataset(dataset)
    shutil.rmtree(dataset.folder)  # of another machine
    attempt(run, 0, 2, arrays=True)
    (run.path / "evaluations/step_00000001.npz").unlink()
    for name in ("best.safetensors", "last.safetensors", "log.txt"):
        (run.path / name).write_bytes(b"weights")
    run.state = State(COMPLETED)
    really, sent = Store.log_file, list[str]()

    def log_file(store: Store, run_id: str, file: Path, folder: str | None = None) -> None:
        if file.name == refused:
            raise OSError("413 Request Entity Too Large")
        sent.append(f"{folder or ''}/{file.name}")
        really(store, run_id, file, folder)

    monkeypatch.setattr(Store, "log_file", log_file)
    monkeypatch.setattr("hrm_lab.mirror.folder.weights_hash", lambda _: "hash")
    monkeypatch.setattr(pictures, "draw", lambda *_: [])
    refused = "last.safetensors"
    with pytest.raises(OSError, match="413"):
        sync(run)
    assert [found.status for found in store_of(run).find(run.path.name)] == ["FINISHED"]
    assert "step_00000001.npz is gone" in caplog.text
    refused = ""
    sync(run)
    sync(run)
    places = ["data/dataset.json", "evaluations/step_00000002.npz", "/log.txt", "figures/learning_curves.png"]
    assert sent == [*places, "weights/best.safetensors", "weights/last.safetensors"]


def test_a_decision_that_is_dropped_is_no_longer_shown(tmp_path: Path, uri: str) -> None:
    """Of a run that was killed between its stop and the checkpoint, or diverged and is tried again."""
    run = prepared(tmp_path, uri, seed=4)
    attempt(run, 0, 3)
    recorder = JournalRecorder(Journal(run.journal), PlainProgress(), run.path)
    recorder.start(3, 10, high_water(run, 3))
    recorder.decision(Decision(4, "patience", True, "no better"))
    recorder.journal.close()
    sync(run)
    store, run_id = store_of(run), run.run_id or ""
    assert store.runs([run_id])[0].tags[STOPPING_REASON] == "no better"
    attempt(run, 3, 5)
    sync(run)  # by another process
    assert not set(UNSTOPPED) & set(store.runs([run_id])[0].tags)
    assert json.loads(store.text(run_id, "stopping/decisions.json") or "") == []


def test_nothing_is_begun_after_a_deadline(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, uri, seed=5)
    attempt(run, 0, 4, arrays=True)
    assert sync_or_warn(run, deadline=time.monotonic()) == {}
    assert run.run_id is None
    run.state, drawn = State(LOST), list[str]()
    monkeypatch.setattr(pictures, "draw", lambda _, place: drawn.append(place) or [])
    Mirror(run, may_write=lambda: len(drawn) < 2).sync()
    assert len(drawn) == 2


def test_what_is_not_tracked_is_sent_when_a_store_is_named(tmp_path: Path, uri: str) -> None:
    """The runs of a sweep, and the sweep's own."""
    run = prepared(tmp_path, None, seed=6)
    attempt(run, 0, 3)
    run.state = State(COMPLETED)
    manifest = make_manifest([run.config()], [[]], "local", {})
    run.prepare(run.config(), replace(run.point(), sweep=manifest.name))
    run.state = State(COMPLETED)
    manifest.save()
    outputs = tmp_path / "outputs"
    _, untold = control.sync("small", outputs, None, lambda *_: None)
    assert untold == {"off": 1}
    took, untold = control.sync("small", outputs, uri, lambda *_: None)
    assert (took["values"], untold) == (3, {})
    store = Store.open(TrackingConfig(uri=uri), outputs)
    (record,) = store.members("small")
    (parent,) = store.runs([store.sweep_run("small", "")])
    assert record.tags["mlflow.parentRunId"] == parent.run_id
    assert (record.status, parent.status) == ("FINISHED", "FINISHED")


def test_a_sweep_is_opened_in_the_store_that_was_asked_for_last(tmp_path: Path, uri: str) -> None:
    run = prepared(tmp_path, "http://127.0.0.1:1", seed=7)  # with what was asked for first
    config = run.config()
    config.name, config.tracking = "moved", TrackingConfig(uri=uri)
    manifest = make_manifest([config], [[]], "local", {})
    manifest.save()
    open_sweep(load_manifest(tmp_path / "outputs", "moved"))
    assert store_of(run, uri).find("moved")


def test_what_follows_the_save_of_its_step_comes_again_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100, 200))
    monkeypatch.setattr("hrm_lab.tracking.journal.time.time", lambda: next(clock))
    path = tmp_path / "journal.jsonl"
    water = None
    for wall in (1.0, 2.0, 3.0):  # killed twice while the end was judged
        journal = Journal(path)
        journal.begin(8 if water else 0, 8, water)
        if water is None:
            journal.append(8, metrics={"eval/accuracy": 0.5})
            water = journal.high_water()
        journal.append(8, metrics={"final/accuracy": 0.6, "perf/wall_s": wall})
        journal.close()
        entries = [entry for entry in read_journal(path) if "metrics" in entry]
        assert [(entry["ms"], entry["metrics"]) for entry in entries] == [
            (100_000, {"eval/accuracy": 0.5}),
            (101_000, {"final/accuracy": 0.6, "perf/wall_s": 1.0}),
        ]
