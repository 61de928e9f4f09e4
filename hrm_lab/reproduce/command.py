"""`hrm-lab reproduce`: code, environment, data and training of a logged run again, and the comparison."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hrm_lab.config import TrackingConfig, unknown_key
from hrm_lab.errors import CannotReproduce, ConfigError, UserError, one_line
from hrm_lab.files import write_json
from hrm_lab.launchers import SlurmLauncherConfig, check_slurm
from hrm_lab.mirror.folder import Mirror, describe
from hrm_lab.reproduce import environment
from hrm_lab.reproduce.child import train
from hrm_lab.reproduce.code import REPOSITORY, Code, checked_out, present_code, repository
from hrm_lab.reproduce.data import FILES, check_data
from hrm_lab.reproduce.logged import changed_since, new_keys, unknown_keys
from hrm_lab.reproduce.place import Place, open_place
from hrm_lab.reproduce.verdict import Verdict, Weights, compare
from hrm_lab.run_folder import FINISHED, INTERRUPTED, RunFolder
from hrm_lab.sweep import preflight, single, snapshot
from hrm_lab.tracking.logged import Logged, find, flat, journal_values, open_store
from hrm_lab.tracking.provenance import differences, source
from hrm_lab.tracking.store import KIND, REASON, WEIGHTS_HASH, Store
from hrm_lab.validation import refuse_secret
from hrm_lab.weights import weights_hash

log = logging.getLogger("hrm_lab")
REPRODUCES, DERIVED_FROM, CHANGES = "hrm_lab.reproduces", "hrm_lab.derived_from", "hrm_lab.changes"
VERDICT = "hrm_lab.verdict"
NAMED = 3  # things that differ, in one line
NOT_THE_RECIPE = ("paths.", "tracking.")


@dataclass(frozen=True)
class Request:
    """What was asked for. `settings` are KEY=VALUE, in Hydra's grammar."""

    run: str
    outputs: Path
    data: Path
    uri: str | None = None
    steps: int | None = None
    settings: tuple[str, ...] = ()
    same_env: bool = False
    current_code: bool = False

    @property
    def changes(self) -> tuple[str, ...]:
        """Settings that make it another run."""
        return tuple(word for word in self.settings if _key(word) not in FILES)

    def options(self) -> dict[str, Any]:
        """What must be the same for an interrupted reproduction to be gone on with."""
        asked = {"data": str(self.data.resolve()), "steps": self.steps, "settings": list(self.settings)}
        return asked | {"same_env": self.same_env, "code": source().tree if self.current_code else ""}

    def words(self, run_id: str) -> list[str]:
        """The command line that asks for this, from any folder."""
        words = [run_id, "--outputs", str(self.outputs.resolve()), "--data", str(self.data.resolve())]
        words += ["--tracking-uri", self.uri] if self.uri else []
        words += ["--steps", str(self.steps)] if self.steps else []
        words += [word for setting in self.settings for word in ("--set", setting)]
        return words + ["--same-env"] * self.same_env + ["--current-code"] * self.current_code


def reproduce(request: Request) -> Verdict:
    """Do a logged run again and compare.

    Raises:
        UserError: when it cannot be done.
        KeyboardInterrupt: when it was interrupted; the same request goes on.
    """
    store, logged, place = _prepare(request)
    with place.owned(), _code(request, logged, place) as code:
        verdict, folder = _again(request, store, logged, place, code)
        write_json(place.verdict, {"run": logged.record.run_id, **verdict.to_dict()})
    _tell_store(store, logged, place, folder, verdict)
    return verdict


