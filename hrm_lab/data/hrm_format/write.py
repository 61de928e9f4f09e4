"""Writes a dataset out as HRM's builders do: every variant of every puzzle, computed a few thousand at a time."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.hrm_format import Metadata, file_of
from hrm_lab.data.on_disk import begin_array, save_array
from hrm_lab.data.sampler import Puzzles
from hrm_lab.data.task import Progress, Rows, Symmetries
from hrm_lab.errors import DataError
from hrm_lab.files import whole_folder

if TYPE_CHECKING:
    from torch import Tensor

TRAIN_SET = "all"  # the published builders call their only set so
_CHUNK_TOKENS = 1 << 20  # that are in memory at once, some ten times over
_BLANK = "<blank>"


class Source(Protocol):
    """A dataset with the variants that a run of some settings and some seed sees: `training.batches.Batches`."""

    dataset: Dataset
    symmetries: Symmetries | None
    num_test_variants: int

    @property
    def num_puzzle_identifiers(self) -> int:
        """Rows of the puzzle embedding, the blank one included."""

    def puzzles(self, split: Split, most: int | None = None) -> Puzzles:
        """A split's puzzles with their variants, at most so many of each."""

    def tokens(self, split: Split, rows: Rows) -> tuple[Tensor, Tensor]:
        """Inputs and labels (B, S) uint8 of rows, in their variants."""


def write_hrm_folder(folder: Path, source: Source, progress: Progress | None = None) -> int:
    """Write a dataset with its variants in HRM's format, as uint8.

    Groups, puzzles and examples are numbered as they are where variants are computed, so that a training of the same
    seed draws the same pairs from the folder.

    Args:
        folder: to be made, whole or not at all.
        source: what is to be written, on the CPU.
        progress: called with (pairs done, pairs in all).

    Returns:
        Pairs written.

    Raises:
        DataError: when the folder is there already, or cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise _is_there(folder)
    dataset = source.dataset
    sets = {("train", TRAIN_SET): source.puzzles(dataset.train)}
    sets |= {("test", name): source.puzzles(split, source.num_test_variants) for name, split in dataset.test.items()}
    total = sum(_num_examples(puzzles) for puzzles in sets.values())
    done = 0

    def count(pairs: int) -> None:
        nonlocal done
        done += pairs
        if progress is not None:
            progress(done, total)

    names: list[str] = [f"puzzle {number}" for number in range(source.num_puzzle_identifiers)]
    names[dataset.info.blank_identifier_id] = _BLANK
    try:
        with whole_folder(folder) as partial:
            for (split, name), puzzles in sets.items():
                (partial / split).mkdir(exist_ok=True)
                _write_set(partial, split, name, source, puzzles, count)
            for split in ("train", "test"):
                here = {name: puzzles for (part, name), puzzles in sets.items() if part == split}
                _write_json(partial / split / "dataset.json", _metadata(source, here))
            _write_json(partial / "identifiers.json", names)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _is_there(folder) from None
        raise DataError(
            f"{folder}: cannot be written: {error.strerror}\n"
            f"  way out: --out FOLDER where {total * dataset.info.seq_len * 2 / 1e6:,.1f} MB can be written"
        ) from error
    return total


def _is_there(folder: Path) -> DataError:
    return DataError(f"{folder}: is there already\n  way out: delete it, or take another --out FOLDER")


def _num_examples(puzzles: Puzzles) -> int:
    return round(puzzles.mean_size * int(puzzles.first[-1]))


def _metadata(source: Source, sets: dict[str, Puzzles]) -> dict[str, Any]:
    info = source.dataset.info
    groups, numbers, examples = (
        sum(count(puzzles) for puzzles in sets.values())
        for count in (lambda some: some.split.num_groups, lambda some: int(some.first[-1]), _num_examples)
    )
    metadata = Metadata(
        pad_id=info.pad_id,
        ignore_label_id=info.ignore_label_id,
        blank_identifier_id=info.blank_identifier_id,
        vocab_size=info.vocab_size,
        seq_len=info.seq_len,
        num_puzzle_identifiers=source.num_puzzle_identifiers,
        total_groups=groups,
        mean_puzzle_examples=examples / numbers,
        sets=tuple(sets),
    )
    return dataclasses.asdict(metadata)


def _write_set(
    folder: Path, split: str, name: str, source: Source, puzzles: Puzzles, count: Callable[[int], None]
) -> None:
    numbers = np.arange(int(puzzles.first[-1]))
    stored, _ = puzzles.stored(numbers)
    firsts = puzzles.rows(numbers, np.zeros_like(numbers))
    ends = np.cumsum(puzzles.sizes[stored])
    arrays = {
        "puzzle_identifiers": source.symmetries.identifiers(firsts) if source.symmetries else firsts.identifiers,
        "puzzle_indices": np.concatenate([[0], ends]),
        "group_indices": puzzles.first_of_group,
    }
    for array, values in arrays.items():
        save_array(folder / file_of(split, name, array), values.astype(np.int32))
    shape = (_num_examples(puzzles), source.dataset.info.seq_len)
    with (
        begin_array(folder / file_of(split, name, "inputs"), shape, np.uint8) as inputs,
        begin_array(folder / file_of(split, name, "labels"), shape, np.uint8) as labels,
    ):
        size = max(1, _CHUNK_TOKENS // shape[1])
        for start in range(0, shape[0], size):
            examples = np.arange(start, min(start + size, shape[0]))
            numbers = np.searchsorted(ends, examples, side="right")
            rows = puzzles.rows(numbers, examples - arrays["puzzle_indices"][numbers])
            for file, tokens in zip((inputs, labels), source.tokens(puzzles.split, rows), strict=True):
                file.write(tokens.contiguous().numpy().data)
            count(len(examples))


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values))
