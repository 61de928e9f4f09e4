"""Batches on the device: rows of a memory-mapped split, augmented where they are used, cut to this process's share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.sampler import Sampler, eval_rows
from hrm_lab.data.tasks import augment
from hrm_lab.model.act import IGNORE_LABEL_ID, Batch
from hrm_lab.training.distributed import Ranks


class Batches:
    """Makes training and evaluation batches of a dataset for this process."""

    def __init__(self, dataset: Dataset, ranks: Ranks) -> None:
        self.dataset = dataset
        self.ranks = ranks

    def train(self, sampler: Sampler, step: int) -> Batch:
        """This process's rows of optimizer step `step`, counted from 0."""
        share = self.ranks.share(sampler.global_batch_size)
        groups, variants = (part[share] for part in sampler.draw(step))
        split = self.dataset.train
        rows = split.group_offsets[groups]
        inputs, labels = split.inputs[rows], split.labels[rows]
        if sampler.num_variants > 1:
            inputs, labels = augment(self.dataset.info, inputs, labels, sampler.seed, groups, variants)
        return self._batch(inputs, labels, split.puzzle_identifiers[rows])

    def evaluation(self, split: Split, global_batch_size: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """This process's rows of every test batch, in file order, and what they hold; the last one is padded (-1)."""
        info = self.dataset.info
        for rows in eval_rows(len(split), global_batch_size, self.ranks.rank, self.ranks.world_size):
            padding = rows < 0
            inputs = np.where(padding[:, None], np.uint8(info.pad_id), split.inputs[rows])
            identifiers = np.where(padding, np.int32(info.blank_identifier_id), split.puzzle_identifiers[rows])
            yield rows, self._batch(inputs, split.labels[rows], identifiers, padding)

    def empty(self, size: int) -> Batch:
        """Zeros in the shape of a training batch."""
        shape = (size, self.dataset.info.seq_len)
        device = self.ranks.device
        return Batch(
            torch.zeros(shape, dtype=torch.int32, device=device),
            torch.zeros(shape, dtype=torch.int32, device=device),
            torch.zeros(size, dtype=torch.int32, device=device),
        )

    def _batch(
        self,
        inputs: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        identifiers: NDArray[np.int32],
        padding: NDArray[np.bool_] | None = None,
    ) -> Batch:
        """Tensors on the device; what is not to be learned gets IGNORE_LABEL_ID, all of a padding row too."""
        supervised = labels.astype(np.int32)
        supervised[supervised == self.dataset.info.ignore_label_id] = IGNORE_LABEL_ID
        if padding is not None:
            supervised[padding] = IGNORE_LABEL_ID
        arrays = (inputs.astype(np.int32), supervised, identifiers.astype(np.int32))
        return Batch(*(torch.from_numpy(array).to(self.ranks.device) for array in arrays))
