"""Comparison with siblings, in real processes: a sweep on a real store, and a server that never answers."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hrm_lab.analysis.decisions import decisions
from hrm_lab.attempts import Job
from hrm_lab.config import StoppingConfig, TrackingConfig
from hrm_lab.errors import ConfigError
from hrm_lab.manifest import load_manifest, make_manifest
from hrm_lab.mirror import process
from hrm_lab.mirror.siblings import ANSWER, AskedSiblings, histories
from hrm_lab.run_folder import COMPLETED, RUNNING, STOPPED, Point, RunFolder, State
from hrm_lab.stopping.pruning import CUT, DONE, History
from hrm_lab.stopping.rules import Rules
from hrm_lab.sweep.control import resume
from hrm_lab.tracking.journal import STOPPING_REASON, STOPPING_RULE, read_journal
from hrm_lab.tracking.store import MEMBER, SIGNATURE, RunRecord, Store
from hrm_lab.validation import validate
from tests.small import free_port, hrm_lab, small_config

# Sixteen steps, evaluated after eight; one after the other; at the first evaluation it is the best that goes on.
SWEEP = [
    "hydra.sweeper.params=null",
    "hydra.launcher.max_parallel_jobs=1",
    "name=try",
    "data.num_train=64",
    "data.num_test=32",
    "model.hidden_size=16",
    "model.halt_max_steps=2",
    "training.epochs=4",
    "training.eval_interval=2",
    "training.global_batch_size=16",
    "optim.lr_warmup_steps=0",
    "stopping=asha",
    "stopping.metric=eval/lm_loss",
    "stopping.mode=min",
    "stopping.min_peers=1",
    "stopping.ask_timeout=300",
    "optim.lr=1e-2,1e-6",
]
Run = tuple[RunFolder, RunRecord]


def look(folder: Path) -> tuple[Store, dict[str, Run]]:
    store = Store.open(TrackingConfig(), folder / "outputs")
    records = {record.name: record for record in store.members("try")}
    return store, {
        entry.label: (run, records[entry.label]) for entry, run in load_manifest(folder / "outputs", "try").runs()
    }


def test_a_run_is_stopped_by_its_siblings_explained_and_promoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    swept = hrm_lab(tmp_path, "sweep", "demo", *SWEEP)
    assert swept.returncode == 0, swept.stderr
    store, runs = look(tmp_path)
    assert [run.status for run, _ in runs.values()] == [COMPLETED, STOPPED]
    folder, record = runs["lr=1e-06"]
    values = dict(store.history(record.run_id, "eval/lm_loss"))
    best = dict(store.history(runs["lr=0.01"][1].run_id, "eval/lm_loss"))
    (told,) = json.loads(store.text(record.run_id, "stopping/decisions.json") or "")
    assert told["evidence"]["peers"] == {"lr=0.01": best[8]}
    assert (told["evidence"]["value"], told["evidence"]["threshold"]) == (values[8], best[8])
    assert record.tags[STOPPING_REASON] == told["reason"] == (folder.state or State("")).detail
    assert (record.tags[STOPPING_RULE], record.status) == ("asha", "FINISHED")
    assert states(store) == [CUT, DONE]

    manifest = load_manifest(tmp_path / "outputs", "try")
    with folder.attempts.own(Job(), 8, lambda _: False):  # its mirror still sends what it has
        resume(manifest, dry_run=True, promote=1)
    assert "lr=1e-06: its job is not over yet" in caplog.text
    stopped = folder.state
    with pytest.raises(ConfigError, match="7 processes"):  # refused before anything is started
        resume(replace(manifest, settings=manifest.settings | {"processes_per_job": 7}), dry_run=False, promote=1)
    assert (folder.state, folder.promotion) == (stopped, None)
    resume(manifest, dry_run=True, promote=2)
    assert "to be promoted: 2; stopped by a comparison with their siblings: 1" in caplog.text
    assert "number 1 of 1 stopped points" in caplog.text
    assert folder.status == STOPPED
    promoted = hrm_lab(tmp_path, "resume", "try", "--promote", "1")
    assert promoted.returncode == 0, promoted.stderr
    store, runs = look(tmp_path)
    assert [run.status for run, _ in runs.values()] == [COMPLETED, COMPLETED]
    folder, record = runs["lr=1e-06"]
    assert record.status == "FINISHED"
    assert not {STOPPING_REASON, STOPPING_RULE} & set(record.tags)
    made = [(each.decision.rule, each.decision.stops) for each in decisions(load_manifest(tmp_path / "outputs", "try"))]
    assert made == [("asha", False), ("asha", True), ("promotion", False)]
    assert [each["rule"] for each in json.loads(store.text(record.run_id, "stopping/decisions.json") or "")] == [
        "asha",
        "promotion",
    ]
    assert [step for step, _ in store.history(record.run_id, "eval/lm_loss")] == [0, 8, 16]
    logged = Counter((entry["step"], key) for entry in read_journal(folder.journal) for key in entry.get("metrics", {}))
    assert set(logged.values()) == {1}
    assert states(store) == [DONE, DONE]
    # A twin of one signature that has reported nothing hides nobody.
    store.create_run("lr=1e-06", {SIGNATURE: folder.path.name, f"{MEMBER}try": "true"}, None)
    assert states(store) == [DONE, DONE]


def states(store: Store) -> list[str]:
    return sorted(history.state for history in histories(store, "try", "eval/lm_loss").values())


def test_a_sweep_that_is_not_tracked_has_no_siblings(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.stopping = StoppingConfig(pruner="asha")
    validate(config)  # alone, or when it is reproduced, it is compared with nobody
    with pytest.raises(ConfigError, match=r"stopping\.pruner=asha: siblings are known through the tracking store"):
        make_manifest([config], [[]], "local", {})


def test_a_server_that_never_answers_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HURRIED_S", 0.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = small_config(tmp_path)
        config.tracking = TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", system_interval=None)
        config.stopping = StoppingConfig(pruner="median", min_peers=1, ask_timeout=0.2)
        folder = RunFolder.of(config)
        folder.prepare(config, Point("small", sweep="try"))
        folder.write_provenance()
        folder.state = State(RUNNING)
        with process.mirrored(folder, 1, lambda: True) as siblings:
            (decision,) = Rules(config.stopping, siblings).update(8, {"eval/exact_accuracy": 0.1})
    assert not decision.stops
    assert decision.reason == "median at step 8: the tracking store gave no answer; goes on"


def test_nobody_waits_for_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HURRIED_S", 0.0)
    config = small_config(tmp_path)
    config.tracking = TrackingConfig(uri=f"http://127.0.0.1:{free_port()}", system_interval=None)
    config.stopping = StoppingConfig(pruner="median", ask_timeout=300.0)
    folder = RunFolder.of(config)
    folder.prepare(config, Point("small", sweep="try"))
    folder.write_provenance()
    with process.mirrored(folder, 1, lambda: True) as siblings:
        assert siblings is not None
        assert siblings.ask() is None


def test_whoever_is_stopped_already_asks_nobody() -> None:
    @dataclass
    class Silent:
        signature: str = "mine"
        name: str = "mine"

        def ask(self) -> Mapping[str, History]:
            raise AssertionError("asked")

    rules = Rules(StoppingConfig(pruner="median", goal=0.9), Silent())
    (decision,) = rules.update(8, {"eval/exact_accuracy": 0.95})
    assert decision.rule == "goal"
    assert rules.comparison.values == {8: 0.95}


def test_a_mirror_that_died_is_replaced_when_it_is_asked(tmp_path: Path) -> None:
    """And not only at the end of the run: nobody would be compared until then."""
    config = small_config(tmp_path)
    config.tracking = TrackingConfig(system_interval=None)
    folder = RunFolder.of(config)
    folder.prepare(config, Point("small", sweep="try"))
    folder.write_provenance()
    folder.state = State(RUNNING)
    mirror = process.MirrorProcess(folder, 1)
    siblings = AskedSiblings(folder.path, "small", mirror.pipes, 60.0)
    mirror._process.kill()
    mirror._process.wait()
    assert siblings.ask() == {}
    folder.state = State(COMPLETED)
    assert mirror.drain(60.0)
    assert [run.status for run in Store.open(config.tracking, tmp_path / "outputs").members("try")] == ["FINISHED"]


def test_an_answer_that_comes_late_is_not_taken_for_a_later_one(tmp_path: Path) -> None:
    (asked, questions), (answers, answering) = os.pipe(), os.pipe()
    with open(questions, "wb") as ours, open(answers, "rb") as theirs:
        siblings = AskedSiblings(tmp_path, "mine", lambda: (ours, theirs), 0.05)
        assert siblings.ask() is None
        os.write(answering, b"1\n")
        assert siblings.ask() is None
        (tmp_path / ANSWER).write_text(json.dumps({"other": {"name": "lr=1", "values": {"8": 0.5}}}))
        os.write(answering, b"2\n3\n")
        assert siblings.ask() == {"other": History("lr=1", {8: 0.5})}
        assert os.read(asked, 99) == b"1\n2\n3\n"
        os.close(answering)
        os.close(asked)
        assert siblings.ask() is None  # the mirror is dead
