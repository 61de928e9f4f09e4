"""The contract of a task: what must be known of it beyond the bytes of its dataset.

A task is a file in `tasks/` that says `TASK = Task(...)`, and a YAML in `conf/data/`. Everything else - sampling,
training, evaluation, pictures, `solve` - asks these few functions, and knows no task by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hrm_lab.config import DataConfig
from hrm_lab.data.format import Dataset, DatasetInfo, Split

if TYPE_CHECKING:
    from torch import Tensor  # settings are checked before torch is loaded, which takes seconds

Tokens = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]  # called with (done, in all)


class Rows(NamedTuple):
    """Which examples of a split make a batch, in which variants; each (B,). Padding is example -1, puzzle 0."""

    examples: Ints  # row in the split's arrays
    puzzles: Ints  # stored puzzle that it belongs to
    places: Ints  # which of that puzzle's examples it is
    variants: Ints  # 0 = as it is stored
    identifiers: npt.NDArray[np.int32]  # stored identifier of the puzzle

    def take(self, chosen: slice | Ints) -> Rows:
        """Some of them."""
        return Rows(*(part[chosen] for part in self))  # type: ignore[arg-type]


class Symmetries(Protocol):
    """The variants of a dataset's puzzles, as functions of (seed, puzzle, variant); variant 0 is the puzzle itself."""

    num_identifiers: int  # rows of the puzzle embedding, the blank one included

    def num_variants(self, split: Split) -> Ints:
        """(P,) how many each stored puzzle has, itself included."""

    def identifiers(self, rows: Rows) -> npt.NDArray[np.int32]:
        """(B,) rows of the puzzle embedding."""

    def apply(self, rows: Rows, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The variants of stored pairs (B, S) uint8, both of a pair alike, on whatever device they lie."""


class Judged(NamedTuple):
    """What the model says, after its last ACT step, of one batch of test examples without padding; on the host."""

    rows: Rows
    inputs: Tokens  # (B, S) as the model saw them
    labels: Tokens  # (B, S) likewise
    predictions: Tokens  # (B, S)
    q_halt: npt.NDArray[np.float32]  # (B,) logits


class Scorer(Protocol):
    """A task's own metrics of one test set, beside those that every task has. One is made for each evaluation."""

    def add(self, judged: Judged) -> None:
        """Take a batch of this process's share."""

    def collected(self) -> Any:
        """What the other processes need to know of it; it is pickled."""

    def metrics(self, collected: Sequence[Any]) -> dict[str, float]:
        """Values by name (`DataConfig.eval_metrics`), from what all processes have collected, in rank order."""


@dataclass(frozen=True)
class Built:
    """A dataset in memory, ready for `write_dataset`; `arrays` are the task's own, by name."""

    info: DatasetInfo
    train: Split
    test: dict[str, Split]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Appearance:
    """How tokens are shown to a person, in text and in pictures.

    Attributes:
        glyphs: a character for each token of the vocabulary.
        fills: a colour (#rrggbb) behind each token's cell, or "" for none.
        box_shape: rows and columns of the boxes that thick lines enclose, where there are any.
    """

    glyphs: str
    fills: tuple[str, ...] = ()
    box_shape: tuple[int, int] | None = None

    def text(self, tokens: Tokens, grid_shape: tuple[int, int]) -> str:
        """A board of S tokens as text, with lines between its boxes; `?` is no token of the vocabulary."""
        rows, cols = grid_shape
        box_rows, box_cols = self.box_shape or grid_shape
        gap = " " if self.box_shape else ""  # a board without boxes may be wide
        lines = []
        for number, row in enumerate(np.asarray(tokens).reshape(rows, cols).tolist()):
            cells = [self.glyphs[token] if token < len(self.glyphs) else "?" for token in row]
            line = " | ".join(gap.join(cells[start : start + box_cols]) for start in range(0, cols, box_cols))
            if number and number % box_rows == 0:
                lines.append("".join("+" if mark == "|" else "-" for mark in line))
            lines.append(line)
        return "\n".join(lines)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        settings: its data settings, a subclass of DataConfig.
        build: makes the dataset of such settings in memory; raises DataError.
        appearance: how its tokens are shown.
        parse: a puzzle in text -> its tokens (S,); raises DataError that says what is wrong with it.
        verify: what is wrong with an answer (S,) to inputs (S,), by the rules of the task alone; "" when it is right,
            None where only a label could tell.
        symmetries: its variants for (dataset, seed, num_augmentations); None: it has none.
        scorer: its own metrics for (dataset, test set, symmetries); None: it has none.
        open: opens what is there already, instead of building; raises DataError.
    """

    settings: type[DataConfig]
    build: Callable[[Any, Progress | None], Built]
    appearance: Callable[[DatasetInfo], Appearance]
    parse: Callable[[DatasetInfo, str], Tokens]
    verify: Callable[[DatasetInfo, Tokens, Tokens], str | None]
    symmetries: Callable[[Dataset, int, int], Symmetries] | None = None
    scorer: Callable[[Dataset, Split, Symmetries | None], Scorer] | None = None
    open: Callable[[Any], Dataset] | None = None
