"""What opening a dataset leaves out: every byte, every token, the rules of its task, and what its splits share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hrm_lab.config import DataConfig
from hrm_lab.data.addressed import random_words
from hrm_lab.data.build import build_facts
from hrm_lab.data.facts import chunks
from hrm_lab.data.format import Dataset, Split, fingerprint, split_problem
from hrm_lab.data.sampler import Puzzles
from hrm_lab.data.task import Progress, Rows, Tokens
from hrm_lab.data.tasks import find_task

Pairs = Callable[[Split, Rows], tuple[torch.Tensor, torch.Tensor]]
_CHECKED = 0x5A03  # what random words are for; see `random_words`


@dataclass(frozen=True)
class Checked:
    """One check: what was looked at, and what is wrong with it; "" when nothing is."""

    what: str
    problem: str = ""
    was_done: bool = True  # False: it cannot be done for this dataset, and `what` says why


def checks(
    dataset: Dataset,
    config: DataConfig,
    pairs: Pairs,
    puzzles: Puzzles,
    sample: int | None = 1000,
    progress: Progress = lambda done, total: None,
) -> Iterator[Checked]:
    """Check all there is to check of a dataset that has been opened, which was the first check.

    Args:
        config: what it was built, or opened, from.
        pairs: inputs and labels (B, S) of rows of a split, in their variants.
        puzzles: of the training split, with their variants.
        sample: examples of each split, and variants, that are held against the rules of the task; None = all examples.
        progress: called with (examples done, examples in all) while rules are checked.
    """
    splits = {"train": dataset.train, **{f"test/{name}": split for name, split in dataset.test.items()}}
    yield Checked("structure: dataset.json, shapes, types, offsets, identifiers")
    if dataset.info.build:
        other = {key for key, value in build_facts(config).items() if dataset.info.build.get(key) != value}
        problem = f"it was built from other values of {', '.join(sorted(other))}" if other else ""
        yield Checked("settings: it was built from those of this config", problem)
    are_tokens = True
    for name, split in splits.items():
        problem = split_problem(dataset.info, name, split, len(split), any_integer=True)
        yield Checked(f"{name}: {2 * split.inputs.size:,} tokens, each of the vocabulary", problem)
        are_tokens = are_tokens and not problem
        yield Checked(f"{name}: every example has a token to learn", _idle(dataset, split))
    yield _fingerprint(dataset)
    if not are_tokens:
        yield Checked("rules, variants and what train and test share: not before all tokens are right", "", False)
        return
    for name, split in splits.items():
        yield _rules(dataset, name, split, sample, progress)
    yield _variants(dataset, pairs, puzzles, sample or 1000)
    for name, split in dataset.test.items():
        shared = _shared(dataset.train, split)
        problem = f"{shared:,} inputs are in train too" if shared else ""
        yield Checked(f"test/{name}: no input, as it is stored, is in train", problem)


def _idle(dataset: Dataset, split: Split) -> str:
    ignored = dataset.info.ignore_label_id
    if ignored is None:
        return ""
    first = 0
    for rows in chunks(split.labels):
        idle = (rows == ignored).all(axis=1)
        if idle.any():
            return f"the labels of example {first + int(idle.argmax())} are all ignored"
        first += len(rows)
    return ""


def _fingerprint(dataset: Dataset) -> Checked:
    found = fingerprint(dataset.info, dataset.train, dataset.test, dataset.arrays)
    problem = "" if found == dataset.info.fingerprint else f"it is {found[:12]} now, so bytes have changed"
    return Checked(f"every byte: fingerprint {dataset.info.fingerprint[:12]}", problem)


def _rules(dataset: Dataset, name: str, split: Split, sample: int | None, progress: Progress) -> Checked:
    examples = np.arange(len(split))
    if sample is not None and sample < len(split):
        words = random_words(_CHECKED, len(split), count=len(split))[0]
        examples = np.sort(np.argsort(words, kind="stable")[:sample])
    some = "all" if len(examples) == len(split) else f"{len(examples):,} of"
    what = f"{name}: labels of {some} {len(split):,} examples, by the rules of the task"
    for done, example in enumerate(examples.tolist()):
        progress(done, len(examples))
        inputs, labels = (np.asarray(array[example], np.uint8) for array in (split.inputs, split.labels))
        said = find_task(dataset.info.task).verify(dataset.info, inputs, labels)
        if said is None:
            return Checked(f"{name}: labels by the rules of the task: only the labels themselves tell", "", False)
        if said:
            return Checked(what, f"example {example} {said}")
    return Checked(what)


def _variants(dataset: Dataset, pairs: Pairs, puzzles: Puzzles, sample: int) -> Checked:
    """Variants of training puzzles, drawn at random."""
    total = int(puzzles.first[-1])
    if total == dataset.train.num_puzzles:
        return Checked("variants: none are computed (data.num_augmentations=0)", "", False)
    words = random_words(_CHECKED, total, count=sample)[0]
    numbers = np.sort((words % np.uint64(total)).astype(np.int64))
    inputs, labels = (tokens.numpy() for tokens in pairs(dataset.train, puzzles.rows(numbers, np.zeros_like(numbers))))
    what = f"variants: {len(numbers):,} of {total:,} puzzles and variants"
    problem = _outside(dataset, inputs) or _outside(dataset, labels)
    verify = find_task(dataset.info.task).verify
    for number, question, answer in zip(numbers.tolist(), inputs, labels, strict=True):
        problem = problem or verify(dataset.info, question, answer) or ""
        if problem:
            puzzle, variant = puzzles.stored(np.array([number]))
            return Checked(what, f"variant {variant[0]} of puzzle {puzzle[0]} {problem}")
    return Checked(what)


def _outside(dataset: Dataset, tokens: Tokens) -> str:
    size = dataset.info.vocab_size
    return f"holds token {tokens.max()}, the vocabulary has {size}" if tokens.max() >= size else ""


def _shared(train: Split, test: Split) -> int:
    """Test examples whose inputs are those of a training example."""
    known = {row.tobytes() for rows in chunks(test.inputs) for row in rows.astype(np.uint8)}
    found = {row.tobytes() for rows in chunks(train.inputs) for row in rows.astype(np.uint8)} & known
    return sum(row.tobytes() in found for rows in chunks(test.inputs) for row in rows.astype(np.uint8))
