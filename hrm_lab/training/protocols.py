"""What the trainer asks of its surroundings. It knows these shapes and nothing of MLflow, SLURM or terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Protocol

from numpy.typing import NDArray

from hrm_lab.decision import Decision


class Leave(IntEnum):
    """What a process wants of the training, asked after every step; the most urgent wish of all processes counts."""

    NO = 0
    AFTER_EVALUATING = 1  # its budget is spent: judged once more, and done
    AFTER_SAVING = 2
    AT_ONCE = 3  # and without a word: somebody else trains this run now


class Left(Exception):
    """The training was left before its end."""

    def __init__(self, step: int, saved: bool) -> None:
        self.step, self.saved = step, saved
        super().__init__(f"left after step {step}" + (", saved" if saved else ""))


class Control(Protocol):
    """What may end a training from outside, and who may write."""

    def wish(self) -> Leave:
        """Asked after every step, on every process."""

    def check(self) -> None:
        """Called on the main process right before anything is written; raises when nothing may be any more."""


class Uncontrolled:
    """Nobody interferes."""

    def wish(self) -> Leave:
        """Go on."""
        return Leave.NO

    def check(self) -> None:
        """Write."""


class Viewer(Protocol):
    """Shows what the run has to say. Called on the main process only."""

    def start(self, step: int, total_steps: int) -> None:
        """Training begins, or goes on after a checkpoint of `step`; later steps will come again."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name (`train/lm_loss`, `eval/exact_accuracy`, `perf/samples_per_s`, ...) after `step` steps."""

    def tick(self, step: int) -> None:
        """One more step is done; nothing to record, but something to show."""


class Recorder(Protocol):
    """Takes what the run has to say, and keeps it. Called on the main process only, with steps that never decrease."""

    def start(self, step: int, total_steps: int, high_water: int | None) -> None:
        """Training begins, or goes on: what was recorded beyond the checkpoint's high water will come again."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """As for a Viewer."""

    def arrays(self, step: int, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """What is too much for metrics: arrays by name, kept as one file in the folder `name`."""

    def file(self, step: int, place: str) -> None:
        """A file that has been written into the run's folder, by its place there."""

    def decision(self, decision: Decision) -> None:
        """What was decided about the run, and on what evidence."""

    def tick(self, step: int) -> None:
        """As for a Viewer."""

    def high_water(self) -> int:
        """How much is recorded so far. A checkpoint holds it."""

    def sync(self) -> None:
        """Wait until the disk has all of it. Called from another thread, before a checkpoint gets its name."""


class Unrecorded:
    """A Recorder that keeps nothing."""

    def start(self, step: int, total_steps: int, high_water: int | None) -> None:
        """No."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """No."""

    def arrays(self, step: int, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """No."""

    def file(self, step: int, place: str) -> None:
        """No."""

    def decision(self, decision: Decision) -> None:
        """No."""

    def tick(self, step: int) -> None:
        """No."""

    def high_water(self) -> int:
        """Nothing."""
        return 0

    def sync(self) -> None:
        """Nothing to wait for."""


class Stopper(Protocol):
    """Decides after each evaluation whether the run goes on. Its state is part of every checkpoint.

    Asked on the main process only; the others are given its answer and its state.
    """

    def is_spent(self, step: int, seconds: float, gpu_seconds: float) -> bool:
        """Whether the run's budget of any kind is used up, so that it is to be evaluated now. Asked after every step.

        Args:
            seconds, gpu_seconds: of all attempts, as the checkpoints know them: what a kill has lost is not in them.
        """

    def update(self, step: int, values: Mapping[str, float], is_last: bool) -> Sequence[Decision]:
        """What is decided after the evaluation at `step`; one that stops ends the run.

        Args:
            values: of this evaluation, with the watched means of the training since the one before, and perf/wall_s,
                perf/gpu_s.
            is_last: no step is left: the run is complete, and there is nothing to stop.
        """

    def revive(self, step: int) -> Decision | None:
        """The decision that a run which was stopped at `step` goes on after all; None leaves it stopped."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
