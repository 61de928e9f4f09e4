"""What is done with the logged code: processes of its own, which know nothing of this one.

Any commit of this project can do it: the stored config is handed to its Hydra application as the primary config, and
the data are asked of the same two functions that a training asks.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hrm_lab.errors import CannotReproduce
from hrm_lab.reproduce.code import Code
from hrm_lab.tracking.journal import JournalReader

DATA = """
import json, sys
from hrm_lab import config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.errors import UserError
try:
    settings = config.from_dict(json.load(sys.stdin))
    dataset = ensure_dataset(settings.data, settings.paths.data)
except UserError as error:
    sys.exit(str(error))
facts = {"fingerprint": dataset.info.fingerprint, "folder": str(dataset.folder.resolve()), "build": dataset.info.build}
print(json.dumps(facts))
"""
# An end that was asked for is no traceback, and the command that asked for it says what it means.
TRAIN = """
import sys
from hrm_lab import hydra_app
hydra_app.print = lambda *_, **__: None
try:
    hydra_app.main()
except KeyboardInterrupt:
    sys.exit(130)
"""
QUIET = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
log = logging.getLogger("hrm_lab")
PAUSE_S = 0.05
OTHERS_S = 60.0  # for the other processes of a run to end after the main one


def build_data(code: Code, config: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """Find or build the data of a config; their fingerprint, and what their dataset.json says they were built from.

    Raises:
        CannotReproduce: in the words of the code that was asked.
    """
    feed = json.dumps({**config, "paths": {**config.get("paths", {}), "data": str(data)}})
    done = subprocess.run(
        code.command(DATA),
        env=code.environment(),
        input=feed,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip()
        if said.startswith("Traceback"):
            said = (
                f"the data cannot be made: {said.splitlines()[-1]}\n  way out: see what `hrm-lab data build NAME` says"
            )
        raise CannotReproduce(said)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def quoted(value: object) -> str:
    """A text that Hydra's grammar takes as it is."""
    # In quotes a backslash is one, unless it stands before a quote.
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", str(value)) + "'"


def train(
    code: Code, place: Path, data: Path, changes: Sequence[str], processes: int, until: int | None
) -> tuple[int, bool]:
    """Train PLACE/config.yaml in PLACE/runs, or go on where it stopped.

    Args:
        processes: data-parallel ones, all on this machine.
        until: told to save and leave as soon as its journal holds this step.

    Returns:
        Exit status, and whether it was told to leave at `until`.

    Raises:
        KeyboardInterrupt: when this process was told to leave; the training has saved.
    """
    words = ["--config-path", str(place), "--config-name", "config", *QUIET, "tracking.enabled=false"]
    words += [f"paths.outputs={quoted(place)}", f"paths.data={quoted(data)}", *changes]
    with _told_to_leave() as asked:
        ranks = [
            subprocess.Popen(code.command(TRAIN, *words), env=code.environment() | variables)
            for variables in _ranks(processes)
        ]
        try:
            reached = _follow(ranks, place, until, asked)
        finally:
            _end(ranks)
    if asked and ranks[0].returncode:
        raise KeyboardInterrupt
    return ranks[0].returncode, reached


@contextmanager
def _told_to_leave() -> Iterator[list[int]]:
    """Signals that come meanwhile, Ctrl-C or SLURM's: the training must save before anything else is done."""
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.signal(number, lambda got, _: asked.append(got)) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(ranks: Sequence[subprocess.Popen[bytes]], place: Path, until: int | None, asked: list[int]) -> bool:
    """Until the main process ends; whether it was told to because of `until`."""
    readers: dict[Path, JournalReader] = {}
    reached, passed_on = False, 0
    while ranks[0].poll() is None:
        time.sleep(PAUSE_S)
        if until is not None and not reached and _newest_step(place, readers) >= until:
            reached = True
            log.info("step %d is reached: enough", until)
            _tell(ranks)
        if len(asked) > passed_on:
            # The terminal gives Ctrl-C to the training too, for which a second SIGINT means at once.
            passed_on = len(asked)
            _tell(ranks)
    return reached


def _newest_step(place: Path, readers: dict[Path, JournalReader]) -> int:
    newest = -1
    for path in place.glob("runs/*/journal.jsonl"):
        reader = readers.setdefault(path, JournalReader(path))
        newest = max([newest, *(entry["step"] for entry in reader.new_entries() if "metrics" in entry)])
    return newest


def _tell(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGTERM)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + OTHERS_S
    for rank in ranks:
        try:
            rank.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def _ranks(processes: int) -> Iterator[dict[str, str]]:
    """What torch.distributed asks of the environment of each process."""
    if processes == 1:
        yield {}
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for rank in range(processes):
        facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        yield {key: str(value) for key, value in facts.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
