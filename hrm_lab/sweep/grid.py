"""From Hydra's override grammar to checked configs, fast enough for a thousand points.

Composing one config costs Hydra about a tenth of a second, so the group choices are composed once for each distinct
set of them, and the plain values of a point are put into a copy of that.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from hrm_lab.compose import PARSE_ERRORS, explain, to_config
from hrm_lab.config import Config
from hrm_lab.errors import ConfigError


def expand(
    params: Mapping[str, Any] | None, arguments: Sequence[str], loader: ConfigLoader | None = None
) -> list[list[str]]:
    """The points of a grid, each as a list of overrides: the product of every swept key, the last one moving fastest.

    Args:
        params: `hydra.sweeper.params` of the experiment; the command line's arguments take their place key by key.
        arguments: overrides of the command line.
        loader: needed for glob(...) only.

    Raises:
        ConfigError: for a sweep over an interval, which has no points.
    """
    texts = [f"{key}={value}" for key, value in (params or {}).items()] + list(arguments)
    choices: dict[str, list[str]] = {}
    try:
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(texts)
    except PARSE_ERRORS as error:
        raise explain(error, texts) from error
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                key,
                str(override.input_line).partition("=")[2],
                "an interval has no points",
                "take choice(...) or range(...)",
            )
    return [list(point) for point in itertools.product(*choices.values())]


def compose_points(loader: ConfigLoader, master: DictConfig, points: Sequence[Sequence[str]]) -> list[Config]:
    """Compose and check every point.

    Args:
        loader, master: Hydra's, of this multirun.
        points: overrides of each point, in the form that `expand` gives them.

    Raises:
        UserError: for the first point that cannot be, naming key, value and way out.
    """
    composer = _Composer(loader, master)
    return [composer.compose(point) for point in points]


class _Composer:
    """Keeps a composed config for each set of group choices."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self.parsed: dict[str, Override] = {}
        self.is_plain: dict[str, bool] = {}
        self.bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, point: Sequence[str]) -> Config:
        """One point's config."""
        try:
            plain = [text for text in point if self._sets_a_value(text)]
            base = self._base(tuple(text for text in point if text not in plain))
            config = copy.deepcopy(base)
            for text in plain:
                override = self.parsed[text]
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except PARSE_ERRORS as error:
            raise explain(error, point) from error
        return to_config(config)

    def _base(self, choices: tuple[str, ...]) -> DictConfig:
        if choices not in self.bases:
            composed = self.loader.load_sweep_config(self.master, list(choices))
            with open_dict(composed):
                composed.pop("hydra")  # half of the config, and no part of a run
            self.bases[choices] = composed
        return self.bases[choices]

    def _sets_a_value(self, text: str) -> bool:
        """Whether an override sets one key of the schema, rather than choosing a group or changing the structure."""
        if text not in self.parsed:
            (override,) = self.parser.parse_overrides([text])
            self.parsed[text] = override
        override = self.parsed[text]
        key = override.key_or_group
        if key not in self.is_plain:
            self.is_plain[key] = not self.loader.get_group_options(key, ObjectType.CONFIG)
        changes_structure = override.is_add() or override.is_force_add() or override.is_delete()
        return self.is_plain[key] and not changes_structure and not override.is_hydra_override()
