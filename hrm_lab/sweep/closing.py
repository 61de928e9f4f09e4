"""The run that a sweep has of its own in MLflow, parent of its points."""

from __future__ import annotations

import logging
from pathlib import Path

from hrm_lab.manifest import Manifest
from hrm_lab.tracking.store import Store

CLOSED = "closed"  # a file that says that the sweep's own run has been given its end
log = logging.getLogger("hrm_lab")


def open_sweep(manifest: Manifest) -> None:
    """Make database, experiment and the sweep's own run once, before any job asks for them."""
    store = _store(manifest)
    if store is None:
        return
    run_id = store.sweep_run(manifest.name, manifest.question)
    store.set_status(run_id, "RUNNING")
    store.log_file(run_id, manifest.folder / "manifest.json")


def close_sweep(manifest: Manifest, status: str) -> None:
    """Give the sweep's run its picture and its end: FINISHED, or KILLED if it was broken off.

    A store that is away is no reason to fail: the points themselves have their own mirrors.
    """
    try:
        store = _store(manifest)
        if store is None:
            return
        run_id = store.sweep_run(manifest.name, manifest.question)
        if status == "FINISHED":
            from hrm_lab.analysis.comparison import draw_sweep  # loads pandas and matplotlib

            store.log_file(run_id, draw_sweep(manifest), "figures")
        store.set_status(run_id, status)
        (manifest.folder / CLOSED).touch()
    except Exception as error:
        log.warning("the sweep's own run could not be closed: %s", error)


def _store(manifest: Manifest) -> Store | None:
    _, folder = manifest.runs()[0]
    config = folder.config()
    return Store.open(config.tracking, Path(manifest.outputs)) if config.tracking.enabled else None
