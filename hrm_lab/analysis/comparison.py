"""The comparison of runs as rows and columns of text, for whatever shows them: a terminal, or a file (export.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from hrm_lab.analysis.aggregate import aggregate, has_seeds
from hrm_lab.analysis.curves import draw_curves
from hrm_lab.analysis.frames import Results, setting_columns
from hrm_lab.analysis.groups import as_given, groups_of
from hrm_lab.analysis.keys import SEED, short_names
from hrm_lab.analysis.metrics import EVAL, scale_of
from hrm_lab.analysis.runs import is_failure
from hrm_lab.errors import UserError
from hrm_lab.run_folder import FAILED, STOPPED

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """One column. A heading breaks where its line ends, so that a table fits a terminal of 80 columns."""

    heading: str
    cells: list[str]
    is_number: bool = True


@dataclass(frozen=True)
class Comparison:
    """What is compared, best first: all the figures, and what is shown of them."""

    data: pd.DataFrame
    columns: list[Column]


def compare(frame: pd.DataFrame, by: Sequence[str] | None = None, each: bool = False) -> Comparison:
    """Put seeds together where there are any, or groups where they are asked for; else show run by run.

    Args:
        frame: of `load_sweep`.
        by: settings that tell groups apart.
        each: show run by run anyway.

    Raises:
        UserError: for an unknown setting, and where groups and single runs are asked for at once.
    """
    if by and each:
        raise UserError("--by and --runs: groups of runs, or every run?\n  way out: leave one of them out")
    if by or (not each and has_seeds(frame)):
        groups = aggregate(frame, by)
        return Comparison(groups, _of_groups(groups, "runs" if by else "seeds"))
    return Comparison(frame, _of_runs(frame))


def comparison_table(comparison: Comparison) -> Table:
    """For a terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for column in comparison.columns:
        table.add_column(column.heading, justify="right" if column.is_number else "left")
    states = comparison.data["states" if "states" in comparison.data else "state"]
    for state, cells in zip(states, zip(*(column.cells for column in comparison.columns), strict=True), strict=True):
        table.add_row(*cells, style="red" if FAILED in state else None)
    return table


def title(results: Results) -> str:
    """Names and questions of the sweeps."""
    return "\n".join(f"{manifest.name}: {manifest.question}".rstrip(": ") for manifest in results.manifests)


def notes(frame: pd.DataFrame) -> list[str]:
    """What a table has no room for: why runs failed, and where their logs lie."""
    lines = []
    failed = frame[frame["state"].map(is_failure) & (frame["detail"] != "")]
    for (state, detail), same in failed.groupby(["state", "detail"], sort=False):
        names = f"{same['point'].iloc[0]}" + (f" and {len(same) - 1} more" if len(same) > 1 else "")
        lines.append(f"{names}: {str(state).lower()}: {detail}\n  log: {same['folder'].iloc[0]}/log.txt")
    return lines


def stopped_note(results: Results) -> str:
    """How many stopped early, and what says why; empty where none did."""
    stopped = sum(run.state.status == STOPPED for run in results.runs)
    verbs = ", ".join(f"`hrm-lab decisions {manifest.name}`" for manifest in results.manifests)
    return f"{stopped} stopped early: {verbs}" if stopped else ""


def draw(results: Results) -> Path | None:
    """Draw the learning curves among the first sweep's figures, where the report has them too.

    Returns:
        The picture's path; None where there is no curve, or nothing can be written: others' results can be read too.
    """
    picture = draw_curves(groups_of(results), results.target)
    if picture is None:
        return None
    path = results.manifests[0].folder / "figures" / f"{picture.name}.png"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture.png)
    except OSError:
        return None
    return path


