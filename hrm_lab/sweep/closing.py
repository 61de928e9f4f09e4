"""The end of a sweep that nobody waits for: whoever ends last closes its run in MLflow."""

from __future__ import annotations

import logging
from pathlib import Path

from hrm_lab.analysis.comparison import draw_sweep
from hrm_lab.manifest import Manifest, load_manifest
from hrm_lab.run_folder import ENDED
from hrm_lab.tracking.store import Store

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
            store.log_file(run_id, draw_sweep(manifest), "figures")
        store.set_status(run_id, status)
    except Exception as error:
        log.warning("the sweep's own run could not be closed: %s", error)


def close_if_ended(outputs: Path, sweep: str) -> None:
    """Close the sweep if every point of its grid has ended."""
    manifest = load_manifest(outputs, sweep)
    states = [folder.state for _, folder in manifest.grid()]
    if all(state is not None and state.status in ENDED for state in states):
        close_sweep(manifest, "FINISHED")


def _store(manifest: Manifest) -> Store | None:
    _, folder = manifest.runs()[0]
    config = folder.config()
    return Store.open(config.tracking, Path(manifest.outputs)) if config.tracking.enabled else None
