"""The answer of a sweep claims what the runs show, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hrm_lab.analysis.answer import answer
from hrm_lab.analysis.groups import Group
from hrm_lab.analysis.metrics import Target
from hrm_lab.run_folder import COMPLETED, FAILED, RUNNING, State

EXACT = Target("eval/exact_accuracy", "max")


def group(label: str, mean: float | None, error: float | None, *states: str) -> Group:
    runs = [SimpleNamespace(state=State(state), is_whole=state == COMPLETED, cut_by=None) for state in states]
    return Group(label, cast(Any, tuple(runs)), states.count(COMPLETED) if mean is not None else 0, mean, error)


THREE = (COMPLETED,) * 3


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (
            [group("H=2 L=1", 0.898, 0.012, *THREE), group("H=2 L=2", 0.875, 0.009, *THREE)],
            "H=2 L=1 solves 89.8 ± 1.2 % of the test puzzles (3 seeds), 2.3 points more than the next "
            "(H=2 L=2: 87.5 ± 0.9 %, 3 seeds). That is 1.5 standard errors of the difference, so the order of the "
            "first two is not certain.",
        ),
        (
            [group("a", 0.9, 0.01, *THREE), group("b", 0.86, 0.01, *THREE)],
            "a solves 90.0 ± 1.0 % of the test puzzles (3 seeds), 4.0 points more than the next (b: 86.0 ± 1.0 %, "
            "3 seeds). That is 2.8 standard errors of the difference: the first is probably better, but so few seeds "
            "do not prove it.",
        ),
        (
            [group("a", 0.9, 0.01, *THREE), group("b", 0.5, 0.01, *THREE), group("c", 0.4, 0.01, *THREE)],
            "a solves 90.0 ± 1.0 % of the test puzzles (3 seeds), 40.0 points more than the next (b: 50.0 ± 1.0 %, "
            "3 seeds). That is 28.3 standard errors of the difference, more than seeds alone would easily bring about. "
            "It is the best of 3, so part of its lead may be luck.",
        ),
        (
            [group("a", 0.9, None, COMPLETED), group("b", 0.8, None, COMPLETED)],
            "a solves 90.0 % of the test puzzles (1 seed), 10.0 points more than the next (b: 80.0 %, 1 seed). "
            "The spread between seeds is unknown, so the order may be chance.",
        ),
        (
            [group("a", 0.9, 0.0, *THREE), group("b", 0.9, 0.0, *THREE)],
            "a solves 90.0 ± 0.0 % of the test puzzles (3 seeds), and so does the next (b: 90.0 ± 0.0 %, 3 seeds). "
            "Which of the two is better cannot be told.",
        ),
        (
            [group("all runs", 0.9, None, COMPLETED, FAILED, RUNNING, RUNNING)],
            "all runs: solves 90.0 % of the test puzzles (1 seed); there is nothing to compare with. The spread "
            "between seeds is unknown. 1 run of 4 failed and is left out. 2 runs of 4 have not finished, so "
            "this may change.",
        ),
        ([group("a", None, None, FAILED, FAILED)], "There is no answer: all 2 runs failed."),
        ([group("a", None, None, COMPLETED)], "There is no answer: no run that has finished was evaluated."),
        (
            [group("a", None, None, RUNNING, FAILED)],
            "There is no answer yet: no run has finished (1 running, 1 failed).",
        ),
        ([], "There is no answer yet: no run has finished ()."),
    ],
)
def test_answer(groups: list[Group], words: str) -> None:
    assert answer(groups, EXACT) == words


def test_a_loss_is_better_low_and_no_share() -> None:
    groups = [group("a", 0.5, 0.1, *THREE), group("b", 0.75, 0.1, *THREE)]
    words = answer(groups, Target("eval/lm_loss", "min"))
    assert words.startswith("a reaches 0.5000 ± 0.1000 eval/lm_loss (3 seeds), 0.2500 less than the next (b: 0.7500")


def test_two_seeds_prove_nothing() -> None:
    groups = [group("a", 0.9, 0.001, *THREE[:2]), group("b", 0.5, 0.001, *THREE[:2])]
    assert "do not prove it" in answer(groups, EXACT)


def test_many_seeds_are_not_called_few() -> None:
    groups = [group("a", 0.9, 0.01, *THREE * 4), group("b", 0.86, 0.01, *THREE * 4)]
    assert "the first is probably better." in answer(groups, EXACT)
