"""Fixtures that more than one room needs, and which tests stay together when several processes share the suite."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests share its servers; all tests of SLURM share the one cluster."""
    for item in items:
        group = "slurm" if "slurm" in item.path.parts else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def units() -> dict[str, np.ndarray]:
    """Function-level vectors of the published implementation (tests/golden/README.md)."""
    chosen = Path(os.environ.get("HRM_GOLDEN_DIR") or GOLDEN) / "units.npz"
    return dict(np.load(chosen if chosen.exists() else GOLDEN / "units.npz"))
