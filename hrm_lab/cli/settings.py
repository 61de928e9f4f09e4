"""Verbs about what a run is made of: its settings and its data."""

from __future__ import annotations

import typer

from hrm_lab.cli.app import Overrides, app, console


@app.command()
def config(overrides: Overrides = None) -> None:
    """List every setting with its value, unit, range and meaning."""
    from rich.table import Table

    from hrm_lab.compose import compose_config
    from hrm_lab.config import settings
    from hrm_lab.launchers import KEY, LocalLauncherConfig, SlurmLauncherConfig

    shown = console()
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
        shown.print(table)


@app.command()
def data(overrides: Overrides = None) -> None:
    """Build the dataset of a config if it is missing, and say what is in it."""
    from hrm_lab.compose import compose_config

    settings = compose_config(overrides or [])
    from hrm_lab.data.build import ensure_dataset
    from hrm_lab.progress import building

    with building(settings.data.name) as progress:
        dataset = ensure_dataset(settings.data, settings.paths.data, progress)
    typer.echo(f"{dataset.folder}\nfingerprint {dataset.info.fingerprint}")
    for split, counts in dataset.info.counts.items():
        typer.echo(f"{split}: {counts['examples']:,} examples in {counts['groups']:,} groups")
