"""The Hydra application: `python -m hrm_lab.hydra_app [-m] [OVERRIDES]`, with all of Hydra's own flags.

A multirun goes through `hydra/launcher`, ours by default; the stock submitit launchers call `task` in their jobs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hrm_lab.compose import CONF, HYDRA_ERRORS, explain, to_config
from hrm_lab.config import Config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.errors import UserError
from hrm_lab.logs import log_to_console
from hrm_lab.progress import building, console_progress
from hrm_lab.redaction import redact
from hrm_lab.run import Watch, is_main_process, run
from hrm_lab.run_folder import Point, RunFolder, State
from hrm_lab.tracking.store import refuse_silent_server
from hrm_lab.training.protocols import Left
from hrm_lab.validation import refuse_secret


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(composed: DictConfig) -> float | None:
    """Train one composed config; returns its best watched metric."""
    return train(to_config(composed), list(HydraConfig.get().overrides.task)).best_value


def train(config: Config, overrides: Sequence[str]) -> State:
    """Train one config in its own folder, or go on where it stopped."""
    log_to_console()
    folder = RunFolder.of(config)
    if is_main_process():
        # Before anything is tracked: data that cannot be built is no run that failed.
        refuse_silent_server(config.tracking)
        with building(config.data.name) as progress:
            ensure_dataset(config.data, config.paths.data, progress)
    if is_main_process() and not folder.attempts.is_alive():
        folder.prepare(config, Point(config.name, list(overrides)))
    try:
        with console_progress() as shown, Watch().listening() as watch:
            return run(config, folder, shown, watch)
    except Left:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        raise KeyboardInterrupt from None


def multirun(overrides: Sequence[str]) -> None:
    """Run Hydra in multirun mode.

    Raises:
        UserError: for a config that cannot be, or when a point has failed.
    """
    _call_hydra(["--multirun", *overrides])


def main() -> None:
    """`python -m hrm_lab.hydra_app`: Hydra's own command line, with our words for what is wrong."""
    asked = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        _call_hydra(sys.argv[1:])
    except UserError as error:
        if asked:
            raise
        sys.exit(redact(f"error: {error}"))


def _call_hydra(words: Sequence[str]) -> None:
    for word in words:  # now, because Hydra itself shows the overrides of a job that fails
        key, _, value = word.partition("=")
        refuse_secret(key.lstrip("+~"), value)
    asked, arguments = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors come through to us, who say them in fewer words
    sys.argv = ["hrm-lab", *words]
    try:
        task()
    except HYDRA_ERRORS as error:
        raise explain(error, words) from error
    finally:
        sys.argv = arguments
        if asked is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = asked


if __name__ == "__main__":
    main()
