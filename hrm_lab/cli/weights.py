"""Verbs that use weights: evaluate, solve, export."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrm_lab.cli.app import Outputs, Overrides, app, bars, console, say_error
from hrm_lab.errors import UserError

if TYPE_CHECKING:
    from hrm_lab.config import DataConfig
    from hrm_lab.data.questions import Question, Solved, Unusable
    from hrm_lab.subject import Subject

Weights = Annotated[
    str,
    typer.Argument(
        metavar="RUN|FILE",
        help="a run: folder, signature or its beginning, MLflow id, name; or a file of weights, safetensors or "
        "torch.save'd",
    ),
]
Last = Annotated[bool, typer.Option("--last", help="of a run, the weights at its end, not the best")]
Steps = Annotated[int | None, typer.Option(min=1, help="ACT steps to take, also beyond those that it was trained with")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="puzzles at once")]
OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@]*=")  # no puzzle has a name and an equals sign
OF_DATA = re.compile(r"data[.=]")
WRONG, UNUSABLE = 1, 2  # exit status of solve


@app.command()
def evaluate(
    weights: Weights,
    overrides: Overrides = None,
    last: Last = False,
    steps: Steps = None,
    batch_size: BatchSize = None,
    processes: Annotated[int, typer.Option(min=1, help="processes of this machine that share the work")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, for machines")] = False,
    out: Annotated[Path | None, typer.Option(help="a folder for JSON, CSV, arrays and pictures of it")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Judge weights on whole test sets: accuracy by ACT step and by rating.

    A run is judged with its own config; OVERRIDES may say other data (data=..., data.KEY=VALUE). A file, ours or
    published, takes the config that OVERRIDES make.
    """
    subject, data = _subject(weights, overrides or [], last, outputs)
    from hrm_lab import evaluate
    from hrm_lab.run import is_main_process

    if processes > 1 and "WORLD_SIZE" not in os.environ:
        raise typer.Exit(evaluate.in_processes(processes, sys.argv[1:]))
    with bars(is_main_process()) as bar:
        building, evaluating = bar(f"building {(data or subject.config.data).name}"), bar("evaluating")
        judged = evaluate.evaluate(subject, data, steps, batch_size, building, evaluating)
    if not is_main_process():
        return
    from hrm_lab.analysis.judgement import Judgement

    info, found, trained = judged.info, judged.evaluation, subject.config.model.halt_max_steps
    judgement = Judgement(str(subject.weights), info.name, info.fingerprint, trained, found.metrics, found.arrays)
    files = judgement.write(out) if out is not None else []
    if as_json:
        typer.echo(json.dumps(judgement.to_dict()))
        return
    typer.echo(judgement.title())
    for table in judgement.tables():
        console().print(table)
    for file in files:
        typer.echo(str(file))


