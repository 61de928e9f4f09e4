"""Verbs about datasets: build, inspect, check, export."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrm_lab.cli.app import app, bars, console
from hrm_lab.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hrm_lab.config import Config
    from hrm_lab.data.facts import SplitFacts
    from hrm_lab.data.format import Dataset, Split
    from hrm_lab.training.batches import Batches

data = typer.Typer(no_args_is_help=True, help="Build datasets, look at them, check them, write them out.")
app.add_typer(data, name="data")

Name = Annotated[str, typer.Argument(help="a choice of conf/data, e.g. sudoku_9x9")]
Changes = Annotated[list[str] | None, typer.Argument(metavar="[OVERRIDES]...", help="Hydra overrides")]
SplitName = Annotated[str, typer.Option("--split", help="train, or test/SET")]


@data.command()
def build(name: Name, overrides: Changes = None) -> None:
    """Build a dataset if it is missing, and say what is in it."""
    config = _config(name, overrides)
    from hrm_lab.data.build import dataset_folder
    from hrm_lab.data.tasks import find_task

    is_opened = find_task(config.data.task).open is not None
    was_there = not is_opened and dataset_folder(config.data, config.paths.data).exists()
    began = time.perf_counter()
    dataset = _built(config)
    done = "read as it is" if is_opened else "was there already" if was_there else "built"
    typer.echo(f"{dataset.folder}\n{done}: {time.perf_counter() - began:.1f} s")
    typer.echo(f"fingerprint {dataset.info.fingerprint}")
    for split, counts in dataset.info.counts.items():
        typer.echo(f"{split}: {_counted(counts)}{_rated(_split(dataset, split))}")
    typer.echo(f"size: {_size(dataset.folder)}")


@data.command()
def inspect(
    name: Name,
    overrides: Changes = None,
    out: Annotated[Path | None, typer.Option(help="the picture; NAME.png by default")] = None,
    puzzles: Annotated[int, typer.Option(min=1, max=50, help="how many")] = 4,
    variants: Annotated[int, typer.Option(min=0, max=50, help="how many of each, besides the puzzle itself")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="which puzzles are picked; `seed=` is that of their variants")] = 0,
    split: SplitName = "train",
    text: Annotated[bool, typer.Option("--text", help="show them here instead of in a picture")] = False,
) -> None:
    """Draw puzzles with their solutions and variants, and count what is in the dataset."""
    config = _config(name, overrides)
    dataset = _built(config)
    chosen = _split(dataset, split)
    from hrm_lab.analysis.puzzles import draw_puzzles, pick
    from hrm_lab.training.evaluation import shown_as

    batches = _batches(dataset, config)
    appearance = batches.task.appearance(dataset.info)
    picked = pick(batches, chosen, puzzles, variants, seed)
    if text:
        for row, puzzle in enumerate(picked.rows):
            for column, variant in enumerate(picked.columns):
                for what, tokens in (("", picked.inputs), (", solution", picked.labels)):
                    board = appearance.text(tokens[row, column], dataset.info.grid_shape)
                    typer.echo(f"{puzzle}, {variant}{what}\n{board}\n")
    else:
        title = f"{config.data.name}: {split}, fingerprint {dataset.info.fingerprint[:12]}"
        place = out or Path(f"{name}.png")
        _write(place, draw_puzzles(picked, dataset.info.grid_shape, shown_as(appearance), title))
        typer.echo(f"{place}")
    if len(picked.columns) == 1 and variants:
        typer.echo("no variants: each puzzle is alone in its group, and data.num_augmentations is 0")
    _show_facts(dataset, appearance.glyphs)


@data.command()
def check(
    name: Name,
    overrides: Changes = None,
    sample: Annotated[int, typer.Option(min=1, help="examples of each split that rules are checked on")] = 1000,
    everything: Annotated[bool, typer.Option("--all", help="all of them")] = False,
) -> None:
    """Check a dataset that is there: every byte, every token, its labels by the rules of the task."""
    config = _config(name, overrides)
    from hrm_lab.data.build import dataset_folder
    from hrm_lab.data.check import checks
    from hrm_lab.data.tasks import find_task

    if find_task(config.data.task).open is None and not dataset_folder(config.data, config.paths.data).exists():
        folder = dataset_folder(config.data, config.paths.data)
        raise DataError(f"dataset {folder}: no such folder\n  way out: build it: `hrm-lab data build {name}`")
    dataset = _built(config)
    batches = _batches(dataset, config)
    typer.echo(f"{dataset.folder}")
    wrong = 0
    with bars() as bar:
        found = checks(
            dataset,
            config.data,
            batches.tokens,
            batches.puzzles(dataset.train),
            None if everything else sample,
            bar("checking"),
        )
        for one in found:
            mark = "WRONG  " if one.problem else "ok     " if one.was_done else "not    "
            typer.echo(f"{mark}{one.what}{': ' if one.problem else ''}{one.problem}")
            wrong += bool(one.problem)
    if wrong:
        raise DataError(
            f"dataset {dataset.folder}: {wrong} {'check' if wrong == 1 else 'checks'} failed\n"
            "  way out: where bytes have changed, delete the folder and make it again; "
            "else its source or its settings are to blame"
        )


@data.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option(help="the folder to be made")],
    overrides: Changes = None,
) -> None:
    """Write a dataset out in HRM's own format, its data.num_augmentations variants too (`seed=` is theirs)."""
    config = _config(name, overrides)
    dataset = _built(config)
    from hrm_lab.data.hrm_format.write import write_hrm_folder

    began = time.perf_counter()
    with bars() as bar:
        pairs = write_hrm_folder(out, _batches(dataset, config), bar("writing"))
    typer.echo(f"{out}\n{pairs:,} pairs, {_size(out)}, in {time.perf_counter() - began:.1f} s")
    typer.echo(f"train on it: data=hrm_folder data.folder={out}")


