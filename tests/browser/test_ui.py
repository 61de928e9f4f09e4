"""What a person sees of a real sweep in MLflow's UI, in a real browser: the points, their curves, their pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from hrm_lab.config import TrackingConfig
from hrm_lab.manifest import load_manifest
from hrm_lab.tracking.store import Store
from tests.small import free_port, hrm_lab

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install 'hrm-lab[dev]')")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
SWEEP = (
    *("sweep", "demo", "name=seen", "question=Are two cycles better than one?"),
    *("hydra.sweeper.params=null", "model.H_cycles=1,2", "model.hidden_size=16", "model.halt_max_steps=3"),
    *("training.epochs=4", "training.eval_interval=2", "data.num_train=64", "data.num_test=16"),
    *("training.global_batch_size=16", "tracking.system_interval=0.5"),
)
PICTURES = "[...document.images].map(image => [image.src, image.complete ? image.naturalWidth : 0])"


class Ui:
    """MLflow's UI on a sweep, in a tab."""

    def __init__(self, page: Any, address: str, store: Store, runs: dict[str, str]) -> None:
        self.page, self.address, self.store, self.runs = page, address, store, runs

    def open(self, place: str, *words: str) -> str:
        """Go to a page (of the experiment's address), wait until it shows these words, and return its text."""
        self.page.goto("about:blank")  # else only the part after the # changes, and nothing is loaded
        self.page.goto(place if place.startswith("http") else f"{self.address}/#/{place}")
        for word in words:
            self.page.get_by_text(word).first.wait_for(timeout=120_000)
        return str(self.page.inner_text("body"))

    def wait_for_lines(self) -> None:
        """Until a chart has a line for each run."""
        lines = f"document.querySelectorAll('path.js-line').length >= {len(self.runs)}"
        self.page.wait_for_function(lines, timeout=120_000)

    def picture_width(self, place: str) -> int:
        """Open an artifact of a run that is a picture; its width in pixels, once it is loaded."""
        self.open(place, place.rpartition("/")[2])
        loaded = f"{PICTURES}.some(([source, width]) => source.startsWith('blob:') && width > 0)"
        self.page.wait_for_function(loaded, timeout=120_000)
        return max(width for source, width in self.page.evaluate(PICTURES) if source.startswith("blob:"))


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    folder = tmp_path_factory.mktemp("ui")
    done = hrm_lab(folder, *SWEEP)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = hrm_lab(folder, "sync", "seen")  # on busy cores pictures may take longer than a run waits for its mirror
    assert sent.returncode == 0, done.stderr + sent.stderr
    outputs, port = folder / "outputs", free_port()
    command = [sys.executable, "-m", "hrm_lab.cli", "ui", "--outputs", str(outputs), "--port", str(port)]
    with (folder / "ui.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server, folder / "ui.log")
        runs = {entry.label: str(run.run_id) for entry, run in load_manifest(outputs, "seen").grid()}
        with playwright.sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            yield Ui(page, address, Store.open(TrackingConfig(), outputs), runs)
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(f"{address}/health", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def _query(**values: Any) -> str:
    return "&".join(f"{key}={quote(json.dumps(value))}" for key, value in values.items())


def test_the_sweeps_page_lists_its_runs_with_their_curves(ui: Ui) -> None:
    ui.open(ui.store.ui_link(ui.address), "seen", *ui.runs)
    ui.wait_for_lines()


def test_compare_shows_the_curves_of_both_runs(ui: Ui) -> None:
    chosen = _query(runs=list(ui.runs.values()), experiments=[ui.store.experiment_id])
    text = ui.open(f"compare-runs?{chosen}", "Comparing 2 Runs", "model.H_cycles")
    assert all(run_id in text for run_id in ui.runs.values())
    # What a click on a metric opens there.
    metric = "eval/accuracy"
    plot = _query(metric=metric, plot_metric_keys=[metric], plot_layout={"autosize": True}, line_smoothness=0)
    rest = _query(show_point=False, deselected_curves=[], last_linear_y_axis_range=[])
    ui.open(f"metric?{chosen}&{plot}&{rest}&x_axis=step&y_axis_scale=linear", *ui.runs)
    ui.wait_for_lines()


def test_a_run_tells_in_words_what_it_is(ui: Ui) -> None:
    label, run_id = next(iter(ui.runs.items()))
    text = ui.open(f"experiments/{ui.store.experiment_id}/runs/{run_id}", label, "Are two cycles better than one?")
    assert "HRM with" in text
    assert "sudoku_4x4" in text  # the dataset


def test_its_pictures_load(ui: Ui) -> None:
    run_id = ui.runs["H_cycles=2"]
    artifacts = ui.store.client.list_artifacts(run_id, "boards")
    places = [*(item.path for item in artifacts[-1:]), "figures/learning_curves.png", "figures/act_depth.png"]
    assert places[0].startswith("boards/step_")
    assert {*places[1:]} <= {item.path for item in ui.store.client.list_artifacts(run_id, "figures")}
    for place in places:
        width = ui.picture_width(f"experiments/{ui.store.experiment_id}/runs/{run_id}/artifacts/{place}")
        assert width > 300, place


def test_system_metrics_are_where_mlflow_looks_for_them(ui: Ui) -> None:
    run_id = ui.runs["H_cycles=2"]
    ui.open(f"experiments/{ui.store.experiment_id}/runs/{run_id}/system-metrics", "system/")
