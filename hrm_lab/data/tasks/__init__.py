"""The tasks: every file in this folder is one, and bears its name.

`config.py` finds their settings here by name, so that a new task needs no list to be changed.
"""

from __future__ import annotations

import importlib

from hrm_lab.config import task_names
from hrm_lab.data.task import Task
from hrm_lab.errors import DataError


def find_task(name: str) -> Task:
    """The task of a file in this folder.

    Raises:
        DataError: when there is none of that name.
    """
    if name not in task_names():
        raise DataError(f"task {name}: there is no such task here\n  way out: one of {', '.join(task_names())}")
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
