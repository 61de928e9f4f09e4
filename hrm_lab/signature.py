"""What a run is: a hash of every setting that can change its result."""

from __future__ import annotations

import hashlib
import json

from hrm_lab.config import Config, identity_dict
from hrm_lab.data.build import build_key


def signature(config: Config) -> str:
    """12 hex digits: one signature, one folder, one MLflow run.

    Names, paths, tracking, log cadence and threads are left out (`identity=False` in config.py); the bytes of the
    dataset are in, by the hash of what it is built from.
    """
    facts = identity_dict(config) | {"data": build_key(config.data)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
