"""What a training asks its mirror process: the histories of its siblings, which the tracking store has.

A question is a line with its number, on the mirror's standard input. The answer is a file in the run folder, and a line
with the same number on the mirror's standard output when it is there, or `NUMBER none` where the store does not answer:
lines are short, so neither process ever waits for the other to read, and a late answer cannot be taken for one to a
later question.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hrm_lab.config import PRUNERS
from hrm_lab.files import write_json
from hrm_lab.stopping.pruning import CUT, DONE, RUNNING, History
from hrm_lab.tracking.journal import STOPPING_RULE, STOPPING_RUNG
from hrm_lab.tracking.store import SIGNATURE, RunRecord, Store

ANSWER = "siblings.json"
NONE = "none"
Pipes = tuple[IO[bytes], IO[bytes]]


class AskedSiblings:
    """A stopping rule's Siblings, in the training process.

    Args:
        folder: the run's.
        pipes: the standard input and output of a mirror process that lives, as far as one can know.
        timeout: seconds that a question may take.
    """

    def __init__(self, folder: Path, name: str, pipes: Callable[[], Pipes], timeout: float) -> None:
        self.signature, self.name, self.timeout = folder.name, name, timeout
        self._file, self._pipes = folder / ANSWER, pipes
        self._answers: Lines | None = None
        self._number = 0

    def ask(self) -> dict[str, History] | None:
        """See Siblings. A mirror that is dead gives no answer either, and one whose store is away says so at once."""
        self._number += 1
        deadline = time.monotonic() + self.timeout
        questions, pipe = self._pipes()
        if self._answers is None or self._answers.pipe is not pipe:
            self._answers = Lines(pipe)
        try:
            os.write(questions.fileno(), f"{self._number}\n".encode())
        except OSError:
            return None
        while not self._answers.is_closed and (left := deadline - time.monotonic()) > 0:
            lines = self._answers.read(left)
            if f"{self._number} {NONE}" in lines:
                return None
            if str(self._number) in lines:
                return {key: _history(values) for key, values in json.loads(self._file.read_text()).items()}
        return None


class Lines:
    """Lines that come through a pipe, as far as they have come."""

    def __init__(self, pipe: IO[Any]) -> None:
        self.pipe, self.is_closed, self._rest = pipe, False, b""

    def read(self, timeout: float) -> list[str]:
        """Whole lines, as soon as something comes."""
        if not select.select([self.pipe], [], [], timeout)[0]:
            return []
        read = os.read(self.pipe.fileno(), 4096)
        self.is_closed = not read
        *lines, self._rest = (self._rest + read).split(b"\n")
        return [line.decode() for line in lines]


def answer(folder: Path, number: str, siblings: Mapping[str, History]) -> None:
    """In the mirror process: write the answer down, and say so on standard output."""
    write_json(folder / ANSWER, {key: asdict(history) for key, history in siblings.items()})
    os.write(1, f"{number}\n".encode())


def answer_none(number: str) -> None:
    """In the mirror process: say that there is no answer, so that nobody waits for it."""
    os.write(1, f"{number} {NONE}\n".encode())


def histories(store: Store, sweep: str, metric: str) -> dict[str, History]:
    """What the runs of a sweep have reported of a metric, by signature. Values before the first step do not count.

    A run that has reported none is left out: it must not hide a twin of its signature that has.
    """
    runs = store.members(sweep)
    reported = store.histories_of([run.run_id for run in runs], metric)
    found = {}
    for run in runs:
        values = {step: value for step, value in sorted(reported.get(run.run_id, {}).items()) if step > 0}
        if values:
            rung = int(run.tags[STOPPING_RUNG]) if STOPPING_RUNG in run.tags else None
            found[run.tags[SIGNATURE]] = History(run.name, values, _state(run), rung)
    return found


def _state(run: RunRecord) -> str:
    if run.tags.get(STOPPING_RULE) in PRUNERS:
        return CUT
    return DONE if run.status == "FINISHED" else RUNNING


def _history(values: dict[str, Any]) -> History:
    return History(**values | {"values": {int(step): value for step, value in values["values"].items()}})
