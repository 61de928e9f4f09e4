"""What one run of the store is made of: all of it derived from the run's folder.

Sending again sends nothing twice: what the store holds already is asked of the store, also after every failure.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hrm_lab import config as schema
from hrm_lab.config import Config
from hrm_lab.errors import one_line
from hrm_lab.files import write_json
from hrm_lab.run_folder import (
    CANCELLED,
    COMPLETED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOST,
    STOPPED,
    TIMEOUT,
    Point,
    RunFolder,
)
from hrm_lab.tracking.journal import JournalReader
from hrm_lab.tracking.store import (
    DATA_FINGERPRINT,
    MAX_METRICS,
    REASON,
    SIGNATURE,
    SWEEP,
    WEIGHTS_HASH,
    Store,
)
from hrm_lab.weights import weights_hash

log = logging.getLogger("hrm_lab")
MAX_TAG = 5000  # characters of a tag that every MLflow store takes
DRAIN_S = 60.0  # how long the end of a run waits for the store to take the rest
HURRIED_S = 10.0  # the same for a run that was told to leave
STATUS = {
    COMPLETED: "FINISHED",
    STOPPED: "FINISHED",
    FAILED: "FAILED",
    INTERRUPTED: "KILLED",
    CANCELLED: "KILLED",
    TIMEOUT: "KILLED",
    LOST: "KILLED",
}


class Mirror:
    """Makes one run of the store equal to one run folder, as far as it has got.

    Args:
        may_write: asked before anything is sent; a replaced attempt's mirror must not send.
        into: a store and the id of a run in it that is described already; by default the run of the folder's signature,
            found or made in the store of its config.
    """

    def __init__(
        self, folder: RunFolder, may_write: Callable[[], bool] = lambda: True, into: tuple[Store, str] | None = None
    ) -> None:
        self.folder, self.may_write, self.into = folder, may_write, into
        # OUTPUTS as it is seen from here, which need not be the path that the config was made with.
        self.outputs = folder.path.parents[1]
        self._store: Store | None = None
        self._run_id = ""
        self._known: dict[str, int] = {}
        self._reader = JournalReader(folder.journal)
        self._unsent: list[tuple[str, float, int, int]] = []  # metrics; never more than one entry beyond a request's
        self._tags: dict[str, str | None] = {}  # to be set, or (None) to be removed
        self._artifacts: list[str] = []
        self._decisions: list[dict[str, Any]] = []
        self._shown: str | None = None  # the status that the store shows

    def sync(self) -> None:
        """Send what is new. Raises what MLflow raises; then the next call begins with asking what has arrived."""
        if not self.may_write():
            return
        try:
            if self._store is None:
                self._store, self._run_id = self.into or self._open()
                self._known = self._store.last_steps(self._run_id)
                self._reader = JournalReader(self.folder.journal)
                self._unsent, self._tags, self._artifacts, self._decisions = [], {}, [], []
            self._describe_data(self._store)
            self._send_journal(self._store)
            self._send_state(self._store)
        except Exception:
            self._store = None  # asked afresh: a request that got no answer may have been stored
            raise

    @functools.cached_property
    def config(self) -> Config:
        """Of the folder's run."""
        return self.folder.config()

    def _open(self) -> tuple[Store, str]:
        store = Store.open(self.config.tracking, self.outputs)
        return store, self._find_or_create(store)

    def _find_or_create(self, store: Store) -> str:
        """By the id that the folder remembers, else by signature: a kill in between makes no second one."""
        written = self.folder.tracked
        known = written is not None and written["uri"] == store.uri and store.exists(written["run_id"])
        described = (self.folder.path / "provenance.json").stat().st_mtime_ns  # written anew when a run starts afresh
        if written is not None and known and written["described"] == described:
            return str(written["run_id"])
        signature = self.folder.path.name
        run_id = str(written["run_id"]) if written and known else store.find_run(signature)
        run_id = run_id or self._create(store, signature)
        self._describe(store, run_id)
        facts = {"uri": store.uri, "run_id": run_id, "described": described}
        write_json(self.folder.path / "tracking.json", facts)
        return run_id

    def _create(self, store: Store, signature: str) -> str:
        point, source = self.folder.point(), self.folder.provenance()
        tags = {
            SIGNATURE: signature,
            "hrm_lab.seed": str(self.config.seed),
            "hrm_lab.dirty": str(source.dirty).lower(),
            "hrm_lab.host": source.host,
            "mlflow.source.name": "hrm-lab",
            "mlflow.source.git.commit": source.commit,
            "mlflow.source.git.branch": source.branch,
            "mlflow.note.content": _description(self.config, point),
        }
        parent = None
        if point.sweep:
            tags[SWEEP] = point.sweep
            parent = store.sweep_run(point.sweep, self.config.question)
        return store.create_run(point.label, tags, parent)

    def _describe(self, store: Store, run_id: str) -> None:
        params = {key: value for key, value, meta in schema.settings(self.config) if meta.identity}
        describe(store, run_id, self.folder, params, schema.to_dict(self.config))

    def _describe_data(self, store: Store) -> None:
        """Tie the dataset to the run, by its fingerprint, once."""
        info = self.folder.dataset_info()
        tracked = self.folder.tracked or {}
        if info is None or tracked.get("fingerprint") == info["fingerprint"]:
            return
        store.log_dataset(self._run_id, info["name"], info["fingerprint"], info["folder"], json.dumps(info["counts"]))
        store.set_tags(self._run_id, {DATA_FINGERPRINT: info["fingerprint"]})
        store.log_file(self._run_id, Path(info["folder"]) / "dataset.json", "data")
        write_json(self.folder.path / "tracking.json", tracked | {"fingerprint": info["fingerprint"]})

    def _send_journal(self, store: Store) -> None:
        """A request's worth at a time, however long the journal has grown while the store was away."""
        decided = len(self._decisions)
        for entry in self._reader.new_entries():
            self._take(entry)
            if len(self._unsent) >= MAX_METRICS:
                self._send_metrics(store)
        self._send_metrics(store)
        if len(self._decisions) > decided and self.may_write():
            store.log_text(self._run_id, json.dumps(self._decisions, indent=1), "stopping/decisions.json")
        while self._tags and self.may_write():
            key, value = next(iter(self._tags.items()))
            if value is None:
                store.delete_tag(self._run_id, key)
            else:
                store.set_tags(self._run_id, {key: value[:MAX_TAG]})
            del self._tags[key]
        self._send_artifacts(store)

    def _take(self, entry: Mapping[str, Any]) -> None:
        for key, value in entry.get("metrics", {}).items():
            # What a killed attempt had sent beyond its last checkpoint comes again with the same steps.
            if entry["step"] > self._known.get(key, -1):
                self._known[key] = entry["step"]
                self._unsent.append((key, value, entry["ms"], entry["step"]))
        self._tags |= entry.get("tags", {})
        if "artifact" in entry:
            self._artifacts.append(entry["artifact"])
        if "decision" in entry:
            self._decisions.append(entry["decision"])

    def _send_metrics(self, store: Store) -> None:
        while self._unsent and self.may_write():
            store.log_metrics(self._run_id, self._unsent[:MAX_METRICS])
            del self._unsent[:MAX_METRICS]

    def _send_artifacts(self, store: Store) -> None:
        """Files that the journal names, each once: which have arrived is written down."""
        sent = (self.folder.tracked or {}).get("artifacts", [])
        while self._artifacts and self.may_write():
            place = self._artifacts[0]
            if place not in sent:
                store.log_file(self._run_id, self.folder.path / place, str(Path(place).parent))
                sent = [*sent, place]
                write_json(self.folder.path / "tracking.json", (self.folder.tracked or {}) | {"artifacts": sent})
            del self._artifacts[0]

    def _send_state(self, store: Store) -> None:
        """Status and reason; with a finished run its weights, pictures and log."""
        state = self.folder.state
        if state is None or state.status == self._shown or self._unsent or not self.may_write():
            return
        if state.status in FINISHED:
            self._send_results(store)
        status = STATUS.get(state.status)
        if state.detail:
            store.set_tags(self._run_id, {REASON: state.detail[:MAX_TAG]})
        else:
            store.delete_tag(self._run_id, REASON)  # an earlier attempt's
        store.set_status(self._run_id, status or "RUNNING")
        self._shown = state.status
        write_json(self.folder.path / "tracking.json", (self.folder.tracked or {}) | {"told": state.status})

    def _send_results(self, store: Store) -> None:
        from hrm_lab.analysis.figures import draw_learning_curves  # only now: a training imports this module
        from hrm_lab.analysis.frames import journal_curves

        curves, last = self.folder.path / "learning_curves.png", self.folder.path / "last.safetensors"
        draw_learning_curves({self.folder.point().label: journal_curves(self.folder.journal)}, curves)
        for file, place in (
            (self.folder.path / "best.safetensors", "weights"),
            (last, "weights"),
            (curves, "figures"),
            (self.folder.log, None),
        ):
            if file.exists():
                store.log_file(self._run_id, file, place)
        if last.exists():
            store.set_tags(self._run_id, {WEIGHTS_HASH: weights_hash(last)})
        state = self.folder.state
        if state is not None and state.best_step is not None:
            store.set_tags(self._run_id, {"hrm_lab.best_step": str(state.best_step)})


