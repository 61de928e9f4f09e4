"""The smallest real run: a 4x4 Sudoku, a model of a few thousand weights, a handful of steps."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrm_lab.config import (
    Config,
    ModelConfig,
    OptimConfig,
    PathsConfig,
    StoppingConfig,
    TrackingConfig,
    TrainingConfig,
)
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.decision import Decision
from hrm_lab.training.protocols import Unrecorded
from tests import preloaded


def small_config(folder: Path, **training: Any) -> Config:
    """A config whose run takes 8 steps in 2 iterations and a second or two."""
    settings = {"epochs": 4, "eval_interval": 2, "global_batch_size": 8, "log_interval": 1, "checkpoint_interval": 1}
    return Config(
        name="small",
        model=ModelConfig(
            H_cycles=1,
            L_cycles=2,
            H_layers=1,
            L_layers=1,
            hidden_size=16,
            num_heads=2,
            puzzle_emb_ndim=16,
            halt_max_steps=3,
            halt_exploration_prob=0.5,
            forward_dtype="float32",
        ),
        data=SudokuDataConfig(
            name="small", box_rows=2, box_cols=2, num_train=16, num_test=10, num_blanks=6, num_augmentations=3
        ),
        optim=OptimConfig(lr=1e-2, lr_warmup_steps=2, puzzle_emb_lr=1e-2),
        training=TrainingConfig(**(settings | training)),
        tracking=TrackingConfig(enabled=False, flush_interval=0.1),
        stopping=StoppingConfig(),
        paths=PathsConfig(outputs=str(folder / "outputs"), data=str(folder / "data")),
    )


class Memory(Unrecorded):
    """A Recorder that remembers; `perf/` values depend on the clock and are left out."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, str], float] = {}
        self.decisions: list[Decision] = []
        self.began = -1

    def start(self, step: int, total_steps: int, high_water: int | None) -> None:
        self.began = step

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.values |= {(step, key): value for key, value in values.items() if not key.startswith("perf/")}

    def decision(self, decision: Decision) -> None:
        self.decisions.append(decision)


def hrm_lab(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A verb in a process of its own, as it is given in a folder."""
    return preloaded.run(folder, *arguments)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
