"""The code that runs is the code that was submitted: a copy, taken once, that every job of it imports."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from hrm_lab.errors import UserError
from hrm_lab.run_folder import keep_out_of_git
from hrm_lab.tracking.provenance import PACKAGE, SOURCE_FILE, git, source, tree_of_worktree


def take(outputs: Path) -> Path:
    """Copy the code as it is now: the commit, uncommitted changes, and files that are new and not ignored.

    The same code is kept once, under its hash, in OUTPUTS/code. A package that does not lie in a git checkout is
    copied as it is installed.

    Raises:
        UserError: when the copy cannot be made.
    """
    outputs.mkdir(parents=True, exist_ok=True)
    keep_out_of_git(outputs)
    source.cache_clear()
    code = source()
    name = code.tree[:16] or f"installed-{_hash_of_package()}"
    target = outputs.resolve() / "code" / name
    if (target / SOURCE_FILE).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
        copy = Path(scratch) / "copy"
        copy.mkdir()
        if code.tree:
            _export(copy, Path(scratch))
        else:
            shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / SOURCE_FILE).write_text(json.dumps(asdict(code)))
        try:
            copy.rename(target)
        except OSError:  # another submission was faster
            if not (target / SOURCE_FILE).exists():
                raise
    return target


def _export(target: Path, scratch: Path) -> None:
    tree, variables = tree_of_worktree(scratch)
    top = Path(git("rev-parse", "--show-toplevel"))
    archive = scratch / "code.tar"
    git("archive", "--output", str(archive), tree, variables=variables, folder=top)
    done = subprocess.run(["tar", "-xf", str(archive), "-C", str(target)], capture_output=True, text=True, check=False)
    if done.returncode or not (target / PACKAGE.name / "__init__.py").exists():
        raise UserError(
            f"the code could not be copied to {target} ({done.stderr.strip() or 'git archive failed'})\n"
            "  way out: see that `git status` works in the checkout and that the disk has room"
        )


def _hash_of_package() -> str:
    total = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            total.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:16]
