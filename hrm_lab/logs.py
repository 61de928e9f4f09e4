"""Where this package's log lines go: standard error, and the file of a run. None of them shows a secret."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from hrm_lab.redaction import redact

log = logging.getLogger("hrm_lab")


class _Redacting(logging.Formatter):
    """Masks secrets in the whole text of a line, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several."""
        return redact(super().format(record))


FORMAT = _Redacting("%(asctime)s  %(message)s", datefmt="%H:%M:%S")


class _StandardError(logging.Handler):
    """Writes to what standard error is at the moment: a progress bar puts itself in between, below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        print(self.format(record), file=sys.stderr, flush=True)


def log_to_console() -> None:
    """Show this package's log lines on standard error, and there the error that ends the process, if one does."""
    sys.excepthook = _print_uncaught
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        handler = _StandardError()
        handler.setFormatter(FORMAT)
        log.addHandler(handler)


def _print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python prints, without secrets: a job's standard error is a file that stays."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


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
