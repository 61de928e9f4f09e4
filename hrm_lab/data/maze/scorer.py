"""Valid and optimal, as mazes are judged: any shortest path will do, be it that of the label or another one."""

from __future__ import annotations

from collections.abc import Sequence

from hrm_lab.data.format import DatasetInfo
from hrm_lab.data.maze.board import PATH, are_optimal
from hrm_lab.data.task import Judged


class MazeScorer:
    """`optimal_accuracy`: the share of predictions that are the maze with one of its shortest paths (`task.Scorer`).

    A label shows a shortest path, so its cells tell how many there have to be.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self.shape = (-1, *info.grid_shape)
        self.right, self.count = 0, 0

    def add(self, judged: Judged) -> None:
        """See `are_optimal`."""
        optimum = (judged.labels == PATH).sum(axis=1)
        inputs, predictions = (tokens.reshape(self.shape) for tokens in (judged.inputs, judged.predictions))
        self.right += int(are_optimal(inputs, predictions, optimum).sum())
        self.count += len(predictions)

    def collected(self) -> tuple[int, int]:
        """How many are right, of how many."""
        return self.right, self.count

    def metrics(self, collected: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Over all processes."""
        right, count = (sum(numbers) for numbers in zip(*collected, strict=True))
        return {"optimal_accuracy": right / max(1, count)}
