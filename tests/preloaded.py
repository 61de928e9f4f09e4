"""`hrm-lab` in real processes that need not load everything anew: forked from one that has it loaded already.

Loading takes each process several seconds of the processor, and the suite starts hundreds. What a process loads, and
when, is tested where processes are started from nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

LOADED = ["hrm_lab.cli", "hrm_lab.hydra_app", "hrm_lab.run", "hrm_lab.training.trainer", "mlflow.tracking"]
LOADED += ["torch.distributed.checkpoint", "torch.distributed.checkpoint.hf_storage"]


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def _verb(arguments: list[str], folder: str, environment: dict[str, str], out: str, error: str) -> None:
    """In the forked process: what `python -m hrm_lab.cli` does."""
    from hrm_lab import cli

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in ((out, 1), (error, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, stream)
        os.close(file)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    sys.argv = ["hrm-lab", *arguments]
    cli.main()


def start(
    folder: Path,
    arguments: list[str],
    out: Path,
    error: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ForkServerProcess:
    """Begin a verb in a folder; what it says is appended to `out` and `error` (None: both to `out`)."""
    given = (arguments, str(folder), dict(environment), str(out), str(error or out))
    process = _server().Process(target=_verb, args=given)
    process.start()
    return process


def run(
    folder: Path, *arguments: str, environment: Mapping[str, str] = os.environ, timeout: float = 300
) -> CompletedProcess[str]:
    """A verb, to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        out, error = Path(scratch, "out"), Path(scratch, "error")
        process = start(folder, list(arguments), out, error, environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"hrm-lab {arguments} was not done in {timeout} s: {error.read_text()}")
        return CompletedProcess(arguments, process.exitcode, out.read_text(), error.read_text())
