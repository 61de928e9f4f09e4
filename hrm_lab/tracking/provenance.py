"""Where a run comes from: commit, uncommitted changes, packages, interpreter and machine."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from hrm_lab.redaction import redact

log = logging.getLogger("hrm_lab")
PACKAGE = Path(__file__).parents[1]
# The code comes from git, and what installs packages computes nothing.
LEFT_OUT = re.compile(r"hrm[-_.]lab|pip|setuptools|wheel|editables")
MACHINE = {"python": "Python", "platform": "platform", "cpu": "CPU", "gpu": "GPU"}
NOT_THERE = "-"
SOURCE_FILE = "source.json"  # in the root of a snapshot, which is no git checkout itself


@dataclass(frozen=True)
class Source:
    """The code: a commit, and a patch that makes the tree out of it, files that git does not know yet included."""

    commit: str = ""  # empty where the package does not lie in a git checkout
    branch: str = ""
    tree: str = ""  # git's hash of all files: the same for the same code
    diff: str = ""
    masked: bool = False  # whether secrets were taken out of the patch, which so does not make the tree any more


@dataclass(frozen=True)
class Provenance:
    """What it takes to run the same code again."""

    commit: str
    branch: str
    tree: str
    diff: str
    packages: dict[str, str]
    python: str
    host: str
    platform: str
    # Empty in what was logged before these were.
    cpu: str = ""
    gpu: str = ""
    world_size: int = 1  # data-parallel processes
    masked: bool = False  # as of Source

    @property
    def dirty(self) -> bool:
        """Whether the code differs from its commit."""
        return bool(self.diff)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def collect() -> Provenance:
    """Of this process."""
    return Provenance(
        **asdict(source()),
        packages=dict(sorted((d.name.lower(), d.version) for d in metadata.distributions())),
        python=sys.version.split()[0],
        host=platform.node(),
        platform=platform.platform(),
        cpu=_cpu(),
        gpu=_gpu(),
        world_size=int(os.environ.get("WORLD_SIZE", 1)),
    )


def _cpu() -> str:
    """Its model: arithmetic libraries choose their kernels by it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def _gpu() -> str:
    """The models of this machine's NVIDIA GPUs, asked of the driver and not of torch, which takes a second to load."""
    models = set()
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        with contextlib.suppress(OSError):
            facts = dict(line.partition(":")[::2] for line in file.read_text().splitlines())
            models.add(facts.get("Model", "").strip())
    return ", ".join(sorted(models - {""}))


@functools.cache
def source() -> Source:
    """Of this package. Looked at once; a process runs one version of the code."""
    written = PACKAGE.parent / SOURCE_FILE
    if written.exists():
        return _without_secrets(Source(**json.loads(written.read_text())))
    if git("rev-parse", "--is-inside-work-tree") != "true" or not git("ls-files", "--", "__init__.py"):
        return Source()
    commit = git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as scratch:
        tree, variables = tree_of_worktree(Path(scratch))
        diff = git("diff", "--binary", commit, tree, variables=variables)
    return _without_secrets(Source(commit, git("rev-parse", "--abbrev-ref", "HEAD"), tree, diff))


def _without_secrets(code: Source) -> Source:
    """A key that lies in the checkout is no part of what may be logged."""
    diff = redact(code.diff)
    if diff != code.diff:
        log.warning(
            "the uncommitted changes hold what looks like a secret: they are logged without it, and so the run "
            "cannot be reproduced\n  way out: keep it in a file that git ignores"
        )
    return replace(code, diff=diff, masked=code.masked or diff != code.diff)


def tree_of_worktree(scratch: Path) -> tuple[str, dict[str, str]]:
    """Git's tree of all files that are not ignored, as they are now, made without touching the checkout.

    Returns:
        Its hash, and the environment variables with which git knows it as long as `scratch` lives.
    """
    top = Path(git("rev-parse", "--show-toplevel"))
    objects = Path(git("rev-parse", "--path-format=absolute", "--git-path", "objects"))
    (scratch / "objects").mkdir()
    variables = {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
    }
    git("read-tree", "HEAD", variables=variables)
    git("add", "--all", ".", variables=variables, folder=top)
    return git("write-tree", variables=variables), variables


def git(*arguments: str, variables: dict[str, str] | None = None, folder: Path = PACKAGE) -> str:
    """Output of a git command, or nothing where there is no git or no commit."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=os.environ | (variables or {}),
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    # Decoded here: subprocess would make one line end of \r\n and \n, and no patch of such a file would fit any more.
    return done.stdout.decode(errors="replace").strip("\n")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, then, now) for all that is not the same; what was not logged then is left out."""
    rows = [
        (title, str(then[key]), str(now.get(key) or NOT_THERE))
        for key, title in MACHINE.items()
        if then.get(key) and then[key] != now.get(key)
    ]
    old, new = packages(then), packages(now)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return rows + [(name, old.get(name, NOT_THERE), new.get(name, NOT_THERE)) for name in names]


def packages(facts: Mapping[str, Any]) -> dict[str, str]:
    """Versions by name, in the one spelling that pip takes all others for; without those that compute nothing."""
    return {_plain(name): version for name, version in facts["packages"].items() if not LEFT_OUT.fullmatch(name)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
