"""Where a run comes from: commit, uncommitted diff, packages, interpreter and machine."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Provenance:
    """What it takes to run the same code again."""

    commit: str  # empty where the package does not lie in a git checkout
    branch: str
    diff: str  # uncommitted changes to tracked files, as a patch
    untracked: tuple[str, ...]
    packages: dict[str, str]
    python: str
    host: str
    platform: str

    @property
    def dirty(self) -> bool:
        """Whether the code differs from its commit."""
        return bool(self.diff or self.untracked)


@functools.cache
def collect() -> Provenance:
    """Look once; a process runs one version of the code."""
    inside = _git("rev-parse", "--is-inside-work-tree") == "true"
    return Provenance(
        commit=_git("rev-parse", "HEAD") if inside else "",
        branch=_git("rev-parse", "--abbrev-ref", "HEAD") if inside else "",
        diff=_git("diff", "HEAD", "--", ":/") if inside else "",
        untracked=tuple(_git("ls-files", "--others", "--exclude-standard", ":/").splitlines()) if inside else (),
        packages=dict(sorted((d.name.lower(), d.version) for d in metadata.distributions())),
        python=sys.version.split()[0],
        host=platform.node(),
        platform=platform.platform(),
    )


def _git(*arguments: str) -> str:
    """Output of a git command in the package's folder, or nothing where there is no git or no commit."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip("\n")
