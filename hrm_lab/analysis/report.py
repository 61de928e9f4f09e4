"""A sweep on one page: question, answer, grid, table, pictures, decisions, failures, origin and cost.

The page is one HTML file that needs nothing else, and the same runs give the same bytes. Every journal has been read by
then (frames.py), once; the arrays of a few evaluations are read here.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hrm_lab.analysis.answer import answer
from hrm_lab.analysis.comparison import Column, compare
from hrm_lab.analysis.curves import draw_curves
from hrm_lab.analysis.depth import draw_depth, draw_ratings, judged
from hrm_lab.analysis.frames import Results, setting_columns
from hrm_lab.analysis.groups import Group, as_given, groups_of
from hrm_lab.analysis.heat_map import draw_axes
from hrm_lab.analysis.keys import SEED
from hrm_lab.analysis.origin import command, versions
from hrm_lab.analysis.pareto import draw_pareto
from hrm_lab.analysis.runs import Run, is_failure
from hrm_lab.analysis.style import Picture
from hrm_lab.errors import UserError
from hrm_lab.run_folder import FINISHED, STOPPED

TEMPLATE = "report.html.jinja"
NO_ARRAYS = "The runs left no arrays of their evaluations: they were not evaluated, or an earlier version made them."


@dataclass(frozen=True)
class Section:
    """A picture under a heading, or a line that says why there is none."""

    title: str
    picture: Picture | None
    otherwise: str

    @property
    def anchor(self) -> str:
        """Its id on the page."""
        return "-".join(re.findall(r"\w+", self.title.lower()))


@dataclass(frozen=True)
class Report:
    """The page, and its pictures once more as they are."""

    html: str
    pictures: list[Picture]


def make_report(results: Results) -> Report:
    """Compose the page of one sweep."""
    groups = groups_of(results)
    sections = draw_sections(results, groups)
    html = _template().render(
        manifest=results.manifests[0],
        answer=answer(groups, results.target),
        target=results.target,
        grid=_grid(results),
        states=Counter(run.state.status.lower() for run in results.runs).most_common(),
        runs=len(results.runs),
        groups=len(groups),
        table=compare(results.frame).columns,
        each=compare(results.frame, each=True).columns,
        sections=sections,
        decisions=_decisions(results.runs),
        failures=_failures(results.runs),
        command=command(results.manifests[0]),
        versions=versions(results.runs),
        gpu_hours=sum(run.gpu_hours for run in results.runs),
        hours=sum(run.hours for run in results.runs),
        unfinished_hours=sum(run.hours for run in results.runs if run.state.status not in FINISHED),
        spared=_spared(results.runs),
    )
    return Report(html, [section.picture for section in sections if section.picture])


def write_report(results: Results, page: Path | None = None) -> list[Path]:
    """Write the page, and the pictures into the sweep's folder.

    Args:
        page: by default report.html in the sweep's folder.

    Returns:
        The page's path, then those of the pictures.

    Raises:
        UserError: when it cannot be written.
    """
    report = make_report(results)
    folder = results.manifests[0].folder
    page = page or folder / "report.html"
    files = {page: report.html.encode()}
    files |= {folder / "figures" / f"{picture.name}.png": picture.png for picture in report.pictures}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{path}: the report cannot be written: {error.strerror}\n  way out: make room, or --out FILE"
        ) from error
    return list(files)


def draw_sections(results: Results, groups: Sequence[Group]) -> list[Section]:
    """All pictures, in the order of the page."""
    target = results.target
    models = judged(groups, target)
    return [
        Section(
            "Which settings matter", draw_axes(results), "Nothing but the seed was varied, or nothing was measured."
        ),
        Section("Learning curves", draw_curves(groups, target), "No run has logged anything."),
        Section("Accuracy by ACT steps", draw_depth(models), NO_ARRAYS),
        Section(
            "Difficulty: accuracy and steps by puzzle rating",
            draw_ratings(models),
            "The test puzzles have no ratings." if models else NO_ARRAYS,
        ),
        Section("Cost against accuracy", draw_pareto(groups, target), "No run that was evaluated has finished."),
    ]


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["rows_of"] = _rows
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template(TEMPLATE)


def _rows(columns: Sequence[Column]) -> list[list[tuple[Column, str]]]:
    """The cells of a table by row, each with its column."""
    return [list(zip(columns, cells, strict=True)) for cells in zip(*(one.cells for one in columns), strict=True)]


def _grid(results: Results) -> list[tuple[str, list[str]]]:
    """Every swept setting with its values."""
    frame = results.frame
    return [
        (key, list(dict.fromkeys(as_given(value) for value in sorted(frame[key], key=_order))))
        for key in [*setting_columns(frame), SEED]
    ]


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then everything else by name."""
    is_number = isinstance(value, int | float) and value == value
    return not is_number, value if is_number else as_given(value)


def _decisions(runs: Sequence[Run]) -> dict[str, Any]:
    """What stopped the runs that are stopped, and how many other decisions there were by rule."""
    stopped = [(run, _last_word(run)) for run in runs if run.state.status == STOPPED]
    made = [decision for run in runs for _, decision in run.record.decisions]
    others = Counter(decision.rule for decision in made if not decision.stops).most_common()
    rules = Counter(word["rule"] for _, word in stopped).most_common()
    return {"stops": [(run.point, word) for run, word in stopped], "rules": rules, "others": others}


def _last_word(run: Run) -> dict[str, Any]:
    """The decision that ended a run; an earlier version wrote down the reason only."""
    stop = run.record.last_stop
    return stop.to_dict() if stop is not None else {"rule": "", "step": None, "reason": run.state.detail}


def _spared(runs: Sequence[Run]) -> dict[str, float]:
    """What the runs that a comparison has cut did not train: share of all planned steps, hours at their own pace."""
    cut = [(run, stop.step) for run in runs if (stop := run.cut_by) is not None and stop.step > 0]
    left = [(run.record.total_steps - step, run.hours / step) for run, step in cut]
    planned = sum(run.record.total_steps for run in runs)
    return {
        "runs": len(cut),
        "steps": sum(steps for steps, _ in left) / planned if planned else 0.0,
        "hours": sum(steps * pace for steps, pace in left),
    }


def _failures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Equal reasons together, the most frequent first."""
    reasons: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if is_failure(run.state.status):
            reasons.setdefault((run.state.status.lower(), run.state.detail), []).append(run)
    return [
        {
            "state": state,
            "reason": reason,
            "points": [run.point for run in same],
            "log": f"runs/{same[0].folder.path.name}/{same[0].folder.log.name}",
        }
        for (state, reason), same in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
