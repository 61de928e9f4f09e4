"""`python -m hrm_lab.sweep train|after|canary|after-canary FOLDER FIRST [CODE]`: what batch scripts call."""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """One task of the submission in FOLDER; FIRST is the number of its array's first task."""
    # SLURM may announce the end while Python still loads; what is blocked here arrives when someone listens.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2))
    from hrm_lab.logs import log_to_console
    from hrm_lab.sweep import array_task
    from hrm_lab.sweep.submission import Submission

    mode, folder, first, *code = sys.argv[1:]
    log_to_console()
    submission = Submission.load(Path(folder))
    if mode == "canary":
        sys.exit(array_task.canary(submission))
    if mode == "after-canary":
        return array_task.after_canary(submission, int(code[0]))
    task = int(first) + int(os.environ["SLURM_ARRAY_TASK_ID"])
    if mode == "train":
        sys.exit(array_task.train(submission, task))
    return array_task.after(submission, task, int(code[0]))


if __name__ == "__main__":
    main()
