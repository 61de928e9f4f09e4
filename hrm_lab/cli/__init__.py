"""`hrm-lab VERB`: each verb calls one function. Imports are inside the verbs, so that a wrong word costs nothing."""

# ruff: noqa: I001 (the verbs' modules are imported in the order of `--help`)
from __future__ import annotations

import errno
import os
import sys
import warnings

from hrm_lab.cli import runs, weights, sweeps, stopping, results, settings, datasets, serving
from hrm_lab.cli.app import app, say_error
from hrm_lab.errors import UserError

__all__ = ["datasets", "main", "results", "runs", "serving", "settings", "stopping", "sweeps", "weights"]
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EDQUOT)


def main() -> None:
    """Entry point: an error that a user can act on is two lines on standard error and exit status 1."""
    warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
    try:
        app()
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        say_error(str(error))
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
        text = f"{error.filename}: {error.strerror}\n  way out: {remedy}, or take another paths.outputs=FOLDER"
        say_error(text)
        sys.exit(1)
