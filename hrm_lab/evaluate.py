"""What the verbs `evaluate` and `export` do: weights judged on whole test sets, or taken elsewhere."""

from __future__ import annotations

import dataclasses
import logging
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hrm_lab.config import DataConfig
from hrm_lab.data.build import ensure_dataset, reopen
from hrm_lab.data.format import Dataset, DatasetInfo
from hrm_lab.data.tasks import find_task
from hrm_lab.errors import RunError
from hrm_lab.subject import Subject, batch_size, data_info, load_model, without_batch

if TYPE_CHECKING:
    from hrm_lab.training.evaluation import Evaluation

Progress = Callable[[int, int], None]
SHOWN_PUZZLES = 8  # whose boards are kept, for a picture
SHAPE = ("vocab_size", "seq_len", "grid_shape")  # what weights are trained for


@dataclasses.dataclass(frozen=True)
class Judged:
    """What came of it, and on what: metrics and arrays as in training/evaluation.py."""

    evaluation: Evaluation
    info: DatasetInfo
    steps: int  # ACT steps taken


def open_data(subject: Subject, data: DataConfig | None = None, progress: Progress | None = None) -> Dataset:
    """The dataset to judge on, built when missing.

    Args:
        data: other settings than those of the subject; by default, of a run, the very dataset it was trained on.

    Raises:
        RunError: when that is gone, and what is built in its place is another; when the other data are another task.
    """
    if data is not None:
        expected, task = data_info(subject), find_task(data.task)
        if task.info is not None:
            _refuse_others(subject, expected, task.info(data))  # now: a build may take long
        dataset = ensure_dataset(data, subject.config.paths.data, progress)
        _refuse_others(subject, expected, dataset.info)
        return dataset
    written = subject.run.dataset_info() if subject.run is not None else None
    if written is not None and Path(written["folder"]).is_dir():  # paths.data is relative to where the run was started
        dataset = reopen(subject.config.data, written["folder"])
    else:
        dataset = ensure_dataset(subject.config.data, subject.config.paths.data, progress)
    if written is not None and dataset.info.fingerprint != written["fingerprint"]:
        raise RunError(
            f"{subject.weights}: its run was trained on other data (fingerprint {written['fingerprint'][:12]}, not "
            f"{dataset.info.fingerprint[:12]})\n"
            f"  way out: bring {written['folder']} back, or say which data are meant: data=..."
        )
    return dataset


def _refuse_others(subject: Subject, expected: DatasetInfo, found: DatasetInfo) -> None:
    alike = SHAPE + (("task_facts",) if found.task == expected.task else ())  # a folder of another form may fit too
    apart = [
        f"{name}={getattr(found, name)!r}, not {getattr(expected, name)!r}"
        for name in alike
        if getattr(found, name) != getattr(expected, name)
    ]
    if apart:
        raise RunError(
            f"{subject.weights}: was trained for other puzzles than those of data {found.name} ({'; '.join(apart)})\n"
            "  way out: take data of the same vocabulary and shape"
        )


def evaluate(
    subject: Subject,
    data: DataConfig | None = None,
    steps: int | None = None,
    sequences: int | None = None,
    building: Progress | None = None,
    evaluating: Progress = lambda done, total: None,
) -> Judged:
    """Judge the weights on all test sets. Every process of several takes its share, and gets the same result.

    Args:
        data: other settings than the subject's; see `open_data`.
        steps: ACT steps; None = as it was trained.
        sequences: of a batch over all processes; None = as in training, and on a GPU what keeps it busy.
        building, evaluating: called with what is done and what there is: of a dataset to be built, of test batches.

    Raises:
        RunError: when the weights cannot be read or do not fit the config; and what data or device refuse.
    """
    from hrm_lab.training import evaluation
    from hrm_lab.training.batches import Batches
    from hrm_lab.training.distributed import connect

    training = subject.config.training
    ranks = connect(without_batch(training))
    try:
        dataset = open_data(subject, data, building)
        batches = Batches(dataset, ranks, data or subject.config.data, subject.config.seed)
        model = load_model(subject, dataset.info, batches.num_puzzle_identifiers).to(ranks.device)
        own = -(-(training.eval_batch_size or training.global_batch_size) // ranks.world_size)
        local = batch_size(own, dataset.info.seq_len, ranks.device.type == "cuda")
        size = (-(-sequences // ranks.world_size) if sequences else local) * ranks.world_size
        total, done = batches.num_evaluation_batches(size), 0

        def count() -> None:
            nonlocal done
            done += 1
            evaluating(done, total)

        found = evaluation.evaluate(model, batches, size, count, SHOWN_PUZZLES, steps=steps)
    finally:
        ranks.close()
    return Judged(found, dataset.info, steps or subject.config.model.halt_max_steps)


def in_processes(count: int, words: Sequence[str]) -> int:
    """Run `hrm-lab WORDS` as several processes of this machine that know of each other, through torch's launcher.

    Returns:
        Exit status; what was wrong the processes have said.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",  # the machine may not know its own name
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(launch, sys.executable)("-m", "hrm_lab.cli", *words)
    except ChildFailedError as error:
        return max(1, *(failure.exitcode for failure in error.failures.values()))
    except SignalException as error:
        return 128 + error.sigval
    return 0


def export(weights: Path, out: Path, form: str, compiled_names: bool = False) -> None:
    """Write the weights of a file for use elsewhere; see `interop.export`."""
    from hrm_lab.model import interop

    interop.export(interop.load_weights(weights), out, form, compiled_names)