def submit(request: Request, launcher: SlurmLauncherConfig) -> int:
    """Do it in a SLURM job, which goes on by itself; follow what it prints, and return its exit status.

    Raises:
        UserError: when it cannot be submitted.
    """
    check_slurm(launcher)
    if launcher.nodes > 1:
        raise ConfigError(
            "hydra.launcher.nodes",
            launcher.nodes,
            "a reproduction is one job on one node",
            "take a profile with nodes=1",
        )
    tracking = TrackingConfig(uri=request.uri)
    preflight.check_job(tracking, request.outputs.resolve(), launcher)
    _, logged, place = _prepare(request)
    variables = {"PYTHONPATH": str(snapshot.take(request.outputs))}
    if not request.current_code:
        variables[REPOSITORY] = str(repository())
    words = ["hrm_lab.cli", "reproduce", *request.words(logged.record.run_id)]
    return single.run_as_job(place.path / "slurm", f"reproduce.{place.path.name}", words, launcher, variables)


def _prepare(request: Request) -> tuple[Store, Logged, Place]:
    """Find the run, refuse what cannot be, and say what is known before anything is started."""
    store = open_store(request.uri, request.outputs)
    logged = find(store, request.run)
    _check_settings(request.settings, logged.config)
    if not logged.values:
        raise CannotReproduce(f"{logged.record.name}: it has logged no metric\n  way out: take a run that has trained")
    _check_keys(request, logged)
    for key, present, param in changed_since(logged):
        log.warning("the stored config was changed after the run: %s=%s, trained with %s", key, present, param)
    place = open_place(request.outputs, logged.record.run_id, logged.config_text, request.options())
    return store, logged, place


def _key(setting: str) -> str:
    return setting.partition("=")[0]


def _check_settings(settings: Sequence[str], config: Mapping[str, Any]) -> None:
    known = flat(config)
    for setting in settings:
        key, is_pair, value = setting.partition("=")
        if not is_pair:
            raise UserError(f"--set {setting}: is no KEY=VALUE\n  way out: --set {setting}=VALUE")
        if key.startswith(NOT_THE_RECIPE):
            raise ConfigError(key, value, "is no part of what is run", "see --outputs, --data and --tracking-uri")
        if any(other.startswith(f"{key}.") for other in known):
            raise ConfigError(key, value, "is a group of settings, not a value", f"set {key}.KEY=VALUE")
        if key not in known:
            raise unknown_key(key, value, list(known))
        refuse_secret(key, value)


def _check_keys(request: Request, logged: Logged) -> None:
    """Keys that this version no longer knows, or did not know then."""
    unknown = ", ".join(unknown_keys(logged.config))
    if unknown and request.current_code:
        raise CannotReproduce(
            f"{logged.record.name}: this version does not know {unknown} of the run's config\n"
            f"  way out: leave --current-code out; the run's own commit {logged.commit[:12]} is used then"
        )
    if unknown:
        log.warning(
            "this version does not know %s; commit %s is used, which the run was made with", unknown, logged.commit[:12]
        )
    if request.current_code and new_keys(logged.config):
        log.warning("newer than the run, and left at their defaults: %s", ", ".join(new_keys(logged.config)))


@contextmanager
def _code(request: Request, logged: Logged, place: Place) -> Iterator[Code]:
    if request.current_code:
        log.info("code: today's, not that of the run (commit %s)", logged.commit[:12])
        yield present_code()
        return
    with checked_out(logged.provenance, place.path / "code") as code:
        patch = " and its logged patch" if logged.provenance.get("diff") else ""
        log.info("code: commit %s%s, tree %s", logged.commit[:12], patch, logged.provenance["tree"][:12])
        yield code


def _again(request: Request, store: Store, logged: Logged, place: Place, code: Code) -> tuple[Verdict, RunFolder]:
    """Everything between the code and the verdict."""
    if request.same_env:
        code = dataclasses.replace(code, python=environment.same_environment(logged.provenance, request.outputs))
    rows = _compare_environment(logged, code)
    check_data(logged, code, request.data, request.settings)
    until = _last_step(request, logged)
    reached = _train(request, logged, place, code, until)
    folder = place.run()
    assert folder is not None
    stopped = reached or not logged.is_finished
    comparison = compare(logged.values, journal_values(folder.journal), until if stopped else None)
    if not comparison.total:
        raise CannotReproduce(f"up to step {until} the run has logged no value\n  way out: more --steps")
    notes = []
    if not logged.is_finished:
        notes.append(f"the logged run has not finished ({logged.broken_off})")
    weights = Weights(why_not=f"stopped at step {until}") if stopped else _weights(store, logged, folder)
    if rows and (comparison.differences or weights.differ) and not request.changes:
        named = ", ".join(what for what, _, _ in rows[:NAMED])
        notes.append(f"the environment differs too: {named}{', ...' if len(rows) > NAMED else ''}")
    return Verdict(comparison, weights, request.changes, notes), folder


