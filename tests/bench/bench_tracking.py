"""What tracking costs a training, whatever its server does, and how fast the mirror sends.

    .venv/bin/python -m tests.bench.bench_tracking [REPEATS]

(a) One step's entry in the journal. (b) The same training without tracking, with a server that answers, and with one
that accepts connections and never answers; in turn, so that a busy machine disturbs all alike; the median of the
repeats' ratios. (c) A journal that was written while the server was away, sent in one go.
"""

from __future__ import annotations

import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hrm_lab.data.build import ensure_dataset
from hrm_lab.mirror.folder import Mirror
from hrm_lab.run_folder import RUNNING, Point, RunFolder, State
from hrm_lab.tracking.journal import Journal, read_journal
from tests.small import small_config
from tests.tracking.test_outages import Server, prepared

APPENDS = 20_000
KEYS = [f"train/metric_{number}" for number in range(10)]
STEP_MS = 28  # the full recipe on one GPU at half of its peak
WARM = 50  # steps that are not counted
# A mirror that gets no answer is killed as soon as the training is over: what comes then is no step.
TRAIN = """
import sys
from pathlib import Path
from hrm_lab.progress import PlainProgress
from hrm_lab.run import Watch, run
from hrm_lab.run_folder import RunFolder

folder = RunFolder(Path(sys.argv[1]))
with Watch().listening() as watch:
    run(folder.config(), folder, PlainProgress(), watch)
"""


def append_times(folder: Path) -> tuple[float, float]:
    """Median and 99th percentile, in microseconds."""
    journal = Journal(folder / "journal.jsonl")
    journal.begin(0, APPENDS)
    times = []
    for step in range(1, APPENDS + 1):
        metrics = dict.fromkeys(KEYS, step / 7)
        began = time.perf_counter_ns()
        journal.append(step, metrics=metrics)
        times.append((time.perf_counter_ns() - began) / 1000)
    journal.close()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def steps_per_s(folder: Path, uri: str | None) -> float:
    """Of a small real training that logs every step; by the stamps of its journal, from the WARM-th step on."""
    config = small_config(folder, epochs=200, eval_interval=200, checkpoint_interval=100)
    config.tracking.enabled, config.tracking.uri = uri is not None, uri
    config.tracking.drain_timeout = 0.1 if "silent" in str(folder) else 60.0
    ensure_dataset(config.data, config.paths.data)
    run = RunFolder.of(config)
    run.prepare(config, Point("bench"))
    subprocess.run([sys.executable, "-c", TRAIN, str(run.path)], check=True, capture_output=True)
    stamps = [entry["ms"] for entry in read_journal(run.journal) if "train/lm_loss" in entry.get("metrics", {})]
    return (len(stamps) - 1 - WARM) / (stamps[-1] - stamps[WARM]) * 1000


def sent_per_s(folder: Path, uri: str, values: int) -> float:
    """Of a journal of so many values, from the first request to the last answer."""
    run = prepared(folder / "outputs", uri, seed=values)
    journal = Journal(run.journal)
    journal.begin(0, values)
    mirror = Mirror(run)
    run.state = State(RUNNING)
    mirror.sync()  # made and described
    for step in range(1, values // len(KEYS) + 1):
        journal.append(step, metrics=dict.fromkeys(KEYS, step / 7))
    began = time.monotonic()
    mirror.sync()
    return values / (time.monotonic() - began)


def main() -> None:
    """Measure and print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    table = Table("what", "measured", box=None)
    with tempfile.TemporaryDirectory() as scratch, socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        folder, server = Path(scratch), Server(Path(scratch) / "server")
        median, worst = append_times(folder)
        table.add_row("one step's 10 values into the journal, µs", f"median {median:.1f}, 99 % below {worst:.1f}")
        share = median / 1000 / STEP_MS / 10
        table.add_row(f"of a step of {STEP_MS} ms, each tenth of which is logged", f"{share:.4%}")
        server.up()
        try:
            uris = {"off": None, "healthy": server.uri, "silent": f"http://127.0.0.1:{silent.getsockname()[1]}"}
            speeds: dict[str, list[float]] = {name: [] for name in uris}
            for repeat in range(repeats):
                for name, uri in uris.items():
                    speeds[name].append(steps_per_s(folder / f"{name}{repeat}", uri))
            for name, found in speeds.items():
                ratio = statistics.median(one / off for one, off in zip(found, speeds["off"], strict=True))
                row = f"{statistics.median(found):.1f} steps/s, {ratio:.2f} of off"
                table.add_row(f"training, tracking {name}", f"{row} ({', '.join(f'{one:.0f}' for one in found)})")
            for values in (20_000, 200_000):
                row = f"{sent_per_s(folder, server.uri, values):,.0f} values/s"
                table.add_row(f"{values:,} values sent afterwards", row)
        finally:
            server.end()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    table.add_row("most memory of the process that sent them", f"{memory:,.0f} MB, MLflow and torch loaded")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
