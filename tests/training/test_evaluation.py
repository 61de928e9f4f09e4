"""What an evaluation keeps of the way to its result, against a plain loop; and what is counted of its costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm_lab.config import ModelConfig
from hrm_lab.data.build import ensure_dataset
from hrm_lab.data.format import Dataset, Split
from hrm_lab.data.tasks.sudoku import SudokuDataConfig
from hrm_lab.model.act import reason
from hrm_lab.model.hrm import HRM
from hrm_lab.training.batches import Batches
from hrm_lab.training.depth import MAX_BUCKETS, Buckets
from hrm_lab.training.distributed import Ranks, connect
from hrm_lab.training.evaluation import evaluate
from hrm_lab.training.throughput import device_peak, step_flops
from tests.small import small_config


class Share(Ranks):
    """One of several processes whose sums are not sent anywhere."""

    def sum_(self, tensors: list[torch.Tensor]) -> None:
        """Keep its own."""


def batches_of(dataset: Dataset, ranks: Ranks) -> Batches:
    return Batches(dataset, ranks, SudokuDataConfig(), seed=0)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    data = SudokuDataConfig(name="rated", box_rows=2, box_cols=2, num_train=16, num_test=23, num_blanks=None)
    return ensure_dataset(data, tmp_path)


@pytest.fixture
def model(dataset: Dataset, tmp_path: Path) -> HRM:
    """Weights that know nothing, but solve a cell now and then and halt here and there."""
    info = dataset.info
    connect(small_config(tmp_path).training)  # one thread
    config = dataclasses.replace(small_config(tmp_path).model, halt_max_steps=4)
    model = HRM(config, info.vocab_size, info.seq_len, info.num_puzzle_identifiers, torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.q_head.weight.normal_(0, 3, generator=torch.Generator().manual_seed(4))
        model.q_head.bias.zero_()
    return model


@torch.inference_mode()
def test_what_is_kept_of_every_act_step_is_what_a_plain_loop_finds(dataset: Dataset, model: HRM) -> None:
    split = dataset.test["all"]
    easy = split.labels.copy()  # so that some puzzles are solved
    _, whole = next(batches_of(dataset, Ranks(torch.device("cpu"))).evaluation(split, len(split)))
    easy[::2] = list(reason(model, whole, 3))[-1].logits.argmax(-1)[::2].numpy()
    split = dataclasses.replace(split, labels=easy)
    dataset = dataclasses.replace(dataset, test={"all": split})
    found = evaluate(model, batches_of(dataset, Ranks(torch.device("cpu"))), 5, shown_puzzles=3)
    arrays = found.arrays
    low, high = arrays["rating_low"], arrays["rating_high"]
    assert split.ratings is not None
    assert len(low) > 1
    solved, puzzles, halting = np.zeros((len(low), 4)), np.zeros(len(low)), np.zeros(len(low))
    cells = np.zeros(4)
    for row in range(len(split)):
        alone = type(whole)(*(field[row : row + 1] for field in whole))
        (bucket,) = np.flatnonzero((low <= split.ratings[row]) & (split.ratings[row] <= high))
        said = list(reason(model, alone, 4))
        puzzles[bucket] += 1
        halts = [float(one.q_halt) > float(one.q_continue) for one in said]
        halting[bucket] += halts.index(True) + 1 if True in halts else 4
        for step, one in enumerate(said):
            right = one.logits.argmax(-1)[0].numpy() == easy[row]
            cells[step] += right.mean()
            solved[bucket, step] += right.all()
            if row < 3:
                assert (arrays["predictions"][row, step] == one.logits.argmax(-1)[0].numpy()).all()
                assert arrays["q_halt"][row, step] == pytest.approx(float(one.q_halt.sigmoid()), rel=1e-4)
    assert (arrays["puzzles"] == puzzles).all()
    assert (arrays["solved"] == solved).all()
    assert solved.any()
    assert arrays["halting_step"] == pytest.approx(halting / puzzles)
    assert 1 < (halting / puzzles).mean() < 4
    assert arrays["accuracy"] == pytest.approx(cells / len(split))
    assert arrays["exact_accuracy"] == pytest.approx(solved.sum(0) / len(split))
    # The last step is what the evaluation judges.
    assert arrays["accuracy"][-1] == pytest.approx(found.metrics["eval/accuracy"], rel=1e-12)
    assert arrays["exact_accuracy"][-1] == found.metrics["eval/exact_accuracy"]
    assert (arrays["inputs"] == split.inputs[:3]).all()


def test_padding_adds_nothing_and_shares_add_up(dataset: Dataset, model: HRM) -> None:
    """23 puzzles in batches of 8 over two processes: the last share of the second one is padding only."""
    alone = evaluate(model, batches_of(dataset, Ranks(torch.device("cpu"))), 23).arrays
    parts = [
        evaluate(model, batches_of(dataset, Share(torch.device("cpu"), rank, 2)), 8, shown_puzzles=9).arrays
        for rank in range(2)
    ]
    assert (alone["puzzles"] == sum(part["puzzles"] for part in parts)).all()
    assert (alone["solved"] == sum(part["solved"] for part in parts)).all()
    thought = sum(part["halting_step"] * part["puzzles"] for part in parts)
    assert alone["halting_step"] * alone["puzzles"] == pytest.approx(thought)
    assert len(alone["inputs"]) == 0
    assert len(parts[0]["inputs"]) == 4  # its share of a batch
    assert "inputs" not in parts[1]


def rated(*ratings: int) -> Split:
    nothing = np.zeros((len(ratings), 4), np.uint8)
    return Split.of_single_examples(nothing, nothing, np.array(ratings, np.int32))


def test_buckets_of_ratings() -> None:
    few = Buckets([rated(3, 0, 3, 7)])
    assert (few.low.tolist(), few.high.tolist()) == ([0, 3, 7], [2, 6, 7])
    many = rated(*range(100), *[50] * 100)
    buckets = Buckets([many])
    assert 2 <= len(buckets) <= MAX_BUCKETS
    membership = buckets.membership(many, np.array([*range(200), -1]))
    assert (membership.sum(0) > 0).all()
    assert membership.sum(1).tolist() == [1.0] * 200 + [0.0]
    for bucket, (low, high) in enumerate(zip(buckets.low, buckets.high, strict=True)):
        assert many.ratings is not None
        inside = many.ratings[membership[:200, bucket] == 1]
        assert inside.min() == low <= inside.max() <= high
    unrated = Buckets([many, dataclasses.replace(many, ratings=None)])
    assert (len(unrated), unrated.low.tolist()) == (1, [])


def test_flops_of_a_step_are_those_of_the_published_model() -> None:
    """The layer passes of a step counted by hand: 16 + 8 forward, 16 for backward, 24 for the Q target."""
    layer_pass = 384 * 82 * (2 * (4 * 512**2 + 3 * 512 * 1536) + 4 * 82 * 512)
    assert step_flops(ModelConfig(), 81, 384) == 64 * layer_pass == pytest.approx(14.1e12, rel=0.01)
    assert step_flops(ModelConfig(halt_max_steps=1), 81, 384) == 40 * layer_pass
    deeper = ModelConfig(H_cycles=3, L_cycles=1, H_layers=2, L_layers=5)
    assert step_flops(deeper, 81, 384) == (2 * 3 * (5 + 2) + 2 * 7) * layer_pass


def test_a_peak_is_that_of_the_very_device() -> None:
    assert device_peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert device_peak("NVIDIA H100 NVL", "float32") == 60e12
    for name in (
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
    ):
        assert device_peak(name, "bfloat16") is None
