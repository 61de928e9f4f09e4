"""Replaying a sweep whose outcome under every rule is known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hrm_lab.analysis.simulation import recorded, simulate
from hrm_lab.cli import app
from hrm_lab.config import StoppingConfig
from hrm_lab.errors import ConfigError, UserError
from hrm_lab.manifest import Entry, Manifest
from hrm_lab.run_folder import COMPLETED, STOPPED, RunFolder, State
from tests.small import hrm_lab

METRIC = "eval/exact_accuracy"
CURVES = {"good": [0.2, 0.4, 0.6, 0.8], "late": [0.1, 0.1, 0.7, 0.9], "poor": [0.1, 0.2, 0.2, 0.2]}


def sweep(outputs: Path, order: tuple[str, ...] = ("good", "late", "poor")) -> Manifest:
    """Three runs side by side, a tenth of a second apart: evaluated every 10 steps, an hour each time."""
    for number, name in enumerate(order):
        folder = RunFolder(outputs / "runs" / name)
        folder.path.mkdir(parents=True)
        folder.state = State(COMPLETED)
        lines = [{"begin": 0, "total_steps": 40}, {"step": 0, "ms": 0, "metrics": {METRIC: 0.9}}]
        for index, value in enumerate(CURVES[name], start=1):
            metrics = {METRIC: value, "perf/wall_s": 3600.0 * index}
            lines.append({"step": 10 * index, "ms": 3_600_000 * index + 100 * number, "metrics": metrics})
        folder.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    entries = [Entry(name, [], name) for name in order]
    manifest = Manifest("tried", "", str(outputs), entries, "local", {})
    manifest.save()
    return manifest


def test_asha_saves_hours_and_loses_a_winner_that_comes_late(tmp_path: Path) -> None:
    config = StoppingConfig(pruner="asha", grace_steps=20, reduction_factor=2, min_peers=1)
    simulation = simulate(recorded(sweep(tmp_path)), config, "asha")
    # At step 20 `good` has no siblings yet, and is the best when the others come.
    assert {fate.point: fate.stopped_at for fate in simulation.fates} == {"late": 20, "good": None, "poor": 20}
    assert (simulation.saved, simulation.cost, simulation.stopped) == (4.0, 12.0, 2)
    assert (simulation.winner.point, simulation.winner_survives) == ("late", False)
    assert (simulation.best_survivor.point, simulation.best_survivor.best_with) == ("good", 0.8)
    assert simulation.regret == pytest.approx(0.1)


def test_the_order_in_which_it_happened_decides(tmp_path: Path) -> None:
    config = StoppingConfig(pruner="asha", grace_steps=20, reduction_factor=2, min_peers=1)
    simulation = simulate(recorded(sweep(tmp_path, ("poor", "late", "good"))), config, "asha")
    assert {fate.point: fate.stopped_at for fate in simulation.fates} == {"late": 20, "good": None, "poor": None}


def test_rules_of_a_single_run_are_replayed_too(tmp_path: Path) -> None:
    manifest = sweep(tmp_path)
    simulation = simulate(recorded(manifest), StoppingConfig(patience=1), "patience")
    assert {fate.point: fate.stopped_at for fate in simulation.fates} == {"late": 20, "good": None, "poor": 30}
    with pytest.raises(ConfigError, match="eval/accuracy"):
        simulate(recorded(manifest), StoppingConfig(metric="eval/accuracy"), "other")


def test_the_verb_compares_rules(tmp_path: Path) -> None:
    manifest = sweep(tmp_path / "outputs")
    RunFolder(tmp_path / "outputs/runs/poor").state = State(STOPPED)
    rules = ["stopping=asha,median", "stopping.min_peers=1", "stopping.grace_steps=20"]
    done = hrm_lab(tmp_path, "simulate-stopping", manifest.name, *rules, "--json")
    assert done.returncode == 0, done.stderr
    asha, median = json.loads(done.stdout)
    assert (asha["stopped"], asha["winner_survives"], asha["best_survivor"]) == (2, False, "good")
    assert (median["winner"], median["winner_survives"], median["best_survivor"]) == ("late", False, "good")
    assert "1 points were stopped early themselves" in hrm_lab(tmp_path, "simulate-stopping", manifest.name).stdout
    assert "is no stopping rule" in hrm_lab(tmp_path, "simulate-stopping", manifest.name, "optim.lr=1").stderr


def test_points_are_judged_by_what_they_watched_unless_told_otherwise(tmp_path: Path) -> None:
    manifest = sweep(tmp_path / "outputs")
    for name in CURVES:
        stored = {"stopping": {"metric": METRIC, "mode": "min"}}
        (tmp_path / "outputs/runs" / name / "config.json").write_text(json.dumps(stored))

    def judged(*words: str) -> tuple[str, str]:
        where = ["--json", "--outputs", str(tmp_path / "outputs")]
        (found,) = json.loads(CliRunner().invoke(app, ["simulate-stopping", manifest.name, *words, *where]).output)
        return found["rules"], found["mode"]

    assert judged("stopping.patience=1") == ("stopping.patience=1", "min")
    assert judged(f"stopping.metric={METRIC}") == (f"stopping.metric={METRIC}", "max")


def test_no_number_is_never_the_best(tmp_path: Path) -> None:
    manifest = sweep(tmp_path)
    journal = tmp_path / "runs/good/journal.jsonl"
    journal.write_text(journal.read_text().replace("0.2,", "NaN,").replace("0.8,", "NaN,"))
    by_point = {fate.point: fate for fate in simulate(recorded(manifest), StoppingConfig(), "none").fates}
    assert (by_point["good"].best_without, by_point["good"].best_with) == (0.6, 0.6)
    for one in (tmp_path / "runs").glob("*/journal.jsonl"):
        one.write_text(re.sub(r"\b0\.\d", "NaN", one.read_text()))
    with pytest.raises(UserError, match="no point has a value of it that is a number"):
        simulate(recorded(manifest), StoppingConfig(), "none")
