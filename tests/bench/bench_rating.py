"""Our rating of Sudokus beside that of CSV files: means, rank correlation (Spearman) and puzzles a second.

python -m tests.bench.bench_rating FILE.csv[.gz] ...     (source,question,answer,rating; 9x9)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from hrm_lab.data.sudoku.rating import mean_guesses


def line(name: str, theirs: npt.NDArray[np.int64], ours: npt.NDArray[np.float64]) -> str:
    """One group's figures."""
    rank = pd.Series(theirs).corr(pd.Series(ours), method="spearman")
    return f"{name:40} {len(theirs):6} {theirs.mean():9.2f} {ours.mean():9.2f} {rank:10.3f}"


def main(arguments: Sequence[str]) -> None:
    """Measure and print, a line for each source of each file and one for all files together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    began = time.perf_counter()
    mean_guesses(np.zeros((1, 81), np.uint8), 3, 3)
    print(f"compiling, or loading what was compiled: {time.perf_counter() - began:.1f} s")
    print(f"{'source':40} {'number':>6} {'theirs':>9} {'ours':>9} {'Spearman':>10}")
    frames = []
    for file in parser.parse_args(arguments).files:
        frame = pd.read_csv(file)
        text = "".join(frame["question"]).replace(".", "0").encode()
        boards = np.frombuffer(text, np.uint8).reshape(-1, 81) - np.uint8(ord("0"))
        began = time.perf_counter()
        frame["ours"] = mean_guesses(boards, 3, 3)
        print(f"{file}: {len(frame) / (time.perf_counter() - began):,.0f} puzzles/s")
        frames.append(frame)
    whole = pd.concat(frames)
    for source, group in whole.groupby("source"):
        print(line(str(source), group["rating"].to_numpy(), group["ours"].to_numpy()))
    print(line("all", whole["rating"].to_numpy(), whole["ours"].to_numpy()))


if __name__ == "__main__":
    main(sys.argv[1:])
