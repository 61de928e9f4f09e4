"""The folder of one run: what lies where, and its state in words.

config.json      resolved config              checkpoints/       newest first
point.json       label, overrides, sweep      best.safetensors   weights of the best evaluation
state.json       status and why               last.safetensors   weights at the end
journal.jsonl    every metric                 log.txt            what the run had to say
attempts/        one file per process life    provenance.json    code, packages, machine
tracking.json    its run in MLflow            dataset.json       what it was trained on
system.jsonl     CPU, memory, GPU             evaluations/       what each evaluation saw, as arrays
siblings.json    the last comparison's        promotion.json     why it goes on after it was stopped
beginning.json   what tells it from others    data/dataset.json  what that says of itself
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hrm_lab import config as schema
from hrm_lab.attempts import Attempts
from hrm_lab.config import Config
from hrm_lab.data.format import Dataset
from hrm_lab.decision import Promotion
from hrm_lab.errors import RunError
from hrm_lab.files import write_json
from hrm_lab.signature import signature
from hrm_lab.tracking.provenance import Provenance, collect

# What a run writes of itself ...
PENDING, RUNNING, COMPLETED, STOPPED, FAILED = "PENDING", "RUNNING", "COMPLETED", "STOPPED", "FAILED"
INTERRUPTED = "INTERRUPTED"  # it saved and left, because a person or SLURM asked it to
# ... and what others find out about it.
PREEMPTED, CANCELLED, TIMEOUT, LOST = "PREEMPTED", "CANCELLED", "TIMEOUT", "LOST"
FINISHED = (COMPLETED, STOPPED)
ENDED = (*FINISHED, FAILED)  # by its own word


@dataclass(frozen=True)
class Point:
    """How a run came to be asked for: its name in its sweep, the overrides that make it, and the sweep, if any.

    One that was given to SLURM has a submission (its folder) and is one of the points of one of its tasks.
    """

    label: str
    overrides: list[str] = field(default_factory=list)
    sweep: str | None = None
    submission: str | None = None
    task: int = 0


@dataclass(frozen=True)
class State:
    """Where a run stands. `detail` is why it failed or stopped early; `best_value` the best of the watched metric."""

    status: str
    detail: str = ""
    best_value: float | None = None
    best_step: int | None = None


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The folder that belongs to a config: OUTPUTS/runs/SIGNATURE."""
        return cls(Path(config.paths.outputs).resolve() / "runs" / signature(config))

    def prepare(self, config: Config, point: Point) -> None:
        """Make the folder and write down what is to be run. Settings that cannot change the result may differ."""
        self.path.mkdir(parents=True, exist_ok=True)
        keep_out_of_git(self.path.parents[1])
        write_json(self.path / "config.json", schema.to_dict(config))
        write_json(self.path / "point.json", asdict(point))
        if self.state is not None:
            self.state = State(PENDING)

    def config(self) -> Config:
        """The resolved config."""
        loaded: Config = schema.from_dict(self._read("config.json"))
        return loaded

    def point(self) -> Point:
        """Label, overrides and sweep."""
        return Point(**self._read("point.json"))

    @property
    def state(self) -> State | None:
        """The state that was last written, or None for a run that never began. A dead process may have left RUNNING."""
        if not (self.path / "state.json").exists():
            return None
        return State(**self._read("state.json"))

    @state.setter
    def state(self, state: State) -> None:
        write_json(self.path / "state.json", asdict(state))

    def true_state(self) -> State:
        """Where it stands as far as files tell: its own word, unless that says that it runs and nobody runs it."""
        state = self.state
        if state is not None and state.status in ENDED:
            return state
        if self.attempts.is_alive():
            return State(RUNNING)
        state = self.state  # it may have ended while it was looked at
        if state is None:
            return State(PENDING)
        if state.status == RUNNING:
            return State(LOST, "its process is gone; `hrm-lab resume` goes on")
        return replace(state, status=PREEMPTED) if state.status == INTERRUPTED else state

    @property
    def status(self) -> str:
        """The status that was last written; empty for a run that never began."""
        state = self.state
        return state.status if state is not None else ""

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to tell of it: not while it waits to begin, or to go on."""
        return self.status not in ("", PENDING) and (self.path / "provenance.json").exists()

    @property
    def journal(self) -> Path:
        """Every metric, a line of JSON for each call."""
        return self.path / "journal.jsonl"

    @property
    def system(self) -> Path:
        """What was seen of the machine meanwhile, in the journal's form."""
        return self.path / "system.jsonl"

    @property
    def log(self) -> Path:
        """Plain lines."""
        return self.path / "log.txt"

    @property
    def attempts(self) -> Attempts:
        """The processes that trained it, and the one that does."""
        return Attempts(self.path)

    @property
    def newest_step(self) -> int:
        """Step of the newest checkpoint; 0 where there is none."""
        try:
            return int(json.loads((self.path / "checkpoints/newest.json").read_text())["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    @property
    def promotion(self) -> Promotion | None:
        """That it goes on from where a comparison has stopped it, once somebody has said so."""
        return Promotion(**self._read("promotion.json")) if (self.path / "promotion.json").exists() else None

    def promote(self, promotion: Promotion) -> None:
        """Have it go on the next time that it is run."""
        write_json(self.path / "promotion.json", asdict(promotion), durable=True)
        self.state = State(PENDING, promotion.reason)

    def take_back(self, stopped: State) -> None:
        """The promotion: it stays stopped."""
        (self.path / "promotion.json").unlink()
        self.state = stopped

    def write_provenance(self) -> None:
        """Write down the code and the packages of this process, unless the run goes on from an earlier one's.

        A run that begins afresh is another one to whoever follows it: nothing of the earlier attempt's journal is left
        when it gets its new beginning.
        """
        goes_on = any(not path.name.startswith(".") for path in (self.path / "checkpoints").glob("*"))
        if not goes_on:
            self.journal.unlink(missing_ok=True)
        if not goes_on or not (self.path / "provenance.json").exists():
            write_json(self.path / "provenance.json", collect().to_dict())
        if not goes_on:
            folder, _, number = self.beginning.partition("/")
            beginning = f"{folder or uuid.uuid4().hex[:16]}/{int(number or 0) + 1}"
            write_json(self.path / "beginning.json", {"beginning": beginning})

    @property
    def beginning(self) -> str:
        """FOLDER/NUMBER: a random name of this very folder, and how often the run has begun; empty before it has."""
        place = self.path / "beginning.json"
        return str(self._read(place.name)["beginning"]) if place.exists() else ""

    def provenance(self) -> Provenance:
        """Where the run comes from."""
        return Provenance(**self._read("provenance.json"))

    def write_dataset(self, dataset: Dataset) -> None:
        """Write down what the run is trained on."""
        info = dataset.info
        facts = {"name": info.name, "fingerprint": info.fingerprint, "counts": info.counts}
        write_json(self.path / "dataset.json", facts | {"folder": str(dataset.folder.resolve())})
        self.dataset_copy.parent.mkdir(exist_ok=True)
        write_json(self.dataset_copy, asdict(info))

    @property
    def dataset_copy(self) -> Path:
        """What the dataset says of itself, for whoever does not see its folder."""
        return self.path / "data" / "dataset.json"

    def dataset_info(self) -> dict[str, Any] | None:
        """Name, fingerprint, counts and folder of the dataset, once the run has opened it."""
        return self._read("dataset.json") if (self.path / "dataset.json").exists() else None

    @property
    def tracked(self) -> dict[str, Any] | None:
        """URI of the MLflow store and the run's id there, once it has one."""
        return self._read("tracking.json") if (self.path / "tracking.json").exists() else None

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run."""
        tracked = self.tracked
        return tracked["run_id"] if tracked else None

    def _read(self, name: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path / name}: cannot be read ({error})\n  way out: delete the run folder and train again"
            ) from None
        return values


def keep_out_of_git(outputs: Path) -> None:
    """What runs leave is no part of the code, wherever in a checkout it lies: a snapshot must not copy it."""
    if not (outputs / ".gitignore").exists():
        (outputs / ".gitignore").write_text("*\n")
