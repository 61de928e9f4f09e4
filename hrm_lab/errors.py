"""Errors that a user can act on; everything else is a bug and keeps its traceback."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


class UserError(Exception):
    """Something the user can put right. The message says what is wrong and the way out."""


class ConfigError(UserError):
    """A setting that cannot be: names the key, its value, what is wrong with it, and the way out."""

    def __init__(self, key: str, value: object, problem: str, way_out: str) -> None:
        self.key = key
        self.value = value
        super().__init__(f"{key}={value}: {problem}\n  way out: {way_out}")


def require(holds: bool, key: str, value: object, problem: str, way_out: str) -> None:
    """Raise a ConfigError unless `holds`."""
    if not holds:
        raise ConfigError(key, value, problem, way_out)


class DataError(UserError):
    """A dataset, or a file it is built from, that cannot be used."""


class RunError(UserError):
    """A run folder or a checkpoint that cannot be used as asked."""


class PeerLost(RunError):
    """Another process of the run has died, or failed for a reason of its own."""


class CannotReproduce(UserError):
    """A logged run that cannot be done again as it was."""


class PointFailed(UserError):
    """A point of a sweep did not finish; the others did what they could."""
