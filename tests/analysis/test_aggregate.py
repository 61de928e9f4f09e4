"""Seeds put together: against numpy, for any runs in any order."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm_lab.analysis.aggregate import aggregate, has_seeds
from hrm_lab.errors import UserError
from hrm_lab.run_folder import COMPLETED, FAILED, FINISHED, RUNNING, STOPPED

Row = tuple[int, int | None, float | None, str]  # setting a.x, setting b.y, best value, state
rows = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.sampled_from([None, 1, 2]),
        st.one_of(st.none(), st.floats(0, 1)),
        st.sampled_from([COMPLETED, STOPPED, FAILED, RUNNING]),
    ),
    min_size=1,
    max_size=20,
)


def frame_of(runs: list[Row], mode: str = "max") -> pd.DataFrame:
    """As `load_sweep` gives it; every row is a seed of its own."""
    best = pd.Series([value for _, _, value, _ in runs], dtype=float)
    frame = pd.DataFrame({"a.x": [x for x, *_ in runs]})
    frame["b.y"] = pd.Series([y for _, y, *_ in runs], dtype=object)
    frame["seed"] = range(len(runs))
    frame = frame.assign(
        metric="eval/score", mode=mode, best_step=10, best_score=best, last_step=20, last_score=best / 2
    )
    frame = frame.assign(act_depth=8, act_steps=4.0, samples_per_s=100.0, mfu=math.nan, wall_s=5.0, gpu_h=0.5)
    frame = frame.assign(state=[state for *_, state in runs])
    return frame.assign(whole=frame["state"].isin(FINISHED))


@settings(max_examples=40, deadline=None)
@given(rows)
def test_mean_error_and_counts_are_those_of_numpy(runs: list[Row]) -> None:
    for group in aggregate(frame_of(runs)).to_dict("records"):
        y = None if pd.isna(group["b.y"]) else group["b.y"]
        mine = [run for run in runs if run[:2] == (group["a.x"], y)]
        values = [value for _, _, value, state in mine if value is not None and state in FINISHED]
        assert (group["n"], group["runs"]) == (len(values), len(mine))
        assert group["gpu_h"] == pytest.approx(0.5 * len(mine))  # those that failed have cost as much
        if values:
            assert group["best_score_mean"] == pytest.approx(np.mean(values))
            assert group["last_score_mean"] == pytest.approx(np.mean(values) / 2)
        else:
            assert np.isnan(group["best_score_mean"])
        if len(values) > 1:
            assert group["best_score_se"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(len(values)), abs=1e-12)
        else:
            assert np.isnan(group["best_score_se"])
        for state in {COMPLETED, STOPPED, FAILED, RUNNING}:
            number = sum(run[3] == state for run in mine)
            assert (f"{number} {state}" in group["states"].split(", ")) == (number > 0)


@settings(max_examples=40, deadline=None)
@given(rows, st.randoms(use_true_random=False), st.sampled_from(["max", "min"]))
def test_neither_order_nor_the_seeds_names_change_anything(runs: list[Row], random: object, mode: str) -> None:
    frame = frame_of(runs, mode)
    groups = aggregate(frame)
    assert len(groups) == len({run[:2] for run in runs})
    ranked = groups["best_score_mean"].dropna()
    assert ranked.is_monotonic_decreasing if mode == "max" else ranked.is_monotonic_increasing
    assert groups["best_score_mean"].iloc[: len(ranked)].notna().all()  # what has no value stands last
    order = list(range(len(runs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = aggregate(frame.assign(seed=order).iloc[order])

    def comparable(found: pd.DataFrame) -> pd.DataFrame:
        shown = found.drop(columns="states").assign(**{"b.y": found["b.y"].map(repr)})
        return shown.sort_values(["a.x", "b.y"], ignore_index=True)

    pd.testing.assert_frame_equal(comparable(groups), comparable(shuffled))


def test_groups_can_be_named_by_short_keys() -> None:
    frame = frame_of([(1, None, 0.5, COMPLETED), (1, 2, 0.7, COMPLETED), (2, 2, 0.1, COMPLETED)])
    assert not has_seeds(frame)
    groups = aggregate(frame, ["x"])
    assert list(groups["a.x"]) == [1, 2]
    assert list(groups["n"]) == [2, 1]
    assert list(aggregate(frame, ["seed"])["seed"]) == [1, 0, 2]
    assert list(aggregate(frame, ["b.y"])["runs"]) == [1, 2]
    with pytest.raises(UserError, match=r"by=z: .*\n  way out: take a.x, b.y, seed"):
        aggregate(frame, ["z"])
    with pytest.raises(UserError, match=r"several settings\n  way out: take a.x, c.x"):
        aggregate(frame.assign(**{"c.x": 1}), ["x"])


def test_groups_whose_runs_think_to_other_depths_have_no_depth() -> None:
    frame = frame_of([(1, 1, 0.5, COMPLETED), (1, 1, 0.7, COMPLETED)])
    assert list(aggregate(frame)["act_depth"]) == [8]
    assert aggregate(frame.assign(act_depth=[8, 16]))["act_depth"].isna().all()
    assert has_seeds(frame)
    assert aggregate(frame.iloc[:0]).empty
