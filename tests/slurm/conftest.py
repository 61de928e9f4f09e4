"""A real SLURM cluster on this machine (`make cluster-up`), an MLflow server for its nodes, and a folder to work in.

Nothing here stands in for SLURM: where there is no cluster these tests are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from hrm_lab.attempts import Attempt
from hrm_lab.config import TrackingConfig
from hrm_lab.manifest import load_manifest
from hrm_lab.run_folder import RunFolder
from hrm_lab.sweep.status import Row, status
from hrm_lab.tracking.store import RunRecord, Store
from tests import preloaded

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "launch/slurm/cluster.sh"
CONTROLLER = "10.99.0.1"  # reached from every node; 127.0.0.1 would be the node itself
PORT = 5077
PATIENCE_S = 300  # for anything to happen: a test says what must come, and not how fast a busy machine is

# A model of a few thousand weights; a step takes a few milliseconds, an epoch has four of them.
SMALL = [
    "hydra.sweeper.params=null",
    "data.num_train=64",
    "data.num_test=32",
    "model.hidden_size=16",
    "model.halt_max_steps=2",
    "training.eval_interval=50",
    "training.global_batch_size=16",
    "training.log_interval=20",
    "training.checkpoint_interval=25",
    "training.eval_first=false",
    "training.shown_puzzles=0",  # two cores for six nodes: no boards drawn
    "tracking.system_interval=null",
    "hydra.launcher.array_parallelism=null",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything here, with the reason, where no cluster is up."""
    reason = why_no_cluster()
    if reason is None:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def why_no_cluster() -> str | None:
    """Why these tests cannot run on this machine; None if they can."""
    for line in subprocess.run([CLUSTER, "env"], capture_output=True, text=True, check=True).stdout.splitlines():
        for pair in line.removeprefix("export ").split():
            name, _, value = pair.partition("=")
            os.environ[name] = value
    if os.geteuid() != 0:
        return "the development cluster needs root: run as root, `make cluster-up`, `make test-slurm`"
    try:
        subprocess.run([CLUSTER, "status"], capture_output=True, check=True, timeout=30)
    except (subprocess.SubprocessError, OSError):
        return "no SLURM cluster is up on this machine: `make test-slurm` starts one (root, Debian or Ubuntu)"
    return None


@pytest.fixture(scope="session", autouse=True)
def healthy_cluster() -> None:
    """All nodes up, whatever an earlier test that was broken off has left."""
    subprocess.run(["scancel", "--me"], check=True)
    for number in range(1, 7):
        node("up", number)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server, in a process of its own; jobs inherit the password from the environment."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "hrm_lab.cli", "server", "--host", CONTROLLER, "--port", str(PORT)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    address = f"http://{CONTROLLER}:{PORT}"

    def answers() -> bool:
        try:
            return requests.get(f"{address}/health", timeout=1).ok
        except requests.RequestException:
            return False

    wait_for(answers, "the MLflow server")
    os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
    os.environ["MLFLOW_TRACKING_PASSWORD"] = (folder / "outputs/server/admin_password").read_text()
    yield address
    process.terminate()
    process.wait(30)


class Lab:
    """A folder in which sweeps are submitted, as a user does it."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        self.outputs = folder / "outputs"
        self.environment = dict(os.environ) | {"MLFLOW_TRACKING_URI": server}

    def command(self, *arguments: str) -> list[str]:
        """The command line of a verb."""
        return [sys.executable, "-m", "hrm_lab.cli", *arguments]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A verb, to its end."""
        if self.environment.get("PYTHONPATH") == os.environ.get("PYTHONPATH"):
            done = preloaded.run(self.folder, *arguments, environment=self.environment)
        else:  # code of its own
            command, folder = self.command(*arguments), self.folder
            done = subprocess.run(
                command, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False
            )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def sweep(self, name: str, *overrides: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Submit a sweep of small models to the cluster."""
        return self.run(*self.sweep_words(name, *overrides), check=check)

    def sweep_words(self, name: str, *overrides: str) -> list[str]:
        """The words of that command."""
        return ["sweep", "demo", "--on", "slurm_dev", *SMALL, f"name={name}", *overrides]

    def rows(self, name: str) -> list[Row]:
        """The status of a sweep."""
        return status(load_manifest(self.outputs, name))

    def row(self, name: str, label: str) -> Row:
        """Of one point."""
        return next(row for row in self.rows(name) if row.entry.label == label)

    def wait(self, name: str, states: set[str]) -> list[Row]:
        """Until every point of the grid is in one of these states."""

        def reached() -> bool:
            return {row.standing.status for row in self.rows(name) if row.entry.in_grid} <= states

        wait_for(reached, f"{name} in {states}", lambda: self.run("status", name).stdout)
        return self.rows(name)

    def record(self, folder: RunFolder) -> RunRecord:
        """What MLflow has of a run."""
        assert folder.run_id is not None
        (record,) = self.store().runs([folder.run_id])
        return record

    def store(self) -> Store:
        """The server."""
        return Store.open(TrackingConfig(uri=self.server), self.outputs)


@pytest.fixture
def lab(tmp_path: Path, server: str) -> Iterator[Lab]:
    """A fresh one, whose jobs do not outlive it: those of a test that has failed would slow down all the others."""
    made = Lab(tmp_path, server)
    yield made
    subprocess.run(["scancel", "--me"], env=made.environment, check=False, timeout=60)


def wait_for(holds: Callable[[], bool], what: str, tell: Callable[[], str] = lambda: "", pause: float = 0.5) -> None:
    """Until something holds; fails with what was waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}\n{tell()}"
        time.sleep(pause)


def node(verb: str, number: int) -> None:
    """Break or mend a node."""
    subprocess.run([CLUSTER, "node", verb, str(number)], check=True, timeout=90, capture_output=True)


def attempts(folder: RunFolder) -> list[Attempt]:
    """All attempts of a run."""
    return folder.attempts.all()


def journal_steps(folder: RunFolder, key: str) -> list[int]:
    """The steps at which a run has recorded a metric."""
    lines = folder.journal.read_text().splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if key in entry.get("metrics", {})]