@app.command()
def solve(
    weights: Weights,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PUZZLE]... [OVERRIDES]...", help="puzzles; of a file of weights also Hydra overrides"),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="puzzles, one a line, or a CSV (.gz) with a column `question`")
    ] = None,
    last: Last = False,
    steps: Steps = None,
    batch_size: BatchSize = None,
    identifier: Annotated[int | None, typer.Option(min=0, help="row of the puzzle embedding, for ARC")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line for each puzzle")] = False,
    png: Annotated[Path | None, typer.Option(help="a picture of the first puzzles' boards")] = None,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Solve puzzles, and see the board after each ACT step; without PUZZLE and --file, those of standard input.

    A run brings its own config; a file of weights takes the one that OVERRIDES make (model=..., data=...). Exit status:
    0 all are right (or nobody can tell), 1 some are wrong, 2 something could not be used.
    """
    try:
        status = _solve(weights, words or [], file, last, steps, batch_size, identifier, as_json, png, outputs)
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        say_error(str(error))
        raise typer.Exit(UNUSABLE) from None
    raise typer.Exit(status)


def _solve(
    weights: str,
    words: Sequence[str],
    file: Path | None,
    last: bool,
    steps: int | None,
    batch_size: int | None,
    identifier: int | None,
    as_json: bool,
    png: Path | None,
    outputs: Path,
) -> int:
    from hrm_lab.analysis import solved
    from hrm_lab.data.questions import Unusable
    from hrm_lab.solve import Solver

    given = [word for word in words if not OVERRIDE.match(word)]
    overrides = [word for word in words if OVERRIDE.match(word)]
    if given and file is not None:
        raise UserError(f"--file {file}: and puzzles as arguments\n  way out: give one of them")
    subject, data = _subject(weights, overrides, last, outputs)
    if data is not None:
        raise _own_config(subject, overrides)
    if png is not None and png.suffix != ".png":
        raise UserError(f"--png {png}: is no name of a picture\n  way out: a file that ends in .png")
    typed = not given and file is None and sys.stdin.isatty()
    if typed:
        typer.echo("puzzles, one a line; Ctrl-D ends", err=True)
    solver = Solver(subject, steps, 1 if typed else batch_size, identifier)
    appearance, show = solver.task.appearance(solver.info), console()
    drawn: list[Solved] = []
    tally: Counter[str] = Counter()
    for said in solver.solve(_questions(given, file)):
        if isinstance(said, Unusable):
            tally[solved.UNUSABLE] += 1
            say_error(f"{said.place}: {said.problem}")
            if as_json:
                typer.echo(json.dumps({"place": said.place, "error": said.problem}))
            continue
        tally[solved.kind(said)] += 1
        if png is not None and len(drawn) < solved.DRAWN:
            drawn.append(said)
        if as_json:
            typer.echo(json.dumps(solved.to_dict(said, appearance)))
        else:
            show.print(solved.shown(said, appearance, solver.info))
    count = tally.total() - tally[solved.UNUSABLE]
    told = ", ".join(f"{tally[kind]:,} {kind}" for kind in solved.KINDS if tally[kind]) or "no puzzles"
    pace = f"; {count / solver.seconds:,.0f} puzzles/s" if count else ""
    typer.echo(f"{told}; {solver.steps} ACT steps, batches of {solver.sequences} on {solver.device}{pace}", err=True)
    if png is not None and drawn:
        try:
            png.parent.mkdir(parents=True, exist_ok=True)
            typer.echo(str(solved.draw(drawn, appearance, solver.info, png)), err=True)
        except OSError as error:
            raise UserError(f"--png {png}: cannot be written: {error.strerror}\n  way out: another file") from error
    if tally[solved.UNUSABLE] or not count:
        return UNUSABLE
    return WRONG if tally[solved.WRONG] else 0


def _questions(given: Sequence[str], file: Path | None) -> Iterator[Question | Unusable]:
    from hrm_lab.data.questions import Question, read_file, read_lines

    if given:
        return (Question(f"puzzle {number}", text) for number, text in enumerate(given, start=1))
    return read_lines(sys.stdin.buffer, "standard input") if file is None else read_file(file)


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
    outputs: Outputs = Path("outputs"),
) -> None:
    """Write weights under the published names, for the published code or any other."""
    from hrm_lab.evaluate import export
    from hrm_lab.subject import find_weights

    export(find_weights(weights, outputs, last)[0], out, form, compiled_names)
    typer.echo(str(out))


def _subject(weights: str, overrides: Sequence[str], last: bool, outputs: Path) -> tuple[Subject, DataConfig | None]:
    """The weights with their config, and the other data that overrides give a run, if any."""
    from hrm_lab.subject import Subject, find_weights, subject_of_run

    file, run = find_weights(weights, outputs, last)
    if run is None:
        from hrm_lab.compose import compose_config

        return Subject(file, compose_config(overrides)), None
    subject = subject_of_run(file, run)
    if not overrides:
        return subject, None
    if not all(OF_DATA.match(word) for word in overrides):
        raise _own_config(subject, overrides)
    from hrm_lab.compose import other_data

    return subject, other_data(subject.config.data, overrides)


def _own_config(subject: Subject, overrides: Sequence[str]) -> UserError:
    return UserError(
        f"{subject.weights}: a run's weights are used with its own config; {shlex.join(overrides)} cannot change it\n"
        f"  way out: give the file {subject.weights}, with the overrides of the run (its point.json) and these"
    )
