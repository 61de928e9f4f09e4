"""Verbs about the tracking store: open its UI, serve it to others."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from hrm_lab.cli.app import Outputs, app
from hrm_lab.errors import UserError


@app.command()
def ui(
    outputs: Outputs = Path("outputs"),
    port: Annotated[int, typer.Option(help="port on this machine")] = 5000,
) -> None:
    """Open the MLflow UI on the runs of this folder (or of MLFLOW_TRACKING_URI); Ctrl-C ends it."""
    from hrm_lab.config import TrackingConfig
    from hrm_lab.tracking.store import Store, tracking_uri

    config = TrackingConfig()
    uri = tracking_uri(config, outputs)
    if uri.startswith("sqlite") and not (outputs / "mlflow.db").exists():
        raise UserError(f"{outputs}: there are no runs here yet\n  way out: `make demo`, or --outputs FOLDER")
    store = Store.open(config, outputs)
    if uri.startswith("http"):
        typer.echo(f"the runs are on a server: {store.ui_link(uri)}")
        return
    typer.echo(f"best runs first, with their curves: {store.ui_link(f'http://127.0.0.1:{port}')}")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # background jobs cost 900 MB and serve other uses
    command = ["mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", *command])


@app.command()
def server(
    host: Annotated[str, typer.Option(help="address that it listens on; jobs on other machines must reach it")],
    outputs: Outputs = Path("outputs"),
    port: Annotated[int, typer.Option(help="its port")] = 5000,
) -> None:
    """Serve the runs of this folder to other machines: what the jobs of a SLURM sweep log to. Ctrl-C ends it."""
    from hrm_lab.config import TrackingConfig
    from hrm_lab.tracking.store import Store

    folder = outputs.resolve()
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # that is the address which this server is about to have
    Store.open(TrackingConfig(), folder)
    names = f"{host},{host}:{port},{socket.gethostname()}:{port},localhost:{port},127.0.0.1:{port}"
    typer.echo(f"tell the jobs: export MLFLOW_TRACKING_URI=http://{host}:{port}\nanyone who reaches it can write to it")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    command = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri(), "--allowed-hosts", names]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", *command])
