"""A look at what a few steps are made of, by torch's own profiler: a trace, and a table of the costliest operators.

Both are files in the run's folder, `profile/step_STEP.json.gz` (for ui.perfetto.dev or chrome://tracing) and
`profile/step_STEP.txt`; STEP is the last one that is in them. The steps that are looked at take a little longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hrm_lab.errors import one_line

log = logging.getLogger("hrm_lab")
WAIT = 20  # steps of an attempt before: libraries choose their kernels in the first ones, and graphs are recorded
WARM_UP = 2  # steps with a profiler whose findings are thrown away: it costs most when it begins
STEPS = 5
ROWS = 30
FOLDER = "profile"


class Profile:
    """Follows the first steps of an attempt; what has ended before it is looked at leaves nothing.

    Args:
        folder: the run's.
        on_cuda: whether kernels of a GPU are looked at too.
        check: called before anything is written; raises when nothing may be any more.
        written: told the step and the place of each file in the folder.
    """

    def __init__(
        self, folder: Path, on_cuda: bool, check: Callable[[], object], written: Callable[[int, str], object]
    ) -> None:
        from torch.profiler import ProfilerActivity, profile, schedule

        self.folder, self.check, self.written = folder, check, written
        self.step = 0
        self._by = "self_cuda_time_total" if on_cuda else "self_cpu_time_total"
        self._profiler: Any = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])],
            schedule=schedule(wait=WAIT, warmup=WARM_UP, active=STEPS, repeat=1),
            on_trace_ready=self._write,
        )
        self._profiler.start()

    def after(self, step: int) -> None:
        """One more step is done."""
        self.step = step
        self._profiler.step()

    def close(self) -> None:
        """No more steps come: what has been seen of them so far is written."""
        self._profiler.stop()

    def _write(self, profiler: Any) -> None:
        self.check()
        stem = f"{FOLDER}/step_{self.step:08d}"
        table = profiler.key_averages().table(sort_by=self._by, row_limit=ROWS, max_name_column_width=80)
        try:
            (self.folder / FOLDER).mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(self.folder / f"{stem}.json.gz"))
            (self.folder / f"{stem}.txt").write_text(table)
        except (OSError, RuntimeError) as error:  # a full disk: the training is worth more
            log.warning("%s: the profile cannot be written (%s)", self.folder / stem, one_line(error))
            return
        for ending in ("json.gz", "txt"):
            self.written(self.step, f"{stem}.{ending}")
