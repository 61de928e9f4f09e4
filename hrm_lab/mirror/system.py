"""CPU, memory, network and GPU while a run goes on, under the names that MLflow's tab "System metrics" shows.

A look every now and then, in a thread of the mirror, into a journal of its own: a store that is away makes no gap. The
step is the number of the look, and goes on when the run does.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from hrm_lab.errors import RunError, one_line
from hrm_lab.run_folder import RunFolder
from hrm_lab.tracking.journal import Journal, read_ends

log = logging.getLogger("hrm_lab")
MEGABYTE = 1e6


class Gauges:
    """Reads the machine, and one process on it.

    Args:
        process_id: of the training.
    """

    def __init__(self, process_id: int) -> None:
        self._process = psutil.Process(process_id)
        self._network = psutil.net_io_counters()
        self._gpus = _open_gpus()
        self.read()  # shares of the CPU are since the last look

    def read(self) -> dict[str, float]:
        """What the gauges say now, and on average since they were last read."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage("/"), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGABYTE,
            "network_receive_megabytes": (network.bytes_recv - self._network.bytes_recv) / MEGABYTE,
            "network_transmit_megabytes": (network.bytes_sent - self._network.bytes_sent) / MEGABYTE,
        }
        named = values | self._read_process() | _read_gpus(self._gpus)
        return {f"system/{name}": float(value) for name, value in named.items()}

    def _read_process(self) -> dict[str, float]:
        try:
            return {
                "training_cpu_percentage": self._process.cpu_percent(),  # 100 is one core
                "training_memory_megabytes": self._process.memory_info().rss / MEGABYTE,
            }
        except psutil.Error:  # it has just ended
            return {}


def _open_gpus() -> list[Any]:
    """NVML's handles of the GPUs that the training sees; none without the extra `gpu`, or without a GPU."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in filter(None, map(str.strip, named.split(",")))
        ]
    except pynvml.NVMLError:
        return []


def _read_gpus(gpus: list[Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for index, gpu in enumerate(gpus):
        import pynvml

        for gauge in (_gpu_use, _gpu_memory, _gpu_power):
            # One that this GPU does not have (a slice of a GPU has no power of its own), or not at this moment.
            with suppress(pynvml.NVMLError):
                values |= {f"gpu_{index}_{name}": value for name, value in gauge(pynvml, gpu).items()}
    return values


def _gpu_use(nvml: Any, gpu: Any) -> dict[str, float]:
    return {"utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(gpu).gpu}


def _gpu_memory(nvml: Any, gpu: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    return {
        "memory_usage_megabytes": memory.used / MEGABYTE,
        "memory_usage_percentage": 100 * memory.used / memory.total,
    }


def _gpu_power(nvml: Any, gpu: Any) -> dict[str, float]:
    return {"power_usage_watts": nvml.nvmlDeviceGetPowerUsage(gpu) / 1000}


@contextmanager
def watched(
    folder: RunFolder, interval: float | None, process_id: int, may_write: Callable[[], bool]
) -> Iterator[None]:
    """Look at the machine until the context ends.

    Args:
        interval: seconds between looks; None for none.
        process_id: of the training.
        may_write: asked before each; a replaced attempt's mirror looks no more.
    """
    if interval is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, interval, process_id, may_write, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(
    folder: RunFolder, interval: float, process_id: int, may_write: Callable[[], bool], over: threading.Event
) -> None:
    journal = Journal(folder.system)
    try:
        gauges = Gauges(process_id)
        look = _go_on(journal)
        while not over.wait(interval) and may_write():
            look += 1
            journal.append(look, metrics=gauges.read())
    except (RunError, OSError, psutil.Error) as error:
        log.warning("the machine is not looked at any more (%s); training goes on", one_line(error))
    finally:
        journal.close()


def _go_on(journal: Journal) -> int:
    """Open the journal behind its last whole line; the number of looks that are in it."""
    _, last = read_ends(journal.path)
    look = last[-1].get("step", last[-1].get("begin", 0)) if last else 0
    written = journal.path.read_bytes() if last else b""
    journal.begin(look, 0, written.rfind(b"\n") + 1)
    return int(look)
