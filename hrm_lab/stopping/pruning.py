"""Stopping by comparison with the siblings of a sweep: Optuna's pruners, asked about what the siblings have reported.

A pure function of the histories. Optuna is given an in-memory study that is made of them anew for each question, so
that no process has to keep one.

- `asha` (SuccessiveHalvingPruner): rungs at grace_steps * reduction_factor ** (bracket + k). At each, a run goes on if
  it is among the best 1 / reduction_factor of those of its bracket that have got there, or as long as there are fewer
  than reduction_factor of them, if it is the best. It is compared with those that were there before it.
- `median`, `percentile`: at each evaluation from grace_steps on, the run's best value so far must be at least as good
  as the percentile of the siblings' values at that step.
- `pruner_patience` (PatientPruner) in front of them: nobody is compared before it has become worse than it was.

Fewer than min_peers siblings at the step stop nobody. (Optuna's own bootstrap_count does the opposite: it stops
whoever comes to a rung before there are so many.)
"""

from __future__ import annotations

import functools
import math
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hrm_lab.best import order
from hrm_lab.config import StoppingConfig
from hrm_lab.decision import Decision

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.study import Study
    from optuna.trial import FrozenTrial

RUNNING, DONE, CUT = "running", "done", "cut"  # the last: by a comparison
Values = Mapping[int, float]


@dataclass(frozen=True)
class History:
    """What a run has reported of the watched metric.

    Args:
        name: for people.
        values: by optimizer step, from the first evaluation after a step on.
        state: RUNNING (or broken off: it may go on), DONE (also by a rule of its own), or CUT.
        rung: at which asha has cut it.
    """

    name: str
    values: Values
    state: str = RUNNING
    rung: int | None = None


def is_due(config: StoppingConfig, signature: str, values: Values) -> bool:
    """Whether a run that has reported these values is to be compared now, at the last of them."""
    if config.pruner == "none" or not values:
        return False
    if config.pruner == "asha":
        before = {step: value for step, value in values.items() if step != max(values)}
        return len(_rungs(config, signature, values)) > len(_rungs(config, signature, before))
    return max(values) >= (config.grace_steps or 0) and _is_worsening(config, values, max(values))


def decide(config: StoppingConfig, signature: str, histories: Mapping[str, History]) -> Decision:
    """Whether a run that is due goes on.

    Args:
        signature: of the run.
        histories: of the sweep's runs by signature, its own among them up to the step that is decided upon.
    """
    if config.pruner == "asha":
        return _successive_halving(config, signature, histories)
    return _percentile(config, signature, histories)


def bracket_of(config: StoppingConfig, signature: str) -> int:
    """The same for a run wherever it is asked, and as good as drawn by lot."""
    return zlib.crc32(signature.encode()) % config.brackets


# ------------------------------------------------------------------------------------------------- asha


