"""Whatever is killed, stopped or away: in the end the store holds what the journal says, each value once.

HRM_OUTAGE_TRIALS says how many trials of random faults there are (default 1), HRM_OUTAGE_SEED where the dice begin.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests

from hrm_lab.config import TrackingConfig
from hrm_lab.manifest import Entry, Manifest
from hrm_lab.mirror.folder import Mirror
from hrm_lab.run_folder import COMPLETED, RUNNING, Point, RunFolder, State
from hrm_lab.tracking.journal import Journal, read_journal
from hrm_lab.tracking.store import MAX_METRICS, SIGNATURE, Store
from tests.small import free_port, hrm_lab, small_config
from tests.tracking.writer import COMPLETES, FAILS, HANGS

TRIALS = int(os.environ.get("HRM_OUTAGE_TRIALS", "1"))
SEED = int(os.environ.get("HRM_OUTAGE_SEED", "0"))
ROOT = Path(__file__).parents[2]
STEPS = 300  # of a writer, of 10 ms and more
WRITERS = 3
FAULTS = 8  # in a trial
SHOWN = {COMPLETES: "FINISHED", FAILS: "FAILED", HANGS: "KILLED"}
PATIENCE_S = 120.0


@dataclass
class Server:
    """A real tracking server before SQLite, for rough handling."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def start(self) -> None:
        """Does not wait until it answers."""
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as said:
            environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self.process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True, env=environment)

    def up(self) -> None:
        """Running, and answering."""
        if self.process is None:
            self.start()
        self.tell(signal.SIGCONT)
        wait_for(self.answers, "the server")

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def tell(self, number: signal.Signals) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """A terminated one that takes its time is killed."""
        if self.process is None:
            return
        self.tell(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)
        with contextlib.suppress(ProcessLookupError):
            self.tell(signal.SIGKILL)  # what it has left behind
        self.process.wait()
        self.process = None


