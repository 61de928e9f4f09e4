"""A sweep on this machine: submitit's local executor, with a limit on how many jobs run together.

The executor itself starts every job at once; here the next one starts when one ends.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit

from hrm_lab.config import Config
from hrm_lab.errors import ConfigError
from hrm_lab.launchers import LocalLauncherConfig
from hrm_lab.manifest import Entry, Manifest, make_manifest, prepare_points
from hrm_lab.run import close_dead_run
from hrm_lab.run_folder import FAILED, PENDING, RUNNING, RunFolder
from hrm_lab.sweep.closing import close_sweep, open_sweep
from hrm_lab.sweep.datasets import build_datasets
from hrm_lab.sweep.plan import make_plan, show_plan
from hrm_lab.sweep.results import Result, result
from hrm_lab.sweep.submission import THREAD_VARIABLES
from hrm_lab.sweep.watch import watcher
from hrm_lab.sweep.worker import work
from hrm_lab.tracking.store import refuse_silent_server
from hrm_lab.validation import check_ranges, check_world_size

log = logging.getLogger("hrm_lab")
POLL_S = 0.5


def run_sweep(
    configs: Sequence[Config], overrides: Sequence[Sequence[str]], launcher: LocalLauncherConfig
) -> list[Result]:
    """Run every point that is not done yet, and say how each point ended when all have.

    Args:
        configs: validated, one for each point of the grid.
        overrides: what makes each point.

    Raises:
        UserError: before anything is built or started, when the sweep cannot be run as it is.
    """
    manifest = make_manifest(configs, overrides, "local", dataclasses.asdict(launcher))
    if visible_gpus() and not launcher.gpus_per_job and any(config.training.device == "auto" for config in configs):
        log.warning("this machine has a GPU, which no point gets\n  way out: --on local_gpu gives each of them one")
    run_again(manifest, {RunFolder.of(config).path.name: config for config in configs}, launcher)
    return [result(RunFolder.of(config), waited=not launcher.dry_run) for config in configs]


def run_again(manifest: Manifest, configs: Mapping[str, Config], launcher: LocalLauncherConfig) -> None:
    """Run what is not done yet of a sweep's points.

    Args:
        configs: by signature; points without one are left alone.
    """
    some = next(iter(configs.values()))
    limit = job_limit(list(configs.values()), launcher)
    plan = [item for item in make_plan(manifest, launcher.rerun_failed) if item[0].signature in configs]
    show_plan(plan)
    if launcher.dry_run:
        return
    refuse_silent_server(some.tracking)
    build_datasets(configs.values())
    manifest = dataclasses.replace(manifest, tracking=some.tracking)
    manifest.save()
    todo = [(entry, folder) for entry, folder, action in plan if action.submits]
    if todo:
        prepare_points(manifest, configs, [entry.signature for entry, _ in todo], None, 1)
    with _tracked_sweep(manifest):
        if todo:
            log.info("%d of %d points to run, %d at a time", len(todo), len(plan), min(limit, len(todo)))
            _Pool(manifest, launcher, some.training.threads, limit).run(todo)


def job_limit(configs: Sequence[Config], launcher: LocalLauncherConfig) -> int:
    """How many jobs may run together without asking more of the machine than it has.

    Raises:
        ConfigError: for a launcher setting that cannot be.
    """
    check_ranges(launcher, "hydra.launcher.")
    for config in configs:
        check_world_size(config.training, launcher.processes_per_job)
    threads = max(config.training.threads for config in configs)
    cores = len(os.sched_getaffinity(0)) // (launcher.processes_per_job * threads)
    limit = launcher.max_parallel_jobs or max(1, cores)
    if launcher.gpus_per_job:
        gpus = len(visible_gpus())
        if gpus < launcher.gpus_per_job:
            raise ConfigError(
                "hydra.launcher.gpus_per_job",
                launcher.gpus_per_job,
                f"this machine shows {gpus} GPUs",
                "take fewer, or hydra/launcher=local, which runs on the CPU",
            )
        limit = min(limit, gpus // launcher.gpus_per_job)
    return limit


def visible_gpus() -> list[int]:
    """The GPUs that this process may use, without asking CUDA (which would take seconds and memory)."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [int(number) for number in chosen.split(",") if number.strip().isdigit()]
    devices = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*"))
    return sorted(int(number) for number in devices if number.isdigit())


@contextmanager
def _tracked_sweep(manifest: Manifest) -> Iterator[None]:
    """Open the sweep's own run before any job asks for it, and close it truthfully."""
    open_sweep(manifest)
    try:
        yield
    except BaseException:
        close_sweep(manifest, "KILLED")
        raise
    close_sweep(manifest, "FINISHED")


class _Pool:
    """Keeps up to `limit` jobs running until all are done."""

    def __init__(self, manifest: Manifest, launcher: LocalLauncherConfig, threads: int, limit: int) -> None:
        self.manifest, self.launcher, self.threads, self.limit = manifest, launcher, threads, limit
        self.free_gpus = visible_gpus()
        self.executor = submitit.LocalExecutor(manifest.folder / "submitit")
        self.active: list[tuple[Any, Entry, RunFolder, list[int]]] = []

    def run(self, todo: list[tuple[Entry, RunFolder]]) -> None:
        """Until every point has ended, or the user has had enough."""
        waiting = list(todo)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # jobs must not outlive their sweep
        with watcher([(entry.label, folder) for entry, folder in todo]) as watch:
            try:
                while waiting or self.active:
                    while waiting and len(self.active) < self.limit:
                        self._submit(*waiting.pop(0))
                    time.sleep(POLL_S)
                    watch.look()
                    self._collect()
            except KeyboardInterrupt:
                self._cancel()
                print("interrupted: the same command goes on where the points stopped", file=sys.stderr)
                raise

    def _submit(self, entry: Entry, folder: RunFolder) -> None:
        gpus = [self.free_gpus.pop(0) for _ in range(self.launcher.gpus_per_job)]
        self.executor.update_parameters(
            tasks_per_node=self.launcher.processes_per_job,
            timeout_min=self.launcher.timeout_min,
            gpus_per_node=len(gpus),
            visible_gpus=gpus,
            stderr_to_stdout=True,
        )
        with submitit.helpers.clean_env(), _threads(self.threads), _stderr_to(self.executor.folder / "controllers.log"):
            job = self.executor.submit(work, str(folder.path))
        self.active.append((job, entry, folder, gpus))

    def _collect(self) -> None:
        """Take out the jobs that have ended; one that died without a word gets a state that says so."""
        for item in list(self.active):
            job, entry, folder, gpus = item
            if not job.done():
                continue
            self.active.remove(item)
            self.free_gpus += gpus
            state = folder.state
            if folder.attempts.is_alive():
                log.info("%s: another process is training it", entry.label)
                continue
            if state is None or state.status in (PENDING, RUNNING):
                detail = f"the job died without a word; its output is {job.paths.stdout}"
                state = close_dead_run(folder, FAILED, detail)
            log.info("%s: %s %s", entry.label, state.status.lower(), state.detail)

    def _cancel(self) -> None:
        for job, *_ in self.active:
            job.cancel()
        for job, *_ in self.active:
            try:
                job._process.wait(timeout=30)  # submitit offers no wait with a limit
            except subprocess.TimeoutExpired:
                job._process.kill()


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Where a process that is started in here writes its errors: submitit's controllers die of Ctrl-C at length."""
    ours = os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Thread counts that a job's libraries read when they are loaded."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
