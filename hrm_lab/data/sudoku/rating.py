"""How hard a Sudoku is: the guesses that a search needs, on the scale of Sudoku-Extreme's ratings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hrm_lab.data.sudoku.search import count_guesses, tables_of
from hrm_lab.data.sudoku.solver import Boards

SEARCHES = 16  # that a rating is the mean of
MOST_GUESSES = 2_000  # of one of them: what takes more counts as this


def mean_guesses(boards: Boards, box_rows: int, box_cols: int) -> npt.NDArray[np.float64]:
    """(N,) guesses until the first solution of boards (N, S), the mean of 16 ways to break ties.

    Singles and locked candidates are deduced before each guess, and it is made at the pair that interacts most with
    its peers: so the figures lie on the scale of Sudoku-Extreme's ratings (backtracks of tdoku).
    """
    totals = np.zeros(len(boards), np.int64)
    count_guesses(np.ascontiguousarray(boards), tables_of(box_rows, box_cols), SEARCHES, MOST_GUESSES, totals)
    return totals / SEARCHES


def ratings(boards: Boards, box_rows: int, box_cols: int) -> npt.NDArray[np.int32]:
    """(N,) `mean_guesses`, rounded; 0 = no guess is needed, or hardly ever."""
    return np.floor(mean_guesses(boards, box_rows, box_cols) + 0.5).astype(np.int32)
