"""The journal of a run: all that it has to say, appended to a file before it is anywhere else.

A line of JSON for each: {"begin", "total_steps"} where an attempt takes up the training; {"step", "ms", "metrics"};
{"step", "ms", "artifact"}, a file in the run's folder; {"step", "ms", "decision", "tags"}.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hrm_lab.decision import PROMOTION, Decision
from hrm_lab.errors import RunError
from hrm_lab.files import fsync, write_arrays, write_json
from hrm_lab.redaction import redacted
from hrm_lab.training.protocols import Viewer

log = logging.getLogger(__name__)
# The tags that say why a run ended before its last epoch, by which rule, and at which rung of asha.
STOPPING_REASON, STOPPING_RULE, STOPPING_RUNG = "stopping.reason", "stopping.rule", "stopping.rung"
UNSTOPPED: dict[str, str | None] = dict.fromkeys((STOPPING_REASON, STOPPING_RULE, STOPPING_RUNG))
CLOCK = ("perf/", "system/")  # metrics that depend on the clock and the machine
Measured = dict[tuple[int, str], tuple[int, float]]  # step and metric -> milliseconds and value


class Journal:
    """The run's own record: a line of JSON for every call.

    What lies beyond a checkpoint is dropped when a run goes on, and comes again. It comes with the stamps it had, and
    what depends on the clock with the values it had: a store takes metrics that agree in key, step, stamp and value
    for one, so it does no harm if the first are still on their way when the second are sent. When a run begins afresh,
    nothing comes again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._dropped: Measured = {}  # comes again

    def begin(self, step: int, total_steps: int, high_water: int | None = None) -> None:
        """Open for appending, and drop what is to come again: all that lies beyond a checkpoint's high water.

        Args:
            step, total_steps: where training begins, and where it ends.
            high_water: bytes of the journal that the checkpoint knows of; None to begin afresh.
        """
        written = self.path.read_bytes() if self.path.exists() else b""
        kept = written[: high_water or 0]
        if len(kept) < (high_water or 0):
            log.warning("%s is shorter than its checkpoint says: some of its values are lost", self.path)
            kept = kept[: kept.rfind(b"\n") + 1]
        begin = json.dumps({"begin": step, "total_steps": total_steps}) + "\n"
        temporary = self.path.with_suffix(".tmp")
        try:
            self._dropped = self._put_aside(written[len(kept) :], step, comes_again=high_water is not None)
            temporary.write_bytes(kept + begin.encode())
            fsync(temporary)
            # A new file under the old name: whoever follows the journal sees that it was cut, and begins again.
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._unwritable(error) from error
        fsync(self.path.parent)
        self._file = FileIO(self.path, "ab")

    def _put_aside(self, lines: bytes, step: int, comes_again: bool) -> Measured:
        """What will come again after a step; kept in a file, because the run may be killed before all of it has."""
        aside = self.path.with_suffix(".dropped.json")
        if not comes_again:
            aside.unlink(missing_ok=True)
            return {}
        earlier = json.loads(aside.read_text())["metrics"] if aside.exists() else []
        measured = {(at, key): (ms, value) for at, key, ms, value in earlier} | _measured(lines)
        dropped = {place: value for place, value in measured.items() if place[0] > step}
        if dropped or earlier:
            write_json(aside, {"metrics": [[*place, *value] for place, value in dropped.items()]})
        return dropped

    def append(self, step: int, **facts: Any) -> None:
        """One line, with the time in milliseconds."""
        assert self._file is not None, "begin() comes first"
        stamp = int(time.time() * 1000)
        if self._dropped and "metrics" in facts:
            stamp, facts["metrics"] = self._as_before(step, stamp, facts["metrics"])
        line = json.dumps({"step": step, "ms": stamp, **redacted(facts)}) + "\n"
        try:
            if self._file.write(line.encode()) != len(line):  # the torn line is cut off when the run goes on
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritable(error) from error

    def _as_before(self, step: int, stamp: int, metrics: Mapping[str, float]) -> tuple[int, dict[str, float]]:
        before = {key: self._dropped.pop((step, key)) for key in metrics if (step, key) in self._dropped}
        stamps = [ms for ms, _ in before.values()]
        clock = {key: value for key, (_, value) in before.items() if key.startswith(CLOCK)}
        return (stamps[0] if stamps else stamp), {**metrics, **clock}

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


def _measured(lines: bytes) -> Measured:
    """All metrics of some lines that no fsync has covered: the last may be torn, and a power cut may leave zeros."""
    measured: Measured = {}
    for line in lines.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            measured |= {(entry["step"], key): (entry["ms"], value) for key, value in entry.get("metrics", {}).items()}
    return measured


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
                try:
                    entry = json.loads(line)
                except ValueError:  # a power cut may leave zeros
                    log.warning("%s: a damaged line is left out: %.40r", self.path, line)
                    continue
                yield entry


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """All entries of a journal."""
    return JournalReader(path).new_entries()


class JournalRecorder:
    """A trainer's Recorder that writes the journal, a line for each call, and lets somebody look on.

    Args:
        folder: the run's; arrays are kept in it.
    """

    def __init__(self, journal: Journal, viewer: Viewer, folder: Path) -> None:
        self.journal, self.viewer, self.folder = journal, viewer, folder

    def start(self, step: int, total_steps: int, high_water: int | None) -> None:
        """Open the journal."""
        self.journal.begin(step, total_steps, high_water)
        self.viewer.start(step, total_steps)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append."""
        self.journal.append(step, metrics=dict(values))
        self.viewer.metrics(step, values)

    def arrays(self, step: int, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write NAME/step_STEP.npz, and append where it is."""
        place = f"{name}/step_{step:08d}.npz"
        write_arrays(self.folder / place, arrays)
        self.file(step, place)

    def file(self, step: int, place: str) -> None:
        """Append where it is."""
        self.journal.append(step, artifact=place)

    def decision(self, decision: Decision) -> None:
        """Append; why the run stops is told in tags too, which a promotion takes away."""
        self.journal.append(decision.step, decision=decision.to_dict(), **_tags(decision))

    def tick(self, step: int) -> None:
        """Only to be looked at."""
        self.viewer.tick(step)

    def high_water(self) -> int:
        """The journal's length in bytes."""
        return self.journal.high_water()

    def sync(self) -> None:
        """Wait until the disk has the journal."""
        self.journal.sync()


def _tags(decision: Decision) -> dict[str, dict[str, str | None]]:
    if decision.rule == PROMOTION:
        return {"tags": UNSTOPPED}
    if not decision.stops:
        return {}
    rung = {STOPPING_RUNG: str(decision.evidence["rung"])} if "rung" in decision.evidence else {}
    return {"tags": {STOPPING_REASON: decision.reason, STOPPING_RULE: decision.rule, **rung}}


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
