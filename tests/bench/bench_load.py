"""Many jobs at one tracking server: how long until everything has arrived, and whether it has, each value once.

    .venv/bin/python -m tests.bench.bench_load [--processes 64] [--metrics 20] [--steps 500]

Real processes write journals and mirror them in ten instalments, as the jobs of a sweep do, all beginning at once, to a
server with a password; once with PostgreSQL (launch/server/server.sh), once with SQLite. Processes are forked after the
imports, so that 64 of them fit into a small machine. Server and clients share its cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import requests

from hrm_lab.config import TrackingConfig
from hrm_lab.mirror.folder import Mirror
from hrm_lab.run_folder import RUNNING, Point, RunFolder, State
from hrm_lab.tracking.journal import Journal
from hrm_lab.tracking.store import Store
from tests.small import free_port, small_config

SCRIPT = Path(__file__).parents[2] / "launch/server/server.sh"
PROGRAM = Path(sys.executable).with_name("hrm-lab")
INSTALMENTS = 10
PAUSE_S = 2.0  # before what has failed is sent again, as a mirror waits
LOOK_S = 5.0  # between looks at the memory
START_S = 60.0  # for all to be ready
HEADER = (
    "| database | values | series not whole | seconds | values/s | server's core seconds | slowest instalment, s | "
    "sent again | memory of server and database, MB |"
)
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Job:
    """What one process has seen."""

    seconds: float
    slowest_s: float  # of its instalments
    failures: int  # instalments that had to be sent again


@contextmanager
def postgres(folder: Path, port: int) -> Iterator[None]:
    """A server before PostgreSQL."""
    environment = os.environ | {"HRM_SERVER_DIR": str(folder), "HRM_SERVER_PORT": str(port), "HRM_LAB": str(PROGRAM)}
    with (folder / "script.log").open("w") as log:
        subprocess.run([SCRIPT, "up"], env=environment, check=True, stdout=log, stderr=log)
        try:
            yield
        finally:
            subprocess.run([SCRIPT, "down"], env=environment, check=True, stdout=log, stderr=log)


@contextmanager
def sqlite(folder: Path, port: int) -> Iterator[None]:
    """A server before SQLite; it asks for a password because it has a name."""
    words = ["server", "--port", str(port), "--outputs", str(folder), "--allowed-hosts", "bench"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([PROGRAM, *words], stdout=log, stderr=log)
    try:
        while not _answers(port):
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok
    except requests.RequestException:
        return False


def memory_mb(port: int) -> float:
    """Proportional set sizes of the server's processes and of PostgreSQL's."""
    total = 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            words = (entry / "cmdline").read_bytes().decode()
            if words.startswith("postgres:") or "/bin/postgres\0" in words or f"--port\0{port}\0" in words:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return total


def worker_s(port: int) -> float:
    """Seconds of a core that MLflow's worker has used: the same on a machine that has other things to do."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode()
            if "\0uvicorn\0" in words and f"--port\0{port}\0" in words:
                user, system = (entry / "stat").read_text().rpartition(")")[2].split()[11:13]
                return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    raise LookupError(f"no worker on port {port}")


def job(run: RunFolder, metrics: int, steps: int, start: Barrier, seen: SimpleQueue[Job]) -> None:
    """One process: a journal, and its mirror."""
    journal, mirror = Journal(run.journal), Mirror(run)
    journal.begin(0, steps)
    start.wait(START_S)
    began, slowest, failures = time.monotonic(), 0.0, 0
    for instalment in range(INSTALMENTS):
        for step in range(instalment * steps // INSTALMENTS + 1, (instalment + 1) * steps // INSTALMENTS + 1):
            journal.append(step, metrics={f"train/m{number}": value(step, number) for number in range(metrics)})
        asked = time.monotonic()
        while True:
            try:
                mirror.sync()
                break
            except Exception:
                failures += 1
                time.sleep(PAUSE_S)
        slowest = max(slowest, time.monotonic() - asked)
    seen.put(Job(time.monotonic() - began, slowest, failures))


def value(step: int, number: int) -> float:
    """Of a metric at a step."""
    return step + number / 1000


def prepared(folder: Path, uri: str, seed: int) -> RunFolder:
    """A run folder as a training leaves it before its first step."""
    config = small_config(folder)
    config.seed, config.tracking = seed, TrackingConfig(uri=uri)
    run = RunFolder.of(config)
    run.prepare(config, Point(f"job {seed}", sweep="load"))
    run.write_provenance()
    run.state = State(RUNNING)
    return run


def load(folder: Path, port: int, processes: int, metrics: int, steps: int) -> str:
    """A row of the table."""
    uri = f"http://127.0.0.1:{port}"
    os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
    os.environ["MLFLOW_TRACKING_PASSWORD"] = (folder / "server/admin_password").read_text()
    runs = [prepared(folder, uri, seed) for seed in range(processes)]
    store = Store.open(TrackingConfig(uri=uri), folder)
    store.sweep_run("load", "")  # as the submitter does
    start, seen = FORK.Barrier(processes + 1), FORK.SimpleQueue()
    children = [FORK.Process(target=job, args=(run, metrics, steps, start, seen)) for run in runs]
    for child in children:
        child.start()
    start.wait(START_S)
    began, used, most = time.monotonic(), worker_s(port), 0.0
    while any(child.is_alive() for child in children):
        most = max(most, memory_mb(port))
        multiprocessing.connection.wait([child.sentinel for child in children if child.is_alive()], LOOK_S)
    seconds, used = time.monotonic() - began, worker_s(port) - used
    assert not any(child.exitcode for child in children)
    jobs = [seen.get() for _ in children]
    wrong = sum(
        store.history(run.run_id or "", f"train/m{number}")
        != [(step, value(step, number)) for step in range(1, steps + 1)]
        for run in runs
        for number in range(metrics)
    )
    total = processes * metrics * steps
    return (
        f"| {total:,} | {wrong} | {seconds:.0f} | {total / seconds:,.0f} | {used:.0f} | "
        f"{max(job.slowest_s for job in jobs):.0f} | {sum(job.failures for job in jobs)} | {most:.0f} |"
    )


def main() -> None:
    """Both databases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--metrics", type=int, default=20)
    parser.add_argument("--steps", type=int, default=500)
    asked = parser.parse_args()
    import mlflow.store.tracking.rest_store  # noqa: F401  (before the processes are forked)

    print(HEADER)
    for name, serving in (("PostgreSQL", postgres), ("SQLite", sqlite)):
        with tempfile.TemporaryDirectory() as scratch:
            folder, port = Path(scratch), free_port()
            folder.chmod(0o755)
            with serving(folder, port):
                print(f"| {name} {load(folder, port, asked.processes, asked.metrics, asked.steps)}", flush=True)


if __name__ == "__main__":
    main()
