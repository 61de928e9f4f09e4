"""What the verb `solve` does: puzzles in text through a model, a batch at a time, with all that it says of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from hrm_lab.data.questions import Question, Solved, Unusable
from hrm_lab.data.task import Tokens
from hrm_lab.data.tasks import find_task
from hrm_lab.errors import DataError, RunError
from hrm_lab.subject import Subject, batch_size, data_info, load_model, without_batch

BATCH = 64  # puzzles, on a CPU


class Solver:
    """A model, and what its tokens mean.

    Args:
        subject: its weights and config.
        steps: ACT steps to take; None = as many as it was trained with.
        sequences: of a batch; None = a few on a CPU, and on a GPU what keeps it busy.
        identifier: row of the puzzle embedding; None = the blank one.

    Raises:
        UserError: when the weights do not fit, or there is no such row.
    """

    def __init__(
        self, subject: Subject, steps: int | None = None, sequences: int | None = None, identifier: int | None = None
    ) -> None:
        from hrm_lab.training.distributed import connect

        self.info = data_info(subject)
        self.task = find_task(self.info.task)
        model = load_model(subject, self.info)
        ranks = connect(without_batch(subject.config.training))
        self.device, self.model = ranks.device, model.to(ranks.device).eval()
        self.steps = steps or subject.config.model.halt_max_steps
        self.sequences = sequences or batch_size(BATCH, self.info.seq_len, self.device.type == "cuda")
        self.identifier = self.info.blank_identifier_id if identifier is None else identifier
        rows = len(model.puzzle_emb.weights) if model.puzzle_emb is not None else 1
        if not 0 <= self.identifier < rows:
            raise RunError(f"--identifier {identifier}: the model has {rows} of them\n  way out: 0 to {rows - 1}")
        self.seconds = 0.0  # spent on puzzles so far

    def solve(self, questions: Iterable[Question | Unusable]) -> Iterator[Solved | Unusable]:
        """All of them in order, a batch at a time: no more is held, however many come."""
        waiting = iter(questions)
        while batch := list(itertools.islice(waiting, self.sequences)):
            began = time.perf_counter()
            done = self._solve(batch)
            self.seconds += time.perf_counter() - began
            yield from done

    def _solve(self, batch: list[Question | Unusable]) -> list[Solved | Unusable]:
        parsed = [self._parse(item) for item in batch]
        tokens = [inputs for _, inputs in parsed if inputs is not None]
        said = iter(self._think(np.stack(tokens)) if tokens else ())
        done: list[Solved | Unusable] = []
        for item, inputs in parsed:
            if inputs is None or isinstance(item, Unusable):
                done.append(Unusable(*item))
            else:
                steps, q_halt, halts_at = next(said)
                done.append(
                    Solved(item, inputs, steps, q_halt, halts_at, self.task.verify(self.info, inputs, steps[-1]))
                )
        return done

    def _parse(self, item: Question | Unusable) -> tuple[Question | Unusable, Tokens | None]:
        if isinstance(item, Unusable):
            return item, None
        try:
            return item, self.task.parse(self.info, item.text)
        except DataError as error:
            return Unusable(item.place, str(error).partition("\n")[0]), None

    def _think(self, inputs: Tokens) -> Iterator[tuple[Tokens, NDArray[np.float32], int | None]]:
        """Boards (T, S), q_halt (T,) and halting step of each of the inputs (B, S)."""
        import torch

        from hrm_lab.model.act import IGNORE_LABEL_ID, Batch
        from hrm_lab.training.depth import think

        with torch.inference_mode():
            tokens = torch.from_numpy(inputs).to(self.device, torch.int32)
            identifiers = torch.full((len(tokens),), self.identifier, dtype=torch.int32, device=self.device)
            batch = Batch(tokens, torch.full_like(tokens, IGNORE_LABEL_ID), identifiers)
            _, thoughts = think(self.model, batch, self.steps)
            boards, halts = thoughts.tokens.cpu().numpy(), thoughts.halts.cpu().numpy()
            sure = thoughts.q_halt.float().sigmoid().cpu().numpy()
        first = np.where(halts.any(1), halts.argmax(1) + 1, 0).tolist()
        for steps, q_halt, halts_at in zip(boards, sure, first, strict=True):
            yield steps, q_halt, halts_at or None
