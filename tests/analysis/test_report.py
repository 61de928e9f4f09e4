"""The report of a sweep, made of run folders that no training has written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hrm_lab.analysis import runs
from hrm_lab.analysis.curves import draw_curves
from hrm_lab.analysis.frames import read_results
from hrm_lab.analysis.heat_map import axes_by_spread
from hrm_lab.analysis.metrics import Target
from hrm_lab.analysis.origin import command
from hrm_lab.analysis.pareto import Priced, front
from hrm_lab.analysis.report import Report, make_report, write_report
from hrm_lab.cli import app
from hrm_lab.config import Config
from hrm_lab.manifest import Entry, Manifest
from hrm_lab.run_folder import COMPLETED, FAILED, PENDING, STOPPED, State
from hrm_lab.sweep.closing import report_sweep
from tests.synthetic import Metrics, add_evaluation, append, make_sweep

VOID = {"meta", "img", "br", "link"}
GRID = [
    {"model.H_cycles": high, "model.L_cycles": low, "seed": seed}
    for high in (1, 2)
    for low in (1, 2)
    for seed in (0, 1)
]


class Page(HTMLParser):
    """Complains of tags that do not close one another; remembers ids, links and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.alts: list[str | None] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags[tag] += 1
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values[key] or "" for key in ("href", "src") if key in values]
        self.alts += [values.get("alt")] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def learned(config: Config) -> Metrics:
    """Two evaluations; more cycles are better, H_cycles most of all."""
    skill = 0.2 * config.model.H_cycles + 0.05 * config.model.L_cycles + 0.01 * config.seed
    return {
        step: {
            "train/lm_loss": 2 - skill * step / 8,
            "train/steps": 2.5,
            "eval/exact_accuracy": skill * step / 8,
            "eval/accuracy": 0.5 + skill * step / 16,
        }
        for step in (4, 8)
    }


def ended(config: Config) -> State:
    """One of the eight failed, one was stopped."""
    if (config.model.H_cycles, config.model.L_cycles, config.seed) == (1, 1, 1):
        return State(FAILED, "TrainingDiverged: <b>train/lm_loss</b> is nan")
    if (config.model.H_cycles, config.model.L_cycles, config.seed) == (1, 2, 1):
        return State(STOPPED, "worse than the rest")
    return State(COMPLETED)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("report")
    manifest = make_sweep(folder, GRID, learned, ended, question="Do <script>cycles</script> pay?")
    for _, folder in manifest.runs():
        add_evaluation(folder, 8, 0.5)
        decision = {"step": 4, "rule": "asha", "stops": False, "reason": "good enough", "evidence": {}}
        append(folder, {"step": 4, "ms": 0, "decision": decision})
        if folder.state is not None and folder.state.status == STOPPED:
            append(
                folder, {"step": 8, "ms": 0, "decision": decision | {"step": 8, "stops": True, "reason": "the worst"}}
            )
    return manifest


@pytest.fixture(scope="module")
def report(full: Manifest) -> Report:
    return make_report(read_results(full))


def test_the_page_holds_everything_and_needs_nothing(report: Report) -> None:
    page = Page(report.html)
    assert {picture.name for picture in report.pictures} == {
        "heat_map",
        "learning_curves",
        "act_depth",
        "ratings",
        "pareto",
    }
    assert page.tags["img"] == 5
    assert all(page.alts)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    for words in (
        "H_cycles=2 L_cycles=2 solves",  # the answer
        "1 run of 8 failed and is left out",
        "4 points, 8 runs",  # the grid
        "model.L_cycles",
        "1 of 8 runs were ended early: 1 by asha",
        "the worst",
        "Decisions that stopped nothing: 8 by asha",
        "is nan",
        "/log.txt",
        "process-hours",
        "torch",
    ):
        assert words in page.text, words


def test_what_others_wrote_is_text(report: Report) -> None:
    page = Page(report.html)
    assert page.tags["script"] == 0
    assert "Do <script>cycles</script> pay?" in page.text
    assert "<b>train/lm_loss</b> is nan" in page.text


