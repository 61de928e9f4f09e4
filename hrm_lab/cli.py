"""`hrm-lab VERB`: each verb calls one function. Imports are inside the verbs, so that a wrong word costs nothing."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrm_lab.errors import ConfigError, PointFailed, UserError

if TYPE_CHECKING:
    from rich.console import Console

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
    on: Annotated[
        str, typer.Option(help="where: local, local_gpu, slurm, or another file of conf/hydra/launcher")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="on SLURM: stay, show progress, and compare at the end")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and do nothing")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run points that failed before again")] = False,
    no_canary: Annotated[bool, typer.Option("--no-canary", help="on SLURM: do not try point 0 first")] = False,
) -> None:
    """Run an experiment's grid: a Hydra multirun that skips the points that are done. SLURM goes on alone."""
    from hrm_lab.compose import CONF, sweep_place

    known = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    if experiment not in known:
        raise ConfigError("experiment", experiment, "no such file in experiments/", f"one of {', '.join(known)}")
    asked = [f"+experiment={experiment}", *(overrides or [])]
    asked += [f"hydra/launcher={on}"] if on else []
    asked += [
        f"hydra.launcher.{key}=true"
        for key, wanted in {
            "wait": wait,
            "dry_run": dry_run,
            "rerun_failed": retry_failed,
        }.items()
        if wanted
    ]
    asked += ["hydra.launcher.canary=false"] if no_canary else []
    outputs, name, launcher = sweep_place(asked)
    from hrm_lab import hydra_app
    from hrm_lab.logs import log_to_console

    log_to_console()
    try:
        hydra_app.multirun(asked)
    except PointFailed:
        show_comparison(name, outputs)
        raise
    if launcher.get("dry_run"):
        return
    if launcher.get("wait", True):
        show_comparison(name, outputs)
    else:
        place = "" if outputs == Path("outputs") else f" --outputs {shlex.quote(str(outputs))}"
        typer.echo(f"status: hrm-lab status {name}{place}    live: hrm-lab watch {name}{place}")


