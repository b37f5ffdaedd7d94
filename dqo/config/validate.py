"""What types cannot say: keys that contradict each other. Every message ends in what to type."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqo.config.schema import COMPLETIONS, Config
from dqo.errors import ConfigError


def validate(config: Config) -> None:
    """Raises ConfigError for the first contradiction found. Imports no stage: ``run.workers`` and
    ``run.build`` check what the stages' classes decide."""
    _batch(config)
    _checkpoints(config)
    _diversity(config)
    _gate(config)
    _ahead(config)
    _folder(config)


def _batch(config: Config) -> None:
    largest = max("k", "prompts_per_step", key=lambda key: getattr(config, key))
    completions = config.prompts_per_step * config.k
    if completions > COMPLETIONS:
        raise ConfigError(
            f"{largest}={getattr(config, largest)}: prompts_per_step * k is {completions} completions a step; at most "
            f"{COMPLETIONS} are allowed; type {largest}=8"
        )


def _checkpoints(config: Config) -> None:
    every, keep_every = config.checkpoint.every, config.checkpoint.keep_every
    if keep_every and (not every or keep_every % every):
        raise ConfigError(
            f"checkpoint.keep_every={keep_every}: must be a multiple of checkpoint.every={every}; type "
            f"checkpoint.keep_every={max(1, keep_every // every) * every if every else 0}"
        )


def _diversity(config: Config) -> None:
    if config.alpha == 0:
        return
    alone = f"alpha={config.alpha:g} pays completions for differing from the others of their group"
    if config.k == 1:
        raise ConfigError(f"k=1: {alone}, and a group of one has no others; type k=8, or alpha=0")
    if config.credit["_target_"].startswith("dqo.credit.none."):
        raise ConfigError(f"credit=none: {alone}, and this credit pays nothing; type credit=dpp, or alpha=0")
    tied = config.credit.get("gate", "none") == "none" and config.credit.get("quality", "none") == "none"
    if config.k == 2 and tied and not config.advantage["_target_"].startswith("dqo.advantage.unbiased."):
        raise ConfigError(
            f"k=2: {alone}, but in a group of two both credits are equal, and the group's mean as the baseline removes "
            "them entirely; type k=3 or more, or advantage=unbiased, or alpha=0"
        )


def _gate(config: Config) -> None:
    if config.credit.get("gate") == "correct" and (key := _silent_about_correct(config.reward, "reward")):
        value = "0.5" if key.endswith("correct_above") else "PART"
        raise ConfigError(
            f"{key}=null: credit.gate=correct asks which completions are correct, and this reward does not say; type "
            f"{key}={value}, or credit.gate=none"
        )


def _silent_about_correct(reward: Mapping[str, Any], node: str) -> str | None:
    """The key that would make a reward say what is correct, where it is null."""
    for name in ("correct_above", "correct_from"):
        if name in reward and reward[name] is None:
            return f"{node}.{name}"
    part, parts = reward.get("correct_from"), reward.get("parts")
    inner = parts.get(part) if isinstance(parts, Mapping) and isinstance(part, str) else None
    return _silent_about_correct(inner, f"{node}.parts.{part}") if isinstance(inner, Mapping) else None


def _ahead(config: Config) -> None:
    if config.ahead and config.rollout.get("tensor_parallel_size") not in (None, 1, "1"):
        raise ConfigError(
            f"ahead={config.ahead}: workers that share an engine would wait in it for one another's learners; type "
            "ahead=0, or rollout.tensor_parallel_size=1"
        )


def _folder(config: Config) -> None:
    if not config.run_dir.strip():
        raise ConfigError("run_dir= names no folder; type run_dir=FOLDER")
    folder = Path(config.run_dir)
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:  # the name is too long
        raise ConfigError(
            f"run_dir={folder}: cannot be written ({error.strerror}); type run_dir=ANOTHER_FOLDER"
        ) from error
    if is_file:
        raise ConfigError(f"run_dir={folder} is a file; type run_dir=ANOTHER_FOLDER")
