"""A folder in HRM's own format, read as it is (`hrm_format`): whatever task it holds, with its variants written out."""

from __future__ import annotations

import dataclasses
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from hrm_lab.config import DataConfig, setting, task_names
from hrm_lab.data.format import Dataset, DatasetInfo
from hrm_lab.data.task import Appearance, Built, Progress, Task, Tokens
from hrm_lab.data.tasks import find_task
from hrm_lab.errors import DataError, require

# Hydra's structured configs resolve annotations at run time and know `Optional[int]`, not `int | None`.
# ruff: noqa: UP045

# The published datasets by vocabulary and sequence length, as the task that made them and what it must know of them.
_PUBLISHED: dict[tuple[int, int], tuple[str, dict[str, Any]]] = {
    (11, 81): ("sudoku", {"box_rows": 3, "box_cols": 3}),
    (6, 900): ("maze", {}),
    (12, 900): ("arc", {}),
}
_GLYPHS = string.digits + string.ascii_letters


@dataclass
class HrmFolderConfig(DataConfig):
    """A folder with train/ and test/ as the published builders write them."""

    task: str = setting("hrm_folder", "which task it is", choices=("hrm_folder",))
    name: str = setting("hrm_folder", "name of the dataset", identity=False)
    folder: Optional[str] = setting(None, "the folder that holds train/ and test/", identity=False)

    def check(self) -> None:
        """Refuse to go without a folder, and to vary variants."""
        problem = "needs a folder in HRM's format"
        require(self.folder is not None, "data.folder", None, problem, "set data.folder=FOLDER")
        problem = "the folder holds its variants written out, and each counts as a puzzle of its own"
        require(self.num_augmentations == 0, "data.num_augmentations", self.num_augmentations, problem, "take 0")

    def found_facts(self) -> dict[str, Any]:
        """What the folder holds, not where it lies."""
        return {"fingerprint": open_folder(self, None).info.fingerprint}


def open_folder(config: HrmFolderConfig, found: Path | None) -> Dataset:
    """See `Task.open`."""
    from hrm_lab.data.hrm_format.read import open_hrm_folder

    if found is None and config.folder is None:
        raise DataError("data.folder=null: needs a folder in HRM's format\n  way out: set data.folder=FOLDER")
    return open_hrm_folder(found or Path(str(config.folder)), config.task, config.name)


def build(config: HrmFolderConfig, progress: Progress | None) -> Built:
    """There is nothing to build."""
    raise TypeError("an HRM-format folder is opened, not built")


def appearance(info: DatasetInfo) -> Appearance:
    """That of the task it looks like, else a digit or a letter for each token."""
    like = _published(info)
    return like[0].appearance(like[1]) if like else Appearance(_GLYPHS[: info.vocab_size])


def parse(info: DatasetInfo, text: str) -> Tokens:
    """As the task it looks like does, else tokens as numbers between spaces or commas.

    Raises:
        DataError: for another number of tokens, or what is no token.
    """
    like = _published(info)
    if like:
        return like[0].parse(like[1], text)
    way_out = f"way out: {info.seq_len} numbers from 0 to {info.vocab_size - 1}"
    words = text.replace(",", " ").split()
    if len(words) != info.seq_len:
        raise DataError(f"puzzle {text[:40]!r}: has {len(words)} tokens\n  {way_out}")
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) <= 3 and int(word) < info.vocab_size):
            raise DataError(f"puzzle {text[:40]!r}: {word[:40]!r} is no token\n  {way_out}")
    return np.array(words, np.uint8)


def verify(info: DatasetInfo, inputs: Tokens, answer: Tokens) -> str | None:
    """By the rules of the task it looks like, if any."""
    like = _published(info)
    return like[0].verify(like[1], inputs, answer) if like else None


def _published(info: DatasetInfo) -> tuple[Task, DatasetInfo] | None:
    """The task that a folder looks like, where there is one, and the folder in its words."""
    name, facts = _PUBLISHED.get((info.vocab_size, info.seq_len), ("", {}))
    if name not in task_names():
        return None
    return find_task(name), dataclasses.replace(info, task=name, task_facts=facts)


TASK = Task(HrmFolderConfig, build, appearance, parse, verify, open=open_folder)
