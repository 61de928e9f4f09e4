"""Fixtures that more than one room needs, and which tests stay together when several processes share the suite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Several processes share few cores: threads of theirs that wait for each other would keep them all busy with waiting.
# Read when numpy and torch are loaded; what the tests start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share its servers, and all tests of SLURM share the one cluster."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/slurm" if nodeid.startswith("tests/slurm/") else nodeid.partition("::")[0]

    return ByPlace(config, log)


@pytest.fixture(scope="session")
def units() -> dict[str, np.ndarray]:
    """Function-level vectors of the published implementation (tests/golden/README.md)."""
    chosen = Path(os.environ.get("HRM_GOLDEN_DIR") or GOLDEN) / "units.npz"
    return dict(np.load(chosen if chosen.exists() else GOLDEN / "units.npz"))
