"""How many jobs a sweep was to have, from the ``multirun.yaml`` that Hydra leaves in its folder."""

from collections.abc import Mapping
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

BASIC = "hydra._internal.core_plugins.basic_sweeper"


def planned_jobs(multirun: Mapping[str, Any]) -> int:
    """The number of jobs; 0 where the sweeper chooses them as it goes. ``multirun``: the content of the file."""
    hydra = multirun.get("hydra", {})
    sweeper = hydra.get("sweeper") or {}
    if not str(sweeper.get("_target_")).startswith(BASIC):
        return 0
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *hydra["overrides"]["task"]])
    return len(BasicSweeper.split_arguments(overrides, None)[0])
