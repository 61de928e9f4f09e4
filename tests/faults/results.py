"""All that must be the same of two runs, whatever was done to one of them."""

from __future__ import annotations

from typing import Any

import torch

from hrm_lab.config import TrainingConfig
from hrm_lab.run_folder import RunFolder
from hrm_lab.tracking.journal import read_journal
from hrm_lab.training.checkpoint import Checkpoints
from hrm_lab.training.distributed import Ranks


def results(folder: RunFolder) -> dict[str, Any]:
    """Every value that was logged, the whole last state, and the files of weights."""
    checkpoints = Checkpoints(folder.path, TrainingConfig(), Ranks(torch.device("cpu")), check=lambda: None)
    state = checkpoints.load()
    checkpoints.close()
    assert state is not None
    # What the clock or the file's length decides is no result.
    for clock in ("seconds", "high_water"):
        del state[clock]
    weights = {name: (folder.path / f"{name}.safetensors").read_bytes() for name in ("best", "last")}
    return {"metrics": logged(folder), "state": state, "weights": weights}


def logged(folder: RunFolder) -> list[tuple[int, str, float]]:
    """Every metric in the order of the journal; those of the clock are left out."""
    return [
        (entry["step"], key, value)
        for entry in read_journal(folder.journal)
        for key, value in entry.get("metrics", {}).items()
        if not key.startswith("perf/")
    ]


def assert_same(expected: Any, found: Any, place: str = "") -> None:
    """To the bit, wherever in a state."""
    if isinstance(expected, dict):
        assert expected.keys() == found.keys(), place
        for key, value in expected.items():
            assert_same(value, found[key], f"{place}/{key}")
    elif isinstance(expected, torch.Tensor):
        assert expected.dtype == found.dtype, place
        assert torch.equal(expected, found), place
    else:
        assert expected == found, place
