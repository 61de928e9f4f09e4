"""Batches on a GPU: the same variants as on the CPU, to the bit, and what of a step they cost.

    PYTHONPATH=CHECKOUT python CHECKOUT/tests/gpu/check_batches.py

Needs what building Sudokus needs: torch, numpy, filelock, numba. Prints as it goes; exit status 1 where bits differ.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from hrm_lab.config import Config, DataConfig, TrainingConfig
from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.sampler import Sampler
from hrm_lab.data.tasks.maze import MazeDataConfig
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.batches import Batches
from hrm_lab.training.distributed import Ranks, connect
from hrm_lab.training.protocols import Uncontrolled, Unrecorded
from hrm_lab.training.trainer import Trainer
from tests.bench.our_step import seconds

SETS: dict[str, DataConfig] = {
    "sudoku 9x9": SudokuDataConfig(num_train=300, num_test=2, num_augmentations=1000),
    "sudoku 2x3 boxes": SudokuDataConfig(box_rows=2, box_cols=3, num_train=300, num_test=2, num_augmentations=9),
    "maze 12x12": MazeDataConfig(rows=12, cols=12, num_train=100, num_test=2, num_augmentations=7),
}


def same_bits(folder: Path) -> bool:
    """Whether batches of every set are the same on both devices."""
    whole = True
    for name, config in SETS.items():
        dataset = ensure_dataset(config, folder)
        on = [Batches(dataset, Ranks(torch.device(device)), config, 3) for device in ("cpu", "cuda")]
        sampler = Sampler(on[0].puzzles(dataset.train), 40, 40, 64, 3)
        steps = range(sampler.total_steps)
        made = [[batches.train(sampler, step) for step in steps] for batches in on]
        same = all(
            torch.equal(a, b.cpu()) for cpu, gpu in zip(*made, strict=True) for a, b in zip(cpu, gpu, strict=True)
        )
        print(f"{name}: {len(steps)} batches of 64, CPU and CUDA {'alike' if same else 'DIFFER'}", flush=True)
        whole &= same
    return whole


def cost(folder: Path) -> None:
    """Steps of the full model with each batch made anew, and with one batch again and again, in turn."""
    config = Config(data=SudokuDataConfig(num_train=300, num_test=2, num_augmentations=1000))
    config.training = TrainingConfig(epochs=2000, eval_interval=1000, global_batch_size=384, device="cuda")
    config.paths.outputs = str(folder / "outputs")
    ranks, dataset = connect(config.training), ensure_dataset(config.data, folder)
    trainer = Trainer(config, dataset, folder, Unrecorded(), Rules(config.stopping), ranks, Uncontrolled())
    makes, again = trainer.batches.train, trainer.batches.train(trainer.sampler, 0)

    def run(make: Callable[..., object]) -> float:
        trainer.batches.train = make  # type: ignore[method-assign, assignment]
        return seconds(lambda: [trainer.train_step() for _ in range(30)], ranks.device) / 30

    run(makes)  # compiles and records
    pairs = [(run(makes), run(lambda *_: again)) for _ in range(5)]
    ratios = sorted(new / old for new, old in pairs)
    new, old = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"batch 384: {new * 1e3:.2f} ms a step with its batch made, {old * 1e3:.2f} ms with one that is there")
    print(f"ratio {statistics.median(ratios):.4f} ({ratios[0]:.4f} to {ratios[-1]:.4f})")


def main() -> None:
    """Both."""
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device here: nothing was checked")
    with tempfile.TemporaryDirectory() as folder:
        same = same_bits(Path(folder))
        cost(Path(folder))
    sys.exit(not same)


if __name__ == "__main__":
    main()
