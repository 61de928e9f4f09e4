"""Seeds put together: mean and standard error of all runs that differ in nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from hrm_lab.analysis.frames import best_first, setting_columns
from hrm_lab.analysis.keys import SEED, resolve
from hrm_lab.analysis.metrics import EVAL

MEANS = ("act_steps", "samples_per_s", "mfu", "wall_s")


def aggregate(frame: pd.DataFrame, by: Sequence[str] | None = None) -> pd.DataFrame:
    """One row for each group of runs, best mean first.

    Means are over runs that were trained to an end of their own, so that a group is not made better or worse by how far
    the others have got, or by where a comparison has cut them; `runs` and `states` say what else there is.

    Args:
        frame: of `load_sweep`.
        by: settings that tell groups apart, by dotted key or last part; default: all that differ, but the seed.

    Columns:
        the settings of `by`.
        n, runs: how many runs the means are over, and how many the group has.
        states: how many runs are in which state.
        X_mean, X_se: for X = best_step, best_exact_accuracy, ..., last_exact_accuracy, ..., final_...: mean, and
            standard error (sample deviation by root n; empty for n = 1).
        act_depth: of all its runs; empty where they differ.
        act_steps, samples_per_s, mfu, wall_s: means.
        gpu_h: sum over all runs, finished or not.
        metric, mode: as in the frame.

    Raises:
        UserError: for an unknown key.
    """
    known = [*setting_columns(frame), SEED]
    keys = known[:-1] if by is None else resolve(by, known)
    measured = [name for name in frame.columns if name.startswith(("best_", "last_", "final_"))]
    values = frame[[*measured, *MEANS]].astype(float).where(frame["whole"]).groupby(group_numbers(frame, keys))
    groups = frame.groupby(group_numbers(frame, keys))
    ranked = _ranked(frame)
    columns = {key: groups[key].first(skipna=False) for key in keys}
    columns |= {
        "n": values[ranked].count(),
        "runs": groups.size(),
        "states": groups["state"].agg(_count),
    }
    mean, error = values.mean(), values.sem(ddof=1)
    for name in measured:
        columns |= {f"{name}_mean": mean[name], f"{name}_se": error[name]}
    depth = groups["act_depth"]
    columns["act_depth"] = depth.first().where(depth.nunique() == 1)
    columns |= {name: mean[name] for name in MEANS}
    columns |= {"gpu_h": groups["gpu_h"].sum(), "metric": groups["metric"].first(), "mode": groups["mode"].first()}
    mode = "max" if frame.empty else str(frame["mode"].iloc[0])
    return best_first(pd.DataFrame(columns), f"{ranked}_mean", mode)


def has_seeds(frame: pd.DataFrame) -> bool:
    """Whether there are runs that differ in nothing but the seed."""
    return bool(group_numbers(frame, setting_columns(frame)).duplicated().any())


def group_numbers(frame: pd.DataFrame, keys: Sequence[str]) -> pd.Series[int]:
    """The number of every row's group, in order of appearance; a null is a value like any other."""
    seen: dict[tuple[str, ...], int] = {}
    rows = zip(*(map(repr, frame[key]) for key in keys), strict=True) if keys else [()] * len(frame)
    return pd.Series([seen.setdefault(row, len(seen)) for row in rows], index=frame.index, dtype=int)


def _ranked(frame: pd.DataFrame) -> str:
    return "best_step" if frame.empty else f"best_{frame['metric'].iloc[0].removeprefix(EVAL)}"


def _count(states: pd.Series[str]) -> str:
    return ", ".join(f"{number} {state}" for state, number in Counter(states).most_common())
