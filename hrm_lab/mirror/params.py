"""Which settings a run shows as params: some forty that have a say in it. The whole config is an artifact beside them.

Left out are settings that cannot change a result, what is not set (null, or a choice called none), and details of a
rule that is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OFF = (None, "none")
_PRUNERS_OWN = ("min_peers", "peers", "reduction_factor", "brackets", "percentile", "grace_steps", "pruner_patience")
# Settings that only say something when one of the others is on.
DETAILS: dict[str, tuple[str, ...]] = {
    "stopping.min_delta": ("stopping.patience", "stopping.pruner_patience"),
    "stopping.overfit_drop": ("stopping.overfit_accuracy",),
    "stopping.overfit_evaluations": ("stopping.overfit_accuracy",),
    **{f"stopping.{name}": ("stopping.pruner",) for name in _PRUNERS_OWN},
}


def with_a_say(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings, by dotted key, that are params.

    Args:
        settings: all that can change a result.
    """
    return {key: value for key, value in settings.items() if value not in OFF and _is_asked(key, settings)}


def _is_asked(key: str, settings: Mapping[str, Any]) -> bool:
    return key not in DETAILS or any(settings.get(switch) not in OFF for switch in DETAILS[key])
