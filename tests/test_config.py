"""Every shipped config is good, and every bad one is refused by name, value and way out."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hrm_lab import config as schema
from hrm_lab.compose import CONF, compose_config
from hrm_lab.config import Config
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import ConfigError, UserError

CSV = ["data.train_csv=train.csv", "data.test_csv=test.csv"]
GROUPS = [
    f"{folder}={file.stem}"
    for folder in ("model", "data", "optim", "training", "tracking", "stopping")
    for file in sorted((CONF / folder).glob("*.yaml"))
]
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("choice", GROUPS)
def test_every_group_choice_composes(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    extra = CSV if choice == "data=sudoku_extreme" else []
    assert isinstance(compose_config([choice, *extra]).data, SudokuDataConfig)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name: str) -> None:
    extra = CSV if name.startswith("sudoku_extreme") else []
    assert compose_config([f"+experiment={name}", *extra]).name == name


def test_recipes_are_the_published_ones() -> None:
    for name, batch, lr in (("sudoku_extreme_1k_8gpu", 768, 1e-4), ("sudoku_extreme_1k_1gpu", 384, 7e-5)):
        config = compose_config([f"+experiment={name}", *CSV])
        optim, training, model = config.optim, config.training, config.model
        assert (training.global_batch_size, optim.lr, optim.puzzle_emb_lr) == (batch, lr, lr)
        assert (optim.weight_decay, optim.puzzle_emb_weight_decay) == (1.0, 1.0)
        assert (optim.beta1, optim.beta2, optim.lr_warmup_steps, optim.lr_min_ratio) == (0.9, 0.95, 2000, 1.0)
        assert (training.epochs, training.eval_interval) == (20000, 2000)
        assert (model.halt_max_steps, model.halt_exploration_prob, model.hidden_size) == (16, 0.1, 512)
        assert (config.data.num_augmentations, config.data.num_train) == (1000, 1000)


BAD = [
    ("model.hcycles=3", ["model.hcycles=3", "model.H_cycles"]),
    ("+nothing=1", ["nothing=1", "hrm-lab config"]),
    ("model=huge", ["model=huge", "hrm_tiny"]),
    ("stopping=asha stopping.percentile=10", ["stopping.percentile=10", "stopping.pruner=percentile"]),
    ("stopping=median stopping.brackets=2", ["stopping.brackets=2", "stopping.pruner=asha"]),
    ("model.H_cycles=many", ["model.H_cycles=many", "Integer"]),
    ("model.H_cycles=1.5", ["model.H_cycles=1.5", "Integer"]),
    ("model.halt_max_steps=0", ["model.halt_max_steps=0", "below 1"]),
    ("model.pos_encodings=sine", ["model.pos_encodings=sine", "rope, learned"]),
    ("model.num_heads=7", ["model.num_heads=7", "8, 16"]),
    ("optim.lr=nan", ["optim.lr=nan", "finite"]),
    ("optim.lr=-1", ["optim.lr=-1", "below 0"]),
    ("training.epochs=3000", ["training.epochs=3000", "training.eval_interval=2000", "4000"]),
    ("training.gradient_accumulation_steps=5", ["training.global_batch_size=768", "5"]),
    ("training.global_batch_size=4000000", ["training.global_batch_size=4000000", "no step"]),
    ("data.num_blanks=81", ["data.num_blanks=81", "80"]),
    ("data.source=csv", ["data.train_csv=None", "PATH"]),
    ("data.box_rows=9", ["data.box_rows=9", "above 5"]),
    ("stopping.metric=eval/typo stopping.goal=1", ["stopping.metric=eval/typo", "eval/exact_accuracy"]),
    ("stopping.patience=0", ["stopping.patience=0", "1 or more"]),
    ("tracking.flush_interval=0", ["tracking.flush_interval=0", "0.05"]),
    ("=3", ["way out"]),
    ("optim.backend=fused training.device=cpu", ["optim.backend=fused", "optim.backend=torch"]),
]


@pytest.mark.parametrize(("override", "said"), BAD, ids=[override for override, _ in BAD])
def test_a_bad_config_is_refused_by_key_value_and_way_out(override: str, said: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        compose_config(override.split())
    text = str(refusal.value)
    assert all(part in text for part in [*said, "way out"]), text


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_the_command_line_refuses_without_a_traceback_and_builds_nothing(verb: str, tmp_path: Path) -> None:
    command = {
        "train": ["train", "model.num_heads=7"],
        "sweep": ["sweep", "demo", "model.num_heads=2,7"],  # one bad point in a grid of eight
    }[verb]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "hrm_lab.cli", *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: model.num_heads=7")
    assert "way out" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - started < 30  # a hang, not a speed: torch and mlflow are not loaded for this


@pytest.mark.parametrize("verb", [["train"], ["sweep", "demo"]])
def test_a_folder_that_cannot_be_written_is_told(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    small = ["model=hrm_tiny", "data=sudoku_4x4", "data.num_train=64", "data.num_test=16", "training=smoke"]
    command = [sys.executable, "-m", "hrm_lab.cli", *verb, *small, "paths.outputs=file/outputs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "file/outputs" in done.stderr
    assert "paths.outputs=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_survives_its_json(tmp_path: Path) -> None:
    config = compose_config(["+experiment=demo"])
    assert schema.from_dict(schema.to_dict(config)) == config
    broken = schema.to_dict(Config()) | {"modle": {}}
    with pytest.raises(ConfigError, match="did you mean model"):
        schema.from_dict(broken)
    with pytest.raises(ConfigError, match="is str, not int"):
        schema.from_dict({"seed": "0"})


def test_every_setting_says_what_it_is() -> None:
    for key, _, meta in schema.settings(Config()):
        assert len(meta.help) > 8, key