@dataclass
class Writer:
    """A run that is written by a real process, whose mirror is a real one too."""

    folder: RunFolder
    end: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.tracking.writer", str(self.folder.path), str(STEPS), self.end]
        impatient = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "PYTHONPATH": str(ROOT)}
        with (self.folder.path / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=os.environ | impatient)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def mirrors(self) -> list[psutil.Process]:
        """Those of earlier, killed attempts too."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "hrm_lab.mirror" in words and str(self.folder.path) in words:
                found.append(process)
        return found

    def has_written(self) -> bool:
        """All that it has to write."""
        last = max((entry.get("step", 0) for entry in read_journal(self.folder.journal)), default=0)
        return last == STEPS and (self.end == HANGS or self.folder.status != RUNNING)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Raises when it does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for {what}"
        time.sleep(0.05)


def prepared(outputs: Path, uri: str, seed: int = 0) -> RunFolder:
    """A run folder as a training leaves it before its first step."""
    config = small_config(outputs.parent)
    config.seed, config.paths.outputs = seed, str(outputs)
    config.tracking.enabled, config.tracking.uri, config.tracking.system_interval = True, uri, 0.5
    folder = RunFolder.of(config)
    folder.prepare(config, Point(f"run {seed}"))
    folder.write_provenance()
    return folder


def swept(outputs: Path, runs: list[RunFolder]) -> str:
    """The name of a sweep that these runs are the points of."""
    points = [Entry(run.point().label, [], run.path.name) for run in runs]
    Manifest("outage", "", str(outputs), points, "local", {}).save()
    return "outage"


def synced(outputs: Path, word: str) -> subprocess.CompletedProcess[str]:
    return hrm_lab(ROOT, "sync", word, "--outputs", str(outputs))


def assert_mirrored(run: RunFolder, status: str) -> None:
    """The store has exactly one run of this folder, and it holds what the journals say."""
    store = Store.open(run.config().tracking, run.path.parents[1])
    (found,) = store.client.search_runs([store.experiment_id], f"tags.`{SIGNATURE}` = '{run.path.name}'")
    run_id = found.info.run_id
    assert found.info.status == status
    assert found.info.start_time <= found.info.end_time
    entries = [*read_journal(run.journal), *read_journal(run.system)]
    values = Counter(
        (key, entry["step"], repr(value)) for entry in entries for key, value in entry.get("metrics", {}).items()
    )
    keys = sorted({key for key, _, _ in values})
    assert sorted(found.data.metrics) == keys
    assert Counter((key, step, repr(value)) for key in keys for step, value in store.history(run_id, key)) == values
    tags: dict[str, str | None] = {}
    for entry in entries:
        tags |= entry.get("tags", {})
    assert {key: found.data.tags.get(key) for key in tags} == tags
    places = {entry["artifact"] for entry in entries if "artifact" in entry}
    assert {file.path for file in store.client.list_artifacts(run_id, "probe")} == places
    decisions = [entry["decision"] for entry in entries if "decision" in entry]
    if decisions:
        assert json.loads(store.text(run_id, "stopping/decisions.json") or "[]") == decisions


class Chaos:
    """Does harm at random moments to a server, to writers and to their mirrors."""

    def __init__(self, dice: random.Random, server: Server, writers: list[Writer]) -> None:
        self.dice, self.server, self.writers = dice, server, writers
        self.story: list[str] = []
        self._cures: list[tuple[float, Callable[[], None]]] = []  # when they are due

    def run(self) -> None:
        """Until all faults have been done, all are cured, and every writer has written all."""
        faults = [self._end_server, self._hang_server, self._kill_writer, self._kill_writer, self._kill_mirrors]
        until = time.monotonic() + PATIENCE_S
        while len(self.story) < FAULTS or self._cures or not all(writer.has_written() for writer in self.writers):
            assert time.monotonic() < until, f"it comes to no end: {self.story}"
            for due in [cure for cure in self._cures if cure[0] < time.monotonic()]:
                self._cures.remove(due)
                due[1]()
            if len(self.story) < FAULTS:
                self.dice.choice(faults)()
            time.sleep(self.dice.uniform(0.1, 1.0))

    def _later(self, low: float, high: float, cure: Callable[[], None]) -> None:
        self._cures.append((time.monotonic() + self.dice.uniform(low, high), cure))

    def _end_server(self) -> None:
        if self.server.process is None:
            return
        number = self.dice.choice([signal.SIGKILL, signal.SIGTERM])
        self.server.end(number)
        self.story.append(f"server {number.name}")
        self._later(0.0, 3.0, self.server.start)

    def _hang_server(self) -> None:
        if self.server.process is None:
            return
        self.server.tell(signal.SIGSTOP)
        self.story.append("server hangs")
        self._later(0.2, 5.0, lambda: self.server.tell(signal.SIGCONT))

    def _kill_writer(self) -> None:
        writer = self.dice.choice(self.writers)
        if writer.process is None or writer.has_written():
            return
        writer.kill()
        writer.process = None
        self.story.append("writer killed")
        self._later(0.0, 1.0, writer.start)

    def _kill_mirrors(self) -> None:
        for mirror in self.dice.choice(self.writers).mirrors():
            mirror.kill()
            self.story.append("mirror killed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Not started yet. Its database is there: MLflow cannot go on with one in whose making it was killed."""
    server = Server(tmp_path / "server")
    server.folder.mkdir()
    Store.open(TrackingConfig(uri=server.database, experiment="other"), server.folder)
    yield server
    server.end()


