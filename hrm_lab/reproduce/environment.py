"""The packages and the machine of a logged run against those that are here, and a venv of its packages."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from hrm_lab.errors import CannotReproduce
from hrm_lab.tracking.provenance import MACHINE, PACKAGE, packages

log = logging.getLogger("hrm_lab")
LOOK = (
    "import json; from hrm_lab.tracking.provenance import collect; "
    "print(json.dumps({k: v for k, v in collect().to_dict().items() if k != 'diff'}))"
)


def present(python: str) -> dict[str, Any]:
    """Packages and machine as an interpreter sees them."""
    command = [python, "-P", "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {LOOK}"]
    seen = subprocess.run(command, capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(seen.stdout)
    return facts


def alike(facts: Mapping[str, Any]) -> str:
    """What was compared, for an environment that does not differ."""
    machine = [title for key, title in MACHINE.items() if facts.get(key)]
    return f"the same {len(packages(facts))} packages, {', '.join(machine)}"


def table(rows: list[tuple[str, str, str]]) -> Table:
    """For a person."""
    shown = Table("", "then", "here", title="what differs from the logged environment", title_justify="left", box=None)
    for row in rows:
        shown.add_row(*row)
    return shown


def same_environment(then: Mapping[str, Any], outputs: Path) -> str:
    """The interpreter of a venv with the logged packages, built once and kept in OUTPUTS/environments.

    Raises:
        CannotReproduce: when there is no such interpreter, or pip cannot get a package.
    """
    version = ".".join(str(then["python"]).split(".")[:2])
    # +cpu and the like name a build of some index; the same version of whatever index pip knows is asked for.
    wanted = "".join(f"{name}=={number.partition('+')[0]}\n" for name, number in sorted(packages(then).items()))
    key = hashlib.sha256(f"{version}\n{wanted}".encode()).hexdigest()[:16]
    place = outputs.resolve() / "environments" / key
    if (place / "requirements.txt").exists():
        log.info("environment: %s, built before", place)
        return str(place / "bin" / "python")
    place.parent.mkdir(parents=True, exist_ok=True)
    log.info("environment: building a venv of %d packages in %s", wanted.count("\n"), place)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as scratch:
        venv = Path(scratch) / "venv"
        _do([_interpreter(version), "-m", "venv", str(venv)], "the venv cannot be made")
        (Path(scratch) / "wanted.txt").write_text(wanted)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--requirement", str(Path(scratch) / "wanted.txt")]
        _do([*pip, "--progress-bar", "off", "--no-input"], "pip cannot install the logged packages")
        (venv / "requirements.txt").write_text(wanted)  # the last thing written: the venv is whole
        if not (place / "requirements.txt").exists():
            shutil.rmtree(place, ignore_errors=True)
            venv.rename(place)
    return str(place / "bin" / "python")


def _interpreter(version: str) -> str:
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    found = shutil.which(f"python{version}")
    # One that is found may be a stand-in for one that is not installed (pyenv's), or lack what makes a venv (Debian's).
    if found is None or subprocess.run([found, "-c", "import ensurepip, venv"], capture_output=True).returncode:
        raise CannotReproduce(
            f"the run was made with Python {version}, and there is no python{version} here that can make a venv\n"
            "  way out: install it, or leave --same-env out; the table of differences says what is not the same"
        )
    return found


def _do(command: list[str], problem: str) -> None:
    """Run a command and show what it says as it says it, one line at a time."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            if line.startswith(("Collecting", "Downloading", "Installing", "ERROR", "Error")):
                log.info("  %s", line.partition(" (from ")[0].strip()[:100])
            said.append(line.strip())
    if process.returncode:
        errors = [line for line in said if line.startswith(("ERROR", "Error"))] or said[-1:]
        raise CannotReproduce(
            f"{problem}: {' '.join(errors)[:600]}\n"
            "  way out: give pip the index that has it (PIP_EXTRA_INDEX_URL), or leave --same-env out"
        )
