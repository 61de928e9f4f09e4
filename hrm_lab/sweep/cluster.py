"""A sweep on SLURM: plan, check, submit and leave; or stay and watch."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hrm_lab.config import Config
from hrm_lab.launchers import SlurmLauncherConfig, check_slurm
from hrm_lab.manifest import Manifest, make_manifest, prepare_points
from hrm_lab.run_folder import RunFolder
from hrm_lab.sweep import preflight, slurm, snapshot
from hrm_lab.sweep.closing import CLOSED, open_sweep
from hrm_lab.sweep.datasets import build_datasets
from hrm_lab.sweep.plan import make_plan, show_plan
from hrm_lab.sweep.results import Result, result
from hrm_lab.sweep.submission import Submission, submitting
from hrm_lab.sweep.watch import watch
from hrm_lab.validation import check_world_size

log = logging.getLogger("hrm_lab")


def submit_sweep(
    configs: Sequence[Config], overrides: Sequence[Sequence[str]], launcher: SlurmLauncherConfig
) -> list[Result]:
    """Submit every point that is neither done nor on its way, and come back at once, or when all have ended.

    Args:
        configs: validated, one for each point of the grid.
        overrides: what makes each point.

    Raises:
        UserError: before anything is queued, when the sweep cannot be run as it is.
    """
    check_slurm(launcher)
    for config in configs:
        check_world_size(config.training, launcher.world_size)
    manifest = make_manifest(configs, overrides, "slurm", dataclasses.asdict(launcher))
    folders = [RunFolder.of(config) for config in configs]
    if launcher.dry_run:
        show_plan(make_plan(manifest, launcher.rerun_failed))
        return [result(folder, waited=False) for folder in folders]
    by_signature = {folder.path.name: config for folder, config in zip(folders, configs, strict=True)}
    with submitting(Path(manifest.outputs)):
        plan = make_plan(manifest, launcher.rerun_failed)
        show_plan(plan)
        todo = [entry.signature for entry, _, action in plan if action.submits]
        send(manifest, by_signature, todo, launcher, None)
    if launcher.wait:
        watch(manifest)
    return [result(folder, waited=launcher.wait) for folder in folders]


def send(
    manifest: Manifest,
    configs: Mapping[str, Config],
    signatures: Sequence[str],
    launcher: SlurmLauncherConfig,
    code: Path | None,
) -> None:
    """Check, and give these points to SLURM. Everything a job needs is on disk before the first sbatch.

    Args:
        configs: by signature.
        code: the snapshot that they run; None = the code as it is now.
    """
    some = next(iter(configs.values()))
    manifest = dataclasses.replace(manifest, tracking=_for_nodes(some).tracking)
    if not signatures:
        manifest.save()
        log.info("nothing to submit")
        return
    outputs = Path(manifest.outputs)
    asked = [_for_nodes(configs[signature]) for signature in signatures]
    preflight.check(asked, launcher, -(-len(signatures) // launcher.points_per_job))
    build_datasets(asked)  # not by every job of the array at once
    max_array = slurm.max_array_tasks(slurm.settings())
    threads = max(config.training.threads for config in asked)
    submission = Submission.make(
        manifest.folder, outputs, launcher, threads, code or snapshot.take(outputs), signatures, max_array
    )
    submission.save()
    by_signature = dict(zip(signatures, asked, strict=True))
    prepare_points(manifest, by_signature, signatures, submission.folder, launcher.points_per_job)
    manifest.save()
    (manifest.folder / CLOSED).unlink(missing_ok=True)
    open_sweep(manifest)
    submission.submit()
    jobs = ", ".join(f"{chunk.job_id} ({chunk.count} tasks)" for chunk in submission.chunks)
    first = f" after canary {submission.canary.job_id}" if submission.canary else ""
    log.info("%d points submitted as job %s%s; code %s", len(signatures), jobs, first, submission.code.name)


def _for_nodes(config: Config) -> Config:
    """The config as jobs on other machines read it: paths from the root, and the address that this shell knows."""
    paths = dataclasses.replace(config.paths, data=str(Path(config.paths.data).resolve()))
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")  # preflight refuses one with a password
    return dataclasses.replace(config, paths=paths, tracking=dataclasses.replace(config.tracking, uri=uri))
