"""The settings of tasks whose puzzles are generated, or read from `source,question,answer,rating` CSV files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from hrm_lab.config import DataConfig, setting
from hrm_lab.data.hub import require_commit
from hrm_lab.errors import require

# Hydra's structured configs resolve annotations at run time and know `Optional[int]`, not `int | None`.
# ruff: noqa: UP045

TEST_SET = "all"  # the published datasets call their only test set so


@dataclass
class SourcedDataConfig(DataConfig):
    """Where puzzles come from, and how many."""

    source: str = setting("generated", "where the puzzles come from", choices=("generated", "csv", "hub"))
    build_seed: int = setting(0, "seed of generation, of the split and of the subset", low=0)
    num_train: Optional[int] = setting(
        1000, "training puzzles; of files a random subset, null = all rows", unit="puzzles", low=1
    )
    num_test: Optional[int] = setting(
        1000, "test puzzles; of files a random subset, null = all rows", unit="puzzles", low=1
    )
    train_csv: Optional[str] = setting(None, "csv: path of the training file (.csv or .csv.gz)", identity=False)
    test_csv: Optional[str] = setting(None, "csv: path of the test file (.csv or .csv.gz)", identity=False)
    hub_repo: str = setting("", "hub: repository with train.csv and test.csv")
    hub_revision: Optional[str] = setting(None, "hub: commit of the repository, 40 hex digits")

    def check(self) -> None:
        """Refuse a source that lacks what it needs, or is given what it does not read."""
        if self.source == "generated":
            for key in ("num_train", "num_test"):
                problem, way_out = "a generated dataset needs a size", f"set data.{key}=1000"
                require(getattr(self, key) is not None, f"data.{key}", None, problem, way_out)
        if self.source == "hub":
            require_commit(self.hub_repo, self.hub_revision)
            for key in ("train_csv", "test_csv"):
                path = getattr(self, key)
                require(path is None, f"data.{key}", path, "data.source=hub reads no file", "set data.source=csv")
        for key, path in self.files().items():
            way_out = f"set data.{key}=PATH to a CSV with columns source,question,answer,rating"
            require(path is not None, f"data.{key}", None, "data.source=csv needs a file", way_out)

    def files(self) -> dict[str, str | None]:
        """The CSV files."""
        return {"train_csv": self.train_csv, "test_csv": self.test_csv} if self.source == "csv" else {}

    def num_train_groups(self) -> int | None:
        """As many as training puzzles."""
        return self.num_train