@pytest.mark.parametrize("trial", range(TRIALS))
def test_after_any_faults_the_store_holds_every_value_once(tmp_path: Path, server: Server, trial: int) -> None:
    dice = random.Random(f"{SEED}/{trial}")
    outputs = tmp_path / "outputs"
    ends = [COMPLETES, FAILS, HANGS]
    writers = [Writer(prepared(outputs, server.uri, seed), ends[seed % 3]) for seed in range(WRITERS)]
    chaos = Chaos(dice, server, writers)
    is_up_at_start = dice.random() < 0.5
    if is_up_at_start:
        server.up()
    else:
        chaos._later(2.0, 6.0, server.start)
    try:
        for writer in writers:
            writer.start()
        chaos.run()
        if dice.random() < 0.5:
            server.end()  # the runs' ends find no server
            chaos.story.append("server gone at the end")
        for writer in writers:
            writer.kill()  # instead of waiting for its mirror's last attempts, which go on meanwhile
        server.up()
        sweep = swept(outputs, [writer.folder for writer in writers])
        # A machine with more to do than it can may refuse the first, as one whose server is slow.
        wait_for(lambda: synced(outputs, sweep).returncode == 0, "hrm-lab sync")
        # A mirror that was held up by the server looks at the machine until it has found its training gone.
        wait_for(lambda: not any(writer.mirrors() for writer in writers), "the mirrors' end")
        assert synced(outputs, sweep).returncode == 0
        for writer in writers:
            assert_mirrored(writer.folder, SHOWN[writer.end])
        again = synced(outputs, sweep)
        assert "sent: 0 values, 0 files" in again.stdout, again
        print(f"trial {trial}: {'up' if is_up_at_start else 'down'} at the start;", ", ".join(chaos.story))
    except AssertionError as error:
        raise AssertionError(f"HRM_OUTAGE_SEED={SEED}, trial {trial}: {chaos.story}; see {tmp_path}") from error
    finally:
        for writer in writers:
            writer.kill()
            for mirror in writer.mirrors():
                mirror.kill()


def test_a_server_that_hangs_is_not_waited_for_and_a_killed_training_is_told_as_killed(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer begins and ends while the server is stopped; the mirror of the killed one goes away by itself."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    outputs = tmp_path / "outputs"
    writer = Writer(prepared(outputs, server.uri), HANGS)
    server.up()
    server.tell(signal.SIGSTOP)
    try:
        writer.start()
        wait_for(writer.has_written, "the writer")  # no answer of the server has been there to wait for
        assert writer.folder.run_id is None
        writer.kill()
        refused = synced(outputs, str(writer.folder.path))
        assert refused.returncode == 1
        assert "1 of 1 runs" in refused.stderr
        server.tell(signal.SIGCONT)
        wait_for(lambda: not writer.mirrors(), "the mirror to send the rest and go")
        said = synced(outputs, writer.folder.path.name)
        assert said.returncode == 0, said
        assert "runs: 1; sent: 0 values" in said.stdout  # the mirror has sent them; told is only how the run ended
        assert_mirrored(writer.folder, "KILLED")
    finally:
        server.tell(signal.SIGCONT)
        writer.kill()


def test_a_long_journal_goes_out_in_small_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written while the store was away: never more in memory than a request's worth and an entry."""
    run = prepared(tmp_path / "outputs", f"sqlite:///{tmp_path}/mlflow.db")
    journal = Journal(run.journal)
    journal.begin(0, 20_000)
    for step in range(1, 20_001):
        journal.append(step, metrics={f"train/{number}": step + number / 10 for number in range(10)})
    journal.close()
    run.state = State(COMPLETED)
    mirror, sizes = Mirror(run), []
    monkeypatch.setattr(
        Store, "log_metrics", lambda _, run_id, points: sizes.append((len(points), len(mirror._unsent)))
    )
    mirror.sync()
    assert sum(size for size, _ in sizes) == mirror.sent["values"] == 200_000
    assert max(size for size, _ in sizes) == MAX_METRICS
    assert max(waiting for _, waiting in sizes) < MAX_METRICS + 10


def test_a_mirror_that_died_is_replaced_at_the_end(tmp_path: Path) -> None:
    run = prepared(tmp_path / "outputs", f"sqlite:///{tmp_path}/mlflow.db")
    writer = Writer(run, COMPLETES)
    writer.start()
    wait_for(lambda: bool(writer.mirrors()) and run.journal.exists(), "the mirror")
    for mirror in writer.mirrors():
        mirror.kill()
    assert writer.process is not None
    assert writer.process.wait(timeout=PATIENCE_S) == 0
    assert "another one goes on" in (run.path / "output.txt").read_text()
    assert_mirrored(run, "FINISHED")
