"""The eight symmetries of a rectangle (HRM_SPEC section 6, ARC)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)


def dihedral(grid: npt.NDArray[np.generic], tid: int) -> npt.NDArray[np.generic]:
    """One of the eight symmetries of the rectangle (HRM_SPEC section 6, ARC), as a view of `grid` (rows, cols).

    0 none, 1-3 quarter turns to the left, 4 left-right, 5 up-down, 6 transposed, 7 transposed over the other diagonal.

    Raises:
        ValueError: for any other id.
    """
    if not 0 <= tid <= 7:
        raise ValueError(f"dihedral id {tid}: not in 0..7")
    if tid < 4:
        return np.rot90(grid, tid)
    if tid == 4:
        return np.fliplr(grid)
    if tid == 5:
        return np.flipud(grid)
    return grid.T if tid == 6 else np.rot90(grid, 2).T


def inverse_dihedral(grid: npt.NDArray[np.generic], tid: int) -> npt.NDArray[np.generic]:
    """Undo `dihedral(..., tid)`."""
    if not 0 <= tid <= 7:
        raise ValueError(f"dihedral id {tid}: not in 0..7")
    return dihedral(grid, _INVERSE[tid])
