"""The hash of a file of weights: the same for the same tensors, whoever wrote the file and in whatever order.

Reads the safetensors format itself, so that nobody loads torch for it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

CHUNK = 2**24


def weights_hash(path: Path) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in order of names."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header.pop("__metadata__", None)  # words about the file
        for name, facts in sorted(header.items()):
            total.update(json.dumps([name, facts["dtype"], facts["shape"]]).encode() + b"\0")
            begin, end = facts["data_offsets"]
            file.seek(8 + size + begin)
            for start in range(begin, end, CHUNK):
                total.update(file.read(min(CHUNK, end - start)))
    return total.hexdigest()
