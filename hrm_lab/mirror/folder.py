"""What one run of the store is made of: all of it derived from the run's folder.

Sending again sends nothing twice: what the store holds already is asked of the store, also after every failure. A
request that got no answer may be carried out later all the same, so whatever is sent again is sent as it was.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from hrm_lab import config as schema
from hrm_lab.config import Config, TrackingConfig
from hrm_lab.errors import RunError, one_line
from hrm_lab.files import write_json
from hrm_lab.mirror import pictures
from hrm_lab.mirror.params import with_a_say
from hrm_lab.mirror.siblings import histories
from hrm_lab.run_folder import (
    CANCELLED,
    COMPLETED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOST,
    RUNNING,
    STOPPED,
    TIMEOUT,
    Point,
    RunFolder,
)
from hrm_lab.stopping.pruning import History
from hrm_lab.tracking.journal import UNSTOPPED, JournalReader
from hrm_lab.tracking.store import (
    BEGINNING,
    DATA_FINGERPRINT,
    MAX_METRICS,
    MEMBER,
    REASON,
    SIGNATURE,
    SWEEP,
    WEIGHTS_HASH,
    Store,
)
from hrm_lab.weights import weights_hash

log = logging.getLogger("hrm_lab")
MAX_TAG = 5000  # characters of a tag that every MLflow store takes
LOCK_S = 30.0  # how long one sender waits for another
VALUES, FILES = "values", "files"  # what is sent
BEST_STEP = "hrm_lab.best_step"
CURVES = "learning_curves.png"
# What a finished run leaves, and the folder of its artifacts that it goes to; the smallest first.
RESULTS = {"log.txt": None, CURVES: "figures", "best.safetensors": "weights", "last.safetensors": "weights"}
AT_ONCE = {RUNNING: 1, INTERRUPTED: 0}  # evaluations that are drawn before the journal is looked at again
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
    """Makes one run of the store equal to one run folder, as far as it has got. One sender at a time does.

    Args:
        may_write: asked before anything is sent; a replaced attempt's mirror must not send.
        into: a store and the id of a run in it that is described already; by default the run of the folder's beginning,
            found or made.
        tracking: the store to find or make it in; by default that of the folder's config.
        patience: seconds to wait for another sender.
    """

    def __init__(
        self,
        folder: RunFolder,
        may_write: Callable[[], bool] = lambda: True,
        into: tuple[Store, str] | None = None,
        tracking: TrackingConfig | None = None,
        patience: float = LOCK_S,
    ) -> None:
        self.folder, self.may_write, self.into, self.patience = folder, may_write, into, patience
        self._tracking = tracking
        # OUTPUTS as it is seen from here, which need not be the path that the config was made with.
        self.outputs = folder.path.parents[1]
        self._store: Store | None = None
        self._run_id = self._beginning = ""
        self._known: dict[str, int] = {}
        self._journal, self._system = self._read_afresh()
        self._unsent: list[tuple[str, float, int, int]] = []  # metrics; never more than one entry beyond a request's
        self._tags: dict[str, str | None] = {}  # to be set, or (None) to be removed
        self._artifacts: list[str] = []
        self._decisions: dict[tuple[int, str], dict[str, Any]] = {}  # by step and rule
        self._told: dict[str, Any] | None = None  # the state that the store shows
        self.sent: Counter[str] = Counter()

    def sync(self) -> None:
        """Send what is new. Raises what MLflow raises; then the next call begins with asking what has arrived.

        Files come last, whatever they are: how the run stands does not wait for them.
        """
        if not self.folder.has_begun or not self.may_write():
            return
        with self._sending() as store:
            self._send_journal(store)
            self._send_state(store)
            self._send_data(store)
            self._send_artifacts(store)
            self._send_results(store)
            self._send_pictures(store)

    def siblings(self) -> dict[str, History]:
        """What the runs of the sweep have reported, by signature; what this one has to say is sent first."""
        with self._sending() as store:
            self._send_journal(store)
            return histories(store, self.folder.point().sweep or "", self.config.stopping.metric)

    @contextmanager
    def _sending(self) -> Iterator[Store]:
        with FileLock(self.folder.path / ".mirror.lock", timeout=self.patience):
            try:
                if self._store is None or self._beginning != self.folder.beginning:
                    self._store = self._open()
                yield self._store
            except Exception:
                self._store = None  # asked afresh: a request that got no answer may have been stored
                raise

    def _read_afresh(self) -> tuple[JournalReader, JournalReader]:
        return JournalReader(self.folder.journal), JournalReader(self.folder.system)

    @functools.cached_property
    def config(self) -> Config:
        """Of the folder's run."""
        return self.folder.config()

    @property
    def tracking(self) -> TrackingConfig:
        """Where it sends to."""
        return self._tracking or self.config.tracking

    def _open(self) -> Store:
        """The store, with what it knows of the run; the journal is read from its beginning."""
        self._beginning = self.folder.beginning
        if self.into is not None:
            store, self._run_id = self.into
        else:
            store = Store.open(self.tracking, self.outputs)
            self._run_id = self._find_or_create(store)
        status, self._known = store.progress(self._run_id)
        told = self._remembered().get("state")
        self._told = told if told and STATUS.get(told["status"], "RUNNING") == status else None
        self._journal, self._system = self._read_afresh()
        self._unsent, self._tags, self._artifacts, self._decisions = [], {}, [], {}
        return store

    def _remembered(self) -> dict[str, Any]:
        """What the folder knows of its run in the store."""
        tracked = self.folder.tracked or {}
        return tracked if tracked.get("run_id") == self._run_id else {}

    def _remember(self, **facts: Any) -> None:
        earlier = {"run_id": self._run_id} | self._remembered()
        write_json(self.folder.path / "tracking.json", earlier | facts)

    def _find_or_create(self, store: Store) -> str:
        """By the id that the folder remembers, else by its beginning: a kill in between makes no second one."""
        written, place = self.folder.tracked, {"uri": store.uri, "beginning": self._beginning}
        if written is not None and place.items() <= written.items() and store.exists(written["run_id"]):
            return str(written["run_id"])
        found = store.find_beginning(self._beginning) if self._beginning else ""
        run_id = found or self._create(store)
        self._describe(store, run_id)
        write_json(self.folder.path / "tracking.json", place | {"run_id": run_id})
        return run_id

    def _create(self, store: Store) -> str:
        point, source = self.folder.point(), self.folder.provenance()
        began_ms = (self.folder.path / "provenance.json").stat().st_mtime_ns // 1_000_000
        tags = {
            SIGNATURE: self.folder.path.name,
            BEGINNING: self._beginning,
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
            tags |= {SWEEP: point.sweep, MEMBER + point.sweep: "true"}
            parent = store.sweep_run(point.sweep, self.config.question)
        return store.create_run(point.label, tags, parent, began_ms)

    def _describe(self, store: Store, run_id: str) -> None:
        params = with_a_say(schema.identity_dict(self.config))
        describe(store, run_id, self.folder, params, schema.to_dict(self.config))

    def _send_data(self, store: Store) -> None:
        """Tie the dataset to the run, by its fingerprint, once."""
        info = self.folder.dataset_info()
        if info is None or self._remembered().get("fingerprint") == info["fingerprint"] or not self.may_write():
            return
        store.log_dataset(self._run_id, info["name"], info["fingerprint"], info["folder"], json.dumps(info["counts"]))
        store.set_tags(self._run_id, {DATA_FINGERPRINT: info["fingerprint"]})
        self._send_file(store, self.folder.dataset_copy, "data")
        self._remember(fingerprint=info["fingerprint"])

    def _send_journal(self, store: Store) -> None:
        """A request's worth at a time, however long the journal has grown while the store was away."""
        for entry in itertools.chain(self._journal_entries(), self._system.new_entries()):
            self._take(entry)
            if len(self._unsent) >= MAX_METRICS:
                self._send_metrics(store)
                if self._unsent:
                    return  # may not write
        self._send_metrics(store)
        self._send_decisions(store)
        if self._tags and self.may_write():
            store.set_tags(self._run_id, {key: value and value[:MAX_TAG] for key, value in self._tags.items()})
            self._tags = {}

    def _journal_entries(self) -> Iterator[dict[str, Any]]:
        for entry in self._journal.new_entries():
            if entry.get("begin") == 0:  # its first line: what it does not say again is no longer so
                if self._beginning != self.folder.beginning:
                    raise RunError("the run has begun afresh meanwhile")
                self._decisions, self._tags = {}, dict(UNSTOPPED)
            yield entry

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
            self._decisions[entry["step"], entry["decision"]["rule"]] = entry["decision"]

    def _send_metrics(self, store: Store) -> None:
        while self._unsent and self.may_write():
            batch = self._unsent[:MAX_METRICS]
            store.log_metrics(self._run_id, batch)
            del self._unsent[:MAX_METRICS]
            self.sent[VALUES] += len(batch)

    def _send_decisions(self, store: Store) -> None:
        """All of them as one file, if they are not those that were sent last."""
        text = json.dumps(list(self._decisions.values()), indent=1)
        digest = hashlib.sha256(text.encode()).hexdigest() if self._decisions else ""
        if digest != self._remembered().get("decisions", "") and self.may_write():
            store.log_text(self._run_id, text, "stopping/decisions.json")
            self._remember(decisions=digest)

    def _send_artifacts(self, store: Store) -> None:
        """Files that the journal names, each once: which have arrived is written down."""
        sent = self._remembered().get("artifacts", [])
        while self._artifacts and self.may_write():
            place = self._artifacts[0]
            if place not in sent:
                self._send_file(store, self.folder.path / place, str(Path(place).parent))
                sent = [*sent, place]
                self._remember(artifacts=sent)
            del self._artifacts[0]

    def _send_pictures(self, store: Store) -> None:
        """Of the files that have arrived, each once, and last: numbers do not wait for pictures."""
        arrived, drawn = (self._remembered().get(key, []) for key in ("artifacts", "drawn"))
        waiting = [place for place in arrived if place not in drawn]
        for place in waiting[: AT_ONCE.get(self.folder.status)]:
            if not self.may_write():
                return
            for file in pictures.draw(self.folder, place):
                self._send_file(store, file, file.parent.name)
            drawn = [*drawn, place]
            self._remember(drawn=drawn)

    def _send_file(self, store: Store, file: Path, place: str | None) -> None:
        """One that is gone here is gone: nothing else waits for it."""
        if not file.exists():
            log.warning("%s is gone: the tracking store does not get it", file)
            return
        store.log_file(self._run_id, file, place)
        self.sent[FILES] += 1

    def _send_state(self, store: Store) -> None:
        """Status and reason; of a finished run also where it was best, and what its weights are."""
        state, last = self.folder.state, self.folder.path / "last.safetensors"
        if state is None or asdict(state) == self._told or self._unsent or not self.may_write():
            return
        tags: dict[str, str | None] = {REASON: state.detail[:MAX_TAG] or None}  # None: an earlier attempt's
        if state.status in FINISHED:
            tags[BEST_STEP] = None if state.best_step is None else str(state.best_step)
            tags[WEIGHTS_HASH] = weights_hash(last) if last.exists() else None
        store.set_tags(self._run_id, tags)
        ended_ms = (self.folder.path / "state.json").stat().st_mtime_ns // 1_000_000
        store.set_status(self._run_id, STATUS.get(state.status, "RUNNING"), ended_ms)
        if self.into is None:
            store.discard_others(self._beginning, but=self._run_id)
        self._told = asdict(state)
        self._remember(state=self._told, results=[])  # those that an earlier end has left are to be sent again

    def _send_results(self, store: Store) -> None:
        """The weights, learning curves and log of a run that has finished, each once for each end."""
        if self._told is None or self._told["status"] not in FINISHED:
            return
        folder, sent = self.folder.path, self._remembered().get("results", [])
        for name, place in RESULTS.items():
            if name in sent or not self.may_write():
                continue
            if name == CURVES:
                self._draw_curves()
            if (folder / name).exists():
                self._send_file(store, folder / name, place)
            sent = [*sent, name]
            self._remember(results=sent)

    def _draw_curves(self) -> None:
        from hrm_lab.analysis.curves import draw_run  # only now: a training imports this module

        picture = draw_run(self.folder)
        if picture is not None:
            (self.folder.path / CURVES).write_bytes(picture.png)


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


def sync(folder: RunFolder, tracking: TrackingConfig | None = None, deadline: float = math.inf) -> Counter[str]:
    """Bring the store up to what the folder holds, once. Raises what MLflow raises.

    Args:
        tracking: the store to tell; by default that of the folder's config.
        deadline: monotonic seconds after which nothing more is begun.

    Returns:
        How much of what it took.
    """
    patience = min(LOCK_S, max(0.0, deadline - time.monotonic()))
    mirror = Mirror(folder, lambda: time.monotonic() < deadline, tracking=tracking, patience=patience)
    if mirror.tracking.enabled:
        mirror.sync()
    return mirror.sent


def sync_or_warn(
    folder: RunFolder, tracking: TrackingConfig | None = None, deadline: float = math.inf
) -> Counter[str] | None:
    """Like `sync`, for callers who have more important things to do than to fail over a server; None if it failed."""
    try:
        return sync(folder, tracking, deadline)
    except Exception as error:
        log.warning("%s: the tracking store could not be told (%s)", folder.path, one_line(error))
        return None


def _description(config: Config, point: Point) -> str:
    model, training = config.model, config.training
    return (f"{config.question}\n\n" if config.question else "") + (
        f"HRM with {model.H_cycles} x {model.L_cycles} cycles, at most {model.halt_max_steps} ACT steps, "
        f"{model.H_layers} + {model.L_layers} layers of width {model.hidden_size}, on {config.data.name} "
        f"(batch {training.global_batch_size}, {training.epochs} epochs, seed {config.seed})."
    )