def _of_runs(frame: pd.DataFrame) -> list[Column]:
    keys = [key for key in [*setting_columns(frame), SEED] if key != SEED or frame[SEED].nunique() > 1]
    columns = [_text(frame, "sweep", "sweep")] if frame["sweep"].nunique() > 1 else []
    columns += _settings(frame, keys) or [_text(frame, "point", "point")]
    metric = _metric(frame)
    columns += [
        _measured(frame, "best", metric),
        _figures("at\nstep", frame["best_step"]),
        _measured(frame, "last", metric),
        *_whole(frame, metric),
        _figures("ACT\ndepth", frame["act_depth"]),
        _figures("ACT\nsteps", frame["act_steps"], 2),
        _figures("samples\nper s", frame["samples_per_s"]),
        *_costs(frame),
    ]
    return [*columns, Column("state", [state.lower() for state in frame["state"]], is_number=False)]


def _of_groups(groups: pd.DataFrame, what: str) -> list[Column]:
    keys = [key for key in [*setting_columns(groups), SEED] if key in groups]
    counts = zip(groups["n"], groups["runs"], strict=True)
    metric = _metric(groups)
    columns = [
        *_settings(groups, keys),
        Column(what, [f"{n}" if n == total else f"{n} of {total}" for n, total in counts]),
        _measured(groups, "best", metric),
        _figures("at\nstep", groups["best_step_mean"]),
        _measured(groups, "last", metric),
        *_whole(groups, metric),
        _figures("ACT\ndepth", groups["act_depth"]),
        *_costs(groups),
    ]
    words = [states.split(" ", 1)[1] if "," not in states else states for states in groups["states"]]
    return [*columns, Column("state", [word.lower() for word in words], is_number=False)]


def _costs(frame: pd.DataFrame) -> list[Column]:
    """Time always, and what only GPUs have where there is any."""
    columns = [_figures("time\ns", frame["wall_s"])]
    columns += [_figures("MFU\n%", 100 * frame["mfu"], 1)] if frame["mfu"].notna().any() else []
    return columns + ([_figures("GPU\nh", frame["gpu_h"], 2)] if frame["gpu_h"].any() else [])


def _metric(frame: pd.DataFrame) -> str:
    return "" if frame.empty else str(frame["metric"].iloc[0]).removeprefix(EVAL)


def _whole(frame: pd.DataFrame, metric: str) -> list[Column]:
    """The metric on whole test sets, where evaluations on the way saw a part: of the best weights and of the last."""
    kinds = [kind for kind in ("final_best", "final") if {f"{kind}_{metric}", f"{kind}_{metric}_mean"} & {*frame}]
    return [_measured(frame, kind, metric) for kind in kinds]


def _measured(frame: pd.DataFrame, which: str, metric: str) -> Column:
    """Best, last or final value of a metric; of groups the mean, with its standard error. Accuracies in percent."""
    scale, digits, unit = scale_of(metric)
    heading = f"{which.replace('_', ' ')}\n{metric.removesuffix('_accuracy').replace('_', ' ')}{unit}"
    if f"{which}_{metric}" in frame:
        return _figures(heading, scale * frame[f"{which}_{metric}"], digits)
    if frame.empty:
        return Column(heading, [])
    mean, error = scale * frame[f"{which}_{metric}_mean"], scale * frame[f"{which}_{metric}_se"]
    cells = [
        value if one == NOTHING else f"{value} ± {one}"
        for value, one in zip(_rounded(mean, digits), _rounded(error, digits), strict=True)
    ]
    return Column(heading, cells)


def _figures(heading: str, values: pd.Series[Any], digits: int = 0) -> Column:
    return Column(heading, _rounded(values, digits))


def _rounded(values: pd.Series[Any], digits: int) -> list[str]:
    return [NOTHING if pd.isna(value) else f"{value:.{digits}f}" for value in values]


def _settings(frame: pd.DataFrame, keys: Sequence[str]) -> list[Column]:
    names = short_names(keys)
    return [_text(frame, key, names[key]) for key in keys]


def _text(frame: pd.DataFrame, key: str, heading: str) -> Column:
    values = frame[key]
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return Column(heading, [as_given(value) for value in values], is_number)
