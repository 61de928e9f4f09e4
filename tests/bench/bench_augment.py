"""How fast Sudokus are augmented: by batch as training does it, and board by board as in a plain loop.

python -m tests.bench.bench_augment [--repeats 5] [--pairs 1001000]     (one thread; torch and numpy are all it needs)

Both are measured in turn in one process: all pairs by ours, a part of them by the loop. The loop draws and applies the
symmetries of the published builder (HRM_SPEC section 6): digits renamed, half of the boards transposed, bands, stacks
and the lines inside them shuffled.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hrm_lab.data.sudoku.symmetries import apply_sudoku, sudoku_draws

PUZZLES, LOOP_PAIRS, BATCH = 1000, 10_000, 2048
Boards = npt.NDArray[np.uint8]


def looped(generator: np.random.Generator, board: Boards, solution: Boards) -> tuple[Boards, Boards]:
    """One pair (9, 9), board by board."""
    names = np.concatenate([[0], generator.permutation(9) + 1])
    turned = generator.random() < 0.5
    rows = np.concatenate([band * 3 + generator.permutation(3) for band in generator.permutation(3)])
    cols = np.concatenate([stack * 3 + generator.permutation(3) for stack in generator.permutation(3)])
    places = np.array([rows[cell // 9] * 9 + cols[cell % 9] for cell in range(81)])

    def changed(grid: Boards) -> Boards:
        return names[(grid.T if turned else grid).reshape(-1)[places].reshape(9, 9)]

    return changed(board), changed(solution)


def loop(boards: Boards, pairs: int, seed: int) -> None:
    """The plain way."""
    generator = np.random.default_rng(seed)
    for number in range(pairs):
        board = boards[number % len(boards)].reshape(9, 9)
        looped(generator, board, board)


def batched(tokens: torch.Tensor, pairs: int, batch: int) -> None:
    """Ours: the variants 0, 1, 2, ... of every puzzle, in batches."""
    for first in range(0, pairs, batch):
        variants, puzzles = np.divmod(np.arange(first, min(pairs, first + batch)), len(tokens))
        stored = tokens[torch.from_numpy(puzzles).to(tokens.device)]
        apply_sudoku(stored, stored, sudoku_draws(0, puzzles, variants, 3, 3))


def timed(work: Callable[[], object], on_gpu: bool) -> float:
    """Seconds: of a GPU until it has done all; else of this thread, so that others on the machine count for little."""
    if not on_gpu:
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def spread(values: Sequence[float], unit: str, digits: int = 0) -> str:
    """Median, least and most."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f}{unit} ({low:,.{digits}f} to {high:,.{digits}f})"


def measure(tokens: torch.Tensor, boards: Boards, pairs: int, repeats: int) -> None:
    """One device's figures."""
    batched(tokens, 20_000, BATCH)
    ours, plain, ratios = [], [], []
    for repeat in range(repeats):
        plain.append(LOOP_PAIRS / timed(lambda seed=repeat: loop(boards, LOOP_PAIRS, seed), False))
        ours.append(pairs / timed(lambda: batched(tokens, pairs, BATCH), tokens.is_cuda))
        ratios.append(ours[-1] / plain[-1])
    name = torch.cuda.get_device_name() if tokens.is_cuda else "CPU, one thread"
    print(f"{name}: {repeats} repeats, median (least to most)")
    print(f"  ours, {pairs:,} pairs in batches of {BATCH}: {spread(ours, ' pairs/s')}")
    print(f"  the loop, {LOOP_PAIRS:,} of them: {spread(plain, ' pairs/s')}")
    print(
        f"  ratio: {spread(ratios, ' times', 1)}; all pairs: {pairs / statistics.median(ours):.2f} s against ", end=""
    )
    print(f"{pairs / statistics.median(plain):.0f} s")
    for batch in (384, 768):
        once = [timed(lambda size=batch: batched(tokens, size, size), tokens.is_cuda) * 1000 for _ in range(50)]
        print(f"  one batch of {batch}: {spread(once, ' ms', 2)}")


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=1_001_000)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    boards = np.random.default_rng(0).integers(0, 10, (PUZZLES, 81), np.uint8)  # what stands in them does not matter
    tokens = torch.from_numpy(boards + np.uint8(1))
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        measure(tokens.to(device), boards, chosen.pairs, chosen.repeats)


if __name__ == "__main__":
    main(sys.argv[1:])
