"""The example notebook, executed as it is, on a sweep that was never trained."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from hrm_lab.config import Config
from tests.synthetic import Metrics, make_sweep

NOTEBOOK = Path(__file__).parents[2] / "experiments/compare.ipynb"


def measured(config: Config) -> Metrics:
    value = config.model.H_cycles / 7 + config.seed / 90
    return {step: {"eval/exact_accuracy": value * step / 8, "train/lm_loss": 9.0 / step} for step in (4, 8)}


def test_the_notebook_runs_and_shows_the_aggregated_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [{"model.H_cycles": cycles, "seed": seed} for cycles in (1, 2) for seed in (0, 1)]
    make_sweep(tmp_path, points, measured)
    monkeypatch.setenv("HRM_LAB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("HRM_LAB_SWEEPS", "made")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored outputs make every diff unreadable"
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in shown if output.output_type == "error"]
    assert any("best_exact_accuracy_mean" in str(output.get("data", {}).get("text/plain")) for output in shown)
    assert any("image/png" in output.get("data", {}) for output in shown)
