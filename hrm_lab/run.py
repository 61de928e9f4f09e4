"""One resolved config -> one tracked run: where the trainer, the tracker and the run's folder meet.

Safe to call again on the same folder: it goes on from the newest checkpoint, in the same MLflow run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from hrm_lab import config as schema
from hrm_lab.config import Config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.format import Dataset
from hrm_lab.run_folder import COMPLETED, FAILED, FINISHED, INTERRUPTED, RUNNING, STOPPED, Point, RunFolder, State
from hrm_lab.tracking import provenance
from hrm_lab.tracking.recorder import Journal, TrackingRecorder
from hrm_lab.tracking.store import REASON, SIGNATURE, SWEEP, Store
from hrm_lab.training.protocols import Recorder

if TYPE_CHECKING:
    from hrm_lab.training.trainer import Trainer

log = logging.getLogger("hrm_lab")
MAX_TAG = 5000  # characters of a tag that every MLflow store takes
MLFLOW_STATUS = {COMPLETED: "FINISHED", STOPPED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}


def is_main_process() -> bool:
    """Whether this process logs and writes (torch.distributed's rank 0, or the only one)."""
    return int(os.environ.get("RANK", 0)) == 0


class Recorders:
    """Hands everything on to several recorders."""

    def __init__(self, recorders: Sequence[Recorder]) -> None:
        self.recorders = recorders

    def start(self, step: int, total_steps: int) -> None:
        """To each of them."""
        for recorder in self.recorders:
            recorder.start(step, total_steps)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """To each of them."""
        for recorder in self.recorders:
            recorder.metrics(step, values)

    def tick(self, step: int) -> None:
        """To each of them."""
        for recorder in self.recorders:
            recorder.tick(step)


def run(config: Config, folder: RunFolder, shown: Recorder) -> State:
    """Train a config in its folder to its end, and track it.

    Every process of a distributed run calls this; only the main one locks, logs and writes.

    Args:
        shown: what a person gets to see of it.

    Raises:
        RunError: when another process is at it; and whatever the training raised, after writing it down.
    """
    # Torch takes seconds to import, so a config that is refused must not wait for it.
    from hrm_lab.stopping.patience import Patience
    from hrm_lab.training.distributed import connect
    from hrm_lab.training.trainer import Trainer

    schema.validate(config)
    # First of all: a wrong device is no run that failed, and a process that is alone later is noticed by its peers.
    ranks = connect(config.training)
    if not is_main_process():
        ranks.wait()  # the main process builds the data
        dataset = ensure_dataset(config.data, config.paths.data)
        Trainer(config, dataset, folder.path, Recorders([]), Patience(config.stopping), ranks).fit()
        ranks.close()
        return State(COMPLETED)

    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        done = folder.state
        if done is not None and done.status in FINISHED and int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return done  # by another process, while this one was on its way (several would wait for each other)
        stack.enter_context(_log_file(folder.log))
        tracked = stack.enter_context(_tracked(folder, config))
        dataset = ensure_dataset(config.data, config.paths.data)
        ranks.wait()
        tracked.describe_data(dataset)
        recorder = TrackingRecorder(
            Journal(folder.journal), tracked.store, tracked.run_id, config.tracking.flush_interval
        )
        stack.callback(recorder.close)
        trainer = Trainer(config, dataset, folder.path, Recorders([recorder, shown]), Patience(config.stopping), ranks)
        stack.enter_context(_leave_after_a_step(trainer))
        outcome = trainer.fit()
        ranks.close()
        log.info("done after step %d: %s", outcome.step, outcome.stopped or "the last epoch is trained")
        recorder.close()
        try:
            tracked.store_results(outcome.best_step)
        except Exception as error:  # the training itself is whole, and its files lie in the folder
            log.warning("weights and pictures could not be stored as artifacts: %s", error)
        tracked.finish(STOPPED if outcome.stopped else COMPLETED, outcome.stopped or "", outcome.best_value)
        assert folder.state is not None
        return folder.state


@contextmanager
def _leave_after_a_step(trainer: Trainer) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the training at the next step, with a checkpoint; a second one at once.

    Several processes would have to agree on the step, so there the first signal ends them, and the last checkpoint
    is what they go on from.
    """

    def ask(*_: object) -> None:
        if trainer.interrupted or trainer.ranks.world_size > 1:
            raise KeyboardInterrupt
        trainer.interrupted = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _TrackedRun:
    """The MLflow side of a run folder; without a store it only keeps the folder's state."""

    def __init__(self, folder: RunFolder, config: Config) -> None:
        self.folder, self.config, self.point = folder, config, folder.point()
        self.store: Store | None = None
        self.run_id: str | None = None
        if config.tracking.enabled:
            self.store = Store.open(config.tracking, Path(config.paths.outputs))
            self.run_id = self._find_or_create(self.store)
            self.store.set_status(self.run_id, "RUNNING")
            self.store.delete_tag(self.run_id, REASON)  # an earlier attempt's
        folder.state = State(RUNNING, self.run_id)

    def _find_or_create(self, store: Store) -> str:
        state = self.folder.state
        if state is not None and state.run_id and store.exists(state.run_id):
            return state.run_id
        source = provenance.collect()
        tags = {
            SIGNATURE: self.folder.path.name,
            "hrm_lab.seed": str(self.config.seed),
            "hrm_lab.dirty": str(source.dirty).lower(),
            "hrm_lab.host": source.host,
            "mlflow.source.name": "hrm-lab",
            "mlflow.source.git.commit": source.commit,
            "mlflow.source.git.branch": source.branch,
            "mlflow.note.content": _description(self.config, self.point),
        }
        parent = None
        if self.point.sweep:
            tags[SWEEP] = self.point.sweep
            parent = store.sweep_run(self.point.sweep, self.config.question)
        run_id = store.create_run(self.point.label, tags, parent)
        store.log_params(run_id, {key: value for key, value, meta in schema.settings(self.config) if meta.identity})
        store.log_text(run_id, yaml.safe_dump(schema.to_dict(self.config), sort_keys=False), "config/config.yaml")
        store.log_text(run_id, yaml.safe_dump(self.point.overrides), "config/overrides.yaml")
        store.log_text(run_id, json.dumps(dataclasses.asdict(source), indent=1), "code/provenance.json")
        if source.diff:
            store.log_text(run_id, source.diff + "\n", "code/uncommitted.patch")
        freeze = "".join(f"{name}=={version}\n" for name, version in source.packages.items())
        store.log_text(run_id, freeze, "code/requirements.txt")
        return run_id

    def describe_data(self, dataset: Dataset) -> None:
        """Tie the dataset to the run, by its fingerprint."""
        if self.store is None or self.run_id is None:
            return
        info = dataset.info
        self.store.log_dataset(self.run_id, info.name, info.fingerprint, str(dataset.folder), json.dumps(info.counts))
        self.store.set_tags(self.run_id, {"hrm_lab.data_fingerprint": info.fingerprint})
        self.store.log_file(self.run_id, dataset.folder / "dataset.json", "data")

    def store_results(self, best_step: int | None) -> None:
        """Weights, pictures and the log, as artifacts."""
        if self.store is None or self.run_id is None:
            return
        from hrm_lab.analysis.figures import draw_learning_curves
        from hrm_lab.analysis.frames import journal_curves

        curves = self.folder.path / "learning_curves.png"
        draw_learning_curves({self.point.label: journal_curves(self.folder.journal)}, curves)
        for file, place in (
            (self.folder.path / "best.safetensors", "weights"),
            (self.folder.path / "last.safetensors", "weights"),
            (curves, "figures"),
            (self.folder.log, None),
        ):
            if file.exists():
                self.store.log_file(self.run_id, file, place)
        if best_step is not None:
            self.store.set_tags(self.run_id, {"hrm_lab.best_step": str(best_step)})

    def finish(self, status: str, detail: str, best_value: float | None = None) -> None:
        """Write down how it ended, here and in MLflow."""
        self.folder.state = State(status, self.run_id, detail, best_value)
        if self.store is not None and self.run_id is not None:
            if detail:
                self.store.set_tags(self.run_id, {REASON: detail[:MAX_TAG]})
            self.store.set_status(self.run_id, MLFLOW_STATUS[status])


@contextmanager
def _tracked(folder: RunFolder, config: Config) -> Iterator[_TrackedRun]:
    """A tracked run that ends truthfully: an exception is written down before it goes on its way."""
    try:
        tracked = _TrackedRun(folder, config)
    except Exception as error:
        folder.state = State(FAILED, folder.state.run_id if folder.state else None, _one_line(error))
        raise
    try:
        yield tracked
    except KeyboardInterrupt:
        tracked.finish(INTERRUPTED, "interrupted; run it again to go on")
        raise
    except BaseException as error:
        log.error("failed: %s", error)
        with folder.log.open("a") as file:  # the whole story is for whoever opens the log
            traceback.print_exc(file=file)
        tracked.finish(FAILED, _one_line(error))
        raise


def close_dead_run(folder: RunFolder, detail: str) -> State:
    """Write down the end of a run whose process died without doing so itself, so that it does not run for ever."""
    before = folder.state
    folder.state = after = State(FAILED, before.run_id if before else None, detail)
    config = folder.config()
    config.paths.outputs = str(folder.path.parents[1])  # as it is seen from here
    if after.run_id and config.tracking.enabled:
        store = Store.open(config.tracking, Path(config.paths.outputs))
        store.set_tags(after.run_id, {REASON: detail[:MAX_TAG]})
        store.set_status(after.run_id, MLFLOW_STATUS[FAILED])
    return after


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _description(config: Config, point: Point) -> str:
    model, training = config.model, config.training
    return (f"{config.question}\n\n" if config.question else "") + (
        f"HRM with {model.H_cycles} x {model.L_cycles} cycles, at most {model.halt_max_steps} ACT steps, "
        f"{model.H_layers} + {model.L_layers} layers of width {model.hidden_size}, on {config.data.name} "
        f"(batch {training.global_batch_size}, {training.epochs} epochs, seed {config.seed})."
    )


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Append this package's log lines to the run's own file too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(LOG_FORMAT)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


LOG_FORMAT = logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S")


def log_to_console() -> None:
    """Show this package's log lines on standard error, unless a progress bar lives there."""
    log.setLevel(logging.INFO)
    log.propagate = False
    if not sys.stderr.isatty() and not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(LOG_FORMAT)
        log.addHandler(handler)
