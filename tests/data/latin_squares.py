"""Latin squares, the smallest task there is: what a task must say of itself, in one file.

Tokens: 0 padding, 1 a blank, symbol + 2 for symbols 0 .. side - 1. `test_fourth_task.py` puts it where tasks lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from hrm_lab.config import DataConfig, setting
from hrm_lab.data.addressed import permutations, random_words
from hrm_lab.data.format import Dataset, DatasetInfo, Split
from hrm_lab.data.task import Appearance, Built, Judged, Progress, Rows, Scorer, Symmetries, Task, Tokens
from hrm_lab.errors import DataError, require

if TYPE_CHECKING:
    from torch import Tensor

BLANK, FIRST = 1, 2
_PUZZLE, _VARIANT = 0x1A70, 0x1A71  # what random words are for; see `random_words`


@dataclass
class LatinSquaresConfig(DataConfig):
    """Squares of any side with some cells blank."""

    task: str = setting("latin_squares", "which task it is", choices=("latin_squares",))
    name: str = setting("latin_squares", "name of the dataset", identity=False)
    side: int = setting(4, "rows and columns", unit="cells", low=3, high=9)
    num_train: int = setting(64, "training puzzles", unit="puzzles", low=1)
    num_test: int = setting(16, "test puzzles", unit="puzzles", low=1)
    num_blanks: int = setting(5, "empty cells", unit="cells", low=1)
    build_seed: int = setting(0, "seed of generation", low=0)

    eval_metrics: ClassVar[tuple[str, ...]] = ("latin_accuracy",)

    def check(self) -> None:
        """Refuse squares with nothing given."""
        most = self.side**2 - 1
        require(self.num_blanks <= most, "data.num_blanks", self.num_blanks, "leaves nothing", f"take at most {most}")

    def num_train_groups(self) -> int:
        """As many as training puzzles."""
        return self.num_train


def build(config: LatinSquaresConfig, progress: Progress | None) -> Built:
    """A cyclic square with its lines and symbols shuffled, blanked at random; train and test share no square."""
    side, total = config.side, config.num_train + config.num_test
    found: dict[bytes, tuple[Tokens, Tokens]] = {}
    for number in range(50 * total):
        words = random_words(_PUZZLE, config.build_seed, number, count=3 * side + side * side)[0]
        rows, cols, symbols = permutations(words[: 3 * side].reshape(3, side))
        square = symbols[(rows[:, None] + cols) % side].reshape(-1).astype(np.uint8) + np.uint8(FIRST)
        hidden = permutations(words[3 * side :])[: config.num_blanks]
        puzzle = square.copy()
        puzzle[hidden] = BLANK
        found.setdefault(square.tobytes(), (puzzle, square))
        if progress is not None:
            progress(len(found), total)
        if len(found) == total:
            break
    else:
        problem = f"data.num_train={config.num_train}: there are only {len(found)} squares"
        raise DataError(f"{problem}\n  way out: take fewer, or a larger data.side")
    inputs, labels = (np.stack(part) for part in zip(*found.values(), strict=True))
    train, test = slice(config.num_train), slice(config.num_train, None)
    info = DatasetInfo(
        task="latin_squares",
        name=config.name,
        vocab_size=side + FIRST,
        seq_len=side * side,
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        num_puzzle_identifiers=1,
        grid_shape=(side, side),
        test_sets=("all",),
    )
    return Built(
        info,
        Split.of_single_examples(inputs[train], labels[train]),
        {"all": Split.of_single_examples(inputs[test], labels[test])},
    )


def appearance(info: DatasetInfo) -> Appearance:
    """Symbols are digits from 1 on."""
    return Appearance("_." + "123456789"[: info.grid_shape[0]])


def parse(info: DatasetInfo, text: str) -> Tokens:
    """Digits row by row, `.` for a blank.

    Raises:
        DataError: for what is none.
    """
    glyphs = appearance(info).glyphs
    cells = "".join(text.split())
    if len(cells) != info.seq_len or not set(cells) <= set(glyphs[BLANK:]):
        raise DataError(f"puzzle {text[:40]!r}: is no square\n  way out: {info.seq_len} of {glyphs[BLANK:]}")
    return np.array([glyphs.index(cell) for cell in cells], np.uint8)


def verify(info: DatasetInfo, inputs: Tokens, answer: Tokens) -> str:
    """Whether every symbol stands once in each row and column, and what is given is kept."""
    side = info.grid_shape[0]
    square = np.sort(answer.reshape(side, side).astype(int), axis=1), np.sort(answer.reshape(side, side).T, axis=1)
    if any((lines != np.arange(FIRST, FIRST + side)).any() for lines in square):
        return "is no Latin square"
    return "changes a given" if ((inputs != BLANK) & (inputs != answer)).any() else ""


class LatinSymmetries:
    """Rows, columns and symbols in another order."""

    def __init__(self, dataset: Dataset, seed: int, num_augmentations: int) -> None:
        self.side, self.seed, self.num_augmentations = dataset.info.grid_shape[0], seed, num_augmentations
        self.num_identifiers = dataset.info.num_puzzle_identifiers

    def num_variants(self, split: Split) -> npt.NDArray[np.int64]:
        """1 + k of each."""
        return np.full(split.num_puzzles, 1 + self.num_augmentations)

    def identifiers(self, rows: Rows) -> npt.NDArray[np.int32]:
        """All variants share their puzzle's."""
        return rows.identifiers

    def apply(self, rows: Rows, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Symmetries`."""
        import torch

        side, count = self.side, len(rows.puzzles)
        words = random_words(_VARIANT, self.seed, rows.puzzles, rows.variants, count=3 * side).reshape(count, 3, side)
        moves = permutations(words)
        moves[rows.variants == 0] = np.arange(side)
        cells = torch.from_numpy((moves[:, 0, :, None] * side + moves[:, 1, None]).reshape(count, -1))
        names = np.concatenate([np.tile([0, BLANK], (count, 1)), moves[:, 2] + FIRST], axis=1)
        table = torch.from_numpy(names.astype(np.uint8)).to(inputs.device)
        moved = (tokens.gather(1, cells.to(tokens.device)) for tokens in (inputs, labels))
        new_inputs, new_labels = (table.gather(1, tokens.long()) for tokens in moved)
        return new_inputs, new_labels


class LatinScorer:
    """The share of answers that are Latin squares, whatever their labels say."""

    def __init__(self, info: DatasetInfo) -> None:
        self.info, self.right, self.total = info, 0, 0

    def add(self, judged: Judged) -> None:
        """See `Scorer`."""
        pairs = zip(judged.inputs, judged.predictions, strict=True)
        self.right += sum(not verify(self.info, question, answer) for question, answer in pairs)
        self.total += len(judged.inputs)

    def collected(self) -> tuple[int, int]:
        """See `Scorer`."""
        return self.right, self.total

    def metrics(self, collected: Sequence[Any]) -> dict[str, float]:
        """See `Scorer`."""
        right, total = np.sum(collected, axis=0)
        return {"latin_accuracy": float(right / total)}


def _scorer(dataset: Dataset, split: Split, symmetries: Symmetries | None) -> Scorer:
    return LatinScorer(dataset.info)


TASK = Task(LatinSquaresConfig, build, appearance, parse, verify, symmetries=LatinSymmetries, scorer=_scorer)
