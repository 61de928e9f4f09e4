"""`python -m hrm_lab.mirror FOLDER ATTEMPT`, started by the training with a pipe as standard input."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from hrm_lab.logs import log_to_console
from hrm_lab.mirror.process import follow
from hrm_lab.run_folder import RunFolder

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
log_to_console()
sys.exit(0 if follow(RunFolder(Path(sys.argv[1])), int(sys.argv[2])) else 1)
