"""Where this package's log lines go: standard error, and the file of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("hrm_lab")
FORMAT = logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S")


class _StandardError(logging.Handler):
    """Writes to what standard error is at the moment: a progress bar puts itself in between, below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        print(self.format(record), file=sys.stderr, flush=True)


def log_to_console() -> None:
    """Show this package's log lines on standard error."""
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        handler = _StandardError()
        handler.setFormatter(FORMAT)
        log.addHandler(handler)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append this package's log lines to a file too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(FORMAT)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
