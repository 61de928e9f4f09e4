"""Serving MLflow: what the server is started with, who gets in, and how it ends.

All that a server owns lies in OUTPUTS/server/, which nobody else can read: its database and artifacts where they are
nowhere else, its users, the first user's password. Artifacts always pass through the server, so that whoever logs to it
needs no folder in common with it. This process waits for MLflow's and does not import it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrm_lab.errors import UserError
from hrm_lab.tracking.access import is_loopback, refuse_password

ADMIN = "admin"
INSTALL = "pip install 'hrm-lab[server]' (in a checkout: pip install -c constraints.txt -e '.[server]')"
STOP_S = 10.0  # that a server has to answer what it has begun; then it is killed
POLL_S = 0.5
SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # background jobs cost 900 MB and serve other uses
    # While it holds a connection, a request takes another one; the worker has 40 threads. From its default of 15 on,
    # jobs that log at once would wait for each other until all of them give up.
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "50",
}
# A user sees all runs and adds to all; only who has made a thing, or is admin, deletes it. Verified passwords are
# remembered for a minute, because each check costs tens of milliseconds; with one worker a changed one counts at once.
AUTH_INI = """[mlflow]
default_permission = EDIT
database_uri = sqlite:///{database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Server:
    """What is to be served, where, to whom.

    Args:
        folder: OUTPUTS/server.
        backend: SQLAlchemy URI of the database, without a password; None = SQLite in `folder`.
        artifacts: a folder or an s3:// URI; None = in `folder`.
        names: further names that it is called by, such as that of a TLS proxy in front of it.
        is_open: whether everybody who reaches it gets in.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 5000
    backend: str | None = None
    artifacts: str | None = None
    names: tuple[str, ...] = ()
    is_open: bool = False

    @property
    def asks_for_password(self) -> bool:
        """Whether others can reach it, by its address or a proxy's name, and are not meant to come and go freely."""
        return not self.is_open and not (is_loopback(self.host) and not self.names)

    @property
    def address(self) -> str:
        """As clients call it."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{_in_uri(host)}:{self.port}"

    @property
    def password_file(self) -> Path:
        """Holds the first user's password."""
        return self.folder / "admin_password"

    def instructions(self) -> str:
        """How jobs reach it, for a shell. The password is not in it."""
        lines = [f"export MLFLOW_TRACKING_URI={self.address}"]
        if self.asks_for_password:
            password = f"$(cat {shlex.quote(str(self.password_file))})"
            lines.append(f"export MLFLOW_TRACKING_USERNAME={ADMIN} MLFLOW_TRACKING_PASSWORD={password}")
        return "\n".join(lines)

    def prepared(self) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of MLflow, after making the folder and the secrets.

        Raises:
            UserError: when it cannot be served as asked.
        """
        return ["server", *self._arguments()], self._environment()

    def _arguments(self) -> list[str]:
        backend = database_uri(self.backend) if self.backend else f"sqlite:///{self.folder}/mlflow.db"
        artifacts = self.artifacts or str(self.folder / "artifacts")
        if "://" not in artifacts:
            artifacts = Path(artifacts).resolve().as_uri()
        _require(backend, artifacts, self.asks_for_password)
        hosts = self._hosts()
        # A browser names the page's own address as the origin of what its scripts ask for.
        origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
        arguments = ["--backend-store-uri", backend, "--artifacts-destination", artifacts]
        arguments += ["--host", self.host, "--port", str(self.port), "--workers", "1"]
        arguments += ["--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins)]
        return arguments + ["--app-name", "basic-auth"] * self.asks_for_password

    def _hosts(self) -> list[str]:
        """What requests may name as their host; MLflow answers 403 to any other."""
        own = [self.host, socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1"]
        names = [*(_in_uri(name) for name in own), *self.names]
        with_port = [name if re.search(r":\d+$", name) else f"{name}:{self.port}" for name in names]
        return list(dict.fromkeys([*names, *with_port]))

    def _environment(self) -> dict[str, str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if not self.asks_for_password:
            return {}
        ini = self.folder / "auth.ini"
        database = str(self.folder / "auth.db").replace("%", "%%")  # which stands for something in an ini file
        _write(ini, AUTH_INI.format(database=database, admin=ADMIN))
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(ini),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": _kept(self.password_file),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": _kept(self.folder / "secret_key"),
        }


def database_uri(uri: str) -> str:
    """A database's URI as SQLAlchemy wants it.

    Raises:
        ConfigError: when there is a password in it.
    """
    refuse_password("--backend", uri, "PGPASSWORD, ~/.pgpass (or PGPASSFILE), or PGSERVICE")
    # SQLAlchemy 2.1 takes the bare name for psycopg 3.
    return re.sub(r"^postgres(ql)?:", "postgresql+psycopg2:", uri)


def run_mlflow(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a serving command of MLflow in a group of processes, of which nothing is left when this returns.

    Returns:
        Its exit status; 0 after SIGINT, SIGTERM or SIGHUP, which end it within STOP_S.
    """
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: told.set())
    inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    # A group of its own: a Ctrl-C reaches this process only, which ends all the others in order.
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *arguments],
        stdin=subprocess.DEVNULL,
        process_group=0,
        umask=0o077,  # what it keeps is seen through it, and not beside it
        env={**inherited, **SETTINGS, **environment},
    )
    while process.poll() is None and not told.wait(POLL_S):
        pass
    _end(process)
    return 0 if told.is_set() else process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: politely, then not."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever has outlived it
    process.wait()


def _require(backend: str, artifacts: str, password: bool) -> None:
    """Refuse to begin without the packages that this server needs."""
    needed = {"psycopg2": "psycopg2" in backend, "boto3": artifacts.startswith("s3:"), "flask_wtf": password}
    missing = [name for name, is_needed in needed.items() if is_needed and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)}: not installed, and this server needs it\n  way out: {INSTALL}")


def _kept(path: Path) -> str:
    """A secret of random letters that is made once."""
    if not path.exists() or not path.read_text().strip():
        _write(path, secrets.token_urlsafe(24))
    return path.read_text().strip()


def _write(path: Path, text: str) -> None:
    """For the eyes of this user only."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _in_uri(host: str) -> str:
    return f"[{host}]" if ":" in host else host
