"""Fixtures that more than one room needs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def units() -> dict[str, np.ndarray]:
    """Function-level vectors of the published implementation (tests/golden/README.md)."""
    chosen = Path(os.environ.get("HRM_GOLDEN_DIR") or GOLDEN) / "units.npz"
    return dict(np.load(chosen if chosen.exists() else GOLDEN / "units.npz"))
