"""`hrm-lab reproduce` with a real repository, a real SQLite store and real trainings, each in processes of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from safetensors.numpy import save_file

from hrm_lab.config import TrackingConfig
from hrm_lab.reproduce.child import quoted
from hrm_lab.reproduce.verdict import Difference, compare
from hrm_lab.tracking.journal import CLOCK
from hrm_lab.tracking.provenance import Provenance, differences
from hrm_lab.tracking.store import RunRecord, Store
from hrm_lab.weights import weights_hash

ROOT = Path(__file__).parents[1]
SMALL = [
    "+experiment=demo",
    "data.source=csv",
    "data.train_csv=train.csv",
    "data.test_csv=test.csv",
    "data.num_train=null",
    "data.num_test=null",
    "model.hidden_size=16",
    "model.halt_max_steps=2",
    "training.epochs=6",
    "training.eval_interval=2",
    "training.global_batch_size=8",
    "training.log_interval=2",
    "name=first",
]


class Lab:
    """A clone of the repository with uncommitted changes, and a folder in which one run has been trained and logged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone = folder, folder / "clone"
        self.outputs = folder / "outputs"
        copy_of_the_working_tree(self.clone)
        write_csv(folder / "train.csv", 0, 16)
        write_csv(folder / "test.csv", 16, 24)
        done = self.hrm_lab("train", *SMALL)
        assert done.returncode == 0, done.stderr
        (self.record,) = self.store().find("first")
        self.artifacts = self.outputs / "artifacts" / self.record.run_id / "artifacts"

    def hrm_lab(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A verb, with the clone's code."""
        code = os.pathsep.join([str(self.clone), str(self.clone / "launch")])
        return subprocess.run(
            [sys.executable, "-P", "-m", "hrm_lab.cli", *arguments],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
            | {"PYTHONPATH": code},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def reproduce(self, *arguments: str, status: int) -> subprocess.CompletedProcess[str]:
        """Do the run again."""
        done = self.hrm_lab("reproduce", *(arguments or [self.record.run_id]))
        assert done.returncode == status, done.stdout + done.stderr
        # No worktree is left behind, however it ended.
        assert len(_git(self.clone, "worktree", "list").splitlines()) == 1
        return done

    def store(self) -> Store:
        """The one that runs are logged to."""
        return Store.open(TrackingConfig(), self.outputs)

    def reproductions(self, tag: str) -> list[RunRecord]:
        """Runs that have a tag with the id of the first one, newest first."""
        store = self.store()
        query = f"tags.`{tag}` = '{self.record.run_id}'"
        ids = [run.info.run_id for run in store.client.search_runs([store.experiment_id], query)]
        return [record for run_id in ids for record in store.runs([run_id])]


def copy_of_the_working_tree(clone: Path) -> None:
    """A repository of what is here, with changes that are not committed: in a text, and in a new binary file."""
    names = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name, follow_symlinks=False)
    _git(clone, "init", "--quiet")
    _git(clone, "add", "--all", ".")
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    _git(clone, *author, "commit", "--quiet", "--no-verify", "-m", "all")
    with (clone / "hrm_lab/__init__.py").open("a") as file:
        file.write("# not committed\n")
    (clone / "crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    (clone / "zz.bin").write_bytes(bytes(range(256)))


def _git(folder: Path, *arguments: str) -> str:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(["git", *arguments], cwd=folder, env=variables, capture_output=True, text=True, check=True)
    return done.stdout


def write_csv(path: Path, first: int, last: int) -> None:
    """Some 4x4 puzzles: one grid under permutations of its digits, each with other cells left out.

    In later ones fewer are, so that they are no likes of the first ones up to symmetry.
    """
    rows = ["source,question,answer,rating"]
    for number, digits in list(enumerate(permutations("1234")))[first:last]:
        answer = "".join(digits[int(cell) - 1] for cell in "1234341221434321")
        question = "".join(
            "." if (place + number) % (4 if first else 3) == 0 else cell for place, cell in enumerate(answer)
        )
        rows.append(f"x,{question},{answer},{number}")
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """One for all tests of this module: they change what is logged, and change it back."""
    return Lab(tmp_path_factory.mktemp("lab"))


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    """A file in which somebody has written something else."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        yield
    finally:
        path.write_text(text)


def test_an_identical_run_is_called_identical_and_leaves_the_first_one_as_it_was(lab: Lab) -> None:
    store = lab.store()
    before = store.histories(lab.record.run_id)
    done = lab.reproduce("first", status=0)
    line = done.stdout.splitlines()[-1]
    assert line == f"identical: {sum(not key.startswith(CLOCK) for _, key in before)} values, weights equal"
    assert "and its logged patch" in done.stderr
    assert re.search(r"environment: the same \d+ packages", done.stderr)
    assert store.histories(lab.record.run_id) == before
    assert store.runs([lab.record.run_id]) == [lab.record]
    (again,) = lab.reproductions("hrm_lab.reproduces")
    assert (again.name, again.status) == ("reproduction of first", "FINISHED")
    assert again.tags["hrm_lab.verdict"] == line
    assert again.tags["hrm_lab.kind"] == "reproduction"
    assert again.tags["hrm_lab.weights_hash"] == lab.record.tags["hrm_lab.weights_hash"]
    assert again.params == lab.record.params
    assert [found.run_id for found in store.find(lab.record.tags["hrm_lab.signature"])] == [lab.record.run_id]
    values = store.histories(again.run_id)
    assert {key for key in values if not key[1].startswith(CLOCK)} == {
        key for key in before if not key[1].startswith(CLOCK)
    }
    assert (lab.outputs / "artifacts" / again.run_id / "artifacts/verdict.json").exists()
    (place,) = lab.outputs.glob("reproductions/*")
    assert json.loads((place / "verdict.json").read_text())["kind"] == "identical"
    assert not (place / "code").exists()


def test_a_stored_config_that_was_changed_is_noticed_and_gives_other_values(lab: Lab) -> None:
    with changed(lab.artifacts / "config/config.yaml", "lr: 0.002\n", "lr: 0.003\n"):
        done = lab.reproduce(status=1)
    assert "config was changed after the run: optim.lr=0.003, trained with 0.002" in done.stderr
    assert re.fullmatch(
        r"different: train/\w+ at step [24] was [\d.]+ and is [\d.]+ \(relative difference \S+\); "
        r"\d+ of \d+ values differ, weights differ",
        done.stdout.splitlines()[-1],
    )


def test_other_data_are_refused_and_the_file_is_named(lab: Lab) -> None:
    last = (lab.folder / "train.csv").read_text().splitlines()[-1]
    with changed(lab.folder / "train.csv", last, ""):
        done = lab.reproduce(status=2)
        assert "the data are not those of the run: fingerprint" in done.stderr
        assert lab.record.tags["hrm_lab.data_fingerprint"][:16] in done.stderr
        assert "data.train_csv=train.csv has sha256" in done.stderr
        assert "data.test_csv" not in done.stderr
        # The file that the run had may lie anywhere: that is no other run.
        write_csv(lab.folder / "moved.csv", 0, 16)
        done = lab.reproduce("first", "--steps", "2", "--set", "data.train_csv=moved.csv", status=0)
    assert done.stdout.startswith("identical:")


def test_a_key_that_nobody_knows_is_named(lab: Lab) -> None:
    with changed(lab.artifacts / "config/config.yaml", "optim:\n", "optim:\n  momentum: 0.9\n  nesterov: true\n"):
        done = lab.reproduce(status=2)
        for text in ("this version does not know optim.momentum, optim.nesterov; commit", "neither this version nor"):
            assert text in done.stderr
        done = lab.reproduce("first", "--current-code", status=2)
    assert "does not know optim.momentum, optim.nesterov of the run's config" in done.stderr
    assert "leave --current-code out" in done.stderr


def test_a_few_steps_of_it(lab: Lab) -> None:
    signature = lab.record.tags["hrm_lab.signature"]
    done = lab.reproduce(signature, "--steps", "3", "--current-code", status=0)
    line = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"identical: \d\d values, weights not compared \(stopped at step 4\)", line)


def test_the_same_but_is_recorded_as_derived(lab: Lab) -> None:
    done = lab.reproduce("first", "--set", "optim.lr=1e-3", status=0)
    line = done.stdout.splitlines()[-1]
    assert line.startswith("derived (optim.lr=1e-3): train/")
    (derived,) = lab.reproductions("hrm_lab.derived_from")
    assert "hrm_lab.reproduces" not in derived.tags
    assert derived.tags["hrm_lab.changes"] == "optim.lr=1e-3"
    assert derived.params["optim.lr"] == "0.001"
    refused = lab.reproduce("first", "--set", "optim.lrr=1", status=2)
    assert "did you mean optim.lr?" in refused.stderr


def test_what_cannot_be_found_is_said_with_a_way_out(lab: Lab) -> None:
    assert "has no run of this id, signature or name" in lab.reproduce("nope", status=2).stderr
    commit = json.loads((lab.artifacts / "code/provenance.json").read_text())["commit"]
    with changed(lab.artifacts / "code/provenance.json", commit, "0123456789" * 4):
        done = lab.reproduce(status=2)
    assert "commit 012345678901 of the run is not in" in done.stderr
    assert "git fetch" in done.stderr


def test_values_are_compared_to_the_last_bit_and_both_ways() -> None:
    nan, inf = float("nan"), float("inf")
    then = {(1, "a"): 0.1 + 0.2, (1, "b"): nan, (2, "a"): sys.float_info.max, (2, "b"): 1.0}
    now = {(1, "a"): 0.3, (1, "b"): nan, (2, "a"): inf, (3, "a"): 1.0}
    found = compare(then, now, None)
    assert found.total == 5
    assert found.differences == [
        Difference(1, "a", 0.1 + 0.2, 0.3),
        Difference(2, "b", 1.0, None),
        Difference(3, "a", None, 1.0),
    ]
    # Stopped at step 2, before it had written all of that step; what lies beyond is not compared.
    stopped = {key: then[key] for key in [(1, "a"), (1, "b"), (2, "a")]}
    assert compare(then | {(3, "a"): 1.0}, stopped, 2).differences == []
    # With a later step there, step 2 was whole.
    assert len(compare(then | {(3, "a"): 1.0}, stopped | {(3, "a"): 1.0}, 2).differences) == 1


def test_the_hash_of_weights_is_that_of_the_tensors(tmp_path: Path) -> None:
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2, np.float32)}
    hashes = []
    for number, (some, metadata) in enumerate(
        [
            (tensors, None),
            (dict(reversed(tensors.items())), {"made": "by hand"}),
            (tensors | {"b": tensors["b"].reshape(3, 2)}, None),
            (tensors | {"a": tensors["a"].view(np.int32)}, None),
        ]
    ):
        save_file(some, tmp_path / f"{number}.safetensors", metadata)
        hashes.append(weights_hash(tmp_path / f"{number}.safetensors"))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_only_what_can_change_a_result_is_a_difference_of_environments() -> None:
    facts = {"commit": "", "branch": "", "tree": "", "diff": "", "python": "3.11.7", "host": "a", "platform": "Linux"}
    old = Provenance(**facts, packages={"torch": "2.11.0", "hydra_core": "1.3.8", "pip": "1"})  # as it once was logged
    new = Provenance(**(facts | {"python": "3.12.1"}), packages={"torch": "2.12.0", "hydra-core": "1.3.8"}, cpu="x")
    assert differences(old.to_dict(), new.to_dict()) == [("Python", "3.11.7", "3.12.1"), ("torch", "2.11.0", "2.12.0")]


@pytest.mark.parametrize("text", ["/a b/c,d=1", "it's", "back\\slash", "both\\'", "#1 {x} [y]"])
def test_any_path_can_be_an_override(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"paths.data={quoted(text)}"])
    assert OmegaConf.create({"x": override.value()}).x == text
