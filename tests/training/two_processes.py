"""One rank of the two-process run of test_trainer.py; started there with torch.distributed's environment."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.small import small_config
from tests.training.test_trainer import make_trainer

folder = Path(sys.argv[1])
trainer, memory = make_trainer(small_config(folder), folder / "together")
trainer.fit()
carry = trainer.state_dict()["carry"]
if trainer.ranks.is_main:
    torch.save({"values": memory.values, "carry": [*carry["data"], carry["steps"]]}, folder / "together.pt")
trainer.ranks.close()
