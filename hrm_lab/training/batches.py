"""Batches on the device: rows of a split, augmented where they are used, cut to this process's share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrm_lab.config import DataConfig
from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.sampler import Puzzles, Sampler, eval_rows, evaluation_rows
from hrm_lab.data.task import Rows, Scorer
from hrm_lab.data.tasks import find_task
from hrm_lab.errors import ConfigError
from hrm_lab.model.act import IGNORE_LABEL_ID, Batch
from hrm_lab.training.distributed import Ranks


class Batches:
    """Makes training and evaluation batches of a dataset for this process.

    On a GPU a split's tokens lie there from the first batch on; only row numbers and what was drawn for them travel.

    Args:
        dataset: opened.
        ranks: this process among all.
        config: whose settings say which variants there are.
        seed: of the run, which the variants are keyed by.

    Raises:
        ConfigError: when the task has no variants, and some are asked for.
    """

    def __init__(self, dataset: Dataset, ranks: Ranks, config: DataConfig, seed: int) -> None:
        self.dataset = dataset
        self.ranks = ranks
        self.task = find_task(dataset.info.task)
        self.symmetries = None
        self.num_test_variants = config.num_test_variants()
        if config.num_augmentations:
            if self.task.symmetries is None:
                problem = f"task {dataset.info.task} has no symmetries"
                raise ConfigError("data.num_augmentations", config.num_augmentations, problem, "take 0")
            self.symmetries = self.task.symmetries(dataset, seed, config.num_augmentations)
        self._resident: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def num_puzzle_identifiers(self) -> int:
        """Rows of the puzzle embedding, the blank one included."""
        return self.symmetries.num_identifiers if self.symmetries else self.dataset.info.num_puzzle_identifiers

    def puzzles(self, split: Split, most: int | None = None) -> Puzzles:
        """A split's puzzles with their variants, at most so many of each."""
        counts = np.ones(split.num_puzzles, np.int64)
        if self.symmetries is not None:
            counts = self.symmetries.num_variants(split)
        return Puzzles(split, counts if most is None else np.minimum(counts, most))

    def train(self, sampler: Sampler, step: int) -> Batch:
        """This process's rows of optimizer step `step`, counted from 0."""
        rows = sampler.draw(step).take(self.ranks.share(sampler.global_batch_size))
        return self._batch(self.dataset.train, rows)

    def evaluation(
        self, split: Split, global_batch_size: int, groups: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Rows, Batch]]:
        """This process's rows of every test batch, in order, and what they hold; the last one is padded (example -1).

        Args:
            groups: of the split, in order; None = all.
        """
        rows = evaluation_rows(self.puzzles(split, self.num_test_variants), groups)
        for places in eval_rows(len(rows.examples), global_batch_size, self.ranks.rank, self.ranks.world_size):
            padding = places < 0
            share = rows.take(np.maximum(places, 0))  # what padding rows hold is blanked out
            batch = self._batch(split, share, padding)
            yield share._replace(examples=np.where(padding, -1, share.examples)), batch

    def scorer(self, split: Split) -> Scorer | None:
        """What judges a test set by the task's own metrics, if it has any."""
        return self.task.scorer(self.dataset, split, self.symmetries) if self.task.scorer is not None else None

    def num_evaluation_batches(self, global_batch_size: int) -> int:
        """Of all test sets, whole."""
        rows = (evaluation_rows(self.puzzles(split, self.num_test_variants)) for split in self.dataset.test.values())
        return sum(-(len(some.examples) // -global_batch_size) for some in rows)

    def empty(self, size: int) -> Batch:
        """Zeros in the shape of a training batch."""
        shape = (size, self.dataset.info.seq_len)
        device = self.ranks.device
        return Batch(
            torch.zeros(shape, dtype=torch.int32, device=device),
            torch.zeros(shape, dtype=torch.int32, device=device),
            torch.zeros(size, dtype=torch.int32, device=device),
        )

    def tokens(self, split: Split, rows: Rows) -> tuple[Tensor, Tensor]:
        """Inputs and labels (B, S) uint8 of rows, in their variants, on the device."""
        inputs, labels = self._stored(split, rows.examples)
        if self.symmetries is not None and rows.variants.any():
            inputs, labels = self.symmetries.apply(rows, inputs, labels)
        return inputs, labels

    def _batch(self, split: Split, rows: Rows, padding: NDArray[np.bool_] | None = None) -> Batch:
        """Tensors on the device; what is not to be learned gets IGNORE_LABEL_ID, all of a padding row too."""
        info = self.dataset.info
        inputs, labels = (tokens.int() for tokens in self.tokens(split, rows))
        if info.ignore_label_id is not None:
            labels = torch.where(labels == info.ignore_label_id, IGNORE_LABEL_ID, labels)
        named = self.symmetries.identifiers(rows) if self.symmetries is not None else rows.identifiers
        identifiers = self._send(named)
        if padding is not None and padding.any():
            padded = self._send(padding)
            inputs = torch.where(padded[:, None], info.pad_id, inputs)
            labels = torch.where(padded[:, None], IGNORE_LABEL_ID, labels)
            identifiers = torch.where(padded, info.blank_identifier_id, identifiers)
        return Batch(inputs, labels, identifiers)

    def _stored(self, split: Split, examples: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The split's rows as they are."""
        if self.ranks.device.type == "cpu":
            return _tokens(split.inputs[examples]), _tokens(split.labels[examples])
        if id(split) not in self._resident:
            whole = (_tokens(split.inputs[:]), _tokens(split.labels[:]))
            self._resident[id(split)] = (whole[0].to(self.ranks.device), whole[1].to(self.ranks.device))
        chosen = self._send(examples)
        inputs, labels = self._resident[id(split)]
        return inputs[chosen], labels[chosen]

    def _send(self, array: NDArray[np.generic]) -> Tensor:
        """A few numbers for each row to the device, without waiting for them."""
        sent = torch.from_numpy(np.ascontiguousarray(array))
        return sent if self.ranks.device.type == "cpu" else sent.pin_memory().to(self.ranks.device, non_blocking=True)


def _tokens(rows: NDArray[np.generic]) -> Tensor:
    """Tokens of a folder of whatever integer type as uint8, in memory that is ours."""
    return torch.from_numpy(np.array(rows, np.uint8))
