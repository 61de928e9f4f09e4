"""The sum of gradients over real processes: in float32 that of one process, in bfloat16 near it; alike everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

SUMS = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from hrm_lab.training import gradients
from hrm_lab.training.distributed import Ranks

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
ranks = Ranks(torch.device("cpu"), rank, 2)
gradients.BUCKET_BYTES = 4096  # several buckets
found = {}
for name, dtype, overlaps, parts in (
    ("float32", torch.float32, True, 1), ("late", torch.float32, False, 1), ("parts", torch.float32, True, 2),
    ("bfloat16", torch.bfloat16, True, 1),
):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(32, 32) for _ in range(5)]
    model, unused = torch.nn.Sequential(*layers), torch.nn.Parameter(torch.zeros(3))
    params = [*model.parameters(), unused]
    summing = gradients.GradientSum(params, ranks, dtype, overlaps)
    assert len(summing.buckets) > 2
    rows = torch.randn(8, 32)
    pulse = torch.tensor(float(rank + 1))
    for step in (1, 2):  # the second finds buckets that have been used
        for p in params:
            p.grad = None
        own = rows[4 * rank : 4 * rank + 4]
        for part in range(parts):
            if part == parts - 1:
                summing.begin()
            model(own[part * (4 // parts) : (part + 1) * (4 // parts)]).square().sum().backward()
        pulse.fill_(float(rank + 1))
        summing.finish(pulse)
    assert unused.grad is None and pulse.item() == 3.0
    found[name] = [p.grad.clone() for p in model.parameters()]
    whole = torch.autograd.grad(model(rows).square().sum(), list(model.parameters()))
    found[name + " alone"] = list(whole)
ids = torch.tensor([[7], [9]], dtype=torch.int32)[rank : rank + 1]
found["rows"] = [ranks.gather(ids.view(torch.float32)).view(torch.int32)]
torch.save(found, folder / f"{rank}.pt")
dist.destroy_process_group()
"""


def test_the_sum_over_two_processes(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", SUMS, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, sums in first.items():
        assert all(torch.equal(one, other) for one, other in zip(sums, second[name], strict=True)), name
    for name in ("float32", "parts", "bfloat16"):
        tolerance = 1e-2 if name == "bfloat16" else 1e-5
        for ours, whole in zip(first[name], first[f"{name} alone"], strict=True):
            torch.testing.assert_close(ours, whole, rtol=tolerance, atol=tolerance * float(whole.abs().max()))
    assert all(torch.equal(one, other) for one, other in zip(first["float32"], first["late"], strict=True))
    assert not torch.equal(first["float32"][0], first["bfloat16"][0])
    assert first["rows"][0].flatten().tolist() == [7, 9]