def _successive_halving(config: StoppingConfig, signature: str, histories: Mapping[str, History]) -> Decision:
    from optuna.pruners import SuccessiveHalvingPruner

    bracket, own = bracket_of(config, signature), histories[signature].values
    step = max(own)
    before = _rungs(config, signature, {at: value for at, value in own.items() if at != step})
    rungs = {
        key: _rungs(config, key, history.values, history.rung)
        for key, history in histories.items()
        if key != signature and bracket_of(config, key) == bracket
    }
    study = _study(config.mode, {key: histories[key] for key in rungs}, rungs)
    pruner = SuccessiveHalvingPruner(_first_rung(config, own), config.reduction_factor, bracket)
    is_worse, trial = _ask(study, pruner, config, own, before)
    # Where there is no value, or it was not good enough, the loop over the rungs ends.
    rung = max(_completed(trial), default=0) if not math.isnan(own[step]) else len(before)
    peers = {key: values[rung] for key, values in rungs.items() if not math.isnan(values.get(rung, math.nan))}
    place = max((len(peers) + 1) // config.reduction_factor - 1, 0)
    threshold = _best_first(config, peers.values())[place] if peers else None
    at = f"rung {rung}" + (f" of bracket {bracket}" if config.brackets > 1 else "")
    facts = {"rung": rung, "rung_step": _rung_step(config, own, bracket, rung), "bracket": bracket}
    return _explained(config, step, is_worse, own[step], threshold, at, facts, _named(peers, histories))


def _rungs(config: StoppingConfig, signature: str, values: Values, last: int | None = None) -> dict[int, float]:
    """The value that counts for a run at each rung it has come to, the first one there; `last`: where it was cut."""
    found: dict[int, float] = {}
    bracket = bracket_of(config, signature)
    for step in sorted(values):
        if not _is_worsening(config, values, step):
            continue
        rung = 0
        while _rung_step(config, values, bracket, rung) <= step and (last is None or rung <= last):
            found.setdefault(rung, values[step])
            rung += 1
    return found


def _first_rung(config: StoppingConfig, values: Values) -> int:
    return config.grace_steps or min(values)


def _rung_step(config: StoppingConfig, values: Values, bracket: int, rung: int) -> int:
    return _first_rung(config, values) * int(config.reduction_factor ** (bracket + rung))


def _completed(trial: FrozenTrial) -> list[int]:
    """Rungs, from where SuccessiveHalvingPruner keeps them."""
    return [int(key.removeprefix(_RUNG)) for key in trial.system_attrs if key.startswith(_RUNG)]


_RUNG = "completed_rung_"


# ---------------------------------------------------------------------------------- median and percentile


def _percentile(config: StoppingConfig, signature: str, histories: Mapping[str, History]) -> Decision:
    from optuna.pruners import PercentilePruner

    own = histories[signature].values
    step, share = max(own), 50.0 if config.pruner == "median" else config.percentile
    # To Optuna only trials that are complete count, so those that are to count are given to it as complete.
    counted = {
        key: History(history.name, history.values, DONE)
        for key, history in histories.items()
        if key != signature and (step in history.values if config.peers == "reached" else history.state == DONE)
    }
    peers = {key: history.values[step] for key, history in counted.items() if step in history.values}
    study = _study(config.mode, counted, {})
    pruner = PercentilePruner(share, config.min_peers, config.grace_steps or 0, n_min_trials=config.min_peers)
    is_worse, _ = _ask(study, pruner, config, own, {})
    numbers = [value for value in peers.values() if not math.isnan(value)]
    threshold = float(np.percentile(numbers, 100 - share if config.mode == "max" else share)) if numbers else None
    best = _best_first(config, own.values())[0]
    at = "median" if config.pruner == "median" else f"best {share:g} %"
    return _explained(config, step, is_worse, best, threshold, at, {}, _named(peers, histories))


# --------------------------------------------------------------------------------------------- in common


def _is_worsening(config: StoppingConfig, values: Values, step: int) -> bool:
    """Whether pruner_patience lets a run be compared at this step of its history."""
    if config.pruner_patience is None:
        return True
    seen = {at: value for at, value in values.items() if at <= step}
    return _patient(None, config.pruner_patience).prune(_empty_study(config.mode), _trial(History("", seen), {}))


def _patient(pruner: BasePruner | None, patience: int) -> BasePruner:
    from optuna.exceptions import ExperimentalWarning
    from optuna.pruners import PatientPruner

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # it has been that since 2021
        return PatientPruner(pruner, patience)


@functools.cache
def _empty_study(mode: str) -> Study:
    return _study(mode, {}, {})


def _study(mode: str, peers: Mapping[str, History], rungs: Mapping[str, Values]) -> Study:
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces every study
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    optuna.logging.set_verbosity(level)
    study.add_trials([_trial(history, rungs.get(key, {})) for key, history in peers.items()])
    return study


def _trial(history: History, rungs: Values) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    state = {RUNNING: TrialState.RUNNING, DONE: TrialState.COMPLETE, CUT: TrialState.PRUNED}[history.state]
    return create_trial(
        state=state,
        value=0.0 if state == TrialState.COMPLETE else None,  # at the end; no pruner looks at it
        intermediate_values=dict(history.values),
        system_attrs={f"{_RUNG}{rung}": value for rung, value in rungs.items() if not math.isnan(value)},
    )


def _ask(
    study: Study, pruner: BasePruner, config: StoppingConfig, own: Values, rungs: Values
) -> tuple[bool, FrozenTrial]:
    """Optuna's answer about a run with this history, and its trial as the pruner has left it."""
    study.add_trial(_trial(History("", own), rungs))
    if config.pruner_patience is not None:
        pruner = _patient(pruner, config.pruner_patience)
    is_worse = pruner.prune(study, study.get_trials(deepcopy=False)[-1])
    return bool(is_worse), study.get_trials(deepcopy=False)[-1]


def _best_first(config: StoppingConfig, values: Iterable[float]) -> list[float]:
    return sorted(values, key=lambda value: order(config.mode, value))


def _named(peers: Mapping[str, float], histories: Mapping[str, History]) -> dict[str, float]:
    """By name; runs that an earlier sweep has made may share one, and are told apart by their signatures."""
    shared = Counter(histories[key].name for key in peers)
    names = {key: histories[key].name for key in peers}
    return {name if shared[name] == 1 else f"{name} ({key})": peers[key] for key, name in names.items()}


def _explained(
    config: StoppingConfig,
    step: int,
    is_worse: bool,
    value: float,
    threshold: float | None,
    at: str,
    facts: Mapping[str, Any],
    peers: Mapping[str, float],
) -> Decision:
    """The decision in words. `threshold`: what the value had to reach; None where nobody else is there."""
    is_enough = len(peers) >= config.min_peers
    stops = is_worse and is_enough
    words = f"{config.pruner} at step {step} ({at}): {config.metric} = {value:.4g}"
    if not is_enough:
        words += f"; siblings there: {len(peers)}, stopping.min_peers={config.min_peers}"
    elif threshold is not None:
        words += f", {'short of' if stops else 'holds against'} the {threshold:.4g} that {len(peers)} siblings ask for"
    better = [peer for peer in peers.values() if order(config.mode, peer) < order(config.mode, value)]
    evidence = {
        "metric": config.metric,
        "value": value,
        "threshold": threshold,
        "rank": len(better) + 1,
        **facts,
        "peers": dict(peers),
    }
    return Decision(step, config.pruner, stops, words, evidence)
