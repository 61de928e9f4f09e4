"""What an evaluation of whole test sets found: as tables, for a machine, and as a folder of figures and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from hrm_lab.files import write_arrays


@dataclass(frozen=True)
class Judgement:
    """Metrics and arrays as in training/evaluation.py, and what they are of.

    Attributes:
        weights, data, fingerprint: which weights, on which dataset.
        trained_steps: ACT steps that the weights were trained with; the arrays may go beyond.
    """

    weights: str
    data: str
    fingerprint: str
    trained_steps: int
    metrics: dict[str, float]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def steps(self) -> int:
        """ACT steps taken."""
        return len(self.arrays["accuracy"])

    def title(self) -> str:
        """In a line."""
        puzzles = int(self.arrays["puzzles"].sum())
        trained = "" if self.steps == self.trained_steps else f" (trained with {self.trained_steps})"
        return f"{self.weights} on {self.data}: {puzzles:,} puzzles, {self.steps} ACT steps{trained}"

    def by_step(self) -> list[dict[str, Any]]:
        """Accuracy after each ACT step."""
        pairs = zip(self.arrays["exact_accuracy"].tolist(), self.arrays["accuracy"].tolist(), strict=True)
        return [{"step": step, "exact_accuracy": exact, "accuracy": of} for step, (exact, of) in enumerate(pairs, 1)]

    def by_rating(self) -> list[dict[str, Any]]:
        """The same for each bucket of ratings, with the step after which the model itself would halt."""
        arrays = self.arrays
        low, high = arrays["rating_low"].tolist(), arrays["rating_high"].tolist()
        counts = np.maximum(1.0, arrays["puzzles"])[:, None]
        exact, right = (arrays["solved"] / counts).tolist(), (arrays["right_cells"] / counts).tolist()
        return [
            {
                "rating_low": low[bucket],
                "rating_high": high[bucket],
                "puzzles": int(arrays["puzzles"][bucket]),
                "halting_step": float(arrays["halting_step"][bucket]),
                "exact_accuracy": exact[bucket],
                "accuracy": right[bucket],
            }
            for bucket in range(len(low))
        ]

    def to_dict(self) -> dict[str, Any]:
        """For a machine."""
        facts = {"weights": self.weights, "data": self.data, "fingerprint": self.fingerprint}
        steps = {"steps": self.steps, "trained_steps": self.trained_steps}
        return facts | steps | {"metrics": self.metrics, "by_step": self.by_step(), "by_rating": self.by_rating()}

    def tables(self) -> list[Table]:
        """Metrics; accuracy by ACT step; by rating, where puzzles are rated."""
        metrics = _table("metric", "value")
        for key, value in self.metrics.items():
            metrics.add_row(key, f"{value:.6g}")
        steps = _table("ACT step", "puzzles solved", "cells right", "")
        for row in self.by_step():
            mark = "as trained" if row["step"] == self.trained_steps < self.steps else ""
            steps.add_row(str(row["step"]), f"{row['exact_accuracy']:.2%}", f"{row['accuracy']:.2%}", mark)
        depths = sorted({1, min(self.trained_steps, self.steps), self.steps})
        heads = [f"solved after {depth}" for depth in depths]
        ratings = _table("rating", "puzzles", *heads, "cells right", "would halt after")
        for row in self.by_rating():
            ratings.add_row(
                f"{row['rating_low']} to {row['rating_high']}",
                f"{row['puzzles']:,}",
                *(f"{row['exact_accuracy'][depth - 1]:.2%}" for depth in depths),
                f"{row['accuracy'][-1]:.2%}",
                f"{row['halting_step']:.1f}",
            )
        return [metrics, steps, *([ratings] if ratings.row_count else [])]

    def write(self, folder: Path) -> list[Path]:
        """All of it into a folder: JSON, CSV, arrays, pictures."""
        from hrm_lab.analysis.boards import draw_boards  # only now: matplotlib takes a second to load
        from hrm_lab.analysis.reasoning import draw_act_depth, draw_difficulty

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        write_arrays(folder / "evaluation.npz", self.arrays)
        steps = [{key: row[key] for key in ("rating_low", "rating_high", "puzzles")} | _at(row, step)
                 for row in self.by_rating() for step in range(1, self.steps + 1)]  # fmt: skip
        files = [
            folder / "evaluation.json",
            folder / "evaluation.npz",
            _write_csv(folder / "by_step.csv", self.by_step()),
        ]
        files += [_write_csv(folder / "by_rating.csv", steps)] if steps else []
        files.append(draw_act_depth({self.data: self.arrays}, folder / "act_depth.png", self.trained_steps))
        files.append(draw_difficulty(self.arrays, folder / "difficulty.png", self.data, self.trained_steps))
        if len(self.arrays.get("inputs", ())):
            files.append(draw_boards(self.arrays, folder / "boards.png", self.data))
        return files


def _at(row: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {"step": step} | {key: row[key][step - 1] for key in ("exact_accuracy", "accuracy")}


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    return table


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
