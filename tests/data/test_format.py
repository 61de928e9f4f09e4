"""A dataset folder is whole or refused, and its fingerprint says whether it is the same data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hrm_lab.data.format import Dataset, DatasetInfo, Split, fingerprint, write_dataset
from hrm_lab.errors import DataError

INFO = DatasetInfo(
    task="toy",
    name="toy",
    vocab_size=6,
    seq_len=4,
    pad_id=0,
    ignore_label_id=0,
    blank_identifier_id=0,
    num_puzzle_identifiers=3,
    grid_shape=(2, 2),
    test_sets=("all", "hard"),
    task_facts={"box_rows": 1},
)


def split(size: int = 4, offset: int = 1) -> Split:
    tokens = (np.arange(size * 4, dtype=np.uint8).reshape(size, 4) % 5) + np.uint8(offset)
    puzzles = np.array([0, 1, size - 1, size], np.int64)  # the second one has several examples, unless size is 3
    return Split(tokens, tokens, np.arange(3, dtype=np.int32), puzzles, np.array([0, 1, 3], np.int64))


def write(folder: Path, info: DatasetInfo = INFO) -> Dataset:
    return write_dataset(folder, info, split(), {"all": split(3), "hard": split(5)})


def test_what_is_written_is_opened(tmp_path: Path) -> None:
    written = write(tmp_path / "deep" / "toy")
    opened = Dataset.open(tmp_path / "deep" / "toy")
    opened.check_fingerprint()
    assert opened.info == written.info
    assert opened.info.counts["test/hard"] == {"examples": 5, "puzzles": 3, "groups": 2}
    assert len(opened.train) == 4
    assert opened.train.num_groups == 2
    assert list(opened.test) == ["all", "hard"]
    assert np.array_equal(opened.test["hard"].labels, split(5).labels)
    assert isinstance(opened.train.inputs, np.memmap)
    assert not opened.train.inputs.flags.writeable
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["toy"]


def test_fingerprint_covers_the_data_and_not_its_name() -> None:
    test = {"all": split(3), "hard": split(5)}
    base = fingerprint(INFO, split(), test)
    renamed = dataclasses.replace(INFO, name="other", build={"seed": 1}, counts={"train": {}})
    assert fingerprint(renamed, split(), test) == base
    others = [
        fingerprint(dataclasses.replace(INFO, vocab_size=7), split(), test),
        fingerprint(dataclasses.replace(INFO, task_facts={"box_rows": 2}), split(), test),
        fingerprint(INFO, split(offset=0), test),
        fingerprint(INFO, split(), {"all": test["hard"], "hard": test["all"]}),
    ]
    assert len({base, *others}) == 5


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    first = write(tmp_path / "toy")
    second = write_dataset(tmp_path / "toy", INFO, split(6), {"all": split(), "hard": split()})
    assert second.info == first.info
    assert len(list(tmp_path.iterdir())) == 1


def test_contradicting_arrays_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hold token 6, the vocabulary has 6"):
        write_dataset(tmp_path / "toy", INFO, split(offset=2), {"all": split(), "hard": split()})
    assert not list(tmp_path.iterdir())


def edit_json(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def save(folder: Path, name: str, array: object) -> None:
    np.save(folder / name, np.asarray(array), allow_pickle=True)


def truncate(folder: Path, name: str, size: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:size])


BREAKAGES = {
    "half-built": (lambda f: (f / "dataset.json").unlink(), "has no dataset.json"),
    "missing array": (lambda f: (f / "test/hard/labels.npy").unlink(), r"has no test/hard/labels\.npy"),
    "truncated": (lambda f: truncate(f, "train/inputs.npy", 130), r"train/inputs\.npy is cut off"),
    "empty": (lambda f: truncate(f, "train/inputs.npy", 0), r"train/inputs\.npy is cut off"),
    "zip": (lambda f: (f / "train/inputs.npy").write_bytes(b"PK\x03\x04x"), r"train/inputs\.npy is cut off"),
    "pickle": (lambda f: save(f, "train/labels.npy", [{}]), r"train/labels\.npy is cut off or no array"),
    "dtype": (lambda f: save(f, "train/labels.npy", np.ones((4, 4), np.int64)), "train/labels is int64"),
    "shape": (lambda f: save(f, "train/labels.npy", np.ones((3, 4), np.uint8)), "train/labels is uint8 .3, 4."),
    "no axis": (lambda f: save(f, "train/inputs.npy", np.uint8(1)), "train/inputs is uint8"),
    "token": (lambda f: save(f, "train/inputs.npy", np.full((4, 4), 9, np.uint8)), "token 9"),
    "identifier": (lambda f: save(f, "train/puzzle_identifiers.npy", np.full(3, 3, np.int32)), "leave 0..2"),
    "falling offsets": (lambda f: save(f, "train/group_offsets.npy", np.array([0, 5, 3])), "do not rise from 0 to 3"),
    "short offsets": (lambda f: save(f, "train/puzzle_offsets.npy", np.array([0, 1, 2, 3])), "do not rise from 0 to 4"),
    "counts": (lambda f: save(f, "test/all/group_offsets.npy", np.array([0, 3])), "dataset.json says"),
    "no JSON": (lambda f: truncate(f, "dataset.json", 40), "dataset.json cannot be read"),
    "a list": (lambda f: (f / "dataset.json").write_text("[]"), "no JSON object"),
    "version": (lambda f: edit_json(f, format_version=99), "format version 99, this program reads 2"),
    "unknown key": (lambda f: edit_json(f, colour=1), "should not have: colour"),
    "wrong type": (lambda f: edit_json(f, seq_len="4"), "seq_len='4'"),
    "way outside": (lambda f: edit_json(f, test_sets=["../../x"]), "test_sets="),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "toy"
    write(folder)
    breakage, message = BREAKAGES[name]
    breakage(folder)
    with pytest.raises(DataError, match=message) as error:
        Dataset.open(folder)
    assert str(folder) in str(error.value)
    assert "hrm-lab data" in str(error.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Dataset.open(tmp_path / "toy")


@pytest.mark.parametrize(("name", "value"), [("train/inputs.npy", 2), ("test/hard/labels.npy", 4)])
def test_a_flipped_byte_is_found(tmp_path: Path, name: str, value: int) -> None:
    write(tmp_path / "toy")
    data = bytearray((tmp_path / "toy" / name).read_bytes())
    assert data[-1] != value
    data[-1] = value  # a token of the vocabulary, so that only the fingerprint can tell
    (tmp_path / "toy" / name).write_bytes(data)
    dataset = Dataset.open(tmp_path / "toy")
    with pytest.raises(DataError, match="bytes changed"):
        dataset.check_fingerprint()
