"""`hrm-lab data`: what it says of a dataset, what it draws, and what it finds wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hrm_lab.analysis.puzzles import draw_puzzles, pick
from hrm_lab.cli import app
from hrm_lab.compose import compose_config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.check import Checked, checks
from hrm_lab.data.facts import split_facts
from hrm_lab.data.format import Dataset, Split, fingerprint
from hrm_lab.errors import ConfigError, DataError
from hrm_lab.training.batches import Batches
from hrm_lab.training.distributed import Ranks
from hrm_lab.training.evaluation import shown_as

SMALL = ["data=sudoku_4x4", "data.num_train=40", "data.num_test=12", "data.num_augmentations=4"]
CPU = Ranks(torch.device("cpu"))


def made(folder: Path) -> Batches:
    data = compose_config(SMALL).data
    return Batches(ensure_dataset(data, folder), CPU, data, seed=3)


def say(*arguments: str) -> str:
    """What a verb prints."""
    done = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_verbs_from_building_to_writing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, changes = "sudoku_4x4", SMALL[1:]
    with pytest.raises(DataError, match=r"no such folder\n  way out: build it: `hrm-lab data build sudoku_4x4`"):
        say("check", name, *changes)
    assert "\nbuilt: " in say("build", name, *changes)
    again = say("build", name, *changes)
    assert "\nwas there already: " in again
    assert "test/all: 12 examples, 12 puzzles, 12 groups; rating from" in again
    assert "puzzle 1, rating 0, variant 2, solution" in say("inspect", name, *changes, "--text", "--puzzles", "40")
    say("inspect", name, *changes, "--puzzles", "1", "--out", "one.png")
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")
    exported = say("export", name, *changes, "--out", "written")
    assert "212 pairs" in exported
    assert "train on it: data=hrm_folder data.folder=written" in exported
    with pytest.raises(DataError, match="written: is there already"):
        say("export", name, *changes, "--out", "written")
    assert say("check", "hrm_folder", "data.folder=written").count("\nok ") == 7
    (broken,) = Path("data").glob("sudoku_4x4-*/train/labels.npy")
    broken.write_bytes(broken.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataError, match="checks failed\n  way out: where bytes have changed, delete the folder"):
        say("check", name, *changes)


@pytest.mark.parametrize("name", ["../conf/data/sudoku_4x4", "sudoku_4x4,sudoku_6x6", "sudoku", "", "a b", "x=1"])
def test_a_name_that_is_no_choice_is_refused_with_the_choices(tmp_path: Path, name: str) -> None:
    refused = CliRunner().invoke(app, ["data", "build", name, f"paths.data={tmp_path}/data"]).exception
    assert isinstance(refused, ConfigError)
    assert str(refused).startswith(f"data={name}: no such choice\n  way out: one of ")
    assert "sudoku_4x4" in str(refused)
    assert not list(tmp_path.iterdir())


def test_pictures_repeat_and_follow_their_seed(tmp_path: Path) -> None:
    batches = made(tmp_path)
    split, info = batches.dataset.train, batches.dataset.info
    picked = pick(batches, split, 3, 2, seed=1)
    assert picked.columns == ["as stored", "variant 1", "variant 2"]
    assert len(picked.rows) == 3
    stored = {row.tobytes() for row in split.inputs}
    assert all(row.tobytes() in stored for row in picked.inputs[:, 0])
    assert any(row.tobytes() not in stored for row in picked.inputs[:, 1])
    pictures = [
        draw_puzzles(pick(batches, split, 1, 1, seed), info.grid_shape, shown_as(batches.task.appearance(info)), "")
        for seed in (1, 1, 2)
    ]
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0] == pictures[1] != pictures[2]
    assert pick(batches, batches.dataset.test["all"], 99, 2, 0).inputs.shape == (12, 1, 16)  # test puzzles have none


def found(batches: Batches, dataset: Dataset, sample: int | None = 100) -> list[Checked]:
    config = compose_config(SMALL).data
    return list(checks(dataset, config, batches.tokens, batches.puzzles(dataset.train), sample))


def wrong(batches: Batches, **changes: np.ndarray) -> list[str]:
    """What is said of the dataset with other training arrays, whose fingerprint is right."""
    whole = batches.dataset
    train = Split(**{**vars(whole.train), **changes})
    info = whole.info
    again = Dataset(whole.folder, info, train, whole.test)
    object.__setattr__(info, "fingerprint", fingerprint(info, train, whole.test))
    return [f"{one.what}: {one.problem}" for one in found(batches, again, None) if one.problem]


def test_what_is_wrong_with_a_dataset_is_found(tmp_path: Path) -> None:
    batches = made(tmp_path)
    assert not [one for one in found(batches, batches.dataset) if one.problem or not one.was_done]
    train = batches.dataset.train
    inputs, labels = np.array(train.inputs), np.array(train.labels)
    labels[7] = labels[8]
    inputs[9], labels[9] = batches.dataset.test["all"].inputs[3], batches.dataset.test["all"].labels[3]
    labels[11] = 0
    idle, rules, variants, shared = wrong(batches, inputs=inputs, labels=labels)
    assert idle.endswith("the labels of example 11 are all ignored")
    assert re.search(r"train: labels of all 40 examples, by the rules of the task: example 7 ", rules)
    assert re.search(r"variants: 1,000 of 200 puzzles and variants: variant \d of puzzle (7|11) ", variants)
    assert shared.endswith("1 inputs are in train too")
    inputs[4, 3] = 9
    assert "train/inputs hold token 9, the vocabulary has 6" in wrong(batches, inputs=inputs)[0]


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    batches = made(tmp_path)
    path = batches.dataset.folder / "train/labels.npy"
    bytes_ = bytearray(path.read_bytes())
    bytes_[-1] = 2 + (bytes_[-1] - 1) % 4
    path.write_bytes(bytes_)
    problems = [one for one in found(batches, Dataset.open(batches.dataset.folder)) if one.problem]
    assert problems[0].what.startswith("every byte: fingerprint")


def test_facts_count_every_token_and_rating(tmp_path: Path) -> None:
    dataset = made(tmp_path).dataset
    facts = split_facts(dataset.info, dataset.test["all"])
    assert facts.labels.tolist() == [0, 0, 48, 48, 48, 48]
    assert facts.inputs.sum() == 12 * 16
    assert facts.identifiers == (0, 0, 1)
    assert sum(count for _, count in facts.ratings) == 12
    rated = Split(**{**vars(dataset.train), "ratings": np.array([0, 1, 2, 3, 4, 7, 8] + [9] * 33, np.int32)})
    assert split_facts(dataset.info, rated).ratings == [("0", 1), ("1", 1), ("2-3", 2), ("4-7", 2), ("8-15", 34)]
