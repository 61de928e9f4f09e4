"""ARC's symmetries: grids turned and mirrored, colours renamed, and moved about on their canvas.

B is a batch, R the side of the canvas, S = R * R. Stored grids lie in the canvas's top left corner; where a grid goes
under a symmetry follows from its extent, which is read off the canvas itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hrm_lab.data.addressed import Ints, random_words
from hrm_lab.data.arc.canvas import EOS, FIRST_COLOUR, NUM_COLOURS, PAD, grid_extents
from hrm_lab.data.arc.variants import NUM_PERMUTATIONS, Codes, distinct_codes, new_colours
from hrm_lab.data.dihedral import INVERSE
from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.task import Rows, Tokens

_STILL, _SHIFT = 0xA2D1, 0xA2D2  # what random words are for; see `random_words`
_SHIFT_BITS = 16
# Of each dihedral id: whether rows and columns change places, once rows, or columns, are counted from the far end.
_SWAP = np.array([0, 1, 0, 1, 0, 0, 1, 1])
_FLIP_ROWS = np.array([0, 1, 1, 0, 0, 1, 0, 1])
_FLIP_COLS = np.array([0, 0, 1, 1, 1, 0, 0, 1])


@dataclass(frozen=True)
class ArcDraws:
    """One symmetry for each row of a batch.

    The grid under dihedral id `tids`, its colours renamed, lies with its corner at a share `shifts` / 2**16 of the room
    that it has, down and to the right.
    """

    tids: Ints  # (B,)
    colours: npt.NDArray[np.uint8]  # (B, 10)
    shifts: Ints  # (B, 2)

    @classmethod
    def of(cls, codes: Codes, shifts: Ints | None = None) -> ArcDraws:
        """Of codes as in `variants`; without shifts the grid stays in the corner."""
        still = np.zeros((len(codes), 2), np.int64)
        tids = (codes // NUM_PERMUTATIONS).astype(np.int64)
        return cls(tids, new_colours(codes), still if shifts is None else shifts)

    def inverse(self) -> ArcDraws:
        """What brings a grid in the corner back."""
        return ArcDraws(
            np.array(INVERSE)[self.tids], np.argsort(self.colours, axis=1).astype(np.uint8), 0 * self.shifts
        )


def apply_arc(inputs: Tensor, labels: Tensor, draws: ArcDraws, side: int) -> tuple[Tensor, Tensor]:
    """Apply draws to pairs of canvases (B, S) uint8 with their grids in the corner; both of a pair alike.

    What is random was drawn on the host, a few bytes a row; the grids are moved and renamed where they are.
    """
    pairs = torch.stack((inputs, labels), 1).view(-1, 2, side, side)
    is_colour = pairs >= FIRST_COLOUR
    extents = torch.stack((is_colour[..., 0].sum(-1), is_colour[:, :, 0].sum(-1)), -1)
    moved = _redraw(pairs, extents, draws).flatten(2)
    return moved[:, 0], moved[:, 1]


def undo_arc(predictions: Tokens, draws: ArcDraws, side: int) -> Tokens:
    """What predictions (B, S) say of the puzzles themselves: their grids taken out, brought back and drawn afresh.

    The grid is the largest rectangle of colours in the corner; without one the canvas is all padding.
    """
    canvases = predictions.reshape(-1, side, side)
    extents = torch.from_numpy(grid_extents(canvases))[:, None]
    redrawn = _redraw(torch.from_numpy(canvases)[:, None], extents, draws.inverse())
    tokens: Tokens = redrawn.reshape(len(canvases), -1).numpy()
    return tokens


def _redraw(canvases: Tensor, extents: Tensor, draws: ArcDraws) -> Tensor:
    """Grids of canvases (B, G, R, R), of extents (B, G, 2), under draws that the G of a row share."""
    side = canvases.shape[-1]
    swap, flip_rows, flip_cols, shift_rows, shift_cols, table = _send(draws, canvases.device)
    extents = torch.where(swap[:, None, None] > 0, extents.flip(-1), extents)
    room = side + 1 - extents.amax(1)  # both of a pair must stay on the canvas
    rows = _Lines(side, (shift_rows * room[:, 0]) >> _SHIFT_BITS, extents[..., 0], flip_rows)
    cols = _Lines(side, (shift_cols * room[:, 1]) >> _SHIFT_BITS, extents[..., 1], flip_cols)
    # Where the cells of a new row, and of a new column, lie in the canvas that they are read from.
    row_part = rows.sources * torch.where(swap > 0, 1, side)[:, None, None]
    col_part = cols.sources * torch.where(swap > 0, side, 1)[:, None, None]
    sources = (row_part[..., :, None] + col_part[..., None, :]).flatten(2)
    moved = canvases.flatten(2).gather(2, sources).flatten(1)
    renamed = table.gather(1, moved.long()).view(canvases.shape)
    inside = rows.inside[..., :, None] & cols.inside[..., None, :]
    border = (rows.border[..., :, None] & cols.inside[..., None, :]) | (
        rows.inside[..., :, None] & cols.border[..., None, :]
    )
    return torch.where(inside, renamed, PAD).masked_fill_(border, EOS)


class _Lines:
    """The rows, or the columns, of new canvases: (B, G, R) which of them the grid takes, and from where in it."""

    def __init__(self, side: int, start: Tensor, extent: Tensor, flipped: Tensor) -> None:
        place = torch.arange(side, device=start.device) - start[:, None, None]
        extent = extent[..., None]
        self.inside = (place >= 0) & (place < extent)
        self.border = place == extent
        back = torch.where(flipped[:, None, None] > 0, extent - 1 - place, place)
        self.sources = torch.where(self.inside, back, 0)


def _send(draws: ArcDraws, device: torch.device) -> tuple[Tensor, ...]:
    """Draws on the device, in one copy: swap, flip_rows, flip_cols, shifts (B,) each, and the token map (B, 12)."""
    tids = draws.tids
    columns = np.stack((_SWAP[tids], _FLIP_ROWS[tids], _FLIP_COLS[tids], *draws.shifts.T), axis=1)
    table = np.zeros((len(tids), FIRST_COLOUR + NUM_COLOURS), np.int32)
    table[:, :FIRST_COLOUR] = PAD, EOS
    table[:, FIRST_COLOUR:] = draws.colours + FIRST_COLOUR
    sent = torch.from_numpy(np.concatenate([columns.astype(np.int32), table], axis=1))
    if device.type != "cpu":
        sent = sent.pin_memory().to(device, non_blocking=True)
    swap, flip_rows, flip_cols, shift_rows, shift_cols = sent[:, :5].long().unbind(1)
    return swap, flip_rows, flip_cols, shift_rows, shift_cols, sent[:, 5:].to(torch.uint8)


class ArcSymmetries:
    """The variants of an ARC dataset's tasks (`task.Symmetries`), each with a row of the puzzle embedding of its own.

    As published, a variant's training examples are moved about on the canvas, all but one of them, and its test
    examples are not. Other than there, the task itself (variant 0) stays as it is stored.

    Args:
        dataset: opened.
        seed: of the run.
        num_augmentations: k.
    """

    def __init__(self, dataset: Dataset, seed: int, num_augmentations: int) -> None:
        self.dataset, self.seed, self.side = dataset, seed, dataset.info.grid_shape[0]
        sums, offsets = dataset.arrays["cell_sums"], dataset.arrays["pair_offsets"]
        codes = [
            distinct_codes(sums[begin:end], seed, task, num_augmentations)
            for task, (begin, end) in enumerate(itertools.pairwise(offsets))
        ]
        self._codes = np.concatenate(codes)  # of every variant of every task, numbered through, and
        self._first = np.concatenate([[0], np.cumsum([len(some) for some in codes])])  # where each task's begin
        # Tasks without training examples come last, and have no row of their own.
        self.num_identifiers = 1 + int(self._first[dataset.info.num_puzzle_identifiers - 1])

    def num_variants(self, split: Split) -> Ints:
        """1 + k of each, or fewer where a task has not as many images."""
        counts: Ints = np.diff(self._first)[self._tasks(split)]
        return counts

    def identifiers(self, rows: Rows) -> npt.NDArray[np.int32]:
        """Of each (task, variant) its own, the same in training and test."""
        own = self._first[rows.identifiers - 1] + rows.variants + 1
        return np.where(rows.identifiers > 0, own, self.dataset.info.blank_identifier_id).astype(np.int32)

    def apply(self, split: Split, rows: Rows, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See `apply_arc`."""
        return apply_arc(inputs, labels, self.draws(split, rows), self.side)

    def undo(self, split: Split, rows: Rows, predictions: Tokens) -> Tokens:
        """See `undo_arc`; of test examples."""
        return undo_arc(predictions, ArcDraws.of(self._codes_of(split, rows)), self.side)

    def draws(self, split: Split, rows: Rows) -> ArcDraws:
        """What is done to each row."""
        shifts = self._shifts(split, rows) if split is self.dataset.train else None
        return ArcDraws.of(self._codes_of(split, rows), shifts)

    def _codes_of(self, split: Split, rows: Rows) -> Codes:
        codes: Codes = self._codes[self._first[self._tasks(split)[rows.puzzles]] + rows.variants]
        return codes

    def _shifts(self, split: Split, rows: Rows) -> Ints:
        address = (self.seed, self._tasks(split)[rows.puzzles], rows.variants)
        sizes = (split.puzzle_offsets[rows.puzzles + 1] - split.puzzle_offsets[rows.puzzles]).astype(np.uint64)
        still = ((random_words(_STILL, *address, count=1)[:, 0] >> np.uint64(32)) * sizes) >> np.uint64(32)
        words = random_words(_SHIFT, *address, rows.places, count=2) >> np.uint64(64 - _SHIFT_BITS)
        stays = (rows.variants == 0) | (rows.places == still.astype(np.int64))
        return np.where(stays[:, None], 0, words.astype(np.int64))

    def _tasks(self, split: Split) -> Ints:
        """(P,) the tasks of a split's puzzles."""
        return self.dataset.arrays["train_tasks" if split is self.dataset.train else "test_tasks"]
