"""What a person gets to see of a comparison, and the files made of it, read back."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hrm_lab.analysis.comparison import compare, comparison_table, notes
from hrm_lab.analysis.export import csv, latex, markdown
from hrm_lab.analysis.frames import load_sweep
from hrm_lab.cli import app
from hrm_lab.config import Config
from hrm_lab.errors import UserError
from hrm_lab.run_folder import COMPLETED, FAILED, State
from tests.synthetic import Metrics, make_sweep


def measured(config: Config) -> Metrics:
    """Values that no rounding leaves as they are."""
    value = config.model.H_cycles / 7 + config.seed / 90
    return {
        8: {"eval/exact_accuracy": value, "eval/lm_loss": 1.0, "train/steps": 2.5, "perf/wall_s": 3.25},
        16: {"eval/exact_accuracy": value / 3, "eval/lm_loss": 0.5, "perf/mean_samples_per_s": 700.0},
    }


def one_fails(config: Config) -> State:
    """The last seed of the first point."""
    return State(FAILED, "of x_y|z") if (config.model.H_cycles, config.seed) == (1, 2) else State(COMPLETED)


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    """Two settings of three seeds, of which one run failed."""
    points = [{"model.H_cycles": cycles, "seed": seed} for cycles in (1, 2) for seed in range(3)]
    return load_sweep(make_sweep(tmp_path, points, measured, one_fails))


def in_terminal(frame: pd.DataFrame, width: int = 80, **asked: object) -> list[str]:
    console = Console(width=width, file=StringIO())
    console.print(comparison_table(compare(frame, **asked)))  # type: ignore[arg-type]
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_seeds_are_put_together_and_what_failed_is_told(frame: pd.DataFrame) -> None:
    lines = in_terminal(frame)
    assert " ".join(lines[-2].split()) == "2 3 29.7 ± 0.6 8 9.9 ± 0.2 3 3 completed"
    assert " ".join(lines[-1].split()) == "1 2 of 3 14.8 ± 0.6 8 4.9 ± 0.2 3 3 2 completed, 1 failed"
    assert notes(frame) == [f"H_cycles=1 seed=2: failed: of x_y|z\n  log: {frame['folder'][3]}/log.txt"]
    each = in_terminal(frame, each=True)
    assert len(each) == 2 + 1 + 6
    assert "seed" in each[1]
    by_seed = in_terminal(frame, by=["seed"])
    assert [line.split()[:2] for line in by_seed[-3:]] == [["2", "1"], ["1", "2"], ["0", "2"]]
    with pytest.raises(UserError, match="--by and --runs"):
        compare(frame, ["seed"], each=True)


def test_the_demo_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    points = [{"model.H_cycles": h, "model.L_cycles": c, "seed": s} for h in (1, 2) for c in (1, 2) for s in (0, 1)]
    frame = load_sweep(make_sweep(tmp_path, points, measured))
    for each in (False, True):
        lines = in_terminal(frame, each=each)
        assert max(map(len, lines)) <= 80
        assert lines == in_terminal(frame, 200, each=each)  # nothing had to be cut or folded for it


def test_csv_holds_every_digit(frame: pd.DataFrame) -> None:
    comparison = compare(frame)
    read = pd.read_csv(StringIO(csv(comparison)), float_precision="round_trip")
    for name in ("best_exact_accuracy_mean", "best_exact_accuracy_se", "last_lm_loss_mean", "act_depth", "n", "runs"):
        assert list(read[name]) == list(comparison.data[name])
    runs = pd.read_csv(StringIO(csv(compare(frame, each=True))), float_precision="round_trip")
    assert list(runs["best_exact_accuracy"]) == list(frame["best_exact_accuracy"])
    one = csv(compare(frame[frame["seed"] == 0], by=["H_cycles"]))
    assert pd.read_csv(StringIO(one))["best_exact_accuracy_se"].isna().all()  # of one run nobody knows
    assert "nan" not in one


def test_markdown_is_a_table_with_aligned_pipes(frame: pd.DataFrame) -> None:
    for comparison in (compare(frame), compare(frame.assign(**{"data.source": "a|b"}), each=True)):
        lines = markdown(comparison).splitlines()
        assert len({len(line) for line in lines}) == 1
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert rows[0] == [column.heading.replace("\n", " ") for column in comparison.columns]
        assert set("".join(rows[1])) == {"-"}
        shown = [[cell.replace("|", r"\|") for cell in column.cells] for column in comparison.columns]
        assert rows[2:] == [list(row) for row in zip(*shown, strict=True)]


def test_latex_is_for_booktabs_and_escaped(frame: pd.DataFrame) -> None:
    text = latex(compare(frame))
    assert re.search(r"\\begin\{tabular\}\{r+l\}\n\\toprule\n.*\n\\midrule", text)
    head, *rows = [line.removesuffix(r" \\").split(" & ") for line in text.splitlines() if line.endswith(r"\\")]
    assert head[:3] == [r"H\_cycles", "seeds", r"best exact \%"]
    assert rows[0][:3] == ["$2$", "$3$", r"$29.7 \pm 0.6$"]
    assert rows[1][:3] == ["$1$", "$2$ of $3$", r"$14.8 \pm 0.6$"]
    named = latex(compare(frame.assign(**{"data.source": "a_b & 5%"}), each=True))
    assert r"a\_b \& 5\%" in named


def test_the_verb_writes_files_and_refuses_with_a_way_out(frame: pd.DataFrame, tmp_path: Path) -> None:
    def verb(*words: str) -> tuple[str, str]:
        done = CliRunner().invoke(app, ["compare", "made", "--outputs", str(tmp_path / "outputs"), *words])
        return done.output, str(done.exception or "")

    shown, _ = verb()
    assert "2 of 3" in shown
    assert "learning_curves.png" in shown
    assert "--outputs" not in shown
    table = tmp_path / "table.tex"
    verb("--out", str(table))
    assert table.read_text() == verb("--format", "latex")[0] == latex(compare(frame))
    assert verb("--runs", "--format", "csv")[0] == csv(compare(frame, each=True))
    assert "eval/exact_accuracy, eval/lm_loss" in verb("--metric", "exact")[1]
    assert ".csv, .md, .tex" in verb("--out", "table.xlsx")[1]
    assert "csv, markdown, latex" in verb("--format", "word")[1]
    assert "take model.H_cycles, seed" in verb("--by", "lr")[1]
