"""What one job of a sweep does: train one run folder, on as many processes as the job has."""

from __future__ import annotations

import contextlib
import os

import submitit


def work(folder: str) -> None:
    """Train the run in `folder`. Submitted by path, so the job reads a resolved config and never touches Hydra."""
    from pathlib import Path

    from hrm_lab.errors import one_line
    from hrm_lab.logs import log_to_console
    from hrm_lab.progress import PlainProgress
    from hrm_lab.redaction import redact
    from hrm_lab.run import Watch, run
    from hrm_lab.run_folder import RunFolder
    from hrm_lab.training.protocols import Left

    join_processes()
    log_to_console()
    run_folder = RunFolder(Path(folder))
    try:
        with contextlib.suppress(Left), Watch().listening() as watch:
            run(run_folder.config(), run_folder, PlainProgress(), watch)
    except Exception as error:  # submitit keeps what is raised; the whole story is in the run's log
        raise RuntimeError(redact(one_line(error))) from None


def join_processes() -> None:
    """Give torch.distributed this task's place among the job's tasks."""
    job = submitit.JobEnvironment()
    if job.num_tasks == 1:
        return
    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    if job.cluster == "local":
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # the machine may not know its own name