def _compare_environment(logged: Logged, code: Code) -> list[tuple[str, str, str]]:
    rows = differences(logged.provenance, environment.present(code.python))
    if rows:
        Console(stderr=True).print(environment.table(rows))
    else:
        log.info("environment: %s", environment.alike(logged.provenance))
    return rows


def _last_step(request: Request, logged: Logged) -> int | None:
    """Where to stop; None = at the end. What never finished is of no use beyond where it got to."""
    end = None if logged.is_finished else logged.last_step
    if request.steps is None:
        return end
    # The first step at that or later that has a value: up to there they have to be made anyway.
    return min((step for step, _ in logged.values if step >= request.steps), default=end)


def _train(request: Request, logged: Logged, place: Place, code: Code, until: int | None) -> bool:
    """Train, unless an earlier command has; whether it was stopped at `until`."""
    earlier = place.run()
    if earlier is not None and earlier.status in FINISHED:
        return False
    status, reached = train(code, place.path, request.data.resolve(), request.settings, logged.world_size, until)
    # One that failed the first time may do so again; what counts is whether it got there by the same numbers.
    if status and not reached and (logged.record.status != "FAILED" or place.run() is None):
        raise CannotReproduce(
            f"the training ended with exit status {status}\n"
            "  way out: what it said stands above; put it right, and the same command goes on"
        )
    return reached


def _weights(store: Store, logged: Logged, folder: RunFolder) -> Weights:
    now = folder.path / "last.safetensors"
    then = logged.record.tags.get(WEIGHTS_HASH, "")
    if not then:
        with tempfile.TemporaryDirectory() as scratch:
            file = store.download(logged.record.run_id, "weights/last.safetensors", Path(scratch))
            then = weights_hash(file) if file is not None else ""
    if not then:
        return Weights(why_not="the run has logged none")
    if not now.exists():
        return Weights(why_not="the new run has left none")
    return Weights(then, weights_hash(now))


def _tell_store(store: Store, logged: Logged, place: Place, folder: RunFolder, verdict: Verdict) -> None:
    """A run of its own: it has no signature tag, so nothing that asks for the run of a signature ever finds it."""
    name, run_id = logged.record.name, logged.record.run_id
    try:
        source = folder.provenance()
        tags = {
            KIND: "reproduction",
            VERDICT: verdict.line,
            "mlflow.source.name": "hrm-lab",
            "mlflow.source.git.commit": source.commit,
            "mlflow.note.content": f"{verdict.line}\n\nRun `{run_id}` again.",
        }
        tags |= {DERIVED_FROM: run_id, CHANGES: " ".join(verdict.changes)} if verdict.changes else {REPRODUCES: run_id}
        title = f"{name} with {', '.join(verdict.changes)}" if verdict.changes else f"reproduction of {name}"
        target = store.in_experiment(logged.record.experiment_id)
        new = target.create_run(title, tags, None)
        config = json.loads((folder.path / "config.json").read_text())
        params = {key: value for key, value in flat(config).items() if key in logged.record.params}
        describe(target, new, folder, params, config)
        Mirror(folder, into=(target, new)).sync()
        target.log_file(new, place.verdict)
        if folder.status == INTERRUPTED:  # on purpose
            target.set_tags(new, {REASON: None})
            target.set_status(new, "FINISHED")
        log.info("tracked as run %s", new)
    except Exception as error:
        log.warning("the tracking store could not be told (%s); the verdict is in %s", one_line(error), place.verdict)
