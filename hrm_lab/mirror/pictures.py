"""Pictures of a run's evaluations, drawn by the mirror from the arrays that the training has left.

`boards/step_STEP.png` of each evaluation; `figures/act_depth.png` and `figures/difficulty.png` of the newest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrm_lab.errors import one_line
from hrm_lab.run_folder import RunFolder

log = logging.getLogger("hrm_lab")
EVALUATIONS = "evaluations"  # the folder that the trainer's arrays are in
CURVES = 5  # evaluations whose accuracy by ACT step is drawn
Drawing = Callable[[Path], object]


def draw(folder: RunFolder, place: str) -> list[Path]:
    """The pictures of one evaluation. One that cannot be drawn is a warning: numbers are more important.

    Args:
        place: of its arrays, in the run's folder.
    """
    if not place.startswith(f"{EVALUATIONS}/"):
        return []
    file, drawings = folder.path / place, list[tuple[Path, Drawing]]()
    with _warned(file):
        drawings = _drawings(folder, file)
    drawn = []
    for path, drawing in drawings:
        with _warned(file, f" as {path.name}"):
            path.parent.mkdir(exist_ok=True)
            drawing(path)
            drawn.append(path)
    return drawn


def _drawings(folder: RunFolder, file: Path) -> list[tuple[Path, Drawing]]:
    """Where each picture goes, and what draws it there."""
    from hrm_lab.analysis.boards import draw_boards  # only now: matplotlib takes a second to load
    from hrm_lab.analysis.reasoning import draw_act_depth, draw_difficulty

    arrays, when = load(file), f"optimizer step {step_of(file):,}"
    drawings: list[tuple[Path, Drawing]] = []
    if len(arrays.get("inputs", ())):
        board = folder.path / "boards" / f"{file.stem}.png"
        drawings.append((board, lambda path: draw_boards(arrays, path, when)))
    evaluations = sorted(file.parent.glob("step_*.npz"))
    if file == evaluations[-1]:  # else they would be drawn over at once
        figures = folder.path / "figures"
        drawings.append((figures / "difficulty.png", lambda path: draw_difficulty(arrays, path, when)))
        drawings.append((figures / "act_depth.png", lambda path: draw_act_depth(_some(evaluations), path)))
    return drawings


@contextmanager
def _warned(file: Path, what: str = "") -> Iterator[None]:
    """Whatever is wrong with one picture, or one file of it, is a warning, and the next one has its turn."""
    try:
        yield
    except Exception as error:
        log.warning("%s: cannot be drawn%s (%s); the numbers are sent all the same", file, what, one_line(error))


def _some(files: Sequence[Path]) -> dict[str, dict[str, NDArray[Any]]]:
    """Evaluations by name: evenly spread, the first and the last among them, without those that cannot be read."""
    chosen = np.unique(np.linspace(0, len(files) - 1, CURVES).round().astype(int))
    found = {}
    for file in (files[index] for index in chosen):
        with _warned(file, " beside later ones"):
            found[f"after step {step_of(file):,}"] = load(file)
    return found


def step_of(file: Path) -> int:
    """The optimizer step that arrays were recorded after."""
    return int(file.stem.rpartition("_")[2])


def load(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file."""
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
