"""In which settings runs differ, and their names after those."""

from collections.abc import Mapping, Sequence
from typing import Any

SEED = "seed"
# where and how a run was made, not what was trained
ASIDE = ("run_dir", "resume", "nproc", "device", "objective", "dry_run", "log.", "checkpoint.", "eval.", "hydra.")
KIND = "._target_"

Settings = Mapping[str, Any]


def varied_keys(runs: Sequence[Settings]) -> list[str]:
    """The keys whose values differ between runs, each choice named once: ``alpha`` and not also ``credit.weight`` that
    follows it, ``credit`` for the option of a group."""
    keys = [key for key in dict.fromkeys(key for run in runs for key in run) if not key.startswith(ASIDE)]
    varied = [key for key in keys if len({str(run.get(key)) for run in runs}) > 1]
    tops = [key for key in varied if "." not in key]
    swapped = {key.removesuffix(KIND) for key in varied if key.endswith(KIND)}
    kept = []
    for key in varied:
        group, _, last = key.rpartition(".")
        follows = bool(group) and last in tops and all(run.get(key) in (run.get(last), None) for run in runs)
        belongs = group in swapped and any(key not in run for run in runs)
        if not follows and not belongs:
            kept.append(key.removesuffix(KIND))
    return kept


def value_of(run: Settings, key: str) -> Any:
    """The value of a key; of a group the name of its option's class in small letters."""
    kind = run.get(f"{key}{KIND}")
    return run.get(key) if kind is None else str(kind).rpartition(".")[2].lower()


def label(run: Settings, keys: Sequence[str]) -> str:
    """The run's values of these keys: "alpha=1, k=4"."""
    return ", ".join(f"{key}={shown(value_of(run, key))}" for key in keys)


def shown(value: object) -> str:
    """A value as one would type it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return f"{value:g}" if isinstance(value, float) else str(value)
