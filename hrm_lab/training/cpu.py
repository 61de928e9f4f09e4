"""What a CPU needs: its memory kept, and for torch's compiler its kind, and the vector instructions it may use."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import platform
from pathlib import Path

# Of glibc's mallopt; the second may not be more than 32 MB in older ones.
TRIM_THRESHOLD, MMAP_THRESHOLD, MOST, MOST_OF_OLD = -1, -3, 1 << 30, 1 << 25


def keep_freed_memory() -> None:
    """Have freed tensors' memory stay with the process: each page that comes anew from the system costs a fault."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; elsewhere nothing changes
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, MOST)
        _ = mallopt(MMAP_THRESHOLD, MOST) or mallopt(MMAP_THRESHOLD, MOST_OF_OLD)


def kind_of_cpu() -> str:
    """A short name of this kind of CPU. What is compiled for one gives wrong numbers on another, or ends the process.

    Torch's keys do not tell them apart, because it keeps such code on the machine; ours may lie on a shared disk.
    """
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        told = []
    facts = sorted({line for line in told if line.startswith(("model name", "flags", "Features", "CPU part"))})
    facts += [platform.machine(), os.environ.get("ATEN_CPU_CAPABILITY", "")] + ([] if told else [platform.node()])
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def trust_vectors(cache: Path | None) -> None:
    """Believe the CPU's own word for them, once the C++ compiler has shown that it can use the best ones.

    Left to itself torch builds ten little libraries before the first compilation, most of them the same again for sets
    of instructions that it does not take in the end; and in every process, however much is cached, it loads each of
    them in another Python with a torch of its own.

    Args:
        cache: folder where it is kept that this has been found out; None = it is found out each time.
    """
    if platform.machine() != "x86_64":
        return
    vectors = importlib.import_module("torch._inductor.cpu_vec_isa")
    found = None if cache is None else cache / f"vectors-{platform.node()}"
    if found is None or not found.exists():
        present = vectors.x86_isa_checker()
        best = next((isa for isa in vectors.supported_vec_isa_list if set(str(isa).split()) <= set(present)), None)
        if best is None or not best:  # to ask whether it is true is to have it built; torch looks for another then
            return
        if found is not None:
            found.parent.mkdir(parents=True, exist_ok=True)
            found.touch()
    vectors.VecISA.check_build = lambda self, code: True
