"""The MLflow tracking store: where it is, the experiment, a parent run per sweep and a child per point.

The only module that talks to MLflow; everyone else gets plain values. MLflow takes seconds to
import, so it is imported when a store is opened and not before.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import requests
from filelock import FileLock

from hrm_lab.config import TrackingConfig
from hrm_lab.errors import UserError
from hrm_lab.redaction import redact, redacted
from hrm_lab.tracking.access import CREDENTIALS, PROBE_S, refuse_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_METRICS, MAX_PARAMS = 1000, 100  # MLflow's limits per request
MAX_RUN_IDS = 200  # in one query
MAX_HISTORIES, MAX_HISTORY = 100, 25_000  # runs and values that MLflow gives the histories of at once
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
FILE_PATIENCE = 10  # times as long as for anything else an answer to a file is waited for
CLIENT = {
    # By itself it would try for four minutes, and send a POST again that may have been carried out. Whoever needs an
    # answer asks what has arrived, and then again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT: "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run that ends
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
KIND, SIGNATURE, SWEEP = "hrm_lab.kind", "hrm_lab.signature", "hrm_lab.sweep"
BEGINNING = "hrm_lab.beginning"  # the run folder that a run mirrors, and which of its beginnings
MEMBER = "hrm_lab.in."  # followed by a sweep's name: a run has this tag for every sweep that it is a point of
REASON = "hrm_lab.reason"  # why a run stopped early or failed, in words
DATA_FINGERPRINT, WEIGHTS_HASH = "hrm_lab.data_fingerprint", "hrm_lab.weights_hash"
FOUND_AT_MOST = 20  # runs that one word names


@dataclass(frozen=True)
class RunRecord:
    """What the store knows of one run: last value of every metric, and its tags and params."""

    run_id: str
    name: str
    status: str
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    experiment_id: str = ""


def tracking_uri(config: TrackingConfig, outputs: Path) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else that of a SQLite file in `outputs`.

    Raises:
        ConfigError: when there is a password in it.
    """
    return _configured_uri(config) or f"sqlite:///{(outputs / 'mlflow.db').resolve()}"


def _configured_uri(config: TrackingConfig) -> str:
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    refuse_password("tracking.uri", uri, f"{CREDENTIALS}; for a database PGPASSWORD or ~/.pgpass")
    return uri


