"""A maze turned and mirrored. B is a batch, S the cells of a maze."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hrm_lab.data.addressed import Ints, permutations, random_words
from hrm_lab.data.dihedral import dihedral, keeping_shape
from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.task import Rows
from hrm_lab.data.tasks.maze import check_augmentations

_PURPOSE = 0x3A0D


class MazeSymmetries:
    """The variants of a maze dataset's puzzles (`task.Symmetries`).

    The other images of a maze that have its shape come in an order drawn for each (seed, puzzle): variant v is the
    v-th of them, so k = 7 gives all seven of a square maze and k = 3 three different ones.

    Args:
        dataset: opened.
        seed: of the run.
        num_augmentations: k.

    Raises:
        ConfigError: when there are not so many.
    """

    def __init__(self, dataset: Dataset, seed: int, num_augmentations: int) -> None:
        rows, cols = dataset.info.grid_shape
        check_augmentations(num_augmentations, rows, cols)
        self.seed, self.num_augmentations = seed, num_augmentations
        self.num_identifiers = dataset.info.num_puzzle_identifiers
        self.ids = np.array(keeping_shape(rows, cols))
        cells = np.arange(rows * cols).reshape(rows, cols)
        kept = {0, *self.ids.tolist()}
        # Where each cell of an image is read from, by dihedral id; others are never asked for.
        places = [dihedral(cells, tid if tid in kept else 0).reshape(-1) for tid in range(8)]
        self._places = torch.from_numpy(np.stack(places))
        self._resident: dict[torch.device, Tensor] = {}

    def num_variants(self, split: Split) -> Ints:
        """1 + k of each."""
        return np.full(split.num_puzzles, 1 + self.num_augmentations)

    def identifiers(self, rows: Rows) -> npt.NDArray[np.int32]:
        """All variants share their puzzle's."""
        return rows.identifiers

    def drawn(self, puzzles: npt.ArrayLike, variants: npt.ArrayLike) -> Ints:
        """(B,) the dihedral id of each (puzzle, variant); 0 for variant 0."""
        which, variant = np.broadcast_arrays(np.atleast_1d(puzzles), np.atleast_1d(variants))
        order = permutations(random_words(_PURPOSE, self.seed, which, count=len(self.ids)))
        in_order = np.concatenate([np.zeros((len(order), 1), np.int64), self.ids[order]], axis=1)
        tids: Ints = in_order[np.arange(len(order)), variant]
        return tids

    def apply(self, split: Split, rows: Rows, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which image it is was drawn on the host, a number for each maze; the cells are moved where they are."""
        device = inputs.device
        if device not in self._resident:
            self._resident[device] = self._places.to(device)
        tids = torch.from_numpy(self.drawn(rows.puzzles, rows.variants))
        if device.type != "cpu":
            tids = tids.pin_memory().to(device, non_blocking=True)
        places = self._resident[device][tids]
        return inputs.gather(1, places), labels.gather(1, places)
