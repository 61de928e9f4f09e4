"""How all pictures look: colours that the colour-blind tell apart, and marks and lines for print in black and white."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from hrm_lab.analysis.metrics import EVAL, scale_of

# Okabe and Ito's, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F5F1F")
MARKERS = "osD^vP*X"
LINES = ("-", "--", "-.", ":")
TOLD_APART = len(COLOURS)  # groups; the others are a grey background
GREY: dict[str, Any] = {"color": "0.78", "marker": "", "linestyle": "-", "linewidth": 0.6, "zorder": 1}
# Of one run's evaluations: the newest is the solid line, the older ones are paler.
AGED_LINES, AGED_MARKERS = ((0, (1, 2)), ":", "-.", "--", "-"), "^sDvo"
# Cells of a board: given, right, wrong.
GIVEN, RIGHT, WRONG = "#d5d5d5", "#1f4e9c", "#b30000"
DPI = 110
LONGEST_LABEL = 48  # characters


@dataclass(frozen=True)
class Picture:
    """A picture for a page and for a file of its own."""

    name: str  # of the file, without .png
    alt: str  # what it shows, for those who do not see it
    caption: str
    png: bytes


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line of the group that is the index-th best: the same in every picture."""
    return {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": LINES[index % len(LINES)]}


def aged(age: int) -> dict[str, Any]:
    """Line, marker and colour of an evaluation; age 0 is the newest of at most five."""
    place = len(AGED_LINES) - 1 - age
    newest = {"color": COLOURS[0], "markersize": 6, "linewidth": 2.4}
    older = {"color": str(0.75 - 0.15 * place), "markersize": 4, "linewidth": 1.2}
    return {"linestyle": AGED_LINES[place], "marker": AGED_MARKERS[place], **(older if age else newest)}


def add_legend(figure: Figure, labels: Mapping[int, str]) -> None:
    """The names of those that are told apart, by their place, below the axes."""
    handles = [Line2D([], [], **look(place), markersize=5) for place in labels]
    names = [plain(label) for label in labels.values()]
    figure.legend(handles, names, loc="outside lower center", ncols=_columns(names))


def _columns(names: list[str]) -> int:
    """As many as fit below two panels."""
    return max(1, min(4, len(names), 130 // (max(map(len, names), default=0) + 6)))


def picture(figure: Figure, name: str, alt: str, caption: str) -> Picture:
    """The drawn figure. The same figure gives the same bytes."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(name, alt, caption, file.getvalue())


def title_of(metric: str) -> str:
    """A metric in words."""
    known = {"exact_accuracy": "test puzzles solved exactly", "accuracy": "test cells right"}
    return known.get(metric.removeprefix(EVAL), metric)


def show_metric(axis: Axes, metric: str) -> None:
    """Percent along y for what is a share."""
    factor, _, unit = scale_of(metric)
    if unit:
        axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{factor * share:.4g}%"))


def plain(text: str) -> str:
    """A label as it is, whatever is in it: no formulas, and not longer than there is room."""
    short = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
    return short.replace("$", r"\$")


def told_apart(count: int) -> str:
    """What a caption says where there are more groups than looks."""
    return f" The best {TOLD_APART} of {count} are told apart; the others are grey." if count > TOLD_APART else ""
