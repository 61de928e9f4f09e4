"""A new task is one file and one YAML, put where the others are: everything else is there for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hrm_lab
from hrm_lab.compose import CONF

HERE, PACKAGE = Path(__file__).parent, Path(hrm_lab.__file__).parent


def test_two_files_are_a_task(tmp_path: Path) -> None:
    without = shutil.ignore_patterns("__pycache__", "conf")
    shutil.copytree(PACKAGE, tmp_path / "hrm_lab", ignore=without)
    shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns("experiment"))
    shutil.copy(HERE / "latin_squares.py", tmp_path / "hrm_lab/data/tasks")
    shutil.copy(HERE / "latin_squares.yaml", tmp_path / "conf/data")

    def hrm_lab_there(*arguments: str) -> str:
        command = [sys.executable, "-m", "hrm_lab.cli", *arguments]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    built = hrm_lab_there("data", "build", "latin_squares")
    assert "train: 64 examples" in built
    assert "WRONG" not in hrm_lab_there("data", "check", "latin_squares", "--all")
    hrm_lab_there("data", "inspect", "latin_squares", "--out", "squares.png")
    assert (tmp_path / "squares.png").read_bytes().startswith(b"\x89PNG")
    small = ["model=hrm_tiny", "training=smoke", "tracking=none", "stopping.metric=eval/latin_accuracy"]
    hrm_lab_there("train", "data=latin_squares", *small)
    (journal,) = tmp_path.glob("outputs/runs/*/journal.jsonl")
    logged = [json.loads(line).get("metrics", {}) for line in journal.read_text().splitlines()]
    values = {name: value for metrics in logged for name, value in metrics.items()}
    assert 0 <= values["eval/latin_accuracy"] <= 1
    assert values["train/lm_loss"] > 0
    hrm_lab_there("data", "export", "latin_squares", "--out", "written")
    assert "704 examples" in hrm_lab_there("data", "build", "hrm_folder", "data.folder=written")
