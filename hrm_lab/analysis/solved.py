"""What a model said of puzzles, for a terminal, for a machine and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.text import Text

from hrm_lab.data.format import DatasetInfo
from hrm_lab.data.questions import Solved
from hrm_lab.data.task import Appearance, Tokens

CHANGED = "bold reverse"  # a cell that was another after the step before
DRAWN = 8  # puzzles of one picture
KINDS = RIGHT, WRONG, UNTOLD, UNUSABLE = "right", "wrong", "that only a label could judge", "unusable"


def kind(said: Solved) -> str:
    """Of the answer, to be counted."""
    return UNTOLD if said.problem is None else WRONG if said.problem else RIGHT


def verdict(said: Solved) -> str:
    """Of the answer, in a few words."""
    if said.problem is None:
        return "only a label could tell whether it is right"
    return f"wrong: {said.problem}" if said.problem else "right"


def shown(said: Solved, appearance: Appearance, info: DatasetInfo) -> RenderableType:
    """The boards side by side, as many as there is room for; cells that have changed stand out on a terminal."""
    boards, before = [], said.inputs
    for step, (tokens, sure) in enumerate(zip(said.steps, said.q_halt, strict=True), start=1):
        halts = ", would halt" if step == said.halts_at else ""
        board = Text(f"step {step}\n{sure:.0%} sure{halts}\n") + _board(tokens, before, appearance, info)
        boards.append(board)
        before = tokens
    halting = f"step {said.halts_at}" if said.halts_at else f"no step up to {len(said.steps)}"
    head = f"{said.question.place}: {verdict(said)} (the model itself would halt after {halting})"
    return Group(Text(head, style="bold"), Columns(boards, padding=(1, 3, 0, 0)), "")


def _board(tokens: Tokens, before: Tokens, appearance: Appearance, info: DatasetInfo) -> Text:
    board = Text(appearance.text(tokens, info.grid_shape))
    # The same layout with a mark for each cell tells where on the board each cell stands.
    marks = dataclasses.replace(appearance, glyphs="\0\1").text((tokens != before).astype(np.uint8), info.grid_shape)
    for place, mark in enumerate(marks):
        if mark == "\1":
            board.stylize(CHANGED, place, place + 1)
    return board


def to_dict(said: Solved, appearance: Appearance) -> dict[str, Any]:
    """For a machine: boards row by row, as characters that the task reads; q_halt as probabilities."""
    boards = [line(tokens, appearance) for tokens in said.steps]
    return {
        "place": said.question.place,
        "puzzle": line(said.inputs, appearance),
        "answer": boards[-1],
        "right": None if said.problem is None else not said.problem,
        "problem": said.problem,
        "halts_at": said.halts_at,
        "steps": boards,
        "q_halt": [round(float(sure), 6) for sure in said.q_halt],
    }


def line(tokens: Tokens, appearance: Appearance) -> str:
    """A board on one line."""
    return "".join(appearance.glyphs[token] if token < len(appearance.glyphs) else "?" for token in tokens.tolist())


def draw(answers: Sequence[Solved], appearance: Appearance, info: DatasetInfo, path: Path) -> Path:
    """The picture of some puzzles, a row for each. What would be right is known only of those that are."""
    from hrm_lab.analysis.boards import UNKNOWN, draw_boards  # matplotlib takes a second to load
    from hrm_lab.training.evaluation import shown_as

    def label(said: Solved) -> Tokens:
        return said.steps[-1] if said.problem == "" else np.full_like(said.inputs, UNKNOWN)

    arrays: dict[str, Any] = {
        "inputs": np.stack([said.inputs for said in answers]),
        "labels": np.stack([label(said) for said in answers]),
        "predictions": np.stack([said.steps for said in answers]),
        "q_halt": np.stack([said.q_halt for said in answers]),
        "grid_shape": np.array(info.grid_shape),
    }
    return draw_boards(arrays | shown_as(appearance), path, what="Puzzles")
