"""The run that a sweep has of its own in MLflow, parent of its points, and the report that it ends with."""

from __future__ import annotations

import logging
from pathlib import Path

from hrm_lab.errors import one_line
from hrm_lab.manifest import Manifest
from hrm_lab.tracking.store import Store, refuse_silent_server

CLOSED = "closed"  # a file that says that the sweep's own run has been given its end
log = logging.getLogger("hrm_lab")


def open_sweep(manifest: Manifest) -> None:
    """Make database, experiment and the sweep's own run once, before any job asks for them."""
    store = _store(manifest)
    if store is None:
        return
    (manifest.folder / CLOSED).unlink(missing_ok=True)
    run_id = store.sweep_run(manifest.name, manifest.question)
    # Runs that an earlier sweep has made are siblings of this one's.
    store.join(manifest.name, [folder.run_id for _, folder in manifest.runs() if folder.run_id])
    store.set_status(run_id, "RUNNING")
    store.log_file(run_id, manifest.folder / "manifest.json")


def close_sweep(manifest: Manifest, status: str) -> None:
    """Give the sweep its report, and its own run its end: FINISHED, or KILLED if it was broken off.

    A store that is away is no reason to fail: the points themselves have their own mirrors.
    """
    if status == "FINISHED":
        try:
            log.info("report: %s", report_sweep(manifest))
        except Exception as error:
            log.warning("the sweep's report could not be made: %s", one_line(error))
    try:
        store = _store(manifest)
        if store is not None:
            store.set_status(store.sweep_run(manifest.name, manifest.question), status)
        (manifest.folder / CLOSED).touch()
    except Exception as error:
        log.warning("the sweep's own run could not be closed: %s", error)


def report_sweep(manifest: Manifest, page: Path | None = None, metric: str | None = None) -> Path:
    """Write the report and its pictures, and give them to the sweep's own run if the store answers.

    Args:
        page: by default report.html in the sweep's folder.
        metric: what is best; by default what the runs watched, or one that all were evaluated by.
    """
    from hrm_lab.analysis.frames import read_results  # loads pandas and matplotlib
    from hrm_lab.analysis.report import write_report

    page, *pictures = write_report(read_results(manifest, metric=metric).settled(), page)
    try:
        store = _store(manifest)
        if store is not None:
            run_id = store.sweep_run(manifest.name, manifest.question)
            store.log_text(run_id, page.read_text(encoding="utf-8"), "report/report.html")
            for picture in pictures:
                store.log_file(run_id, picture, "figures")
    except Exception as error:
        log.warning("the report is there, but not in MLflow: %s", one_line(error))
    return page


def _store(manifest: Manifest) -> Store | None:
    refuse_silent_server(manifest.tracking)
    return Store.open(manifest.tracking, Path(manifest.outputs)) if manifest.tracking.enabled else None
