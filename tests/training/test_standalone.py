"""The trainer on a machine that has torch and numpy, and none of Hydra, MLflow, submitit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys

class Absent:
    names = {"hydra", "omegaconf", "mlflow", "submitit", "yaml", "typer"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not installed on this machine")

sys.meta_path.insert(0, Absent())
from pathlib import Path
from tests.small import small_config
from tests.training.test_trainer import make_trainer

folder = Path(sys.argv[1])
trainer, memory = make_trainer(small_config(folder), folder / "run")
print("trained to step", trainer.fit().step)
"""


def test_trains_without_the_platform(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert "trained to step 8" in done.stdout, done.stderr
