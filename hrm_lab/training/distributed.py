"""The processes of one run: who this one is, its share of the global batch, and sums over all of them.

Rank and world size come from the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), as torchrun
and submitit set it. World size is no part of the result: the global batch is what the config says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hrm_lab.config import TrainingConfig
from hrm_lab.errors import ConfigError, PeerLost
from hrm_lab.validation import check_world_size


@contextmanager
def _together() -> Iterator[None]:
    """A collective: torch reports a peer that is gone as a RuntimeError of whatever backend there is."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"another process of this run is gone ({str(error).splitlines()[0]})") from error


def is_about_a_peer(error: BaseException) -> bool:
    """Whether an error of torch's says that another process does not answer."""
    told = isinstance(error, RuntimeError) and re.search("gloo|nccl|connection|peer", str(error), re.IGNORECASE)
    return isinstance(error, dist.DistError) or bool(told)


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of the run."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes."""
        return self.rank == 0

    def share(self, global_size: int) -> slice:
        """This process's rows of a global batch."""
        local = global_size // self.world_size
        return slice(self.rank * local, (self.rank + 1) * local)

    def sum_(self, tensors: list[Tensor]) -> None:
        """Sum tensors of one dtype over all processes, in place, in one flat all-reduce."""
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        with _together():
            dist.all_reduce(flat)
        for tensor, summed in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def start_sum(self, tensor: Tensor) -> dist.Work | None:
        """Begin to sum a tensor over all processes, in place; it is done when this has been waited for."""
        with _together():
            work: dist.Work | None = dist.all_reduce(tensor, async_op=True)
        return work

    def wait_for(self, work: dist.Work | None) -> None:
        """Until it is done; on a GPU it is the device that waits."""
        if work is not None:
            with _together():
                work.wait()

    def gather(self, tensor: Tensor) -> Tensor:
        """Every process's rows of a tensor, in rank order, on every process."""
        if self.world_size == 1:
            return tensor
        whole = tensor.new_empty(self.world_size * len(tensor), *tensor.shape[1:])
        with _together():
            dist.all_gather(list(torch.split(whole, len(tensor))), tensor.contiguous())
        return whole

    def new_cpu_group(self) -> dist.ProcessGroup | None:
        """A group of all processes whose collectives take nobody else's turn and never wait for a GPU."""
        return dist.new_group(backend="gloo") if self.world_size > 1 else None

    def broadcast(self, value: Any, group: dist.ProcessGroup | None) -> Any:
        """The main process's value, on every process."""
        if self.world_size == 1:
            return value
        values = [value]
        with _together():
            dist.broadcast_object_list(values, src=0, group=group)
        return values[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Every process's value, in rank order, on every process; it is pickled."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _together():
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world_size > 1:
            with _together():
                dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            dist.destroy_process_group()


class Agreement:
    """What all processes want and have done, one step late: it travels while the next step is computed."""

    def __init__(self, ranks: Ranks) -> None:
        self._group = ranks.new_cpu_group()
        self._sent = torch.zeros(2, dtype=torch.int32)
        self._work: dist.Work | None = None

    def reach(self, wish: int, done: int) -> tuple[int, int]:
        """The greatest wish and the least of what is done, over all processes."""
        if self._group is None:
            return wish, done
        self.close()
        agreed = self._sent.tolist()
        self._sent = torch.tensor([wish, -done], dtype=torch.int32)
        with _together():
            self._work = dist.all_reduce(self._sent, dist.ReduceOp.MAX, self._group, async_op=True)
        return agreed[0], -agreed[1]

    def close(self) -> None:
        """Wait for what is on its way."""
        if self._work is None:
            return
        with _together():
            self._work.wait()
        self._work = None


def connect(training: TrainingConfig) -> Ranks:
    """Choose the device, set the threads, and join the other processes where there are any.

    Raises:
        ConfigError: when CUDA is asked for and absent, or a batch cannot be cut over the processes.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    check_world_size(training, world_size)
    torch.set_num_threads(training.threads)
    device = _device(training.device)
    if device.type == "cuda":
        _refuse_crowd(training)
        torch.cuda.set_device(device)
    # Free on the CPU, and a promise: the same config gives the same bits. On a GPU it costs, so it is a setting.
    if device.type == "cpu" or training.deterministic:
        _be_deterministic()
    if world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=world_size)
    return Ranks(device, rank, world_size)


def _refuse_crowd(training: TrainingConfig) -> None:
    """Several processes cannot share a GPU, and would hear so only at their first sum."""
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if here > gpus:
        problem = f"{here} processes on a machine that has {gpus} of them"
        raise ConfigError("training.device", "cuda", problem, f"start {gpus}, or take training.device=cpu")


def _be_deterministic() -> None:
    """Refuse every algorithm whose result depends on who comes first."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.backends.cudnn.benchmark = False
    # (`use_deterministic_algorithms` sets the same switch and loads the compiler, which takes two seconds.)
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _device(choice: str) -> torch.device:
    present = torch.cuda.is_available()
    if choice == "cuda" and not present:
        raise ConfigError("training.device", "cuda", "there is no CUDA device here", "take training.device=auto or cpu")
    if choice == "cpu" or not present:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
