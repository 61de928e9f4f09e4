"""The comparison with siblings gives Optuna's own answers, and explains them truly."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import BasePruner, MedianPruner, PatientPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.trial import Trial, TrialState

from hrm_lab.config import StoppingConfig
from hrm_lab.stopping.pruning import CUT, DONE, RUNNING, History, bracket_of, decide, is_due

optuna.logging.set_verbosity(optuna.logging.ERROR)
Report = tuple[int, float]  # which run, and what it reports next


def pruner_of(config: StoppingConfig, bracket: int) -> BasePruner:
    """As somebody would write it down who uses Optuna and nothing of ours."""
    grace, peers = config.grace_steps or 1, config.min_peers
    pruner: BasePruner = {
        "asha": lambda: SuccessiveHalvingPruner(grace, config.reduction_factor, bracket),
        "median": lambda: MedianPruner(peers, grace, n_min_trials=peers),
        "percentile": lambda: PercentilePruner(config.percentile, peers, grace, n_min_trials=peers),
    }[config.pruner]()
    return pruner if config.pruner_patience is None else PatientPruner(pruner, config.pruner_patience)


class RealStudies:
    """Optuna as it is used: runs report and ask as it happens. Runs of different brackets share no study."""

    def __init__(self, config: StoppingConfig) -> None:
        self.config = config
        self.studies: dict[int, optuna.Study] = {}
        self.trials: dict[str, Trial] = {}

    def study(self, bracket: int) -> optuna.Study:
        if bracket not in self.studies:
            direction = "maximize" if self.config.mode == "max" else "minimize"
            self.studies[bracket] = optuna.create_study(direction=direction, pruner=pruner_of(self.config, bracket))
        return self.studies[bracket]

    def report(self, name: str, step: int, value: float) -> bool:
        study = self.study(bracket_of(self.config, name))
        trial = self.trials.get(name) or self.trials.setdefault(name, study.ask())
        trial.report(value, step)
        return trial.should_prune()

    def end(self, name: str, value: float, stopped: bool) -> None:
        state = TrialState.PRUNED if stopped else TrialState.COMPLETE
        self.study(bracket_of(self.config, name)).tell(self.trials[name], None if stopped else value, state)


values = st.one_of(st.integers(0, 9).map(float), st.floats(-1, 1).map(lambda x: round(x, 2)), st.just(math.nan))
reports = st.lists(st.tuples(st.integers(0, 7), values), min_size=5, max_size=60)
rules: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    # One sibling is enough for Optuna's asha; how many we ask for is our own and tested below.
    "asha": st.fixed_dictionaries(
        {"min_peers": st.just(0), "reduction_factor": st.integers(2, 4), "brackets": st.integers(1, 3)}
    ),
    "median": st.fixed_dictionaries({"min_peers": st.integers(1, 3)}),
    "percentile": st.fixed_dictionaries({"min_peers": st.integers(1, 3), "percentile": st.sampled_from([0, 25, 80])}),
}


@pytest.mark.parametrize("pruner", rules)
@settings(max_examples=300, deadline=None)
@given(data=st.data(), events=reports, intervals=st.lists(st.integers(1, 3), min_size=8, max_size=8))
def test_the_answers_are_those_of_optuna(
    pruner: str, data: st.DataObject, events: list[Report], intervals: list[int]
) -> None:
    """Runs report in any order, end after six evaluations, and are stopped in both worlds as soon as Optuna says so."""
    warnings.simplefilter("ignore")
    config = StoppingConfig(
        pruner=pruner,
        mode=data.draw(st.sampled_from(["max", "min"])),
        grace_steps=data.draw(st.integers(1, 4)),
        pruner_patience=data.draw(st.sampled_from([None, None, 0, 1])),
        peers="finished",
        **data.draw(rules[pruner]),
    )
    optunas, ours = RealStudies(config), dict[str, History]()
    for number, value in events:
        name = f"run {number}"
        history = ours.get(name, History(name, {}))
        if history.state != RUNNING:
            continue
        step = max(history.values, default=0) + (intervals[number] if pruner == "asha" else 1)
        history = replace(history, values={**history.values, step: value})
        expected = optunas.report(name, step, value)
        asked = is_due(config, name, history.values)
        decision = decide(config, name, {**ours, name: history}) if asked else None
        assert (decision is not None and decision.stops) == expected, decision
        if decision is not None and not math.isnan(value):
            threshold, reached = decision.evidence["threshold"], decision.evidence["value"]
            short = threshold is not None and (reached < threshold if config.mode == "max" else reached > threshold)
            assert decision.stops == (short and len(decision.evidence["peers"]) >= config.min_peers), decision
        ended = expected or len(history.values) == 6
        rung = decision.evidence.get("rung") if decision is not None and expected else None
        ours[name] = replace(history, state=CUT if expected else DONE, rung=rung) if ended else history
        if ended:
            optunas.end(name, 0.0, expected)


def asha(**settings: Any) -> StoppingConfig:
    return StoppingConfig(pruner="asha", **({"grace_steps": 10, "reduction_factor": 2, "min_peers": 2} | settings))


def runs(*values: float, step: int = 10) -> dict[str, History]:
    return {f"run {number}": History(f"lr={number}", {step: value}) for number, value in enumerate(values)}


def test_a_decision_says_what_it_was_decided_on() -> None:
    decision = decide(asha(), "run 2", runs(0.8, 0.5, 0.3))
    assert decision.stops
    assert decision.reason == (
        "asha at step 10 (rung 0): eval/exact_accuracy = 0.3, short of the 0.8 that 2 siblings ask for"
    )
    assert decision.evidence == {
        "metric": "eval/exact_accuracy",
        "value": 0.3,
        "threshold": 0.8,
        "rank": 3,
        "rung": 0,
        "rung_step": 10,
        "bracket": 0,
        "peers": {"lr=0": 0.8, "lr=1": 0.5},
    }


def test_siblings_of_one_name_are_told_apart() -> None:
    histories = {key: replace(history, name="lr=1") for key, history in runs(0.8, 0.5, 0.3).items()}
    assert decide(asha(), "run 2", histories).evidence["peers"] == {"lr=1 (run 0)": 0.8, "lr=1 (run 1)": 0.5}


def test_too_few_siblings_stop_nobody_and_a_rung_is_decided_upon_once() -> None:
    decision = decide(asha(), "run 1", runs(0.8, 0.3))
    assert not decision.stops
    assert "siblings there: 1, stopping.min_peers=2" in decision.reason
    assert is_due(asha(), "run", {10: 0.3})
    assert not is_due(asha(), "run", {10: 0.3, 15: 0.2})
    assert is_due(asha(), "run", {10: 0.3, 15: 0.2, 20: 0.1})
    assert not is_due(asha(), "run", {5: 0.3})


def test_siblings_that_only_got_there_count_for_the_median_unless_told_otherwise() -> None:
    histories = runs(0.8, 0.5, 0.3)
    config = StoppingConfig(pruner="median", min_peers=2)
    assert decide(config, "run 2", histories).stops
    assert not decide(replace(config, peers="finished"), "run 2", histories).stops


def test_brackets_compete_apart_and_wait_longer() -> None:
    config = asha(brackets=2, min_peers=1)
    names = {bracket_of(config, f"run {number}"): f"run {number}" for number in range(9)}
    assert is_due(config, names[0], {10: 0.1})
    assert not is_due(config, names[1], {10: 0.1})
    assert is_due(config, names[1], {20: 0.1})
    histories = {names[0]: History("first", {20: 0.9}), names[1]: History("second", {20: 0.1})}
    assert not decide(config, names[1], histories).stops