class Store:
    """An opened tracking store."""

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str) -> None:
        self.client, self.uri, self.experiment_id = client, uri, experiment_id

    @classmethod
    def open(cls, config: TrackingConfig, outputs: Path) -> Store:
        """Connect, making the database and the experiment where they are missing.

        A SQLite file under a lock: processes that open a fresh one at once destroy each other's migration.

        Raises:
            UserError: when the store cannot be reached.
        """
        uri = tracking_uri(config, outputs)
        outputs.mkdir(parents=True, exist_ok=True)
        for chatty in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        for name, value in CLIENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        # An embedded store has no server that could keep artifacts, so they lie beside it.
        artifacts = (outputs / "artifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
        # Nobody waits in a queue for a server that hangs.
        lock = nullcontext() if uri.startswith("http") else FileLock(outputs / ".tracking.lock")
        try:
            with lock:
                client = MlflowClient(tracking_uri=uri)  # makes and migrates a SQLite file
                experiment = client.get_experiment_by_name(config.experiment)
                if experiment is not None:
                    return cls(client, uri, experiment.experiment_id)
                # The kind makes the UI open on the table of runs and not on its pages for language models.
                kind = {"mlflow.experimentKind": "custom_model_development"}
                try:
                    return cls(client, uri, client.create_experiment(config.experiment, artifacts, kind))
                except MlflowException:
                    # Another process may have been first.
                    experiment = client.get_experiment_by_name(config.experiment)
                    if experiment is None:
                        raise
                    return cls(client, uri, experiment.experiment_id)
        except MlflowException as error:
            raise UserError(
                f"tracking.uri={uri}: cannot be used: {error}\n"
                "  way out: start the server, or take another tracking.uri, or tracking=none"
            ) from error

    def ui_link(self, server: str, metric: str = "eval/exact_accuracy") -> str:
        """The UI's page of runs, best first, with charts. Sorted by a metric it lists children beside their parents."""
        query = {
            "workflowType": "machine_learning",  # else a first visit opens the pages for language models
            "compareRunsMode": "CHART",
            "orderByKey": f"metrics.`{metric}`",
            "orderByAsc": "false",
        }
        return f"{server}/#/experiments/{self.experiment_id}/runs?{urlencode(query)}"

    def sweep_run(self, name: str, question: str) -> str:
        """The id of a sweep's parent run, made when missing."""
        query = f"tags.`{KIND}` = 'sweep' and tags.`{SWEEP}` = '{name}'"
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {KIND: "sweep", SWEEP: name, "mlflow.note.content": question or f"sweep {name}"}
        return self._create_run(name, tags)

    def find_beginning(self, beginning: str) -> str:
        """The id of the run that mirrors a run folder's beginning, an empty one only where there is no other.

        Empty where there is none.
        """
        found = self._runs_where(f"tags.`{BEGINNING}` = '{beginning}'")
        return str(max(found, key=lambda run: len(run.data.params)).info.run_id) if found else ""

    def discard_others(self, beginning: str, but: str) -> None:
        """Leave a run folder no run but one.

        The others are of earlier beginnings, or made by requests for a run that got no answer.
        """
        for run in self._runs_where(f"tags.`{BEGINNING}` LIKE '{beginning.partition('/')[0]}/%'"):
            if run.info.run_id != but:
                self._discard(run)

    def _discard(self, run: Run) -> None:
        """Delete a run; where its user may not, take away all that it is found by."""
        from mlflow.exceptions import MlflowException

        run_id = run.info.run_id
        try:
            self.client.delete_run(run_id)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            self.client.update_run(run_id, "KILLED", f"{run.info.run_name} (discarded)")
            names = (SIGNATURE, MEMBER, BEGINNING)  # the last one last: until then it is found again
            found_by = [key for name in names for key in run.data.tags if key.startswith(name)]
            self.set_tags(run_id, {KIND: "discarded", **dict.fromkeys(found_by)})

    def _runs_where(self, query: str) -> list[Run]:
        return list(self.client.search_runs([self.experiment_id], query, max_results=FOUND_AT_MOST))

    def find(self, word: str) -> list[RunRecord]:
        """Runs of any experiment that a word names: by id, else by signature, else by name."""
        from mlflow.exceptions import MlflowException

        with self._questioned():
            if re.fullmatch("[0-9a-f]{32}", word):
                try:
                    return [_record(self.client.get_run(word))]
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
            experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
            text = f'"{word}"' if "'" in word else f"'{word}'"
            for key in (f"tags.`{SIGNATURE}`", "attributes.run_name"):
                found = self.client.search_runs(experiments, f"{key} = {text}", max_results=FOUND_AT_MOST)
                if found:
                    return [_record(run) for run in found]
        return []

    @contextmanager
    def _questioned(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            text = f"{self.uri}: the tracking store gives no answer: {error}"
            raise UserError(f"{text}\n  way out: see that its server runs") from error

    def in_experiment(self, experiment_id: str) -> Store:
        """The same store, for new runs of another experiment."""
        return Store(self.client, self.uri, experiment_id)

    def create_run(self, name: str, tags: Mapping[str, str], parent: str | None, began_ms: int | None = None) -> str:
        """Make the run of one signature; as a child of `parent` if there is one.

        Args:
            began_ms: since 1970; None = now.
        """
        family = {"mlflow.parentRunId": parent} if parent else {}
        return self._create_run(name, {KIND: "run", **tags, **family}, began_ms)

    def _create_run(self, name: str, tags: Mapping[str, str], began_ms: int | None = None) -> str:
        user = {"mlflow.user": os.environ.get("USER", "unknown"), "mlflow.source.type": "LOCAL"}
        run = self.client.create_run(self.experiment_id, began_ms, redacted({**user, **tags}), redact(name))
        return str(run.info.run_id)

    def exists(self, run_id: str) -> bool:
        """Whether the run is there and not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise  # no answer is no "no"
            return False

    def runs(self, run_ids: Iterable[str]) -> list[RunRecord]:
        """Records of runs by id, in any order; unknown ids are left out."""
        wanted = sorted(set(run_ids))
        records: list[RunRecord] = []
        for start in range(0, len(wanted), MAX_RUN_IDS):
            ids = ", ".join(f"'{run_id}'" for run_id in wanted[start : start + MAX_RUN_IDS])
            query = f"attributes.run_id IN ({ids})"
            records += [_record(run) for run in self.client.search_runs([self.experiment_id], query)]
        return records

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """All (step, value) of a metric, in order of steps."""
        points = self.client.get_metric_history(run_id, key)
        return sorted((point.step, point.value) for point in points)

    def histories(self, run_id: str) -> dict[tuple[int, str], float]:
        """Every value of every metric, by (step, metric)."""
        with self._questioned():
            keys = self.client.get_run(run_id).data.metrics
            return {(step, key): value for key in keys for step, value in self.history(run_id, key)}

    def members(self, sweep: str) -> list[RunRecord]:
        """Every run that is a point of a sweep."""
        query, found, page = f"tags.`{MEMBER}{sweep}` = 'true'", list[RunRecord](), None
        while True:
            answer = self.client.search_runs([self.experiment_id], query, page_token=page)
            found += [_record(run) for run in answer]
            page = answer.token
            if not page:
                return found

    def join(self, sweep: str, run_ids: Iterable[str]) -> None:
        """Tell these runs, as far as they are here, that they are points of a sweep."""
        for record in self.runs(run_ids):
            if MEMBER + sweep not in record.tags:
                self.set_tags(record.run_id, {MEMBER + sweep: "true"})

    def histories_of(self, run_ids: Sequence[str], key: str) -> dict[str, dict[int, float]]:
        """One metric of many runs, {step: value} by run id: what MLflow's UI asks for, a hundred runs at a time."""
        found: dict[str, dict[int, float]] = {}
        for start in range(0, len(run_ids), MAX_HISTORIES):
            for point in self._bulk(run_ids[start : start + MAX_HISTORIES], key):
                found.setdefault(point["run_id"], {})[point["step"]] = float(point["value"])
        return found

    def _bulk(self, run_ids: Sequence[str], key: str) -> list[dict[str, Any]]:
        store = self.client._tracking_client.store  # the client offers one run at a time only
        if self.uri.startswith("http"):
            from mlflow.utils.rest_utils import http_request

            asked = {"run_id": run_ids, "metric_key": key, "max_results": MAX_HISTORY}
            place = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
            answer = http_request(store.get_host_creds(), place, "GET", params=asked)  # type: ignore[no-untyped-call]
            answer.raise_for_status()
            points: list[dict[str, Any]] = answer.json()["metrics"]
        else:
            points = [point.to_dict() for point in store.get_metric_history_bulk(run_ids, key, MAX_HISTORY)]
        if len(points) < MAX_HISTORY or len(run_ids) == 1:
            return points
        half = len(run_ids) // 2
        return self._bulk(run_ids[:half], key) + self._bulk(run_ids[half:], key)

    def download(self, run_id: str, path: str, folder: Path) -> Path | None:
        """An artifact, copied into a folder; None where the run has none of that name."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run_id, path, str(folder)))
        except (MlflowException, OSError, requests.RequestException):
            return None

    def text(self, run_id: str, path: str) -> str | None:
        """A text artifact; None where the run has none of that name."""
        with tempfile.TemporaryDirectory() as folder:
            file = self.download(run_id, path, Path(folder))
            return file.read_text() if file is not None else None

    def progress(self, run_id: str) -> tuple[str, dict[str, int]]:
        """Status, and the highest step that the store holds of every metric: what comes again up to there is known."""
        run = self.client.get_run(run_id)
        # The values alone lack their steps. MLflow keeps the point of the highest step as a metric's last one.
        return run.info.status, {metric.key: metric.step for metric in run.data.to_proto().metrics}

    def log_metrics(self, run_id: str, points: list[tuple[str, float, int, int]]) -> None:
        """Send up to MAX_METRICS points (key, value, milliseconds, step) in one request: stored whole or not at all."""
        from mlflow.entities import Metric

        self.client.log_batch(run_id, metrics=[Metric(key, value, stamp, step) for key, value, stamp, step in points])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; those already there are left as they are, because MLflow refuses to change one."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        texts = redacted({key: str(value) for key, value in params.items() if key not in known})
        new = [Param(key, text) for key, text in texts.items()]
        for start in range(0, len(new), MAX_PARAMS):
            self.client.log_batch(run_id, params=new[start : start + MAX_PARAMS])

    def log_dataset(self, run_id: str, name: str, fingerprint: str, source: str, profile: str) -> None:
        """Tie a dataset to a run, by its fingerprint."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest; the whole fingerprint is in the run's dataset.json.
        dataset = Dataset(name, fingerprint[:36], "local", redact(source), profile=redact(profile))
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, [context])])

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Store a text as an artifact."""
        self.client.log_text(run_id, redact(text), path)

    def log_file(self, run_id: str, file: Path, folder: str | None = None) -> None:
        """Store a file as an artifact, which may take longer than any other request."""
        usual = os.environ[TIMEOUT]  # MLflow reads it anew at every request
        os.environ[TIMEOUT] = str(FILE_PATIENCE * int(usual))
        try:
            self.client.log_artifact(run_id, str(file), folder)
        finally:
            os.environ[TIMEOUT] = usual

    def set_tags(self, run_id: str, tags: Mapping[str, str | None]) -> None:
        """Set tags, replacing older values; those that are to be None are removed if they are there."""
        known = self.client.get_run(run_id).data.tags if None in tags.values() else {}
        for key, value in redacted(tags).items():
            if value is not None:
                self.client.set_tag(run_id, key, value)
            elif key in known:
                self.client.delete_tag(run_id, key)

    def set_status(self, run_id: str, status: str, ended_ms: int | None = None) -> None:
        """RUNNING, FINISHED, FAILED or KILLED, with the time of the end (None = now) where it is one."""
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status, end_time=ended_ms)


def refuse_silent_server(config: TrackingConfig) -> None:
    """Say at once that a server does not answer, before anything is started that would want it.

    Raises:
        UserError: naming the address and the way out.
    """
    if not config.enabled or not (uri := _configured_uri(config)).startswith("http"):
        return
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=PROBE_S)
    except requests.exceptions.SSLError:
        return  # somebody answers; whether this shell trusts the certificate is for MLflow's own settings to say
    except requests.RequestException as error:
        raise UserError(
            f"tracking.uri={uri}: no server answers ({type(error).__name__})\n"
            "  way out: start it; or `unset MLFLOW_TRACKING_URI` and take tracking=sqlite; or take tracking=none"
        ) from None


def _record(run: Any) -> RunRecord:
    data = run.data
    return RunRecord(
        run.info.run_id,
        run.info.run_name,
        run.info.status,
        dict(data.metrics),
        dict(data.params),
        dict(data.tags),
        run.info.experiment_id,
    )
