"""The journal of a run: every metric, appended to a file beside the checkpoints before it is anywhere else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


class Journal:
    """The run's own record: a line of JSON for every call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def begin(self, step: int, total_steps: int) -> None:
        """Drop what lies after `step` (it will come again) and open for appending."""
        kept = [entry for entry in read_journal(self.path) if entry.get("step", 0) <= step] if step else []
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w") as file:
            for entry in kept:
                file.write(json.dumps(entry) + "\n")
        temporary.replace(self.path)
        self._file = self.path.open("a", buffering=1)
        self._file.write(json.dumps({"begin": step, "total_steps": total_steps}) + "\n")

    def append(self, step: int, stamp: int, values: Mapping[str, float]) -> None:
        """One line."""
        assert self._file is not None, "begin() comes first"
        self._file.write(json.dumps({"step": step, "ms": stamp, "metrics": dict(values)}) + "\n")

    def close(self) -> None:
        """No more lines."""
        if self._file is not None:
            self._file.close()


class JournalReader:
    """Follows a journal that another process writes; a new file under the same name is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset, self._file_id = 0, -1

    def new_entries(self) -> Iterator[dict[str, Any]]:
        """Entries since the last call; a last line that is not whole yet (or was cut by a kill) is left for later."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file_id = os.fstat(file.fileno()).st_ino
            if file_id != self._file_id:
                self._offset, self._file_id = 0, file_id
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """All entries of a journal."""
    return JournalReader(path).new_entries()


class JournalRecorder:
    """A trainer's Recorder that writes the journal: a line for each call and no more, so that a step never waits."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def start(self, step: int, total_steps: int) -> None:
        """Open the journal at `step`."""
        self.journal.begin(step, total_steps)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append."""
        self.journal.append(step, int(time.time() * 1000), values)

    def tick(self, step: int) -> None:
        """Nothing to record."""


TAIL_BYTES = 8192


def read_ends(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first entry, and as many of the last ones as fit into a few kilobytes: enough for where a run stands."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return [], []
    # Without what is cut at the beginning, and the line at the end that is still being written.
    whole = lines[1 if size > TAIL_BYTES else 0 : -1]
    return ([json.loads(first)] if first.endswith(b"\n") else []), [json.loads(line) for line in whole]