def _config(name: str, overrides: list[str] | None) -> Config:
    """The config with this dataset.

    Raises:
        ConfigError: for a name that is no choice, or other overrides that cannot be.
    """
    from hrm_lab.compose import CONF, compose_config

    choices = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
    if not re.fullmatch(r"\w+", name):  # what Hydra would make of it: a path, a second group, a sweep
        raise ConfigError("data", name, "no such choice", "one of " + ", ".join(choices))
    return compose_config([f"data={name}", *(overrides or [])])


def _built(config: Config) -> Dataset:
    from hrm_lab.data.build import ensure_dataset
    from hrm_lab.progress import building

    with building(config.data.name) as progress:
        return ensure_dataset(config.data, config.paths.data, progress)


def _batches(dataset: Dataset, config: Config) -> Batches:
    """As a run of one process on the CPU makes them."""
    import torch

    from hrm_lab.training.batches import Batches
    from hrm_lab.training.distributed import Ranks

    return Batches(dataset, Ranks(torch.device("cpu")), config.data, config.seed)


def _split(dataset: Dataset, name: str) -> Split:
    splits = {"train": dataset.train, **{f"test/{test}": split for test, split in dataset.test.items()}}
    if name not in splits:
        raise DataError(f"--split {name}: {dataset.folder} has no such split\n  way out: one of {', '.join(splits)}")
    return splits[name]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _rated(split: Split) -> str:
    if split.ratings is None:
        return ""
    from numpy import quantile

    low, middle, high, most = quantile(split.ratings, (0, 0.5, 0.9, 1)).tolist()
    return f"; rating from {low:.0f} to {most:.0f}, half of them up to {middle:.0f}, nine in ten up to {high:.0f}"


def _size(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:,.1f} MB"


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}\n  way out: take another --out FILE") from error


def _show_facts(dataset: Dataset, glyphs: str) -> None:
    """Counts, ratings and tokens as tables."""
    from rich.table import Table

    from hrm_lab.data.facts import split_facts

    info, shown = dataset.info, console()
    names = ["train", *(f"test/{name}" for name in info.test_sets)]
    facts = {name: split_facts(info, _split(dataset, name)) for name in names}
    counts = Table("", *names, title=f"{info.name}: task {info.task}, {info.seq_len} cells", title_justify="left")
    for what in ("examples", "puzzles", "groups"):
        counts.add_row(what, *(f"{info.counts[name][what]:,}" for name in names))
    for what, place in (("lowest identifier", 0), ("highest identifier", 1), ("different identifiers", 2)):
        counts.add_row(what, *(f"{facts[name].identifiers[place]:,}" for name in names))
    shown.print(counts)
    tokens = Table("token", "shown as", *(f"{name} {what}" for name in names for what in ("inputs", "labels")))
    for token in range(info.vocab_size):
        shares = [_share(counted, token) for name in names for counted in (facts[name].inputs, facts[name].labels)]
        tokens.add_row(str(token), repr(glyphs[token]) if token < len(glyphs) else "", *shares)
    shown.print(tokens)
    _show_ratings(facts)


def _show_ratings(facts: Mapping[str, SplitFacts]) -> None:
    from rich.table import Table

    rated = {name: dict(counted.ratings) for name, counted in facts.items() if counted.ratings}
    if not rated:
        return
    table = Table("rating", *rated)
    for bucket in max(rated.values(), key=len):
        table.add_row(bucket, *(f"{counted.get(bucket, 0):,}" for counted in rated.values()))
    table.add_row("median", *(f"{facts[name].median_rating:g}" for name in rated))
    console().print(table)


def _share(counted: NDArray[np.int64], token: int) -> str:
    return f"{counted[token] / counted.sum():.2%}" if counted[token] else ""
