"""What training.deterministic=true costs on a GPU: steps with and without it in turn, as a ratio.

python tests/bench/bench_deterministic.py [--repeats 5] [OVERRIDES ...]     (on a CPU it is always on, and free)
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from hrm_lab.compose import compose_config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.stopping.rules import Rules
from hrm_lab.training.distributed import connect
from hrm_lab.training.protocols import Uncontrolled, Unrecorded
from hrm_lab.training.trainer import Trainer
from tests.bench.bench_checkpoint import timed

STEPS = 20  # measured in one go


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="default: model=hrm data=sudoku_9x9, batch 768")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device here, and on a CPU there is nothing to compare")
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as scratch:
        config = compose_config([*(chosen.overrides or ["model=hrm", "data=sudoku_9x9"]), f"paths.data={scratch}/data"])
        dataset = ensure_dataset(config.data, config.paths.data)
        config.training.deterministic = True  # before cuBLAS is used for the first time
        ranks = connect(config.training)
        trainer = Trainer(config, dataset, Path(scratch), Unrecorded(), Rules(config.stopping), ranks, Uncontrolled())
        for _ in range(chosen.repeats + 1):
            for wanted in seconds:
                torch.set_deterministic_debug_mode("error" if wanted else "default")
                trainer.train_step()
                seconds[wanted].append(timed(lambda: [trainer.train_step() for _ in range(STEPS)]) / STEPS)
        trainer.checkpoints.close()
    free, bound = (statistics.median(seconds[wanted][1:]) for wanted in seconds)
    print(f"{torch.cuda.get_device_name()}: {free * 1000:.1f} ms a step, deterministic {bound * 1000:.1f} ms: ", end="")
    print(f"{bound / free:.2f} times as long (median of {chosen.repeats} times {STEPS} steps)")


if __name__ == "__main__":
    main(sys.argv[1:])
