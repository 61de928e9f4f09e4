"""HRM's own folders (HRM_SPEC section 6), in which every variant is written out.

train/dataset.json                    what the arrays mean (`Metadata`)
train/SET__inputs.npy, labels         (N, S) tokens, of any type of whole numbers
train/SET__puzzle_identifiers.npy     (P,) int32
train/SET__puzzle_indices.npy         (P + 1,) int32: offsets of the puzzles among the examples
train/SET__group_indices.npy          (G + 1,) int32: offsets of the groups among the puzzles
test/...                              the same
identifiers.json                      a name for each puzzle identifier
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hrm_lab.data.format import are_names

SPLITS = ("train", "test")
ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
MOST_TOKENS = 256  # of a vocabulary: tokens are kept as uint8 here
LONGEST = 1 << 16  # tokens of a sequence
_OF_TRM = "total_puzzles"  # which TinyRecursiveModels adds, and nobody reads


def file_of(split: str, set_name: str, array: str) -> str:
    """Where an array lies in the folder."""
    return f"{split}/{set_name}__{array}.npy"


@dataclass(frozen=True)
class Metadata:
    """What a `dataset.json` says of its split."""

    pad_id: int
    ignore_label_id: int | None  # label that is not learned
    blank_identifier_id: int  # puzzle identifier of padding rows
    vocab_size: int  # tokens, padding included
    seq_len: int  # S
    num_puzzle_identifiers: int
    total_groups: int  # over all sets
    mean_puzzle_examples: float
    sets: tuple[str, ...]

    @classmethod
    def of(cls, values: dict[str, Any]) -> Metadata:
        """From what the JSON file holds.

        Raises:
            ValueError: that says what is wrong with it.
        """
        values = {key: value for key, value in values.items() if key != _OF_TRM}
        known = cls.__dataclass_fields__.keys()
        if values.keys() != known:
            raise ValueError(f"lacks, or should not have: {', '.join(sorted(values.keys() ^ known))}")
        vocabulary, identifiers = values["vocab_size"], values["num_puzzle_identifiers"]
        ranges = {
            "vocab_size": (1, MOST_TOKENS),
            "seq_len": (1, LONGEST),
            "num_puzzle_identifiers": (1, 2**31 - 1),
            "total_groups": (1, 2**31 - 1),
            "pad_id": (0, vocabulary - 1 if type(vocabulary) is int else 0),
            "blank_identifier_id": (0, identifiers - 1 if type(identifiers) is int else 0),
            "ignore_label_id": (0, MOST_TOKENS - 1),
        }
        for key, (low, high) in ranges.items():
            value = values[key]
            if key == "ignore_label_id" and value is None:
                continue
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"has {key}={value!r}, which is no whole number from {low} to {high}")
        mean = values["mean_puzzle_examples"]
        if type(mean) not in (int, float) or not 1 <= mean < 2**31:
            raise ValueError(f"has mean_puzzle_examples={mean!r}")
        sets = values["sets"]
        if not isinstance(sets, list) or not sets or not are_names(sets):
            raise ValueError(f"has sets={sets!r}, which are no names of files")
        return cls(**values | {"sets": tuple(sets)})
