"""One signature for what gives one result, another for everything else."""

from __future__ import annotations

from pathlib import Path

from hrm_lab import config as schema
from hrm_lab.config import Config
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.signature import signature


def test_what_cannot_change_the_result_does_not_change_the_signature() -> None:
    config, other = Config(), Config()
    other.name, other.question = "another", "?"
    other.tracking.uri, other.paths.outputs = "http://host", "/elsewhere"
    other.training.log_interval, other.training.threads, other.data.name = 1, 2, "same data"
    assert signature(other) == signature(config)


def test_every_other_setting_does() -> None:
    base = signature(Config())
    for key, value, meta in schema.settings(Config()):
        if not meta.identity or not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        config: object = Config()
        *rooms, name = key.split(".")
        changed = config
        for room in rooms:
            changed = getattr(changed, room)
        setattr(changed, name, value + 1)
        assert isinstance(config, Config)
        assert signature(config) != base, key


def test_the_bytes_of_a_csv_are_part_of_it(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("a")
    test.write_text("b")
    config = Config(data=SudokuDataConfig(source="csv", train_csv=str(train), test_csv=str(test)))
    before = signature(config)
    train.write_text("c")
    assert signature(config) != before
