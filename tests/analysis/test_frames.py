"""Runs as frames: which columns there are, what best and last mean, and that no journal is read twice."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrm_lab.analysis.aggregate import aggregate
from hrm_lab.analysis.comparison import compare, draw
from hrm_lab.analysis.frames import load_curves, load_sweep, read_results, setting_columns
from hrm_lab.attempts import Attempt, Job
from hrm_lab.config import Config
from hrm_lab.errors import UserError
from hrm_lab.files import write_json
from hrm_lab.manifest import load_manifest
from hrm_lab.run_folder import COMPLETED, FAILED, LOST, RUNNING, STOPPED, RunFolder, State
from hrm_lab.tracking.journal import read_journal
from tests.synthetic import Metrics, make_sweep

OPENED: Counter[str] | None = None  # files by path, while somebody counts


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED is not None and event == "open":
        OPENED[str(arguments[0])] += 1


sys.addaudithook(_count)


def rising(config: Config) -> Metrics:
    """Best in the middle; a loss that is least at the first evaluation."""
    peak = config.optim.lr
    return {
        5: {"train/lm_loss": 2.0, "train/steps": 3.0},
        8: {"eval/exact_accuracy": peak / 2, "eval/accuracy": 0.5, "eval/lm_loss": 1.0},
        10: {"train/lm_loss": 1.5},
        16: {"eval/exact_accuracy": peak, "eval/accuracy": 0.6, "eval/lm_loss": 1.1, "perf/wall_s": 7.0},
        24: {"eval/exact_accuracy": peak, "eval/accuracy": 0.4, "eval/lm_loss": 1.2, "perf/wall_s": 9.0},
    }


def test_best_and_last_are_told_apart_and_settings_keep_their_types(tmp_path: Path) -> None:
    points = [
        {"optim.lr": 0.25, "data.num_blanks": 6, "seed": 0},
        {"optim.lr": 0.5, "data.num_blanks": None, "seed": 1},
        {"optim.lr": 0.125, "data.num_blanks": 6, "seed": 0},
    ]
    manifest = make_sweep(tmp_path, points, rising)
    frame = load_sweep("made", outputs=tmp_path / "outputs")
    assert setting_columns(frame) == ["data.num_blanks", "optim.lr"]
    assert list(frame["optim.lr"]) == [0.5, 0.25, 0.125]  # best first
    assert list(frame["data.num_blanks"]) == [None, 6, 6]
    assert all(type(value) is int for value in frame["data.num_blanks"][1:])
    assert list(frame["seed"]) == [1, 0, 0]
    best = frame.iloc[0]
    assert (best["metric"], best["mode"]) == ("eval/exact_accuracy", "max")
    assert (best["best_exact_accuracy"], best["best_step"], best["best_accuracy"]) == (0.5, 16, 0.6)
    assert (best["last_exact_accuracy"], best["last_step"], best["last_accuracy"]) == (0.5, 24, 0.4)
    assert (best["act_depth"], best["act_steps"], best["wall_s"], best["state"]) == (3, 3.0, 9.0, COMPLETED)
    assert best["signature"] in {entry.signature for entry in manifest.points}
    assert Path(best["folder"]).name == best["signature"]


def test_less_of_a_loss_is_better(tmp_path: Path) -> None:
    make_sweep(tmp_path, [{"optim.lr": 0.25}, {"optim.lr": 0.5}], rising)
    asked = load_sweep("made", outputs=tmp_path / "outputs", metric="lm_loss")
    assert list(asked["best_lm_loss"]) == [1.0, 1.0]
    assert list(asked["best_step"]) == [8, 8]
    assert (asked["metric"][0], asked["mode"][0]) == ("eval/lm_loss", "min")
    make_sweep(
        tmp_path,
        [{"stopping.metric": "eval/lm_loss", "stopping.mode": "min", "seed": 7}],
        lambda _: {4: {"eval/lm_loss": 0.3}},
        name="watched",
    )
    (row,) = load_sweep("watched", outputs=tmp_path / "outputs").itertuples()
    assert (row.best_lm_loss, row.mode) == (0.3, "min")
    with pytest.raises(UserError, match="--metric NAME"):
        load_sweep("made", "watched", outputs=tmp_path / "outputs")
    assert len(load_curves("made", "watched", outputs=tmp_path / "outputs"))  # which have no best
    both = load_sweep("made", "watched", outputs=tmp_path / "outputs", metric="eval/lm_loss")
    assert list(both["best_lm_loss"]) == [0.3, 1.0, 1.0]


def test_no_number_is_never_the_best(tmp_path: Path) -> None:
    values = {2: math.nan, 4: 0.3, 6: 0.2, 8: math.nan}
    manifest = make_sweep(tmp_path, [{"seed": 0}], lambda _: {s: {"eval/lm_loss": v} for s, v in values.items()})
    assert load_sweep(manifest, metric="lm_loss")["best_step"].tolist() == [6]
    for _, folder in manifest.runs():
        folder.journal.write_text(folder.journal.read_text().replace("0.3", "NaN").replace("0.2", "NaN"))
    assert load_sweep(manifest, metric="lm_loss")["best_step"].isna().all()


def test_a_training_metric_is_taken_at_the_evaluations(tmp_path: Path) -> None:
    """Logged at 3, 5 and 10; what was logged last before each evaluation at 4 and 8 is its value there."""
    metrics = {3: {"train/lm_loss": 2.0}, 4: {"eval/accuracy": 0.5}, 5: {"train/lm_loss": 1.5}}
    metrics |= {8: {"eval/accuracy": 0.6}, 10: {"train/lm_loss": 0.1}}
    manifest = make_sweep(tmp_path, [{"seed": 0}], lambda _: metrics)
    (row,) = load_sweep(manifest, metric="train/lm_loss").to_dict("records")
    assert (row["best_train/lm_loss"], row["best_step"], row["best_accuracy"], row["mode"]) == (1.5, 8, 0.6, "min")
    assert row["last_train/lm_loss"] == 1.5


def test_settings_that_differ_are_found_in_the_configs_of_several_sweeps(tmp_path: Path) -> None:
    make_sweep(tmp_path, [{"optim.lr": 0.25}], rising, name="one")
    shared = {"optim.lr": 0.25}
    make_sweep(tmp_path, [shared, {"optim.lr": 0.25, "model.halt_max_steps": 5}], rising, name="two")
    frame = load_sweep("one", "two", outputs=tmp_path / "outputs")
    assert setting_columns(frame) == ["model.halt_max_steps"]  # the rate is the same, though both sweeps set it
    assert dict(zip(frame["act_depth"], frame["sweep"], strict=True)) == {3: "one, two", 5: "two"}
    assert set(load_curves("one", "two", outputs=tmp_path / "outputs")["run"]) == set(frame["signature"])


def test_runs_on_other_data_are_no_seeds_of_one_another(tmp_path: Path) -> None:
    manifest = make_sweep(tmp_path, [{"seed": 0}, {"seed": 1}], rising)
    for (_, folder), fingerprint in zip(manifest.runs(), ("abc", "abd"), strict=True):
        write_json(folder.path / "dataset.json", {"name": "small", "fingerprint": fingerprint, "counts": {}})
    assert setting_columns(load_sweep(manifest)) == ["data.fingerprint"]


def test_states_are_true_and_costs_are_those_of_all_attempts(tmp_path: Path) -> None:
    states = {0: State(RUNNING), 1: None, 2: State(FAILED, "of something"), 3: State(STOPPED, "goal reached")}
    points = [{"seed": seed} for seed in states]
    manifest = make_sweep(tmp_path, points, rising, lambda config: states[config.seed])
    folder = manifest.runs()[0][1]
    (folder.path / "attempts").mkdir()
    for number in (1, 2):
        attempt = Attempt(number, "here", 1, 0.0, 1800.0, 0)
        write_json(folder.attempts.path_of(number), vars(attempt) | {"job": vars(Job(gpus=2))})
    frame = load_sweep(manifest).set_index("seed")
    assert frame["state"].to_dict() == {0: LOST, 1: "PENDING", 2: FAILED, 3: STOPPED}
    assert frame.loc[3, "detail"] == "goal reached"
    assert frame.loc[0, "gpu_h"] == 2.0
    assert np.isnan(frame.loc[1, "best_exact_accuracy"])


def test_nothing_evaluated_nothing_there_and_nothing_known(tmp_path: Path) -> None:
    manifest = make_sweep(tmp_path, [{"seed": 0}, {"seed": 1}], lambda _: {1: {"train/lm_loss": 1.0}})
    frame = load_sweep(manifest)
    assert frame["best_exact_accuracy"].isna().all()
    assert compare(frame).columns[1].cells == ["-"]
    for _, folder in manifest.runs():
        (folder.path / "config.json").unlink()  # a person made room
        folder.journal.unlink()
    assert len(load_sweep(manifest)) == 2
    with pytest.raises(UserError, match="one of made"):
        load_sweep("mad", outputs=tmp_path / "outputs")
    with pytest.raises(UserError, match="hrm-lab sweeps"):
        load_sweep()


def test_a_run_of_another_version_is_compared_too(tmp_path: Path) -> None:
    manifest = make_sweep(tmp_path, [{"seed": 0}, {"seed": 1}], rising)
    path = manifest.runs()[0][1].path / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"beta1": 0.9', '"momentum": 0.8'))  # beta1 has its default then
    assert text != path.read_text()
    assert setting_columns(load_sweep(manifest)) == ["optim.momentum"]


def test_three_hundred_runs_each_journal_read_once(tmp_path: Path) -> None:
    """Table, seeds put together, tidy curves and picture come out of one reading."""
    global OPENED
    points = [{"optim.lr": rate / 128, "seed": seed} for rate in range(1, 61) for seed in range(5)]
    manifest = make_sweep(tmp_path, points, rising)
    OPENED = Counter()
    try:
        results = read_results(manifest)
        frame, curves, picture = results.frame, results.curves, draw(results)
        groups = aggregate(frame)
        opened = OPENED
    finally:
        OPENED = None
    assert picture is not None
    assert picture.stat().st_size > 10_000
    journals = {path: number for path, number in opened.items() if path.endswith("journal.jsonl")}
    assert len(journals) == 300
    assert set(journals.values()) == {1}
    assert len(frame) == 300
    assert list(groups["best_exact_accuracy_mean"]) == [rate / 128 for rate in range(60, 0, -1)]
    assert set(groups["n"]) == {5}
    assert len(curves) == 300 * sum(len(values) for values in rising(Config()).values())
    one = RunFolder(Path(frame.loc[17, "folder"]))
    mine = curves[curves["run"] == one.path.name][["step", "metric", "value"]].astype({"metric": str})
    alone = [
        (entry["step"], metric, value)
        for entry in read_journal(one.journal)
        for metric, value in entry.get("metrics", {}).items()
    ]
    assert sorted(mine.itertuples(index=False, name=None)) == sorted(alone)
    assert set(curves.columns) == {"sweep", "point", "seed", "run", "step", "metric", "value"}


def test_a_sweep_is_named_or_given(tmp_path: Path) -> None:
    make_sweep(tmp_path, [{"seed": 0}], rising)
    by_name = load_sweep("made", outputs=str(tmp_path / "outputs"))
    assert by_name.equals(load_sweep(load_manifest(tmp_path / "outputs", "made")))
