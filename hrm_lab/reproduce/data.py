"""The data of a logged run: found or built with its code, and compared by their fingerprint."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrm_lab.errors import CannotReproduce
from hrm_lab.reproduce.child import build_data
from hrm_lab.reproduce.code import Code
from hrm_lab.reproduce.logged import unknown_keys
from hrm_lab.tracking.logged import Logged

log = logging.getLogger("hrm_lab")
# Where a file lies here is no other recipe: its content is checked.
FILES = ("data.train_csv", "data.test_csv", "data.folder", "data.concept_folder")


def check_data(logged: Logged, code: Code, folder: Path, settings: Sequence[str]) -> None:
    """Find or rebuild the data of a run, and see that they are the ones it had.

    Args:
        folder: of built datasets.
        settings: KEY=VALUE that were asked for.

    Raises:
        CannotReproduce: when they are others, or cannot be built.
    """
    pairs = [setting.partition("=")[::2] for setting in settings]
    if any(key.startswith("data.") and key not in FILES for key, _ in pairs):
        log.info("data: others than the run's, as asked for")
        return
    config = json.loads(json.dumps(logged.config))
    for key, value in pairs:
        if key in FILES:
            config["data"][key.partition(".")[2]] = value.strip("'\"")
    log.info("data: %s in %s, built if missing", config.get("data", {}).get("name", "?"), folder)
    try:
        found = build_data(code, config, folder.resolve())
    except CannotReproduce as error:
        unknown = unknown_keys(logged.config)
        if not unknown or "no such key" not in str(error):
            raise
        raise CannotReproduce(
            f"{', '.join(unknown)}: neither this version nor commit {logged.commit[:12]} of the run knows that\n"
            "  way out: the stored config (artifact config/config.yaml) is not the one that was run; put it right"
        ) from None
    if not logged.fingerprint:
        log.warning("data: the run has logged no fingerprint, so they cannot be compared")
    elif found["fingerprint"] != logged.fingerprint:
        raise CannotReproduce(_other_data(logged, found, config))
    else:
        log.info("data: the logged fingerprint, %s", logged.fingerprint[:12])


def _other_data(logged: Logged, found: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    text = (
        f"the data are not those of the run: fingerprint {found['fingerprint'][:16]}, logged {logged.fingerprint[:16]}"
    )
    way_out = "build them with the run's own code (leave --current-code out) or bring the run's dataset to --data"
    then, now = logged.dataset.get("build", {}), found["build"]
    for key in FILES:
        name = key.partition(".")[2]
        old, new = then.get(f"{name}_sha256"), now.get(f"{name}_sha256")
        if old != new:
            text += (
                f"\n  {key}={config['data'].get(name)} has sha256 {str(new)[:16]}, in the run it had {str(old)[:16]}"
            )
            way_out = "bring the file that the run had, and say where it lies with --set data.train_csv=PATH"
    return f"{text}\n  way out: {way_out}"
