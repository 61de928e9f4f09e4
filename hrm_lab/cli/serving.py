"""Verbs about the tracking store: open its UI, serve it to others."""

from __future__ import annotations

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
    from hrm_lab.tracking.server import run_mlflow
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
    sys.stdout.flush()
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    sys.exit(run_mlflow(["ui", "--backend-store-uri", uri, *where], {}))


@app.command()
def server(
    host: Annotated[
        str, typer.Option(help="address that it listens on; others than this machine's own are for a password")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="its port")] = 5000,
    outputs: Outputs = Path("outputs"),
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="database, e.g. postgresql://USER@HOST/NAME, its password from PGPASSWORD or ~/.pgpass"
        ),
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(metavar="URI", help="where artifacts go: a folder, or s3://BUCKET/PATH")
    ] = None,
    allowed_hosts: Annotated[
        str, typer.Option(metavar="NAMES", help="further names that it is called by, with commas; a proxy's, for one")
    ] = "",
    open_: Annotated[
        bool, typer.Option("--open", help="let everybody in: only on a network that nobody else reaches")
    ] = False,
) -> None:
    """Serve MLflow, from a database and artifacts in OUTPUTS/server/ by default; Ctrl-C ends it.

    Without options for this machine only; with --host for what the jobs of a SLURM sweep log to, with a password.
    """
    from hrm_lab.run_folder import keep_out_of_git
    from hrm_lab.tracking.server import Server, run_mlflow

    names = tuple(filter(None, allowed_hosts.split(",")))
    service = Server(outputs.resolve() / "server", host, port, backend, artifacts, names, open_)
    outputs.mkdir(parents=True, exist_ok=True)
    keep_out_of_git(outputs)
    arguments, environment = service.prepared()
    typer.echo(f"tell the jobs:\n{service.instructions()}")
    if not service.asks_for_password:
        typer.echo("whoever reaches it can write to it and delete from it")
    sys.stdout.flush()
    sys.exit(run_mlflow(arguments, environment))
