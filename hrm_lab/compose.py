"""Hydra's side of the config: the typed schema in its store, composition, and its errors in plain words.

Nothing below this module knows Hydra; what comes out of it is a validated `Config`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from hrm_lab import config as schema
from hrm_lab.config import Config, task_names, task_settings
from hrm_lab.errors import ConfigError, UserError
from hrm_lab.launchers import KEY, LocalLauncherConfig, SlurmLauncherConfig
from hrm_lab.validation import validate

LAUNCHERS = (LocalLauncherConfig, SlurmLauncherConfig)
HYDRA_ERRORS = (HydraException, OmegaConfBaseException)
PARSE_ERRORS = (*HYDRA_ERRORS, ValueError)  # what its parser raises too
_PACKAGE = Path(__file__).parent
# In a wheel the YAML files lie in the package, in a checkout beside it.
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())


def register() -> None:
    """Put the schema where the YAML files of conf/ find it."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for task in task_names():
        store.store(group="data", name=f"{task}_task", node=task_settings(task))


register()


def compose_config(overrides: Sequence[str]) -> Config:
    """Compose conf/config.yaml with overrides and check every value.

    Raises:
        UserError: naming the key, the value and the way out.
    """
    return to_config(_compose(overrides))


def sweep_place(overrides: Sequence[str]) -> tuple[Path, str, dict[str, Any]]:
    """Outputs folder, name and launcher settings of the sweep that a multirun with these overrides makes.

    Its points are left unchecked.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except PARSE_ERRORS as error:
        raise explain(error, overrides) from error
    fixed = [text for text, override in zip(overrides, parsed, strict=True) if not override.is_sweep_override()]
    composed = _compose(fixed, with_hydra=True)
    launcher: Any = OmegaConf.to_container(composed.hydra.launcher)
    return Path(composed.paths.outputs), str(composed.name), launcher


def slurm_profile(name: str, overrides: Sequence[str]) -> SlurmLauncherConfig:
    """The settings of a file of conf/hydra/launcher, with overrides `hydra.launcher.KEY=VALUE`.

    Raises:
        UserError: when there is no such file, or it is not one for SLURM.
    """
    launcher = sweep_place([f"hydra/launcher={name}", *overrides])[2]
    if launcher.get("_target_") != SlurmLauncherConfig._target_:
        raise ConfigError("hydra/launcher", name, "submits nothing to SLURM", "take slurm, or another file for SLURM")
    return SlurmLauncherConfig(**launcher)


def _compose(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
    except PARSE_ERRORS as error:
        raise explain(error, overrides) from error


def to_config(composed: DictConfig) -> Config:
    """A composed config, without Hydra's own part, as a validated Config."""
    own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        container: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise explain(error, []) from error
    config: Config = schema.from_dict(container)
    validate(config)
    return config


def explain(error: Exception, overrides: Sequence[str]) -> UserError:
    """Say what is wrong with a config in our words: key, value, way out."""
    if isinstance(error, UserError):
        return error
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    known = [name for name, _, _ in schema.settings(Config())]
    known += [name for kind in LAUNCHERS for name, _, _ in schema.settings(kind(), KEY)]
    if key and key.startswith(f"{KEY}sbatch."):
        return ConfigError(key, _value_of(key, overrides), "is not there yet", f"a + adds it: +{key}=VALUE")
    if key and isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return schema.unknown_key(key, _value_of(key, overrides), known)
    if key and isinstance(cause, ValidationError):
        help = next((meta.help for name, _, meta in schema.settings(Config()) if name == key), "")
        problem = str(cause).splitlines()[0].rstrip(".")
        return ConfigError(key, _value_of(key, overrides), problem, f"{key} is: {help}" if help else "see conf/")
    text = str(error).strip()
    missing = re.search(
        r"Could not (?:find|load) '([\w/]+)'.*?\n\nAvailable options in '[\w/]+':\n(.*?)\n(?:\n|Config)",
        text + "\n\n",
        re.S,
    )
    if missing:
        group, _, name = missing.group(1).rpartition("/")
        return ConfigError(group, name, "no such choice", "one of " + ", ".join(missing.group(2).split()))
    absent = re.search(r"Could not override '([^']+)'", text)
    if absent:
        name = absent.group(1)
        return schema.unknown_key(name, _value_of(name, overrides), known)
    return UserError(f"{text}\n  way out: overrides are written KEY=VALUE; `hrm-lab config` lists every key")


def _value_of(key: str, overrides: Sequence[str]) -> str:
    """The value that the command line gives a key, for the error message."""
    for override in overrides:
        name, _, value = override.partition("=")
        if name.lstrip("+~") == key:
            return value
    return "?"