def test_the_same_runs_give_the_same_bytes_and_each_is_read_once(
    full: Manifest, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[Path] = Counter()
    reader = runs.read_journal

    def counted(path: Path) -> Any:
        read[path] += 1
        return reader(path)

    monkeypatch.setattr(runs, "read_journal", counted)
    page, *pictures = write_report(read_results(full), tmp_path / "new/page.html")
    assert set(read.values()) == {1}
    assert len(read) == len(GRID)
    assert page.read_text() == report.html
    assert [path.read_bytes() for path in pictures] == [picture.png for picture in report.pictures]


def test_a_sweep_over_what_is_watched_is_reported_by_what_all_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = [{"stopping.metric": f"eval/{name}"} for name in ("accuracy", "exact_accuracy")]
    manifest = make_sweep(tmp_path, points, learned)
    report_sweep(manifest)
    page = (manifest.folder / "report.html").read_text()
    assert "Ranked by <code>eval/exact_accuracy</code>" in page
    assert "ranked by eval/exact_accuracy; --metric" in caplog.text
    words = ["report", "made", "--metric", "accuracy", "--outputs", str(tmp_path / "outputs")]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "Ranked by <code>eval/accuracy</code>" in (manifest.folder / "report.html").read_text()


def test_a_damaged_line_and_a_damaged_provenance_hide_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_sweep(tmp_path, [{"seed": 0}, {"seed": 1}], learned)
    folder = manifest.runs()[0][1]
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join([*lines[:-1], b"\0\0\0\n", lines[-1]]))
    (folder.path / "provenance.json").write_text('{"commit": "')
    results = read_results(manifest)
    assert results.frame["last_step"].tolist() == [8, 8]
    assert "solves" in make_report(results).html
    assert f"{folder.journal}: a damaged line is left out" in caplog.text


@pytest.mark.parametrize(
    ("points", "state", "words"),
    [
        ([{"seed": 0}, {"seed": 1}], State(COMPLETED), "Nothing but the seed was varied"),
        ([{"optim.lr": 1e-3}, {"optim.lr": 2e-3}], State(COMPLETED), "The spread between seeds is unknown"),
        ([{"optim.lr": 1e-3}, {"optim.lr": 2e-3}], State(FAILED, "RunError: full"), "all 2 runs failed"),
        ([{"optim.lr": 1e-3}], State(PENDING), "no run has finished (1 pending)"),
        ([{"data.train_csv": "<i>$x_$"}, {"data.train_csv": "$\\\\b"}], State(COMPLETED), "<i>$x_$"),
        ([{"model.pos_encodings": "rope"}, {"model.pos_encodings": "learned"}], State(STOPPED, "enough"), "enough"),
    ],
)
def test_small_sweeps(tmp_path: Path, points: list[dict[str, Any]], state: State, words: str) -> None:
    is_dead = state.status in (FAILED, PENDING)
    manifest = make_sweep(tmp_path, points, lambda config: {} if is_dead else learned(config), lambda _: state)
    page = Page(make_report(read_results(manifest)).html)
    assert words in page.text
    assert "left no arrays" in page.text


def test_axes_stand_in_the_order_of_what_they_move(full: Manifest) -> None:
    results = read_results(full)
    axes = axes_by_spread(results.frame[results.frame["state"] == COMPLETED], results.target)
    assert [axis.name for axis in axes] == ["H_cycles", "L_cycles"]
    assert axes[0].values == [1, 2]


def test_what_is_dearer_and_no_better_is_not_on_the_front() -> None:
    costs = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (3.0, 0.8), (4.0, 0.9)]
    priced = [Priced(None, hours, value, 0.0) for hours, value in costs]  # type: ignore[arg-type]
    assert [(one.hours, one.value) for one in front(priced, "max")] == [(1.0, 0.5), (3.0, 0.9)]
    assert [(one.hours, one.value) for one in front(priced, "min")] == [(1.0, 0.5), (2.0, 0.4)]


def test_the_command_that_makes_it_again() -> None:
    points = [
        ["+experiment=demo", f"model.H_cycles={cycles}", f"seed={seed}", "paths.data=/some/place", "question=Is it so?"]
        for cycles in (1, 2)
        for seed in (0, 1)
    ]
    entries = [Entry("", overrides, str(number)) for number, overrides in enumerate(points)]
    grid = Manifest("demo", "", "/nowhere", entries, "local", {})
    assert command(grid) == (
        "hrm-lab sweep demo hydra.sweeper.params=null model.H_cycles=1,2 seed=0,1 'question=Is it so?'"
    )
    assert command(replace(grid, points=entries[:3])) is None


def test_nothing_logged_is_no_picture() -> None:
    assert draw_curves([], Target("eval/exact_accuracy", "max")) is None