Sweep = Annotated[str, typer.Argument(help="the sweep")]
Point = Annotated[str | None, typer.Argument(help="a point's label, a part of it that no other has, or its signature")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the plan and do nothing")]


@app.command()
def status(name: Sweep, outputs: Outputs = Path("outputs")) -> None:
    """Show where every point of a sweep stands, how far it has got, what it has cost, and why it failed."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.status import notes, status, status_table

    manifest = load_manifest(outputs, name)
    rows = status(manifest)
    console = _console()
    console.print(status_table(manifest, rows))
    for note in notes(rows):
        console.print(note, highlight=False, markup=False)


@app.command()
def watch(name: Sweep, outputs: Outputs = Path("outputs")) -> None:
    """Show a sweep live until its last point has ended. Ctrl-C leaves the jobs running."""
    from hrm_lab.logs import log_to_console
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.watch import watch

    log_to_console()
    watch(load_manifest(outputs, name))
    show_comparison(name, outputs)


@app.command()
def logs(name: Sweep, point: Point = None, outputs: Outputs = Path("outputs")) -> None:
    """Follow the log of a point: the one that is named, else the first that failed, else one that runs."""
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import log_file

    path = log_file(load_manifest(outputs, name), point)
    typer.echo(f"{path}:", err=True)
    sys.stdout.flush()
    follow = ["-F"] if sys.stdout.isatty() else []
    os.execvp("tail", ["tail", "-n", "+1", *follow, str(path)])


@app.command()
def cancel(name: Sweep, point: Point = None, outputs: Outputs = Path("outputs")) -> None:
    """End a sweep's jobs, or one point's; running ones save first, and `resume` goes on."""
    from hrm_lab.logs import log_to_console
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import cancel

    log_to_console()
    ended = cancel(load_manifest(outputs, name), point)
    typer.echo(f"{ended} points cancelled; `hrm-lab resume {name}` goes on" if ended else "nothing is on its way")


@app.command()
def resume(name: Sweep, dry_run: DryRun = False, outputs: Outputs = Path("outputs")) -> None:
    """Go on with what was cancelled, lost, timed out, held or never submitted, with the code it was submitted with."""
    from hrm_lab.logs import log_to_console
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import resume

    log_to_console()
    resume(load_manifest(outputs, name), dry_run)


@app.command()
def retry(name: Sweep, dry_run: DryRun = False, outputs: Outputs = Path("outputs")) -> None:
    """Run failed points again, with the code as it is now."""
    from hrm_lab.logs import log_to_console
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import retry

    log_to_console()
    retry(load_manifest(outputs, name), dry_run)


@app.command()
def sync(name: Sweep, outputs: Outputs = Path("outputs")) -> None:
    """Send to the tracking store what it has missed of a sweep's runs."""
    from hrm_lab.logs import log_to_console
    from hrm_lab.manifest import load_manifest
    from hrm_lab.sweep.control import sync

    log_to_console()
    sync(load_manifest(outputs, name))


@app.command()
def sweeps(outputs: Outputs = Path("outputs")) -> None:
    """List all sweeps with the states of their points, newest first."""
    from rich.table import Table

    from hrm_lab.sweep.control import sweeps

    table = Table("sweep", "on", "points", "states", "question", box=None)
    for manifest, states in sweeps(outputs):
        words = ", ".join(f"{number} {status}" for status, number in states.most_common())
        table.add_row(manifest.name, manifest.launcher, str(len(manifest.grid())), words, manifest.question)
    _console().print(table if table.row_count else f"no sweeps in {outputs} yet")


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


@app.command()
def compare(name: Sweep, outputs: Outputs = Path("outputs")) -> None:
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


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(help="id of an MLflow run, its signature, or a name that no other run has")],
    steps: Annotated[int | None, typer.Option(min=1, help="compare this many steps only, without the weights")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="the same, but: recorded as derived")
    ] = None,
    same_env: Annotated[bool, typer.Option("--same-env", help="in a venv of the logged packages")] = False,
    current_code: Annotated[bool, typer.Option("--current-code", help="with today's code, not the run's")] = False,
    on: Annotated[str, typer.Option(help="as a job: slurm, or another file of conf/hydra/launcher")] = "",
    data_folder: Annotated[Path, typer.Option("--data", help="the folder of built datasets")] = Path("data"),
    tracking_uri: Annotated[str | None, typer.Option(help="the store of the run; as for `ui` by default")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Do a logged run again: its code, data and config. Exit status: 0 identical, 1 different, 2 it cannot be done."""
    from hrm_lab.logs import log_to_console
    from hrm_lab.reproduce.command import Request, reproduce, submit

    log_to_console()
    settings = [word for word in change or [] if not word.startswith("hydra.")]
    request = Request(run, outputs, data_folder, tracking_uri, steps, tuple(settings), same_env, current_code)
    try:
        if on:
            from hrm_lab.compose import slurm_profile

            profile = slurm_profile(on, [word for word in change or [] if word.startswith("hydra.")])
            raise typer.Exit(submit(request, profile))
        verdict = reproduce(request)
    except (UserError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        text = str(error) if isinstance(error, UserError) else f"{error}\n  way out: another --outputs FOLDER"
        typer.secho(f"error: {text}", fg="red", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if not on:  # a job goes on by itself
            typer.echo("interrupted: the same command goes on", err=True)
        raise
    typer.echo(verdict.line)
    raise typer.Exit(1 if verdict.kind == "different" else 0)


@app.command()
def config(overrides: Overrides = None) -> None:
    """List every setting with its value, unit, range and meaning."""
    from rich.console import Console
    from rich.table import Table

    from hrm_lab.compose import compose_config
    from hrm_lab.config import settings
    from hrm_lab.launchers import KEY, LocalLauncherConfig, SlurmLauncherConfig

    console = Console(width=None if sys.stdout.isatty() else 200)
    for title, listed in (
        ("", settings(compose_config(overrides or []))),
        ("hydra/launcher=local", settings(LocalLauncherConfig(), KEY)),
        ("hydra/launcher=slurm", settings(SlurmLauncherConfig(), KEY)),
    ):
        table = Table("key", "value", "unit", "range", "meaning", title=title, title_justify="left")
        for key, value, meta in listed:
            low, high = ("" if bound is None else f"{bound:g}" for bound in (meta.low, meta.high))
            extent = ", ".join(meta.choices) or (f"{low} .. {high}" if low or high else "")
            table.add_row(key, str(value), meta.unit, extent, meta.help)
        console.print(table)


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


Weights = Annotated[Path, typer.Argument(help="a run's folder, or a file of weights: safetensors or torch.save'd")]
Last = Annotated[bool, typer.Option("--last", help="of a run's folder, the weights at its end, not the best")]


@app.command()
def evaluate(
    weights: Weights,
    overrides: Overrides = None,
    last: Last = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, for machines")] = False,
) -> None:
    """Evaluate weights on the test data: a run's with its own config, a file's (ours or published) with OVERRIDES."""
    from hrm_lab.evaluate import Subject, evaluate, run_subject, weights_file

    chosen = weights_file(weights, last)
    if not weights.is_dir():
        from hrm_lab.compose import compose_config

        subject = Subject(chosen, compose_config(overrides or []))
    elif overrides:
        raise UserError(
            f"{weights}: a run is evaluated with its own config; {shlex.join(overrides)} cannot change it\n"
            f"  way out: give the file {chosen}, with the overrides of the run (its point.json) and these"
        )
    else:
        subject = run_subject(weights, last)
    with _bars() as bar:
        metrics = evaluate(subject, bar(f"building {subject.config.data.name}"), bar("evaluating"))
    if as_json:
        import json

        typer.echo(json.dumps(metrics))
        return
    from rich.table import Table

    typer.echo(f"{chosen} on {subject.config.data.name}")
    table = Table("metric", "value", box=None)
    for key, value in metrics.items():
        table.add_row(key, f"{value:.6g}")
    _console().print(table)


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Makes bars, each of which appears when it is first called with (done, total); nothing where no terminal is."""
    from rich.console import Console
    from rich.progress import Progress

    # Standard error, because standard output may be for a machine.
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:

        def bar(words: str) -> Callable[[int, int], None]:
            row = progress.add_task(words, total=None, visible=False)
            return lambda done, total: progress.update(row, completed=done, total=total, visible=True)

        yield bar


@app.command()
def export(
    weights: Weights,
    out: Annotated[Path, typer.Argument(help="the file to write; it must not be there yet")],
    form: Annotated[
        str, typer.Option("--format", help="published (an ordered state dict by torch.save) or safetensors")
    ] = "published",
    compiled_names: Annotated[
        bool, typer.Option("--compiled-names", help="names with _orig_mod. in front, as torch.compile leaves them")
    ] = False,
    last: Last = False,
) -> None:
    """Write weights under the published names, for the published code or any other."""
    from hrm_lab.evaluate import export

    export(weights, out, form, compiled_names, last)
    typer.echo(str(out))


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
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
        text = f"error: {error.filename}: {error.strerror}\n  way out: {remedy}, or take another paths.outputs=FOLDER"
        typer.secho(text, fg="red", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
