"""Pictures of a run's evaluations, drawn by the mirror from the arrays that the training has left.

`boards/step_STEP.png` of each evaluation; `figures/act_depth.png` and `figures/difficulty.png` of the newest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrm_lab.errors import one_line
from hrm_lab.run_folder import RunFolder

log = logging.getLogger("hrm_lab")
EVALUATIONS = "evaluations"  # the folder that the trainer's arrays are in
CURVES = 5  # evaluations whose accuracy by ACT step is drawn


def draw(folder: RunFolder, place: str) -> list[Path]:
    """The pictures of one evaluation. One that cannot be drawn is a warning: numbers are more important.

    Args:
        place: of its arrays, in the run's folder.
    """
    if not place.startswith(f"{EVALUATIONS}/"):
        return []
    try:
        return _draw(folder, folder.path / place)
    except Exception as error:
        log.warning("%s: cannot be drawn (%s); the numbers are sent all the same", folder.path / place, one_line(error))
        return []


def _draw(folder: RunFolder, file: Path) -> list[Path]:
    from hrm_lab.analysis.boards import draw_boards  # only now: matplotlib takes a second to load
    from hrm_lab.analysis.reasoning import draw_act_depth, draw_difficulty

    arrays, when = load(file), f"optimizer step {step_of(file):,}"
    boards, figures = folder.path / "boards", folder.path / "figures"
    boards.mkdir(exist_ok=True)
    figures.mkdir(exist_ok=True)
    drawn = []
    if len(arrays.get("inputs", ())):
        drawn.append(draw_boards(arrays, boards / f"{file.stem}.png", when))
    evaluations = sorted(file.parent.glob("step_*.npz"))
    if file == evaluations[-1]:  # else they would be drawn over at once
        drawn.append(draw_difficulty(arrays, figures / "difficulty.png", when))
        drawn.append(draw_act_depth(_some(evaluations), figures / "act_depth.png"))
    return drawn


def _some(files: Sequence[Path]) -> dict[int, dict[str, NDArray[Any]]]:
    """Evaluations by step: evenly spread, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(files) - 1, CURVES).round().astype(int))
    return {step_of(files[index]): load(files[index]) for index in chosen}


def step_of(file: Path) -> int:
    """The optimizer step that arrays were recorded after."""
    return int(file.stem.rpartition("_")[2])


def load(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file."""
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
