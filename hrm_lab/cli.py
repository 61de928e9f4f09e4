"""`hrm-lab VERB`: each verb calls one function. Imports are inside the verbs, so that a wrong word costs nothing."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from hrm_lab.errors import ConfigError, PointFailed, UserError

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EDQUOT)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, sweep, compare and reproduce Hierarchical Reasoning Models.",
    epilog="OVERRIDES are Hydra's: KEY=VALUE, GROUP=CHOICE, +experiment=NAME. HYDRA_FULL_ERROR=1 shows tracebacks.",
)
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]...", help="Hydra overrides")]
Outputs = Annotated[Path, typer.Option(help="the folder that paths.outputs named")]


@app.command()
def train(overrides: Overrides = None) -> None:
    """Train one model, or go on where it stopped."""
    from hrm_lab.compose import compose_config

    config = compose_config(overrides or [])
    from hrm_lab import hydra_app
    from hrm_lab.run import is_main_process
    from hrm_lab.run_folder import FINISHED, RunFolder

    folder = RunFolder.of(config)
    state = folder.state
    if state is not None and state.status in FINISHED:
        typer.echo(f"this config is trained already: {folder.path}\n  delete the folder to train it afresh")
        return
    state = hydra_app.train(config, overrides or [])
    if not is_main_process():
        return
    value = "" if state.best_value is None else f", best {config.stopping.metric} {state.best_value:.4g}"
    typer.echo(f"{state.status.lower()}{value}: {folder.path}")


@app.command()
def sweep(
    experiment: Annotated[str, typer.Argument(help="a file of experiments/, without .yaml")],
    overrides: Overrides = None,
) -> None:
    """Run an experiment's grid: a Hydra multirun that skips the points that are done. Ends with the comparison."""
    from hrm_lab.compose import CONF, sweep_place

    known = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    if experiment not in known:
        raise ConfigError("experiment", experiment, "no such file in experiments/", f"one of {', '.join(known)}")
    asked = [f"+experiment={experiment}", *(overrides or [])]
    outputs, name = sweep_place(asked)
    from hrm_lab import hydra_app
    from hrm_lab.logs import log_to_console

    log_to_console()
    try:
        hydra_app.multirun(asked)
    except PointFailed:
        show_comparison(name, outputs)
        raise
    show_comparison(name, outputs)


@app.command()
def compare(name: Annotated[str, typer.Argument(help="the sweep")], outputs: Outputs = Path("outputs")) -> None:
    """Compare the points of a sweep, best first, and draw their learning curves."""
    show_comparison(name, outputs)


def show_comparison(name: str, outputs: Path) -> None:
    """Print the table, draw the picture, and say how to open the UI."""
    from rich.console import Console

    from hrm_lab.analysis.comparison import comparison_table, draw_sweep, notes
    from hrm_lab.analysis.frames import load_sweep
    from hrm_lab.manifest import load_manifest

    manifest = load_manifest(outputs, name)
    frame = load_sweep(manifest)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(comparison_table(manifest, frame))
    for note in notes(frame):
        console.print(note, style="red", highlight=False, markup=False)
    picture = draw_sweep(manifest)
    typer.echo(f"learning curves: {picture}")
    place = "" if outputs == Path("outputs") else f" OUTPUTS={shlex.quote(str(outputs))}"
    typer.echo(f"open the MLflow UI with: make ui{place}")


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
def config(overrides: Overrides = None) -> None:
    """List every setting with its value, unit, range and meaning."""
    from rich.console import Console
    from rich.table import Table

    from hrm_lab.compose import compose_config
    from hrm_lab.config import settings

    table = Table("key", "value", "unit", "range", "meaning")
    for key, value, meta in settings(compose_config(overrides or [])):
        low, high = ("" if bound is None else f"{bound:g}" for bound in (meta.low, meta.high))
        extent = ", ".join(meta.choices) or (f"{low} .. {high}" if low or high else "")
        table.add_row(key, str(value), meta.unit, extent, meta.help)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def data(overrides: Overrides = None) -> None:
    """Build the dataset of a config if it is missing, and say what is in it."""
    from hrm_lab.compose import compose_config

    settings = compose_config(overrides or [])
    from hrm_lab.data.build import ensure_dataset
    from hrm_lab.data.sudoku import render
    from hrm_lab.progress import building

    with building(settings.data.name) as progress:
        dataset = ensure_dataset(settings.data, settings.paths.data, progress)
    info, facts = dataset.info, dataset.info.task_facts
    typer.echo(f"{dataset.folder}\nfingerprint {info.fingerprint}")
    for split, counts in info.counts.items():
        typer.echo(f"{split}: {counts['examples']:,} examples in {counts['groups']:,} groups")
    for board in (dataset.train.inputs[0], dataset.train.labels[0]):
        typer.echo(render(board, facts["box_rows"], facts["box_cols"]) + "\n")


def main() -> None:
    """Entry point: an error that a user can act on is two lines on standard error and exit status 1."""
    warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
    try:
        app()
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        text = f"error: {error.filename}: {error.strerror}\n  way out: take another folder with paths.outputs=FOLDER"
        typer.secho(text, fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("interrupted: the same command goes on where it stopped", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
