"""The datasets of a sweep's points, built once before any job asks for them."""

from __future__ import annotations

from collections.abc import Iterable

from hrm_lab.config import Config
from hrm_lab.data.build import ensure_dataset
from hrm_lab.progress import building


def build_datasets(configs: Iterable[Config]) -> None:
    """Build each distinct dataset that is missing, with a bar on a terminal."""
    for data, root in {repr(config.data): (config.data, config.paths.data) for config in configs}.values():
        with building(data.name) as progress:
            ensure_dataset(data, root, progress)
