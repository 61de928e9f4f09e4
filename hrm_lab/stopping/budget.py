"""A budget: steps, wall time or GPU time, over all attempts of the run as its checkpoints know them."""

from __future__ import annotations

from collections.abc import Mapping

from hrm_lab.config import StoppingConfig
from hrm_lab.decision import BUDGET, TIME_BUDGET, Decision

HOUR_S = 3600.0


class Budget:
    """Stops a run that has used up what it was given. What was used is the trainer's to count and to remember."""

    def __init__(self, config: StoppingConfig) -> None:
        self.config = config

    def is_spent(self, step: int, seconds: float, gpu_seconds: float) -> bool:
        """Whether any of it is used up."""
        return self._spent(step, seconds, gpu_seconds) is not None

    def update(self, step: int, values: Mapping[str, float]) -> Decision | None:
        """Take one evaluation.

        Args:
            values: perf/wall_s, and perf/gpu_s where there is a GPU.
        """
        spent = self._spent(step, values.get("perf/wall_s", 0.0), values.get("perf/gpu_s", 0.0))
        if spent is None:
            return None
        setting, unit, used, given = spent
        reason = f"budget spent at step {step}: {used:.6g} {unit}, stopping.{setting}={given:g}"
        rule = BUDGET if setting == "max_steps" else TIME_BUDGET
        return Decision(step, rule, True, reason, {"metric": setting, "value": used, "threshold": given})

    def _spent(self, step: int, seconds: float, gpu_seconds: float) -> tuple[str, str, float, float] | None:
        """Setting, unit, and what was used of how much, of the first that is used up."""
        config = self.config
        for setting, unit, used, given in (
            ("max_steps", "steps", step, config.max_steps),
            ("max_hours", "h", seconds / HOUR_S, config.max_hours),
            ("max_gpu_hours", "GPU h", gpu_seconds / HOUR_S, config.max_gpu_hours),
        ):
            if given is not None and used >= given:
                return setting, unit, used, given
        return None
