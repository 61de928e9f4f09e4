"""`python -m tests.tracking.writer FOLDER STEPS END`: what a training writes, without the training.

It takes up its run at the last checkpoint, and is followed by a real mirror process. END is how it ends: `completes`,
`fails`, or `hangs`, until somebody kills it.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import numpy as np

from hrm_lab.attempts import Job
from hrm_lab.decision import Decision
from hrm_lab.files import write_json
from hrm_lab.mirror.process import mirrored
from hrm_lab.progress import PlainProgress
from hrm_lab.run_folder import COMPLETED, FAILED, RUNNING, RunFolder, State
from hrm_lab.tracking.journal import Journal, JournalRecorder

CHECKPOINT = "checkpoint.json"  # {"step", "high_water"}
COMPLETES, FAILS, HANGS = "completes", "fails", "hangs"


def value(key: str, step: int) -> float:
    """What a deterministic training computes, NaN now and then."""
    dice = random.Random(f"{key}/{step}")
    return float("nan") if dice.random() < 0.05 else dice.random()


def write(folder: RunFolder, steps: int, end: str) -> None:
    """Go on to the last step."""
    place = folder.path / CHECKPOINT
    checkpoint = json.loads(place.read_text()) if place.exists() else {"step": 0, "high_water": None}
    recorder = JournalRecorder(Journal(folder.journal), PlainProgress(), folder.path)
    with (
        folder.attempts.own(Job(), checkpoint["step"], lambda _: False) as ownership,
        mirrored(folder, ownership.attempt.number, lambda: False),
    ):
        if not checkpoint["step"]:
            folder.write_provenance()
        folder.state = State(RUNNING)
        recorder.start(checkpoint["step"], steps, checkpoint["high_water"])
        for step in range(checkpoint["step"] + 1, steps + 1):
            _step(recorder, step)
            if step % 7 == 0:
                write_json(place, {"step": step, "high_water": recorder.high_water()})
                recorder.sync()
            time.sleep(0.01)
        while end == HANGS:
            time.sleep(0.1)
        folder.state = State(COMPLETED, best_step=steps) if end == COMPLETES else State(FAILED, "as it was told to")


def _step(recorder: JournalRecorder, step: int) -> None:
    keys = [f"train/{number}" for number in range(4)]
    recorder.metrics(step, {key: value(key, step) for key in keys} | {"perf/clock": time.perf_counter()})
    if step % 5 == 0:
        recorder.metrics(step, {"eval/accuracy": value("eval/accuracy", step)})
        recorder.decision(Decision(step, "patience", False, "it goes on"))
    if step % 20 == 0:
        recorder.arrays(step, "probe", {"step": np.array(step)})
        recorder.journal.append(step, tags={"progress": str(step), f"until_{step}": None, f"until_{step + 20}": "here"})


if __name__ == "__main__":
    write(RunFolder(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3])
