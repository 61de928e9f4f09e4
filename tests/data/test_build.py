"""One folder for one content: the key follows the bytes, and several builders at once make one dataset."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path

import pytest

from hrm_lab.data.build import build_key, dataset_folder, ensure_dataset
from hrm_lab.data.format import Dataset
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

SMALL = SudokuDataConfig(name="small", box_rows=2, box_cols=2, num_train=30, num_test=10, num_blanks=8)
CSV = "source,question,answer,rating\ns,.234341221434321,1234341221434321,3\n"


def test_the_key_follows_what_decides_the_bytes(tmp_path: Path) -> None:
    key = build_key(SMALL)
    assert len(key) == 12
    assert int(key, 16) >= 0
    assert build_key(dataclasses.replace(SMALL, num_augmentations=1000, name="other")) == key
    assert build_key(dataclasses.replace(SMALL, num_blanks=9)) != key
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(CSV)
    first = dataclasses.replace(
        SMALL, source="csv", train_csv=str(tmp_path / "a.csv"), test_csv=str(tmp_path / "b.csv")
    )
    moved = dataclasses.replace(first, train_csv=first.test_csv)
    before = build_key(first)
    assert before == build_key(moved) != key
    (tmp_path / "a.csv").write_text(CSV + CSV.splitlines()[1] + "\n")
    assert build_key(first) != before


def test_it_is_built_once_and_opened_after(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    built = ensure_dataset(SMALL, tmp_path / "data", lambda done, total: calls.append((done, total)))
    assert built.folder == dataset_folder(SMALL, tmp_path / "data")
    assert built.folder.name == f"small-{build_key(SMALL)}"
    assert calls[-1] == (40, 40)
    assert built.info.build["num_blanks"] == 8
    assert json.loads((built.folder / "dataset.json").read_text())["build"]
    calls.clear()
    opened = ensure_dataset(SMALL, tmp_path / "data", lambda done, total: calls.append((done, total)))
    assert not calls
    assert opened.info == built.info
    elsewhere = ensure_dataset(dataclasses.replace(SMALL, name="other"), tmp_path / "more")
    assert elsewhere.info.fingerprint == built.info.fingerprint


def test_a_broken_folder_is_refused_and_a_killed_build_cleared_away(tmp_path: Path) -> None:
    folder = dataset_folder(SMALL, tmp_path)
    leftover = tmp_path / f".{folder.name}.partial-0" / "train"
    leftover.mkdir(parents=True)
    ensure_dataset(SMALL, tmp_path)
    assert not leftover.exists()
    (folder / "train" / "labels.npy").unlink()
    with pytest.raises(DataError, match="delete the folder and build it again"):
        ensure_dataset(SMALL, tmp_path)


def test_a_csv_is_built_and_a_missing_one_named(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_text(CSV)
    config = dataclasses.replace(SMALL, source="csv", train_csv=str(path), test_csv=str(path), num_train=1, num_test=1)
    assert len(ensure_dataset(config, tmp_path).train) == 1
    config.train_csv = str(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"data\.train_csv=.*gone\.csv: no such file\n  way out: set data\.train_csv="):
        ensure_dataset(config, tmp_path)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.name="):
        ensure_dataset(dataclasses.replace(SMALL, name="../x"), tmp_path)


def _build(root: str, results: multiprocessing.Queue[tuple[int, str]]) -> None:
    calls: list[int] = []
    dataset = ensure_dataset(SMALL, root, lambda done, total: calls.append(done))
    results.put((len(calls), dataset.info.fingerprint))


def test_two_processes_at_once_make_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_build, args=(str(tmp_path), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert sum(calls == 0 for calls, _ in found) == 1  # one built, the other waited
    assert len({fingerprint for _, fingerprint in found}) == 1
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [f"small-{build_key(SMALL)}"]
    Dataset.open(dataset_folder(SMALL, tmp_path)).check_fingerprint()
