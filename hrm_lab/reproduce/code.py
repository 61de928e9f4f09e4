"""The code of a logged run: its commit in a git worktree of its own, and the logged patch on top."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrm_lab.errors import CannotReproduce
from hrm_lab.tracking.provenance import PACKAGE

REPOSITORY = "HRM_LAB_REPOSITORY"  # where git is to be asked by a job, whose code is a copy without git
# What torch.distributed and SLURM tell the processes of one run; those started here are told anew.
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PRESENT = "--current-code runs today's code instead"


@dataclass(frozen=True)
class Code:
    """Code to be run, and with which interpreter."""

    folder: Path
    python: str = sys.executable

    def command(self, script: str, *arguments: str) -> list[str]:
        """A command line that runs a script with this code (-P: and not with what lies in the current folder)."""
        return [self.python, "-P", "-c", script, *arguments]

    def environment(self) -> dict[str, str]:
        """Variables for such a process."""
        mine = {key: value for key, value in os.environ.items() if key not in RANKS}
        # Hydra finds our launchers under launch/, in a checkout; in an installed package they lie beside it.
        places = [str(self.folder), str(self.folder / "launch"), mine.get("PYTHONPATH", "")]
        return mine | {"PYTHONPATH": os.pathsep.join(filter(None, places))}


def present_code() -> Code:
    """What runs now."""
    return Code(PACKAGE.parent)


def repository() -> Path:
    """The clone that is asked for commits.

    Raises:
        CannotReproduce: when this package does not lie in one.
    """
    top = _git(Path(os.environ.get(REPOSITORY, PACKAGE)), "rev-parse", "--show-toplevel")
    if top.returncode or not (Path(top.stdout.strip()) / PACKAGE.name).is_dir():
        raise CannotReproduce(
            "this hrm-lab does not lie in a git clone, so the run's commit cannot be looked up\n"
            f"  way out: run it from a clone of the repository; {PRESENT}"
        )
    return Path(top.stdout.strip())


@contextmanager
def checked_out(provenance: dict[str, Any], folder: Path) -> Iterator[Code]:
    """The logged code in a folder, for as long as it is needed.

    Raises:
        CannotReproduce: when the commit is not known here, or the patch does not make the logged tree out of it, as
            one from which a secret was taken cannot.
    """
    commit = str(provenance.get("commit", ""))
    if not commit:
        raise CannotReproduce(
            f"the run was made by an installed package, so no commit was logged with it\n  way out: {PRESENT}"
        )
    if provenance.get("masked"):
        raise CannotReproduce(
            f"the run's uncommitted changes to commit {commit[:12]} held what looked like a secret; *** was logged in "
            "its place, so the code of the run cannot be made of them\n"
            f"  way out: commit the changes without the secret and train again; {PRESENT}"
        )
    top = repository()
    if _git(top, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise CannotReproduce(
            f"commit {commit[:12]} of the run is not in {top}\n"
            f"  way out: `git fetch` it from wherever the run's code was pushed to; {PRESENT}"
        )
    _remove(top, folder)  # what a killed process left
    try:
        _check_out(top, folder, commit, provenance)
        yield Code(folder)
    finally:
        _remove(top, folder)


def _check_out(top: Path, folder: Path, commit: str, provenance: dict[str, Any]) -> None:
    added = _git(top, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    if added.returncode:
        raise CannotReproduce(
            f"{folder}: commit {commit[:12]} cannot be checked out ({added.stderr.strip()})\n"
            "  way out: see that `git worktree` works in the clone and that the disk has room"
        )
    diff = str(provenance.get("diff", ""))
    if diff:
        # A binary patch ends in an empty line, which logging it may have cut.
        applied = _git(folder, "apply", "--binary", "--index", "--whitespace=nowarn", "-", feed=f"{diff}\n\n")
        if applied.returncode:
            raise CannotReproduce(
                f"the logged patch cannot be applied to commit {commit[:12]} ({applied.stderr.strip()})\n"
                f"  way out: read the run's artifact code/uncommitted.patch; {PRESENT}"
            )
    tree = _git(folder, "write-tree").stdout.strip()
    if provenance.get("tree") and tree != provenance["tree"]:
        raise CannotReproduce(
            f"commit {commit[:12]} and the logged patch make tree {tree[:12]}, and the run's code was "
            f"{provenance['tree'][:12]} (a patch with bytes that are no UTF-8 cannot be logged)\n  way out: {PRESENT}"
        )


def _remove(top: Path, folder: Path) -> None:
    _git(top, "worktree", "remove", "--force", "--force", str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    _git(top, "worktree", "prune")


def _git(folder: Path, *arguments: str, feed: str | None = None) -> subprocess.CompletedProcess[str]:
    # A hook sets GIT_DIR and the like; they name another place than `folder`.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *arguments],  # a checkout is no reason to run anything
            cwd=folder,
            env=variables,
            input=feed,
            stdin=subprocess.DEVNULL if feed is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise CannotReproduce(f"git: cannot be run ({error.strerror})\n  way out: install git; {PRESENT}") from None
