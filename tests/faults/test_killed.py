"""Killed is the same as never killed: `kill -9` at random moments, in real processes, until the run is done.

HRM_FAULT_TRIALS says how many runs are tried (default 20), HRM_FAULT_SEED where the dice begin (default 0).
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from hrm_lab.run_folder import COMPLETED, RunFolder
from hrm_lab.tracking.store import Store
from tests.faults.results import assert_same, results
from tests.preloaded import start
from tests.small import free_port

TRIALS = int(os.environ.get("HRM_FAULT_TRIALS", "20"))
SEED = int(os.environ.get("HRM_FAULT_SEED", "0"))
# The demo's model and rates, on few steps: two iterations of 15, a checkpoint every third and after each evaluation.
DEMO = ["+experiment=demo", "data.num_test=32", "training.epochs=2", "training.eval_interval=1"]
DEMO += ["training.checkpoint_interval=3", "training.log_interval=2"]
KILLS = 3  # at most, so that a trial comes to an end
DEADLINE_S = 120.0
PEER_S = 10.0  # how long processes may take to find out that one is gone, before they are ended, as srun does


@dataclass
class Run:
    """A training of the demo model in a folder of its own."""

    outputs: Path
    data: Path
    words: tuple[str, ...] = ("tracking=none",)
    world_size: int = 1

    def start(self) -> list[ForkServerProcess]:
        """The command that a user gives, in so many processes."""
        paths = [f"paths.outputs={self.outputs}", f"paths.data={self.data}"]
        words = ["train", *DEMO, *self.words, *paths]
        several = {"WORLD_SIZE": str(self.world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.outputs.mkdir(exist_ok=True)
        processes = []
        for rank in range(self.world_size):
            variables = os.environ | several | {"RANK": str(rank)}
            processes.append(start(self.outputs, words, self.said, environment=variables))
        return processes

    @property
    def said(self) -> Path:
        return self.outputs / "output.txt"

    def train(self) -> None:
        """To the end."""
        for process in self.start():
            process.join(DEADLINE_S)
            assert process.exitcode == 0, self.said.read_text()

    @property
    def folder(self) -> RunFolder:
        (path,) = (self.outputs / "runs").iterdir()
        return RunFolder(path)


class Killer:
    """Kills a training at a random moment: some time after its start, or in the middle of a save."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.story: list[str] = []

    def strike(self, run: Run, processes: list[ForkServerProcess]) -> bool:
        """Whether it was killed before it was done."""
        if self.dice.random() < 0.5:
            how = "at a random moment"
            until = time.monotonic() + self.dice.uniform(0.2, 3.0)
            while time.monotonic() < until and any(p.is_alive() for p in processes):
                time.sleep(0.005)
        else:
            how = "in the middle of a save"
            for _ in range(self.dice.randint(1, 3)):
                self._wait_for_a_save(run, processes)
            time.sleep(self.dice.uniform(0, 0.02))
        victims = [p for p in processes if p.is_alive()]
        if not victims:
            return False
        if len(victims) > 1 and self.dice.random() < 0.5:
            victims = [self.dice.choice(victims)]  # the others must find out by themselves
        for victim in victims:
            victim.kill()
        self.story.append(f"killed {len(victims)} of {len(processes)} {how}")
        for process in processes:
            process.join(PEER_S)
            if process.is_alive():  # it waits for one that died before they had met
                process.kill()
                process.join()
        return True

    def _wait_for_a_save(self, run: Run, processes: list[ForkServerProcess]) -> None:
        """A new one begins, or the training ends."""
        saving = set(run.outputs.glob("runs/*/checkpoints/.saving_*"))
        while any(p.is_alive() for p in processes):
            if set(run.outputs.glob("runs/*/checkpoints/.saving_*")) - saving:
                return
            time.sleep(0.0005)


def train_under_fire(run: Run, dice: random.Random) -> list[str]:
    """Start it, kill it, again and again, and at last let it come to its end; what was done to it."""
    killer = Killer(dice)
    kills = dice.randint(1, KILLS)
    while len(killer.story) < kills and killer.strike(run, run.start()):
        pass
    run.train()
    return killer.story


def try_out(kind: str, trials: int, scratch: Path, check: Callable[[Run], None], **settings: Any) -> None:
    """Many trials, as many at a time as there are cores for; the first that fails is told with its dice."""

    stories: list[str] = []

    def one(trial: int) -> None:
        run = Run(scratch / f"{kind}_{trial}", scratch / "data", **settings)
        story = train_under_fire(run, random.Random(f"{SEED}/{kind}/{trial}"))
        try:
            assert run.folder.status == COMPLETED
            check(run)
        except AssertionError as error:
            raise AssertionError(f"HRM_FAULT_SEED={SEED}, {kind} trial {trial}: {story}; see {run.outputs}") from error
        stories.extend(story)
        shutil.rmtree(run.outputs)  # what failed is left to be looked at
        print(f"{kind} trial {trial}: same after it was", ", ".join(story) or "left alone")

    at_once = max(1, (os.cpu_count() or 1) // settings.get("world_size", 1))
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(one, trial) for trial in range(trials)]:
            done.result()
    assert trials < 5 or len(stories) >= trials  # dice that kill nobody show nothing
    assert trials < 10 or any("in the middle of a save" in how for how in stories)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def undisturbed(scratch: Path) -> dict[str, Any]:
    run = Run(scratch / "undisturbed", scratch / "data")
    run.train()
    return results(run.folder)


def test_killed_is_the_same_as_never_killed(scratch: Path, undisturbed: dict[str, Any]) -> None:
    try_out("alone", TRIALS, scratch, lambda run: assert_same(undisturbed, results(run.folder)))


def test_the_same_with_two_processes(scratch: Path, undisturbed: dict[str, Any]) -> None:
    run = Run(scratch / "two_undisturbed", scratch / "data", world_size=2)
    run.train()
    expected = results(run.folder)
    assert [step for step, _, _ in expected["metrics"]] == [step for step, _, _ in undisturbed["metrics"]]
    try_out("two", max(1, TRIALS // 4), scratch, lambda run: assert_same(expected, results(run.folder)), world_size=2)


def test_the_same_where_the_end_is_judged_on_more_than_the_way(scratch: Path) -> None:
    words = ("tracking=none", "training.eval_puzzles=8")
    run = Run(scratch / "part_undisturbed", scratch / "data", words)
    run.train()
    expected = results(run.folder)
    final = [key for _, key, _ in expected["metrics"] if key.startswith("final")]
    assert "final/accuracy" in final
    assert len(final) == len(set(final))
    try_out("part", max(1, TRIALS // 10), scratch, lambda run: assert_same(expected, results(run.folder)), words=words)


def test_mlflow_holds_every_value_once(scratch: Path, undisturbed: dict[str, Any]) -> None:
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, key, value in undisturbed["metrics"]:
        expected.setdefault(key, []).append((step, value))

    def check(run: Run) -> None:
        store = Store.open(run.folder.config().tracking, run.outputs)
        assert run.folder.run_id is not None
        assert {key: store.history(run.folder.run_id, key) for key in expected} == expected

    try_out("mlflow", max(1, TRIALS // 10), scratch, check, words=())
