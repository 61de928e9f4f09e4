"""A run that a comparison has cut is in no mean; one that came to an end of its own is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hrm_lab.analysis.answer import answer
from hrm_lab.analysis.comparison import compare, notes, stopped_note
from hrm_lab.analysis.curves import draw_curves
from hrm_lab.analysis.frames import Results, read_results
from hrm_lab.analysis.groups import groups_of
from hrm_lab.analysis.pareto import draw_pareto
from hrm_lab.analysis.report import make_report
from hrm_lab.config import Config
from hrm_lab.decision import PROMOTION
from hrm_lab.run_folder import COMPLETED, STOPPED, State
from tests.synthetic import Metrics, append, make_sweep

GOOD, POOR = 0.25, 0.125
GRID = [{"optim.lr": rate, "seed": seed} for rate in (GOOD, POOR) for seed in range(3)]


def learned(config: Config) -> Metrics:
    """The good rate is at 90 % in the end; two of its seeds were cut early, at 10 %."""
    if is_cut(config):
        return {4: {"eval/exact_accuracy": 0.1, "train/lm_loss": 2.0}}
    best = 0.9 if config.optim.lr == GOOD else 0.51
    return {step: {"eval/exact_accuracy": best * step / 8, "train/lm_loss": 1.0} for step in (4, 8)}


def is_cut(config: Config) -> bool:
    return config.optim.lr == GOOD and config.seed > 0


def ended(config: Config) -> State:
    return State(STOPPED, "asha at step 4: too poor") if is_cut(config) else State(COMPLETED)


def stop(rule: str, stops: bool = True, step: int = 4) -> dict[str, Any]:
    decision = {"step": step, "rule": rule, "stops": stops, "reason": "too poor", "evidence": {}}
    return {"step": step, "ms": 0, "decision": decision}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    manifest = make_sweep(tmp_path, GRID, learned, ended)
    for _, folder in manifest.runs():
        if folder.status == STOPPED:
            append(folder, {"begin": 4, "total_steps": 8}, stop("asha"))
    return read_results(manifest)


def test_what_was_cut_pulls_no_mean_down(results: Results) -> None:
    first, second = groups_of(results)
    assert (first.n, first.mean, len(first.runs)) == (1, 0.9, 3)
    assert (second.n, second.mean) == (3, 0.51)
    assert compare(results.frame).columns[1].cells == ["1 of 3", "3"]
    words = answer([first, second], results.target)
    assert words.startswith("lr=0.25 solves 90.0 %")
    assert "2 runs of 6 were cut by a comparison and are in no mean." in words
    assert "not finished" not in words
    assert draw_curves([first, second], results.target)
    assert draw_pareto([first, second], results.target)
    assert notes(results.frame) == []  # which are for failures
    assert stopped_note(results) == "2 stopped early: `hrm-lab decisions made`"
    html = make_report(results).html
    assert "2 of 6 runs, which left 17 % of all planned steps untrained" in html


def test_an_end_of_its_own_counts(results: Results) -> None:
    """A goal that was reached before the last epoch, and a run that went on after it was cut."""
    cut = [run.folder for run in results.runs if run.cut_by]
    append(cut[0], stop(PROMOTION, stops=False), {"step": 8, "ms": 0, "metrics": {"eval/exact_accuracy": 0.5}})
    cut[0].state = State(COMPLETED)
    append(cut[1], stop(PROMOTION, stops=False), stop("goal", step=6))
    first, second = groups_of(read_results(results.manifests[0]))
    assert (second.n, first.n) == (3, 3)
    assert (first.mean, second.mean) == (0.51, pytest.approx((0.9 + 0.5 + 0.1) / 3))


def test_when_all_were_cut_there_is_no_answer(results: Results) -> None:
    groups = groups_of(results)
    only = [type(groups[0])("cut", groups[0].runs[1:], 0, None, None)]
    assert "(2 cut by a comparison)" in answer(only, results.target)