def describe(
    store: Store, run_id: str, folder: RunFolder, params: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Params and the files that it takes to run it again."""
    store.log_params(run_id, params)
    point, source = folder.point(), folder.provenance()
    store.log_text(run_id, yaml.safe_dump(dict(config), sort_keys=False), "config/config.yaml")
    store.log_text(run_id, yaml.safe_dump(point.overrides), "config/overrides.yaml")
    store.log_text(run_id, json.dumps(source.to_dict(), indent=1), "code/provenance.json")
    if source.diff:
        store.log_text(run_id, source.diff + "\n", "code/uncommitted.patch")
    freeze = "".join(f"{name}=={version}\n" for name, version in source.packages.items())
    store.log_text(run_id, freeze, "code/requirements.txt")


def sync(folder: RunFolder) -> None:
    """Bring the store up to what the folder holds, once. Raises what MLflow raises."""
    if folder.config().tracking.enabled:
        Mirror(folder).sync()


def sync_or_warn(folder: RunFolder) -> bool:
    """Like `sync`, for callers who have more important things to do than to fail over a server; whether it worked."""
    try:
        sync(folder)
    except Exception as error:
        log.warning("%s: the tracking store could not be told (%s)", folder.path, one_line(error))
        return False
    return True


def _description(config: Config, point: Point) -> str:
    model, training = config.model, config.training
    return (f"{config.question}\n\n" if config.question else "") + (
        f"HRM with {model.H_cycles} x {model.L_cycles} cycles, at most {model.halt_max_steps} ACT steps, "
        f"{model.H_layers} + {model.L_layers} layers of width {model.hidden_size}, on {config.data.name} "
        f"(batch {training.global_batch_size}, {training.epochs} epochs, seed {config.seed})."
    )
