"""What the verbs `evaluate` and `export` do: a run's weights, or a file's from anywhere, judged or taken elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hrm_lab.config import Config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.format import Dataset
from hrm_lab.errors import RunError
from hrm_lab.run_folder import RunFolder

# Torch takes seconds to import, so what is refused must not wait for it: it is imported where it is needed.


@dataclass(frozen=True)
class Subject:
    """A file of weights, the config that it is evaluated with, and the run that it is from, if any."""

    weights: Path
    config: Config
    run: RunFolder | None = None


def weights_file(place: Path, last: bool = False) -> Path:
    """The file itself, or in a run's folder the weights of its best evaluation.

    Args:
        last: in a run's folder, the weights at its end.

    Raises:
        RunError: when there is no such file.
    """
    if not place.exists():
        raise RunError(f"{place}: no such file or folder\n  way out: give a file of weights, or a run's folder")
    if not place.is_dir():
        if last:
            raise RunError(f"{place}: is a file, and --last chooses in a run's folder\n  way out: leave --last out")
        return place
    if not (place / "config.json").exists():
        raise RunError(
            f"{place}: is no run's folder (no config.json)\n  way out: give OUTPUTS/runs/SIGNATURE, or a file"
        )
    file = place / ("last.safetensors" if last else "best.safetensors")
    if not file.exists():
        other = "leave --last out for the best so far" if last else "--last takes the weights at its end"
        raise RunError(f"{file}: not there (yet)\n  way out: let the run go on to its end; {other}")
    return file


def run_subject(folder: Path, last: bool = False) -> Subject:
    """A run's best (or last) weights with its own config.

    Where the run asked for CUDA, it is used if there is one: a device is not what an evaluation is about.
    """
    weights, run = weights_file(folder, last), RunFolder(folder)
    config = run.config()
    if config.training.device == "cuda":
        config.training.device = "auto"
    return Subject(weights, config, run)


def open_data(subject: Subject, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The dataset of the config, built when missing; of a run, the very one that it was trained on.

    Raises:
        RunError: when that is gone, and what is built in its place is another.
    """
    data, paths = subject.config.data, subject.config.paths
    written = subject.run.dataset_info() if subject.run is not None else None
    if written is not None and Path(written["folder"]).is_dir():  # paths.data is relative to where the run was started
        dataset = Dataset.open(written["folder"])
    else:
        dataset = ensure_dataset(data, paths.data, progress)
    if written is not None and dataset.info.fingerprint != written["fingerprint"]:
        raise RunError(
            f"{subject.weights}: its run was trained on other data (fingerprint {written['fingerprint'][:12]}, not "
            f"{dataset.info.fingerprint[:12]})\n"
            f"  way out: bring {written['folder']} back, or evaluate the file with the run's overrides"
        )
    return dataset


def evaluate(
    subject: Subject,
    building: Callable[[int, int], None] | None = None,
    evaluating: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Metrics of the weights on all test sets, as an evaluation during training logs them.

    Args:
        building, evaluating: called with what is done and what there is: of a dataset to be built, of test batches.

    Raises:
        RunError: when the weights cannot be read or do not fit the config; and what data or device refuse.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RunError("WORLD_SIZE: an evaluation is one process\n  way out: start it without torchrun")
    from hrm_lab.model.hrm import HRM
    from hrm_lab.model.interop import load_into, load_weights
    from hrm_lab.training import evaluation
    from hrm_lab.training.batches import Batches
    from hrm_lab.training.distributed import connect

    training = subject.config.training
    state = load_weights(subject.weights)
    dataset = open_data(subject, building)
    ranks, info = connect(training), dataset.info
    batches = Batches(dataset, ranks, subject.config.data, subject.config.seed)
    model = HRM(subject.config.model, info.vocab_size, info.seq_len, batches.num_puzzle_identifiers)
    load_into(model, state, subject.weights)
    size = training.eval_batch_size or training.global_batch_size
    total, done = batches.num_evaluation_batches(size), 0

    def count() -> None:
        nonlocal done
        done += 1
        evaluating(done, total)

    return evaluation.evaluate(model.to(ranks.device), batches, size, count).metrics


def export(place: Path, out: Path, form: str, compiled_names: bool = False, last: bool = False) -> None:
    """Write the weights of a file, or of a run's folder, for use elsewhere; see `interop.export`."""
    file = weights_file(place, last)
    from hrm_lab.model import interop

    interop.export(interop.load_weights(file), out, form, compiled_names)
