"""Weights that are to be used: a run's, or a file's from anywhere, with the config that makes a model of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hrm_lab.analysis.one_run import find_folder
from hrm_lab.config import Config, TrainingConfig
from hrm_lab.data.build import dataset_folder, ensure_dataset
from hrm_lab.data.format import DatasetInfo, read_info
from hrm_lab.data.tasks import find_task
from hrm_lab.errors import DataError, RunError
from hrm_lab.run_folder import RunFolder

if TYPE_CHECKING:
    from hrm_lab.model.hrm import HRM  # torch takes seconds to import, and what is refused must not wait for it

GPU_CELLS = 2**18  # of a batch, on one GPU: enough for it to have work, and little beside its memory


@dataclass(frozen=True)
class Subject:
    """A file of weights, the config that makes a model of them, and the run that it is from, if any."""

    weights: Path
    config: Config
    run: RunFolder | None = None


def find_weights(word: str, outputs: Path, last: bool = False) -> tuple[Path, RunFolder | None]:
    """The file of weights that a word names, and its run, if it names one: the weights of its best evaluation.

    Args:
        word: a file, or a run: its folder, signature or the beginning of it, MLflow id, or name.
        outputs: the folder whose runs are looked through.
        last: of a run, the weights at its end.

    Raises:
        RunError: when there is no such file or run, or more than one.
    """
    place = Path(word)
    if place.is_file():
        if last:
            raise RunError(f"{word}: is a file, and --last chooses among a run's weights\n  way out: leave --last out")
        return place, None
    run = find_folder(word, outputs)
    if run is None and place.is_dir():
        raise RunError(
            f"{word}: is no run's folder (no config.json)\n  way out: give OUTPUTS/runs/SIGNATURE, or a file"
        )
    if run is None:
        raise RunError(
            f"{word}: no such file or folder, nor is there such a run in {outputs / 'runs'}\n  way out: give a file of "
            "weights, or a run by its folder, signature or name; --outputs FOLDER looks elsewhere"
        )
    file = run.path / ("last.safetensors" if last else "best.safetensors")
    if not file.exists():
        other = "leave --last out for the best so far" if last else "--last takes the weights at its end"
        raise RunError(f"{file}: not there (yet)\n  way out: let the run go on to its end; {other}")
    return file, run


def subject_of_run(weights: Path, run: RunFolder) -> Subject:
    """A run's weights with its own config. Where it asked for CUDA, that is used if there is one."""
    config = run.config()
    if config.training.device == "cuda":
        config.training.device = "auto"
    return Subject(weights, config, run)


def data_info(subject: Subject) -> DatasetInfo:
    """What the tokens mean that the weights were trained on. No dataset is built, nor needed where a run tells.

    Raises:
        DataError: when only a dataset tells that is not there.
    """
    if subject.run is not None and subject.run.dataset_copy.exists():
        return read_info(subject.run.dataset_copy.parent)
    data, task = subject.config.data, find_task(subject.config.data.task)
    if task.info is not None:
        return task.info(data)
    if task.open is not None:
        return ensure_dataset(data, subject.config.paths.data).info  # opened, not built
    folder = dataset_folder(data, subject.config.paths.data)
    if not folder.exists():
        raise DataError(
            f"dataset {folder}: is not there to tell what tokens mean\n  way out: build it: `hrm-lab data build`"
        )
    return read_info(folder)


def load_model(subject: Subject, info: DatasetInfo, num_puzzle_identifiers: int | None = None) -> HRM:
    """The model with its weights, on the CPU.

    Args:
        num_puzzle_identifiers: rows of the puzzle embedding; None = as many as the weights have.

    Raises:
        RunError: when the weights cannot be read, or do not fit the config.
    """
    from hrm_lab.model.hrm import HRM
    from hrm_lab.model.interop import load_into, load_weights

    state = load_weights(subject.weights)
    if num_puzzle_identifiers is None:
        embedding = state.get("puzzle_emb.weights")
        num_puzzle_identifiers = len(embedding) if embedding is not None else info.num_puzzle_identifiers
    model = HRM(subject.config.model, info.vocab_size, info.seq_len, num_puzzle_identifiers)
    load_into(model, state, subject.weights)
    return model


def without_batch(training: TrainingConfig) -> TrainingConfig:
    """The same with a batch that any number of processes can cut: a training's is not asked for here."""
    whole = int(os.environ.get("WORLD_SIZE", 1))
    return replace(training, global_batch_size=whole, eval_batch_size=None, gradient_accumulation_steps=1)


def batch_size(own: int, seq_len: int, on_gpu: bool) -> int:
    """Sequences of a process's batch: its own number on a CPU, and on a GPU what keeps it busy, if that is more."""
    return max(own, GPU_CELLS // seq_len) if on_gpu else own
