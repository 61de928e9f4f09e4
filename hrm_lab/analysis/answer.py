"""The answer of a sweep in a sentence or two, which claim no more than the runs show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from hrm_lab.analysis.groups import Group
from hrm_lab.analysis.metrics import Target, measured, scale_of
from hrm_lab.run_folder import FAILED

# In standard errors of the difference. With three seeds each, 4 of them happen by chance about once in 60 comparisons.
UNCERTAIN, CLEAR = 2.0, 4.0
SEEDS_FOR_CLEAR, MANY_SEEDS = 3, 8


def answer(groups: Sequence[Group], target: Target) -> str:
    """Which settings are best, by how much, and how far that can be trusted.

    Args:
        groups: best first.
    """
    known = [group for group in groups if group.mean is not None]
    if not known:
        return _nothing_known(groups)
    return " ".join(filter(None, [_best(known, target), _certainty(known), _chosen(known), _missing(groups)]))


def _best(known: Sequence[Group], target: Target) -> str:
    first = known[0]
    assert first.mean is not None
    reached = f"{_verb(target)} {measured(first.mean, first.error, target.metric)}{_what(target)}"
    if len(known) == 1:
        return f"{first.label}: {_verb(target)} {measured(first.mean, first.error, target.metric)}{_what(target)} " + (
            f"({_seeds(first)}); there is nothing to compare with."
        )
    return f"{first.label} {reached} ({_seeds(first)}), {_ahead(first, known[1], target)}."


def _ahead(first: Group, second: Group, target: Target) -> str:
    assert first.mean is not None
    assert second.mean is not None
    gap = abs(first.mean - second.mean)
    other = f"{second.label}: {measured(second.mean, second.error, target.metric)}, {_seeds(second)}"
    if gap == 0:
        return f"and so does the next ({other})"
    factor, digits, unit = scale_of(target.metric)
    size = f"{factor * gap:.{digits}f}{' points' if unit else ''}"
    return f"{size} {'more' if target.mode == 'max' else 'less'} than the next ({other})"


def _certainty(known: Sequence[Group]) -> str:
    if len(known) == 1:
        return "" if known[0].error is not None else "The spread between seeds is unknown."
    first, second = known[:2]
    assert first.mean is not None
    assert second.mean is not None
    gap = abs(first.mean - second.mean)
    if first.error is None or second.error is None:
        return "The spread between seeds is unknown, so the order may be chance."
    if gap == 0:
        return "Which of the two is better cannot be told."
    error = math.hypot(first.error, second.error)
    if error == 0:
        return "Their seeds agree among themselves to the last digit."
    size = f"That is {gap / error:.1f} standard errors of the difference"
    if gap < UNCERTAIN * error:
        return f"{size}, so the order of the first two is not certain."
    seeds = min(first.n, second.n)
    if gap < CLEAR * error or seeds < SEEDS_FOR_CLEAR:
        doubt = ", but so few seeds do not prove it" if seeds < MANY_SEEDS else ""
        return f"{size}: the first is probably better{doubt}."
    return f"{size}, more than seeds alone would easily bring about."


def _chosen(known: Sequence[Group]) -> str:
    """The best of many is better than it would be if it were tried again."""
    return f"It is the best of {len(known)}, so part of its lead may be luck." if len(known) > 2 else ""


def _missing(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    total, failed = len(runs), sum(run.state.status == FAILED for run in runs)
    cut = sum(run.cut_by is not None for run in runs)
    open_runs = total - failed - cut - sum(run.is_whole for run in runs)
    lines = [f"{_runs(cut)} of {total} {_were(cut)} cut by a comparison and {_are(cut)} in no mean."] if cut else []
    lines += [f"{_runs(failed)} of {total} failed and {_are(failed)} left out."] if failed else []
    if open_runs:
        lines.append(f"{_runs(open_runs)} of {total} {_have(open_runs)} not finished, so this may change.")
    return " ".join(lines)


def _nothing_known(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    states = Counter("cut by a comparison" if run.cut_by else run.state.status for run in runs)
    total = len(runs)
    if total and states[FAILED] == total:
        return f"There is no answer: {'the only run' if total == 1 else f'all {total} runs'} failed."
    if any(run.is_whole for run in runs):
        return "There is no answer: no run that has finished was evaluated."
    words = ", ".join(f"{count} {state.lower()}" for state, count in states.most_common())
    return f"There is no answer yet: no run has finished ({words})."


def _verb(target: Target) -> str:
    return "solves" if target.short == "exact_accuracy" else "reaches"


def _what(target: Target) -> str:
    return " of the test puzzles" if target.short == "exact_accuracy" else f" {target.metric}"


def _seeds(group: Group) -> str:
    return "1 seed" if group.n == 1 else f"{group.n} seeds"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
