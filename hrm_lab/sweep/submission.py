"""One submission of a sweep's points to SLURM: which task trains which points, and the jobs that hold the tasks.

All that a job needs lies in the submission's folder before sbatch is called, and every job has a name that no other
job has. So whoever submits may be killed at any moment: jobs that are queued run, those that are not can be told apart
from those that are, and the next command goes on from there.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import submitit
from filelock import FileLock, Timeout

from hrm_lab.errors import RunError
from hrm_lab.files import write_json
from hrm_lab.launchers import SlurmLauncherConfig
from hrm_lab.run_folder import RunFolder
from hrm_lab.sweep import slurm

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class Chunk:
    """One job array: `count` tasks from task `first` on, at most `parallelism` at a time; one sbatch."""

    name: str
    first: int
    count: int
    parallelism: int | None
    after: str | None  # the chunk that must end first, where there are more chunks than may run together
    job_id: str | None = None  # as soon as it is known


@dataclass
class Submission:
    """What was given to SLURM at once.

    `tasks` lists the signatures that each task trains; the canary, if there is one, trains two steps of the first.
    """

    folder: Path
    sweep: str
    outputs: Path
    launcher: SlurmLauncherConfig
    threads: int
    code: Path
    tasks: list[list[str]]
    chunks: list[Chunk]
    canary: Chunk | None

    @classmethod
    def make(
        cls,
        sweep_folder: Path,
        outputs: Path,
        launcher: SlurmLauncherConfig,
        threads: int,
        code: Path,
        signatures: Sequence[str],
        max_array: int,
    ) -> Submission:
        """Cut the points into tasks and the tasks into arrays; nothing is written or submitted yet."""
        number = 1 + sum(1 for _ in sweep_folder.glob("submissions/*"))
        name = f"{number:03d}-{uuid.uuid4().hex[:6]}"
        step = launcher.points_per_job
        tasks = [list(signatures[start : start + step]) for start in range(0, len(signatures), step)]
        job = f"{sweep_folder.name}.{name}"
        canary = Chunk(f"{job}.canary", 0, 1, None, None) if launcher.canary else None
        chunks = split(job, len(tasks), max_array, launcher.array_parallelism)
        folder = sweep_folder / "submissions" / name
        return cls(folder, sweep_folder.name, outputs, launcher, threads, code, tasks, chunks, canary)

    @classmethod
    def load(cls, folder: Path) -> Submission:
        """Read one, with the job ids that are known."""
        try:
            values = json.loads((folder / "submission.json").read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{folder}: cannot be read ({error})\n  way out: submit the sweep again") from None
        submission = cls(
            folder,
            values["sweep"],
            Path(values["outputs"]),
            SlurmLauncherConfig(**values["launcher"]),
            values["threads"],
            Path(values["code"]),
            values["tasks"],
            [Chunk(**chunk) for chunk in values["chunks"]],
            Chunk(**values["canary"]) if values["canary"] else None,
        )
        for chunk in submission.all_chunks():
            chunk.job_id = chunk.job_id or submission._told_job_id(chunk)
        return submission

    def save(self) -> None:
        """Write it, whole or not at all."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = asdict(self)
        values |= {"outputs": str(self.outputs), "code": str(self.code)}
        del values["folder"]
        write_json(self.folder / "submission.json", values)

    def all_chunks(self) -> Iterator[Chunk]:
        """The canary, if there is one, and the arrays."""
        if self.canary is not None:
            yield self.canary
        yield from self.chunks

    @property
    def job_ids(self) -> list[str]:
        """Ids of the arrays that were submitted."""
        return [chunk.job_id for chunk in self.chunks if chunk.job_id]

    def job_of(self, task: int) -> str | None:
        """The task as SLURM names it, 12_3; None as long as it was not submitted."""
        chunk = next(chunk for chunk in self.chunks if chunk.first <= task < chunk.first + chunk.count)
        return f"{chunk.job_id}_{task - chunk.first}" if chunk.job_id else None

    def note(self, name: str) -> dict[str, Any] | None:
        """What a job has written down for others: `canary`, how it went; `held`, why the rest does not start."""
        path = self._note_file(name)
        return dict(json.loads(path.read_text())) if path.exists() else None

    def write_note(self, name: str, values: dict[str, Any]) -> None:
        """Write one down."""
        write_json(self._note_file(name), values)

    def drop_note(self, name: str) -> None:
        """It holds no longer."""
        self._note_file(name).unlink()

    def _note_file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    @property
    def failures(self) -> Path:
        """Folder in which the jobs count points that failed with the same error."""
        return self.folder / "failures"

    @property
    def held(self) -> str:
        """Why what has not started does not start; empty where nothing holds it."""
        canary, held = self.note("canary"), self.note("held")
        if canary is not None and not canary["ok"]:
            return f"the canary failed: {canary['detail']}"
        return f"held: {held['points']} points failed with the same error: {held['error']}" if held else ""

    def runs(self, task: int) -> list[RunFolder]:
        """The run folders of a task's points."""
        return [RunFolder(self.outputs / "runs" / signature) for signature in self.tasks[task]]

    def log_of(self, task: int) -> Path | None:
        """What the task's first process printed."""
        job = self.job_of(task)
        return self.folder / "logs" / f"{job}_0_log.out" if job else None

    # ------------------------------------------------------------------------------------------ submitting

    def submit(self) -> None:
        """Give a new submission's chunks to SLURM, and write down each job id as soon as it is known.

        Raises:
            SlurmError: when SLURM refuses one; the chunks before it are queued, and the points of the others count as
                not submitted.
        """
        for chunk in self.all_chunks():
            script = self.folder / f"{chunk.name.rpartition('.')[2]}.sh"
            script.write_text(self._script(chunk))
            chunk.job_id = slurm.sbatch(script)
            self.save()

    def find_jobs(self) -> None:
        """Learn the ids of jobs that were submitted by a process that was killed before it could write them down."""
        unknown = [chunk for chunk in self.all_chunks() if chunk.job_id is None]
        for chunk in unknown:
            chunk.job_id = slurm.job_of_name(chunk.name)
        if any(chunk.job_id for chunk in unknown):
            self.save()

    def _told_job_id(self, chunk: Chunk) -> str | None:
        """What the job itself has written down when it started."""
        told = self.folder / f"{chunk.name}.job"
        return told.read_text().strip() or None if told.exists() else None

    def _script(self, chunk: Chunk) -> str:
        """The batch script, in submitit's form: srun starts one worker for each process, then the end is looked at."""
        launcher, is_canary = self.launcher, chunk is self.canary
        executor = submitit.SlurmExecutor(self.folder / "logs")
        dependency = self._dependency(chunk)
        place = f"{shlex.quote(str(self.folder))} {chunk.first}"
        python = f"{shlex.quote(sys.executable)} -u -P -m hrm_lab.sweep"
        end = f"{python} {'after-canary' if is_canary else 'after'}"
        array = {} if is_canary else {"map_count": chunk.count, "array_parallelism": chunk.parallelism or chunk.count}
        executor.update_parameters(
            job_name=chunk.name,
            nodes=launcher.nodes,
            ntasks_per_node=launcher.tasks_per_node,
            cpus_per_task=launcher.cpus_per_task,
            setup=[*self._setup(chunk), *launcher.setup],
            # SLURM's controller may be away for a moment, just then.
            teardown=[
                "code=$?",
                f"for pause in 5 20 60; do {end} {place} $code && break; sleep $pause; done",
                "exit $code",
            ],
            srun_args=["--kill-on-bad-exit=1", "--open-mode=append", *launcher.srun_args],
            **slurm.asked_of_any_job(launcher),
            **({"dependency": dependency} if dependency is not None else {}),
        )
        executor.parameters.update(array)
        command = f"{python} {'canary' if is_canary else 'train'} {place}"
        text: str = executor._make_submission_file_text(command, self.folder.name)
        return text

    def _dependency(self, chunk: Chunk) -> str | None:
        ids = {other.name: other.job_id for other in self.all_chunks()}
        if chunk is self.canary:
            return None
        conditions = [f"afterok:{self.canary.job_id}"] if self.canary is not None else []
        conditions += [f"afterany:{ids[chunk.after]}"] if chunk.after else []
        return ",".join(conditions) or None

    def _setup(self, chunk: Chunk) -> list[str]:
        told = self.folder / f"{chunk.name}.job"
        threads = " ".join(f"{name}={self.threads}" for name in THREAD_VARIABLES)
        return [
            f"echo ${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}} > {shlex.quote(str(told))}",
            f"export {threads}",
            f"export PYTHONPATH={shlex.quote(str(self.code))}",
            "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it over from sbatch",
        ]


def split(job: str, tasks: int, max_array: int, parallelism: int | None) -> list[Chunk]:
    """Cut tasks into arrays of at most `max_array` tasks, which share the number of tasks that may run together.

    The limit is on an array's index, so every array counts from 0. Where more arrays than running tasks are asked for,
    the later ones wait for the earlier ones.
    """
    number = math.ceil(tasks / max_array)
    together = number if parallelism is None else min(number, parallelism)
    chunks: list[Chunk] = []
    for index in range(number):
        first = index * max_array
        count = min(max_array, tasks - first)
        share = None
        if parallelism is not None:
            lane = index % together
            share = parallelism // together + (1 if lane < parallelism % together else 0)
        after = chunks[index - together].name if index >= together else None
        chunks.append(Chunk(f"{job}.{index}", first, count, share, after))
    return chunks


@contextmanager
def submitting(outputs: Path) -> Iterator[None]:
    """Keep a second command from submitting runs of the same folder at the same time: sweeps may share points.

    Raises:
        RunError: when one is at it.
    """
    (outputs / "sweeps").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(outputs / "sweeps" / ".submitting", timeout=2):
            yield
    except Timeout:
        raise RunError(f"{outputs}: another command is submitting right now\n  way out: wait for it") from None
