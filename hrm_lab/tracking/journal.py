"""The journal of a run: every metric, appended to a file beside the checkpoints before it is anywhere else."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from hrm_lab.errors import RunError
from hrm_lab.files import fsync
from hrm_lab.training.protocols import Viewer

log = logging.getLogger(__name__)


class Journal:
    """The run's own record: a line of JSON for every call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    def begin(self, step: int, total_steps: int, high_water: int | None = None) -> None:
        """Open for appending, and drop what is to come again: all that lies beyond a checkpoint's high water.

        Args:
            step, total_steps: where training begins, and where it ends.
            high_water: bytes of the journal that the checkpoint knows of; None to begin afresh.
        """
        kept = self.path.read_bytes()[:high_water] if high_water and self.path.exists() else b""
        if len(kept) < (high_water or 0):
            log.warning("%s is shorter than its checkpoint says: some of its values are lost", self.path)
            kept = kept[: kept.rfind(b"\n") + 1]
        begin = json.dumps({"begin": step, "total_steps": total_steps}) + "\n"
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_bytes(kept + begin.encode())
            fsync(temporary)
            # A new file under the old name: whoever follows the journal sees that it was cut, and begins again.
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._unwritable(error) from error
        fsync(self.path.parent)
        self._file = FileIO(self.path, "ab")

    def append(self, step: int, stamp: int, values: Mapping[str, float]) -> None:
        """One line."""
        assert self._file is not None, "begin() comes first"
        line = json.dumps({"step": step, "ms": stamp, "metrics": dict(values)}) + "\n"
        try:
            if self._file.write(line.encode()) != len(line):  # the torn line is cut off when the run goes on
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"{self.path}: the journal could not be written: {error.strerror}\n"
            "  way out: make room; the same command goes on from the last checkpoint"
        )

    def high_water(self) -> int:
        """Bytes written so far."""
        assert self._file is not None, "begin() comes first"
        return self._file.tell()

    def sync(self) -> None:
        """Wait until the disk has them."""
        assert self._file is not None, "begin() comes first"
        os.fsync(self._file.fileno())

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
    """A trainer's Recorder that writes the journal, a line for each call, and lets somebody look on."""

    def __init__(self, journal: Journal, viewer: Viewer) -> None:
        self.journal, self.viewer = journal, viewer

    def start(self, step: int, total_steps: int, high_water: int | None) -> None:
        """Open the journal."""
        self.journal.begin(step, total_steps, high_water)
        self.viewer.start(step, total_steps)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append."""
        self.journal.append(step, int(time.time() * 1000), values)
        self.viewer.metrics(step, values)

    def tick(self, step: int) -> None:
        """Only to be looked at."""
        self.viewer.tick(step)

    def high_water(self) -> int:
        """The journal's length in bytes."""
        return self.journal.high_water()

    def sync(self) -> None:
        """Wait until the disk has the journal."""
        self.journal.sync()


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
