"""Two runs side by side: only what differs, whether it lies in a folder or in a real store."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hrm_lab.analysis.diff import Diff, diff
from hrm_lab.analysis.one_run import find_run
from hrm_lab.cli import app
from hrm_lab.config import TrackingConfig
from hrm_lab.errors import UserError
from hrm_lab.files import write_json
from hrm_lab.mirror.folder import describe
from hrm_lab.run_folder import COMPLETED, STOPPED, Point, RunFolder, State
from hrm_lab.tracking.provenance import source
from hrm_lab.tracking.store import KIND, REASON, SIGNATURE, Store
from tests.synthetic import PROVENANCE, config_with, make_run

METRICS = {4: {"train/lm_loss": 2.0, "perf/wall_s": 1.0}, 8: {"eval/exact_accuracy": 0.5, "eval/lm_loss": 1.0}}
PATCH = """diff --git a/new_file.txt b/new_file.txt
new file mode 100644
index 0000000..ce01362
--- /dev/null
+++ b/new_file.txt
@@ -0,0 +1 @@
+hello"""


def run_with(folder: Path, seed: int = 0, metrics: Any = METRICS, **provenance: Any) -> RunFolder:
    config = config_with(folder, {"seed": seed})
    return make_run(config, metrics, State(COMPLETED), Point(f"seed={seed}"), **provenance)


def compared(one: RunFolder, other: RunFolder) -> Diff:
    outputs = one.path.parents[1]
    return diff(find_run(str(one.path), outputs), find_run(str(other.path), outputs))


def sections(found: Diff) -> dict[str, list[tuple[str, str, str]]]:
    """Rows of those in which anything differs."""
    return {section.title: section.rows for section in found.sections if not section.is_same}


def test_a_setting_a_package_and_a_machine(tmp_path: Path) -> None:
    one = run_with(tmp_path)
    assert sections(compared(one, one)) == {}
    other = run_with(
        tmp_path, 1, METRICS, packages=PROVENANCE["packages"] | {"torch": "2.12.0"}, cpu="another CPU", world_size=2
    )
    assert sections(compared(one, other)) == {
        "config": [("seed", "0", "1")],
        "environment": [
            ("CPU", "some CPU", "another CPU"),
            ("torch", "2.13.0", "2.12.0"),
            ("processes", "1", "2"),
        ],
    }


def test_the_first_value_that_differs_though_the_recipe_is_the_same(tmp_path: Path) -> None:
    one = run_with(tmp_path / "a")
    changed = METRICS | {4: {"train/lm_loss": 2.5}, 8: {"eval/exact_accuracy": 0.75, "eval/lm_loss": 1.0}}
    found = sections(compared(one, run_with(tmp_path / "b", metrics=changed)))
    assert found["outcome"] == [
        ("best eval/exact_accuracy", "0.5 at step 8", "0.75 at step 8"),
        ("last eval/exact_accuracy", "0.5 at step 8", "0.75 at step 8"),
        ("first other value: train/lm_loss at step 4", "2.0", "2.5"),
    ]
    assert [row[0] for row in found["config"]] == [
        "paths.outputs (no part of the result)",
        "paths.data (no part of the result)",
    ]
    for folder, examples in ((one, 10), (RunFolder.of(config_with(tmp_path / "b", {})), 12)):
        facts = {"name": "small", "fingerprint": f"{examples}" * 8, "counts": {"train": {"examples": examples}}}
        write_json(folder.path / "dataset.json", facts)
    found = sections(compared(one, RunFolder.of(config_with(tmp_path / "b", {}))))
    assert found["data"] == [("fingerprint", "101010101010", "121212121212"), ("train: examples", "10", "12")]


def test_an_older_version_differs_in_nothing_that_has_its_default(tmp_path: Path) -> None:
    one, other = run_with(tmp_path / "a"), run_with(tmp_path / "b")
    stored = json.loads((one.path / "config.json").read_text())
    del stored["optim"]["beta1"], stored["tracking"]["system_interval"]
    write_json(one.path / "config.json", stored)
    rows = sections(compared(one, other))["config"]
    assert [row[0].partition(" ")[0] for row in rows] == ["paths.outputs", "paths.data"]


def test_the_best_is_what_the_run_watched_for_and_a_number(tmp_path: Path) -> None:
    config = config_with(tmp_path, {"stopping.metric": "eval/lm_loss", "stopping.mode": "max"})
    values = {4: {"eval/lm_loss": math.nan}, 8: {"eval/lm_loss": 3.0}, 12: {"eval/lm_loss": 2.0}}
    watched = make_run(config, values, State(COMPLETED), Point("watched"))
    rows = {row[0]: row[1] for row in sections(compared(watched, run_with(tmp_path)))["outcome"]}
    assert rows["best eval/lm_loss"] == "3 at step 8"


@pytest.mark.skipif(not source().commit, reason="this package does not lie in a git checkout")
def test_code_is_compared_by_git_with_what_was_not_committed(tmp_path: Path) -> None:
    commit = source().commit
    clean = run_with(tmp_path / "a", commit=commit, tree="a")
    dirty = run_with(tmp_path / "b", commit=commit, tree="b", diff=PATCH)
    code = next(section for section in compared(clean, dirty).sections if section.title == "code")
    assert code.rows == [("uncommitted changes", "none", "7 lines of patch")]
    assert "new_file.txt | 1 +" in code.text
    assert "\n+hello" in code.text
    gone = run_with(tmp_path / "c", commit="0" * 40, tree="c")
    code = next(section for section in compared(clean, gone).sections if section.title == "code")
    assert code.rows[0] == ("commit", commit[:12], "0" * 12)
    assert code.text == "commit 000000000000 is not in this checkout"
    same = run_with(tmp_path / "d", commit="0" * 40, tree="a")
    assert "code" not in sections(compared(clean, same))  # other commits of the same files


def test_runs_are_found_by_word_here_and_in_the_store(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    folders = [run_with(tmp_path, seed) for seed in range(20)]
    signature = folders[3].path.name
    unique = next(
        signature[:n] for n in range(3, 13) if sum(f.path.name.startswith(signature[:n]) for f in folders) == 1
    )
    for word in (signature, unique, "seed=3", str(folders[3].path)):
        assert find_run(word, outputs).place == str(folders[3].path), word
    with pytest.raises(UserError, match="there are no runs here, nor is there such a run"):
        find_run("seed=33", outputs)
    store = Store.open(TrackingConfig(), outputs)
    run_id = store.create_run("far away", {KIND: "run", SIGNATURE: signature}, None)
    config = folders[3].config()
    describe(store, run_id, folders[3], {}, {"seed": 4, "data": {"num_train": 16}, "name": config.name})
    store.log_metrics(
        run_id, [(key, value, 0, step) for step, values in METRICS.items() for key, value in values.items()]
    )
    store.set_tags(run_id, {REASON: "goal reached"})
    store.set_status(run_id, "FINISHED")
    for word in ("far away", run_id):
        far = find_run(word, outputs)
        assert far.place.endswith(run_id)
        assert (far.status, far.reason, far.config["seed"]) == (STOPPED, "goal reached", 4)
        assert far.values == {(4, "train/lm_loss"): 2.0, (8, "eval/exact_accuracy"): 0.5, (8, "eval/lm_loss"): 1.0}
    words = ["diff", "seed=3", "far away", "--outputs", str(outputs)]
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    assert found["outcome"]["rows"] == [["status", COMPLETED, STOPPED], ["reason", "null", "goal reached"]]
    assert found["environment"]["same"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "environment: the same" in shown.output
    with pytest.raises(UserError, match="nor is there such a run"):
        find_run("seed=33", outputs)
