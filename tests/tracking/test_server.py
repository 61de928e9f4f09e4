"""A real tracking server with a password, before a real PostgreSQL, started and ended by launch/server/server.sh."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from hrm_lab.config import TrackingConfig
from hrm_lab.errors import UserError
from hrm_lab.run_folder import RunFolder
from hrm_lab.sweep.preflight import _tracking
from hrm_lab.tracking import access
from hrm_lab.tracking.journal import read_journal
from hrm_lab.tracking.server import Server
from hrm_lab.tracking.store import BEGINNING, SIGNATURE, Store, refuse_silent_server, tracking_uri
from tests.small import free_port, hrm_lab

SCRIPT = Path(__file__).parents[2] / "launch/server/server.sh"
NAME = "tracking.example"  # what a proxy would be called
HUSH = "hush"  # a password
HAS_POSTGRES = bool(shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")))
needs_postgres = pytest.mark.skipif(
    not HAS_POSTGRES, reason="no PostgreSQL here: apt-get install --no-install-recommends postgresql"
)


@dataclass(frozen=True)
class Lab:
    """A server of launch/server/server.sh."""

    folder: Path
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        return (self.folder / "server/admin_password").read_text()

    def script(self, verb: str) -> subprocess.CompletedProcess[str]:
        names = {"HRM_SERVER_DIR": str(self.folder), "HRM_SERVER_PORT": str(self.port), "HRM_SERVER_NAMES": NAME}
        program = {"HRM_LAB": str(Path(sys.executable).with_name("hrm-lab"))}
        environment = os.environ | names | program
        # Not through a pipe: what it starts keeps its standard error, and the pipe would never end.
        with (self.folder / "script.log").open("w+") as said:
            done = subprocess.run([SCRIPT, verb], env=environment, stdout=said, stderr=said, timeout=150, check=False)
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, said.read())

    def up(self) -> None:
        done = self.script("up")
        assert done.returncode == 0, done.stdout

    def answer(self, user: tuple[str, str] | None = None, **headers: str) -> int:
        """The status of the answer to a question of the API."""
        path = f"{self.uri}/api/2.0/mlflow/experiments/search"
        return requests.post(path, json={"max_results": 1}, auth=user, headers=headers, timeout=10).status_code


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes of this machine that name a folder, or run in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = os.readlink(entry / "cwd")
        except OSError:
            continue
        if str(folder) in words or place.startswith(str(folder)):
            found.append(words)
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A running one; the user postgres must get into its folder, and sockets have short paths, so it is in /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="hrm-server-"))
    folder.chmod(0o755)
    lab = Lab(folder, free_port())
    try:
        lab.up()
        yield lab
    finally:
        lab.script("down")
        shutil.rmtree(folder)


@pytest.fixture
def as_admin(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """With the credentials in the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", lab.password)
    return lab


@needs_postgres
def test_who_gets_in(lab: Lab) -> None:
    admin = ("admin", lab.password)
    assert (lab.answer(), lab.answer(("admin", "wrong")), lab.answer(admin)) == (401, 401, 200)
    assert [lab.answer(admin, Host=host) for host in (NAME, f"{NAME}:{lab.port}", "elsewhere")] == [200, 200, 403]
    pages = [lab.answer(admin, Host=NAME, Origin=page) for page in (f"https://{NAME}", "https://elsewhere")]
    assert pages == [200, 403]
    secrets = [file for file in lab.folder.rglob("*") if "password" in file.name or "secret" in file.name]
    assert {oct(file.stat().st_mode & 0o777) for file in [*secrets, lab.folder / "pgpass"]} == {"0o600"}
    assert oct((lab.folder / "server").stat().st_mode & 0o777) == "0o700"
    said = "".join(file.read_text() for file in lab.folder.glob("*.log"))
    assert lab.password not in said
    assert not any(lab.password in words for words in processes_of(lab.folder))


