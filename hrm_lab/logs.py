"""Where this package's log lines go: standard error, and the file of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("hrm_lab")
FORMAT = logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S")


def log_to_console() -> None:
    """Show this package's log lines on standard error, unless a progress bar lives there."""
    log.setLevel(logging.INFO)
    log.propagate = False
    if not sys.stderr.isatty() and not log.handlers:
        handler = logging.StreamHandler()
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
