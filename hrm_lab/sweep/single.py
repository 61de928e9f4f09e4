"""One command as one SLURM job: submitted once, followed from anywhere, put back into the queue until it is done."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import submitit

from hrm_lab.errors import RunError
from hrm_lab.files import write_json
from hrm_lab.launchers import SlurmLauncherConfig
from hrm_lab.sweep import slurm

log = logging.getLogger("hrm_lab")
INTERRUPTED = 130  # exit status of a command that has saved and goes on when it is given again
PAUSE_S, SLURM_PAUSE_S = 0.5, 3.0
GONE_S = 15.0  # for the end of a job to be seen on a file system that it shares with this machine


def run_as_job(
    folder: Path, name: str, words: Sequence[str], launcher: SlurmLauncherConfig, variables: Mapping[str, str]
) -> int:
    """Submit `python -m WORDS` with what one task of a profile gets, and follow it; a queued one is only followed.

    Args:
        folder: for its script, output and exit status.
        words: safe to give again whenever they end with 130: the job does so.
        variables: of its environment.

    Returns:
        Its exit status.

    Raises:
        RunError: when it ends without one.
        KeyboardInterrupt: by Ctrl-C; the job goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = _queued(folder)
    if job is None:
        (folder / "exit").unlink(missing_ok=True)
        script = folder / "job.sh"
        script.write_text(_script(folder, name, words, launcher, variables))
        job = slurm.sbatch(script)
        write_json(folder / "job.json", {"id": job})
        log.info("submitted as job %s; its output is %s", job, _output(folder, job))
    else:
        log.info("job %s is at it already; its output is %s", job, _output(folder, job))
    try:
        return _follow(folder, job)
    except KeyboardInterrupt:
        log.info("job %s goes on; the same command follows it again, `scancel %s` ends it", job, job)
        raise


def _queued(folder: Path) -> str | None:
    try:
        job = str(json.loads((folder / "job.json").read_text())["id"])
    except (OSError, ValueError):
        return None
    return job if job in slurm.queue([job]) else None


def _output(folder: Path, job: str) -> Path:
    return folder / f"{job}_0_log.out"


def _follow(folder: Path, job: str) -> int:
    """Print what the job prints until it has left its exit status."""
    shown, looked, gone = 0, time.monotonic(), 0.0
    while True:
        ended = (folder / "exit").exists()
        if _output(folder, job).exists():
            with _output(folder, job).open("rb") as file:
                file.seek(shown)
                text = file.read()
                shown += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
        if ended:
            return int((folder / "exit").read_text())
        if gone and time.monotonic() - gone > GONE_S:
            raise RunError(
                f"job {job} is gone ({_how(job)})\n  way out: read {_output(folder, job)}; the same command goes on"
            )
        if not gone and time.monotonic() - looked > SLURM_PAUSE_S:
            looked = time.monotonic()
            gone = 0.0 if job in slurm.queue([job]) else looked
        time.sleep(PAUSE_S)


def _how(job: str) -> str:
    ended = slurm.ended([job]).get(job)
    return ended.state if ended else "accounting does not know how it ended"


def _script(
    folder: Path, name: str, words: Sequence[str], launcher: SlurmLauncherConfig, variables: Mapping[str, str]
) -> str:
    executor = submitit.SlurmExecutor(folder)
    exports = [f"export {key}={shlex.quote(value)}" for key, value in variables.items()]
    again = f'[ $code = {INTERRUPTED} ] && [ "$(squeue -h -j $SLURM_JOB_ID -o %T)" = RUNNING ]'
    end = f"echo $code > {shlex.quote(str(folder / 'exit'))}"
    executor.update_parameters(
        job_name=name,
        nodes=1,
        ntasks_per_node=1,
        cpus_per_task=launcher.cpus_per_task * launcher.tasks_per_node,
        setup=[*exports, "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}", *launcher.setup],
        teardown=["code=$?", f"if {again}; then scontrol requeue $SLURM_JOB_ID; else {end}; fi", "exit $code"],
        srun_args=["--open-mode=append", *launcher.srun_args],
        **slurm.asked_of_any_job(launcher),
    )
    command = shlex.join([sys.executable, "-u", "-P", "-m", *words])
    text: str = executor._make_submission_file_text(command, name)
    return text