@needs_postgres
def test_a_run_arrives_and_is_there_after_a_stop(
    as_admin: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", as_admin.uri)
    done = hrm_lab(tmp_path, "train", "model=hrm_tiny", "data=sudoku_4x4", "training=smoke")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs/runs").iterdir()
    run = RunFolder(folder)
    assert run.run_id
    store = Store.open(TrackingConfig(), tmp_path)
    before = store.histories(run.run_id)
    assert before.items() >= {(step, key): value for step, key, value in logged(run)}.items()
    assert store.text(run.run_id, "config/config.yaml")
    kept = as_admin.folder / f"artifacts/{store.experiment_id}/{run.run_id}/artifacts"  # sent through the server
    assert (kept / "weights/last.safetensors").read_bytes() == (folder / "last.safetensors").read_bytes()

    as_admin.up()  # changes nothing
    assert as_admin.script("down").returncode == 0
    assert processes_of(as_admin.folder) == []
    assert as_admin.script("status").returncode == 1
    as_admin.up()
    assert store.histories(run.run_id) == before
    assert [found.run_id for found in store.find(run.path.name)] == [run.run_id]


@needs_postgres
def test_a_user_logs_to_what_the_admin_has_made_and_deletes_nothing(
    as_admin: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    config = TrackingConfig(uri=as_admin.uri)
    Store.open(config, tmp_path)
    AuthServiceClient(as_admin.uri).create_user("ann", "a-password-of-ann")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-password-of-ann")
    store = Store.open(config, tmp_path)
    run_id = store.create_run("anns", {}, None)
    store.log_metrics(run_id, [("train/lm_loss", 1.0, 0, 1)])
    store.log_text(run_id, "hello", "note.txt")
    assert store.text(run_id, "note.txt") == "hello"
    with pytest.raises(MlflowException, match="Permission denied"):
        store.client.delete_experiment(store.experiment_id)
    store.create_run("first try", {SIGNATURE: "anns", BEGINNING: "folder/1"}, None)
    store.discard_others("folder/2", but=run_id)  # by other means than deleting it
    assert store.find("anns")[0].run_id == run_id
    assert [found.status for found in store.find("first try (discarded)")] == ["KILLED"]


def logged(run: RunFolder) -> Iterator[tuple[int, str, float]]:
    """Step, metric, value of a run's journal."""
    for entry in read_journal(run.journal):
        yield from ((entry["step"], key, value) for key, value in entry.get("metrics", {}).items())


def refused(config: TrackingConfig, outputs: Path) -> str:
    """What is said before jobs are queued."""
    try:
        return "\n".join(map(str, _tracking(config, outputs)))
    except UserError as error:
        return str(error)


@needs_postgres
def test_before_jobs_are_queued(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.mlflow/credentials
    config = TrackingConfig(uri=lab.uri)
    assert "is another machine on every node" in refused(config, tmp_path)
    monkeypatch.setattr(access, "is_loopback", lambda host: False)  # the only address that tests may use everywhere
    assert "asks for a username and a password" in refused(config, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    assert "MLFLOW_TRACKING_PASSWORD" in refused(config, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", lab.password)
    monkeypatch.setattr(access.log, "propagate", True)
    assert refused(config, tmp_path) == ""
    assert "the password crosses the network readable" in caplog.text


def test_an_open_server_is_told_apart_and_ends_with_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "hrm_lab.cli", "server", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_until_healthy(uri, tmp_path / "log")
        monkeypatch.setattr(access, "is_loopback", lambda host: False)
        config = TrackingConfig(uri=uri)
        assert "lets everybody in" in refused(config, tmp_path)
        config.allow_open_server = True
        assert refused(config, tmp_path) == ""
        store = Store.open(config, tmp_path / "elsewhere")
        store.log_text(store.create_run("small", {}, None), "hello", "note.txt")
        assert list((tmp_path / "outputs/server/artifacts").rglob("note.txt"))
        assert len(processes_of(tmp_path)) == 3  # this verb, MLflow's, and the one worker
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert processes_of(tmp_path) == []


def wait_until_healthy(uri: str, log: Path) -> None:
    """For a minute at most."""
    for _ in range(240):
        try:
            requests.get(f"{uri}/health", timeout=1).raise_for_status()
        except requests.RequestException:
            time.sleep(0.25)
        else:
            return
    pytest.fail(log.read_text())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (f"http://ann:{HUSH}@lab:5000", "http://ann:***@lab:5000"),
        (f"https://ann:{HUSH}@{HUSH}@[fd00::1]:5000/x", "https://ann:***@[fd00::1]:5000/x"),
        (f"postgresql://:{HUSH}@/db", "postgresql://:***@/db"),
        (f"https://{HUSH * 4}7@lab:5000", "https://***@lab:5000"),
        (f"postgresql://lab/db?user=ann&password={HUSH}&x=1", "postgresql://lab/db?user=ann&password=***&x=1"),
    ],
)
def test_a_password_in_a_uri_is_refused_and_not_shown(uri: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as error:
        tracking_uri(TrackingConfig(uri=uri), Path("."))
    assert f"tracking.uri={shown}: " in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD"):
        tracking_uri(TrackingConfig(), Path("."))
    with pytest.raises(UserError, match="PGPASSWORD"):
        Server(Path("."), backend=uri).prepared()


def test_the_way_out_of_a_silent_server_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match="`unset MLFLOW_TRACKING_URI` and take tracking=sqlite"):
        refuse_silent_server(TrackingConfig())
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    refuse_silent_server(TrackingConfig())
    assert tracking_uri(TrackingConfig(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("uri", ["http://ann@lab:5000", "http://[fd00::1]:5000", "sqlite:////a:b@c/d.db", "/a:b/c@d"])
def test_other_uris_are_left_alone(uri: str) -> None:
    assert tracking_uri(TrackingConfig(uri=uri), Path(".")) == uri


@pytest.mark.parametrize(
    ("server", "asks"),
    [
        (Server(Path(".")), False),
        (Server(Path("."), "::1"), False),
        (Server(Path("."), "10.0.0.5"), True),
        (Server(Path("."), "0.0.0.0"), True),
        (Server(Path("."), "10.0.0.5", is_open=True), False),
        (Server(Path("."), names=("proxy",)), True),
    ],
)
def test_only_this_machine_or_an_open_server_is_without_a_password(server: Server, asks: bool) -> None:
    assert server.asks_for_password == asks
    assert ("admin_password" in server.instructions()) == asks
