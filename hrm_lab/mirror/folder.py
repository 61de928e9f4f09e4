"""What one run of the store is made of: all of it derived from the run's folder.

Sending again sends nothing twice: what the store holds already is asked of the store, also after every failure. A
request that got no answer may be carried out later all the same, so whatever is sent again is sent as it was.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from hrm_lab import config as schema
from hrm_lab.config import Config
from hrm_lab.errors import one_line
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
from hrm_lab.tracking.journal import JournalReader
from hrm_lab.tracking.store import (
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
        self._readers = self._read_afresh()
        self._unsent: list[tuple[str, float, int, int]] = []  # metrics; never more than one entry beyond a request's
        self._tags: dict[str, str | None] = {}  # to be set, or (None) to be removed
        self._artifacts: list[str] = []
        self._decisions: dict[tuple[int, str], dict[str, Any]] = {}  # by step and rule
        self._told: dict[str, Any] | None = None  # the state that the store shows
        self.sent: Counter[str] = Counter()

    def sync(self) -> None:
        """Send what is new. Raises what MLflow raises; then the next call begins with asking what has arrived."""
        if not self.may_write():
            return
        with self._sending() as store:
            self._describe_data(store)
            self._send_journal(store)
            self._send_state(store)
            self._send_pictures(store)

    def siblings(self) -> dict[str, History]:
        """What the runs of the sweep have reported, by signature; what this one has to say is sent first."""
        with self._sending() as store:
            self._send_journal(store)
            return histories(store, self.folder.point().sweep or "", self.config.stopping.metric)

    @contextmanager
    def _sending(self) -> Iterator[Store]:
        with FileLock(self.folder.path / ".mirror.lock", timeout=LOCK_S):
            try:
                self._store = self._store or self._open()
                yield self._store
            except Exception:
                self._store = None  # asked afresh: a request that got no answer may have been stored
                raise

    def _read_afresh(self) -> tuple[JournalReader, ...]:
        return JournalReader(self.folder.journal), JournalReader(self.folder.system)

    @functools.cached_property
    def config(self) -> Config:
        """Of the folder's run."""
        return self.folder.config()

    def _open(self) -> Store:
        """The store, with what it knows of the run; the journal is read from its beginning."""
        if self.into is not None:
            store, self._run_id = self.into
        else:
            store = Store.open(self.config.tracking, self.outputs)
            self._run_id = self._find_or_create(store)
        status, self._known = store.progress(self._run_id)
        told = self._remembered().get("state")
        self._told = told if told and STATUS.get(told["status"], "RUNNING") == status else None
        self._readers = self._read_afresh()
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
        """By the id that the folder remembers, else by signature: a kill in between makes no second one."""
        written = self.folder.tracked
        known = written is not None and written.get("uri") == store.uri and store.exists(written["run_id"])
        described = (self.folder.path / "provenance.json").stat().st_mtime_ns  # written anew when a run starts afresh
        if written is not None and known and written.get("described") == described:
            return str(written["run_id"])
        signature = self.folder.path.name
        run_id = str(written["run_id"]) if written and known else store.find_run(signature)
        run_id = run_id or self._create(store, signature, described // 1_000_000)
        self._describe(store, run_id)
        facts = {"uri": store.uri, "run_id": run_id, "described": described}
        write_json(self.folder.path / "tracking.json", facts)
        return run_id

    def _create(self, store: Store, signature: str, began_ms: int) -> str:
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
            tags |= {SWEEP: point.sweep, MEMBER + point.sweep: "true"}
            parent = store.sweep_run(point.sweep, self.config.question)
        return store.create_run(point.label, tags, parent, began_ms)

    def _describe(self, store: Store, run_id: str) -> None:
        params = with_a_say(schema.identity_dict(self.config))
        describe(store, run_id, self.folder, params, schema.to_dict(self.config))

    def _describe_data(self, store: Store) -> None:
        """Tie the dataset to the run, by its fingerprint, once."""
        info = self.folder.dataset_info()
        if info is None or self._remembered().get("fingerprint") == info["fingerprint"]:
            return
        store.log_dataset(self._run_id, info["name"], info["fingerprint"], info["folder"], json.dumps(info["counts"]))
        store.set_tags(self._run_id, {DATA_FINGERPRINT: info["fingerprint"]})
        self._send_file(store, Path(info["folder"]) / "dataset.json", "data")
        self._remember(fingerprint=info["fingerprint"])

    def _send_journal(self, store: Store) -> None:
        """A request's worth at a time, however long the journal has grown while the store was away."""
        decided = len(self._decisions)
        for entry in itertools.chain.from_iterable(reader.new_entries() for reader in self._readers):
            self._take(entry)
            if len(self._unsent) >= MAX_METRICS:
                self._send_metrics(store)
                if self._unsent:
                    return  # may not write
        self._send_metrics(store)
        if len(self._decisions) > decided and self.may_write():
            decisions = list(self._decisions.values())
            store.log_text(self._run_id, json.dumps(decisions, indent=1), "stopping/decisions.json")
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
            self._decisions[entry["step"], entry["decision"]["rule"]] = entry["decision"]

    def _send_metrics(self, store: Store) -> None:
        while self._unsent and self.may_write():
            batch = self._unsent[:MAX_METRICS]
            store.log_metrics(self._run_id, batch)
            del self._unsent[:MAX_METRICS]
            self.sent[VALUES] += len(batch)

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
            for file in pictures.draw(self.folder, place):
                self._send_file(store, file, file.parent.name)
            drawn = [*drawn, place]
            self._remember(drawn=drawn)

    def _send_file(self, store: Store, file: Path, place: str | None) -> None:
        store.log_file(self._run_id, file, place)
        self.sent[FILES] += 1

    def _send_state(self, store: Store) -> None:
        """Status and reason; with a finished run its weights, pictures and log."""
        state = self.folder.state
        if state is None or asdict(state) == self._told or self._unsent or not self.may_write():
            return
        if state.status in FINISHED:
            self._send_results(store)
        if state.detail:
            store.set_tags(self._run_id, {REASON: state.detail[:MAX_TAG]})
        else:
            store.delete_tag(self._run_id, REASON)  # an earlier attempt's
        ended_ms = (self.folder.path / "state.json").stat().st_mtime_ns // 1_000_000
        store.set_status(self._run_id, STATUS.get(state.status, "RUNNING"), ended_ms)
        if self.into is None:
            store.delete_empty_runs(self.folder.path.name, but=self._run_id)
        self._told = asdict(state)
        self._remember(state=self._told)

    def _send_results(self, store: Store) -> None:
        from hrm_lab.analysis.curves import draw_run  # only now: a training imports this module

        curves, last = self.folder.path / "learning_curves.png", self.folder.path / "last.safetensors"
        picture = draw_run(self.folder)
        if picture is not None:
            curves.write_bytes(picture.png)
        for file, place in (
            (self.folder.path / "best.safetensors", "weights"),
            (last, "weights"),
            (curves, "figures"),
            (self.folder.log, None),
        ):
            if file.exists():
                self._send_file(store, file, place)
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


def sync(folder: RunFolder) -> Counter[str]:
    """Bring the store up to what the folder holds, once; how much of what it took. Raises what MLflow raises."""
    mirror = Mirror(folder)
    if mirror.config.tracking.enabled:
        mirror.sync()
    return mirror.sent


def sync_or_warn(folder: RunFolder) -> Counter[str] | None:
    """Like `sync`, for callers who have more important things to do than to fail over a server; None if it failed."""
    try:
        return sync(folder)
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
