"""One folder for one content: the key follows the bytes, and several builders at once make one dataset."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hrm_lab.compose import compose_config
from hrm_lab.data.build import build_key, dataset_folder, ensure_dataset
from hrm_lab.data.format import Dataset
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.errors import DataError

SMALL = SudokuDataConfig(name="small", box_rows=2, box_cols=2, num_train=30, num_test=10, num_blanks=8)
CSV = "source,question,answer,rating\ns,.234341221434321,1234341221434321,3\n"
OTHER_CSV = CSV.replace(",.234", ",..34")


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


def test_a_sweep_over_the_augmentation_factor_has_one_dataset() -> None:
    experiment = ["+experiment=sudoku_hard", "data.train_csv=train.csv", "data.test_csv=test.csv"]
    points = [compose_config([*experiment, f"data.num_augmentations={factor}"]).data for factor in (0, 10, 100, 1000)]
    for point in points:
        assert isinstance(point, SudokuDataConfig)
        point.source = "generated"  # the files are not here, and decide the key alike
    assert len({build_key(point) for point in points}) == 1


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
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text(CSV)
    test.write_text(OTHER_CSV)
    config = dataclasses.replace(SMALL, source="csv", train_csv=str(train), test_csv=str(test), num_train=1, num_test=1)
    assert len(ensure_dataset(config, tmp_path).train) == 1
    config.train_csv = str(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"data\.train_csv=.*gone\.csv: no such file\n  way out: set data\.train_csv="):
        ensure_dataset(config, tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", ".x", "", "a\0b", "a\nb", "x" * 101, "-"])
def test_what_is_no_name_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"data\.name=.*is no name of a folder"):
        ensure_dataset(dataclasses.replace(SMALL, name=name), tmp_path)
    assert not list(tmp_path.iterdir())


BUILD = """
import os, resource, signal, sys
from hrm_lab.data import on_disk
from hrm_lab.data.build import ensure_dataset
from hrm_lab.errors import DataError
from tests.data.test_build import SMALL
moments = 0
def die(moment):
    if moment == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(function):
    def call(*arguments):
        global moments
        moments += 1
        result = function(*arguments)
        die(f"file {moments}")
        return result
    return call
on_disk.begin_array, os.fsync = counted(on_disk.begin_array), counted(os.fsync)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    ensure_dataset(SMALL, sys.argv[1], lambda done, total: die(f"puzzle {done}"))
except DataError as error:
    sys.exit(str(error))
"""


def build_elsewhere(root: Path, killed_at: str = "", file_size: int = -1) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which is killed at a puzzle or a file (begun, or forced to disk)."""
    command = [sys.executable, "-c", BUILD, str(root), killed_at, str(file_size)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("killed_at", ["puzzle 10", "puzzle 40", "file 1", "file 9", "file 15", "file 26"])
def test_a_build_that_is_killed_anywhere_is_done_by_the_next(tmp_path: Path, killed_at: str) -> None:
    assert build_elsewhere(tmp_path, killed_at).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*partial*"))) == killed_at.startswith("file")
    assert not dataset_folder(SMALL, tmp_path).exists()
    dataset = ensure_dataset(SMALL, tmp_path)
    dataset.check_fingerprint()
    assert not list(tmp_path.glob("*partial*"))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    done = build_elsewhere(tmp_path, file_size=500)
    assert done.returncode == 1
    assert "cannot be written: [Errno 27] File too large" in done.stderr
    assert "paths.data=FOLDER" in done.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    ensure_dataset(SMALL, tmp_path)


def test_a_data_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"paths\.data=.*file.*cannot be written: .*\n  way out: set paths\.data="):
        ensure_dataset(SMALL, tmp_path / "file")


def test_a_lock_that_nobody_holds_is_no_obstacle(tmp_path: Path) -> None:
    folder = dataset_folder(SMALL, tmp_path)
    (tmp_path / f".{folder.name}.lock").write_text("12345")
    assert ensure_dataset(SMALL, tmp_path).folder == folder


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
