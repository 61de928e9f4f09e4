"""`python -m hrm_lab.mirror FOLDER ATTEMPT`, started by the training with pipes as standard input and output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from hrm_lab.logs import log_to_console
from hrm_lab.mirror.process import follow
from hrm_lab.run_folder import RunFolder

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
os.nice(10)  # the training that it runs beside comes first
log_to_console()
with contextlib.redirect_stdout(sys.stderr):  # the pipe is for answers
    complete = follow(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))
sys.exit(0 if complete else 1)
