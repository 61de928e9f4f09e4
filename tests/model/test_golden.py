"""HRM to the last digit: every train step and the evaluation of the published implementation, replayed.

The vectors were made by running the published code on the CPU in float32 (tests/golden/README.md). Another folder in
the same form is tested by HRM_GOLDEN_DIR, another tolerance of the logits by HRM_GOLDEN_ATOL. They are replayed in each
way that a step can be computed; the others differ by the order of roundings alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.golden import CASES, FOLDER, replay, replay_bfloat16

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
COMPILED_SLACK = 5.0  # fused arithmetic, and 8 steps at a large rate: 8e-5 in the last logits becomes 2e-4


def test_there_are_cases() -> None:
    assert CASES, f"no case*.npz in {FOLDER}"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_published_trajectory(path: Path, record_property: Any) -> None:
    report = replay(path)
    record_property("largest deviations", report)
    print(f"\n{path.stem}: {report}")


ELSEWHERE = [
    ("compiled", "cpu"),
    pytest.param("eager", "cuda", marks=cuda),
    pytest.param("compiled", "cuda", marks=cuda),
    pytest.param("captured", "cuda", marks=cuda),
]


@pytest.mark.parametrize(("execution", "device"), ELSEWHERE)
def test_the_same_computed_otherwise(execution: str, device: str) -> None:
    # A CPU takes its time to compile: one case there, and the other in bfloat16.
    for path in CASES[:1] if (execution, device) == ("compiled", "cpu") else CASES:
        print(f"\n{path.stem}, {execution} on {device}: {replay(path, execution, device, COMPILED_SLACK)}")


@pytest.mark.parametrize(("execution", "device"), [("eager", "cpu"), *ELSEWHERE])
def test_near_it_in_bfloat16(execution: str, device: str) -> None:
    for path in CASES[1:] if (execution, device) == ("compiled", "cpu") else CASES:
        print(f"\n{path.stem}, {execution} on {device}: {replay_bfloat16(path, execution, device)}")
