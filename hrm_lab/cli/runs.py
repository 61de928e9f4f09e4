"""Verbs about one run: train, reproduce."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hrm_lab.cli.app import Outputs, Overrides, app, say_error
from hrm_lab.errors import UserError
from hrm_lab.logs import log_to_console


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
        say_error(text)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if not on:  # a job goes on by itself
            typer.echo("interrupted: the same command goes on", err=True)
        raise
    typer.echo(verdict.line)
    raise typer.Exit(1 if verdict.kind == "different" else 0)
