"""The vote: what a model says of all variants of a test input, brought back and counted (HRM_SPEC section 6, ARC).

Candidates rank by (votes, mean sigmoid(q_halt)). A task counts as solved at K when each of its test inputs has its
answer among the first K, which is the published HRM rule; `_mean` counts the share of its test inputs instead.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from hrm_lab.data.arc.canvas import decode_canvas
from hrm_lab.data.arc.symmetries import ArcDraws, ArcSymmetries, undo_arc
from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.task import Judged, Symmetries, Tokens
from hrm_lab.data.tasks.arc import PASS_AT

_UNIT = 1 << 32  # of `sure`: whole numbers add up to the same in any order, on any number of processes
_SENT = 4 * PASS_AT[-1]  # candidates of an input whose grids a process tells the others


class Tally(NamedTuple):
    """For one candidate: how many, the sum of sigmoid(q_halt) in 1 / 2**32, and its canvas, compressed or b""."""

    votes: int
    sure: int
    canvas: bytes

    def and_(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(self.votes + other.votes, self.sure + other.sure, self.canvas or other.canvas)


Ballot = Mapping[bytes, Tally]  # by the hash of a candidate's canvas
Collected = Mapping[int, Ballot]  # by test example


def ranked(ballot: Ballot) -> list[tuple[bytes, Tally]]:
    """The first is the answer. Where votes and certainty are equal, the hash decides."""
    return sorted(ballot.items(), key=lambda item: (-item[1].votes, -item[1].sure, item[0]))


class ArcScorer:
    """pass@K over the tasks of a test set (`task.Scorer`), and the ranked answers (`task.Answering`).

    One compressed canvas is kept for each different prediction: were no two alike, and all of them full 30x30 grids,
    400 tasks in 1,001 variants would take 0.4 GB over all processes.

    Args:
        dataset: opened.
        split: its test set.
        symmetries: of the dataset, unless every input is asked as it is.
    """

    def __init__(self, dataset: Dataset, split: Split, symmetries: Symmetries | None) -> None:
        self.split, self.side = split, dataset.info.grid_shape[0]
        self.symmetries = cast(ArcSymmetries | None, symmetries)
        self._votes: dict[int, dict[bytes, Tally]] = defaultdict(dict)

    def add(self, judged: Judged) -> None:
        """Count the votes of a batch."""
        if self.symmetries is None:
            canvases = undo_arc(judged.predictions, ArcDraws.of(np.zeros(len(judged.predictions), np.int32)), self.side)
        else:
            canvases = self.symmetries.undo(self.split, judged.rows, judged.predictions)
        sure = np.rint(_UNIT / (1 + np.exp(-judged.q_halt.astype(np.float64)))).astype(np.int64)
        for example, canvas, certain in zip(judged.rows.examples.tolist(), canvases, sure.tolist(), strict=True):
            ballot, key = self._votes[example], _key(canvas)
            before = ballot.get(key)
            if before is None:
                ballot[key] = Tally(1, certain, zlib.compress(canvas.tobytes(), 1))
            else:
                ballot[key] = before.and_(Tally(1, certain, b""))

    def collected(self) -> Collected:
        """Every candidate's votes, and the canvases of the foremost."""
        return {
            example: {
                key: tally if place < _SENT else tally._replace(canvas=b"")
                for place, (key, tally) in enumerate(ranked(ballot))
            }
            for example, ballot in self._votes.items()
        }

    def metrics(self, collected: Sequence[Collected]) -> dict[str, float]:
        """`pass_at_K` and `pass_at_K_mean` over the tasks that were asked about."""
        right: dict[int, list[list[bool]]] = defaultdict(list)  # of each task's inputs, for each K
        for example, ballot in _merged(collected).items():
            label = _key(np.asarray(self.split.labels[example]))
            keys = [key for key, _ in ranked(ballot)[: PASS_AT[-1]]]
            task = int(np.searchsorted(self.split.puzzle_offsets, example, side="right"))
            right[task].append([label in keys[:k] for k in PASS_AT])
        values = {}
        for place, k in enumerate(PASS_AT):
            inputs = [[hits[place] for hits in of_task] for of_task in right.values()]
            values[f"pass_at_{k}"] = float(np.mean([all(hits) for hits in inputs]))
            values[f"pass_at_{k}_mean"] = float(np.mean([np.mean(hits) for hits in inputs]))
        return values

    def arrays(self, collected: Sequence[Collected]) -> dict[str, npt.NDArray[Any]]:
        """The ranked answers; E test examples that were asked about, K = 10.

        answer_examples (E,) int64: rows of the test set; answers (E, K, S) uint8: canvases, all padding where there are
        fewer; answer_votes (E, K) int32; answer_q_halt (E, K) float32: mean sigmoid(q_halt) of the votes.
        """
        merged = _merged(collected)
        examples = sorted(merged)
        shape = (len(examples), PASS_AT[-1])
        answers = np.zeros((*shape, self.side**2), np.uint8)
        counts, certain = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for row, example in enumerate(examples):
            known = [tally for _, tally in ranked(merged[example]) if tally.canvas][: PASS_AT[-1]]
            for place, tally in enumerate(known):
                answers[row, place] = np.frombuffer(zlib.decompress(tally.canvas), np.uint8)
                counts[row, place], certain[row, place] = tally.votes, tally.sure / tally.votes / _UNIT
        examples_array = np.array(examples, np.int64)
        return {
            "answer_examples": examples_array,
            "answers": answers,
            "answer_votes": counts,
            "answer_q_halt": certain,
        }


def submission(
    dataset: Dataset, split: Split, arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, list[dict[str, list[list[int]]]]]:
    """Answers in the official (Kaggle) shape: {task: [{"attempt_1": grid, "attempt_2": grid}, one per test input]}.

    Args:
        dataset: opened.
        split: the test set that was evaluated.
        arrays: as `ArcScorer.arrays` gives them, and an evaluation keeps them.
    """
    names, tasks = dataset.arrays["task_names"], dataset.arrays["test_tasks"]
    grids: dict[str, list[dict[str, list[list[int]]]]] = defaultdict(list)
    for example, answers in zip(arrays["answer_examples"].tolist(), arrays["answers"], strict=True):
        puzzle = int(np.searchsorted(split.puzzle_offsets, example, side="right")) - 1
        attempts = [decode_canvas(answer, *dataset.info.grid_shape).tolist() or [[0]] for answer in answers[:2]]
        grids[str(names[tasks[puzzle]])].append({"attempt_1": attempts[0], "attempt_2": attempts[1]})
    return dict(grids)


def _merged(collected: Sequence[Collected]) -> dict[int, dict[bytes, Tally]]:
    """The votes of all processes together."""
    merged: dict[int, dict[bytes, Tally]] = defaultdict(dict)
    for share in collected:
        for example, ballot in share.items():
            together = merged[example]
            for key, tally in ballot.items():
                together[key] = together[key].and_(tally) if key in together else tally
    return merged


def _key(canvas: Tokens) -> bytes:
    return hashlib.blake2b(canvas.tobytes(), digest_size=16).digest()
