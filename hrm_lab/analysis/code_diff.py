"""What two runs' code differs in: git compares the trees that their commits and uncommitted patches make."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrm_lab.tracking.provenance import git

MAX_LINES = 200  # of a patch that is shown


def code_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """`git diff --stat` between two runs' code, and the patch where it is short.

    Args:
        one, other: provenance.

    Returns:
        Nothing where the code is the same, or neither comes from git; else at least why it cannot be shown.
    """
    if one.get("tree", "") == other.get("tree", ""):
        return ""
    with tempfile.TemporaryDirectory() as scratch:
        variables = _scratch_objects(Path(scratch))
        trees = [_tree(facts, Path(scratch), variables) for facts in (one, other)]
        for facts, tree in zip((one, other), trees, strict=True):
            if not tree:
                commit = str(facts.get("commit", ""))[:12]
                return f"commit {commit} is not in this checkout" if commit else "one was an installed package"
        compared = ["diff", "--no-ext-diff", "--no-color", *trees]
        stat, patch = git(*compared, "--stat", variables=variables), git(*compared, variables=variables)
    return stat if len(patch.splitlines()) > MAX_LINES else f"{stat}\n\n{patch}".strip()


def _scratch_objects(scratch: Path) -> dict[str, str]:
    """What git makes goes into a folder of its own, so that looking at runs leaves no trace in the checkout."""
    (scratch / "objects").mkdir()
    return {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": git("rev-parse", "--path-format=absolute", "--git-path", "objects"),
    }


def _tree(facts: Mapping[str, Any], scratch: Path, variables: dict[str, str]) -> str:
    """Git's tree of a commit and its patch; empty where the commit is not known here."""
    commit, patch = str(facts.get("commit", "")), str(facts.get("diff", ""))
    if not commit or not git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
        return ""
    top = Path(git("rev-parse", "--show-toplevel"))
    git("read-tree", commit, variables=variables, folder=top)
    if patch:
        # A binary patch ends in an empty line, which logging it may have cut.
        (scratch / "patch").write_text(f"{patch}\n\n", newline="")
        git(
            "apply",
            "--cached",
            "--binary",
            "--whitespace=nowarn",
            str(scratch / "patch"),
            variables=variables,
            folder=top,
        )
    return git("write-tree", variables=variables, folder=top)
