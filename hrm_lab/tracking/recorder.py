"""Metrics on their way to MLflow: first into a journal beside the checkpoint, then, in batches, to the store.

A step only appends a line to a local file; a thread of its own does the sending, so training never waits for a server.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from hrm_lab.tracking.store import MAX_METRICS, Store

log = logging.getLogger(__name__)

Point = tuple[str, float, int, int]  # key, value, milliseconds, step


class Journal:
    """The run's own record: a line of JSON for every call, the truth as long as the store has not got it all."""

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


class TrackingRecorder:
    """A trainer's Recorder that writes the journal and, where there is a store, sends it.

    Args:
        store, run_id: None for a run that is not tracked.
        flush_interval: seconds between batches.
    """

    def __init__(self, journal: Journal, store: Store | None, run_id: str | None, flush_interval: float) -> None:
        self.journal, self.store, self.run_id = journal, store, run_id
        self._interval = flush_interval
        self._queue: queue.SimpleQueue[Point] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._unsent: list[Point] = []
        self._thread: threading.Thread | None = None

    def start(self, step: int, total_steps: int) -> None:
        """Open the journal at `step` and start the sender with all that the store has not got of it."""
        self.journal.begin(step, total_steps)
        if self.store is None or self.run_id is None:
            return
        known = self.store.last_steps(self.run_id)
        for entry in read_journal(self.journal.path):
            if "metrics" in entry:
                self._enqueue(entry["step"], entry["ms"], entry["metrics"])
        self._thread = threading.Thread(target=self._send_until_closed, args=(known,), daemon=True)
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append to the journal and leave the rest to the sender."""
        stamp = int(time.time() * 1000)
        self.journal.append(step, stamp, values)
        if self._thread is not None:
            self._enqueue(step, stamp, values)

    def tick(self, step: int) -> None:
        """Nothing to record."""

    def close(self, timeout: float = 60.0) -> bool:
        """Send what is left, waiting at most `timeout` seconds; whether the store has everything."""
        self.journal.close()
        if self._thread is None:
            return True
        self._closing.set()
        self._thread.join(timeout)
        complete = not self._thread.is_alive() and not self._unsent
        if not complete:
            log.warning("the tracking store did not take everything; the numbers are safe in %s", self.journal.path)
        return complete

    def _enqueue(self, step: int, stamp: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._queue.put((key, value, stamp, step))

    def _send_until_closed(self, known: dict[str, int]) -> None:
        """The sender's life. A batch that fails is tried again with the next; MLflow stores a batch whole or not."""
        assert self.store is not None
        assert self.run_id is not None
        while True:
            last_round = self._closing.wait(self._interval)
            while not self._queue.empty():
                point = self._queue.get()
                if point[3] > known.get(point[0], -1):
                    self._unsent.append(point)
            try:
                while self._unsent:
                    batch = self._unsent[:MAX_METRICS]
                    self.store.log_metrics(self.run_id, batch)
                    del self._unsent[: len(batch)]
            except Exception as error:
                log.warning("the tracking store does not answer (%s); training goes on", error)
            if last_round:
                return
