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
from hrm_lab.analysis.decisions import Decided, decisions_table
from hrm_lab.analysis.export import csv, latex, markdown
from hrm_lab.analysis.frames import load_sweep
from hrm_lab.cli import app
from hrm_lab.config import Config
from hrm_lab.decision import PROMOTION, Decision
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
    frame["optim.lr"], frame["data.shuffle"] = [1e-05, 2.5e6 * 1e12] * 3, [True, False] * 3
    powers = latex(compare(frame, each=True))
    assert r"$1 \times 10^{-5}$" in powers
    assert r"$2.5 \times 10^{18}$" in powers
    assert " true " in powers
    assert "$true$" not in powers


def test_what_others_wrote_is_no_markup_and_nothing_need_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_sweep(
        tmp_path, [{"data.source": "a[bold]b"}, {"data.source": "[/]"}], measured, question="Does [it]?"
    )
    (manifest.folder / "figures").write_text("")  # where no picture can be put
    done = CliRunner().invoke(app, ["compare", "made", "--outputs", str(tmp_path / "outputs")])
    assert done.exit_code == 0
    assert "learning curves:" not in done.output
    for words in ("made: Does [it]?", "a[bold]b", "[/]"):
        assert words in done.output


def test_decisions_fit_a_terminal_of_80_columns() -> None:
    point = "H_cycles=2 L_cycles=1 lr=0.0005 seed=1"
    evidence = {"metric": "eval/accuracy", "value": 0.7725, "threshold": 0.7803, "rank": 12, "rung": 0}
    cut = Decision(62, "percentile", True, "said twice", evidence | {"peers": dict.fromkeys("abcdefghijk", 0.8)})
    promoted = Decision(62, PROMOTION, False, "promoted at step 62: number 1 of 9")
    console = Console(width=80, file=StringIO())
    console.print(decisions_table([Decided(point, 0, cut), Decided(point, 1, promoted)]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "62 0 percentile 0.7725 0.7803 12 of 12 stops" in text
    assert "said twice" not in text
    assert "promoted at" in text


def test_the_verb_writes_files_and_refuses_with_a_way_out(frame: pd.DataFrame, tmp_path: Path) -> None:
    def verb(*words: str) -> tuple[str, str]:
        done = CliRunner().invoke(app, ["compare", "made", "--outputs", str(tmp_path / "outputs"), *words])
        return done.output, str(done.exception or "")

    shown, _ = verb()
    assert "2 of 3" in shown
    assert "sweeps/made/figures/learning_curves.png" in " ".join(shown.split())
    assert "--outputs" not in shown
    table = tmp_path / "table.tex"
    verb("--out", str(table))
    assert table.read_text() == verb("--format", "latex")[0] == latex(compare(frame))
    assert verb("--runs", "--format", "csv")[0] == csv(compare(frame, each=True))
    assert "eval/exact_accuracy, eval/lm_loss" in verb("--metric", "exact")[1]
    assert ".csv, .md, .tex" in verb("--out", "table.xlsx")[1]
    assert "csv, markdown, latex" in verb("--format", "word")[1]
    assert "take model.H_cycles, seed" in verb("--by", "lr")[1]
