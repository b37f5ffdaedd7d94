"""What types cannot say: keys that contradict each other. Every message ends in what to type."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqo.config.schema import COMPLETIONS, Config
from dqo.config.typed import arguments
from dqo.errors import ConfigError
from dqo.metrics.names import evaluation_metrics, needs_correct


def validate(config: Config) -> None:
    """Raises ConfigError for the first contradiction found. Imports no stage, except where ``_diversity`` has to ask
    one; ``run.workers`` and ``run.build`` check what the stages' classes decide."""
    _batch(config)
    _checkpoints(config)
    _diversity(config)
    _gate(config)
    _ahead(config)
    _folder(config)
    _objective(config)


def advice(config: Config) -> list[str]:
    """What is allowed and may not be meant, one line each with what to type. Said when a run starts."""
    key = _silent_about_correct(config.reward, "reward")
    if config.alpha == 0 or config.credit.get("gate") != "none" or key is None:
        return []
    return [
        f"credit.gate=none and {key}=null: nothing says which completions are correct, so alpha={config.alpha:g} pays "
        f"gibberish, too, for being different; type credit.gate=threshold credit.threshold=LOWEST_GOOD_REWARD, or "
        f"credit.gate=correct {key}={_example(key)}"
    ]


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
    # a stage is imported, and torch with it, only where its answer can matter: a credit that pays nothing has no keys
    if len(config.credit) == 1 and _says(config, "credit", "pays_nothing", of="assign"):
        raise ConfigError(f"credit=none: {alone}, and this credit pays nothing; type credit=dpp, or alpha=0")
    if (
        config.k == 2
        and _says(config, "advantage", "compares_within_group", of="__call__")
        and _says(config, "credit", "pairs_tie", of="assign")
    ):
        raise ConfigError(
            f"k=2: {alone}, but in a group of two similarity has equal parts in both credits, and the group's mean as "
            "the baseline removes them entirely; type k=3 or more, or advantage=unbiased, or alpha=0"
        )


def _says(config: Config, group: str, what: str, *, of: str) -> bool:
    """Whether a group's class says ``what`` of its method."""
    from dqo.contracts import says  # imports torch

    return says(arguments(getattr(config, group), group)[0], what, of=of)


def _gate(config: Config) -> None:
    if config.credit.get("gate") == "correct" and (key := _silent_about_correct(config.reward, "reward")):
        raise ConfigError(
            f"{key}=null: credit.gate=correct asks which completions are correct, and this reward does not say; type "
            f"{key}={_example(key)}, or credit.gate=none"
        )


def _silent_about_correct(reward: Mapping[str, Any], node: str) -> str | None:
    """The key that would make a reward say what is correct, where it is null."""
    for name in ("correct_above", "correct_from"):
        if name in reward and reward[name] is None:
            return f"{node}.{name}"
    part, parts = reward.get("correct_from"), reward.get("parts")
    inner = parts.get(part) if isinstance(parts, Mapping) and isinstance(part, str) else None
    return _silent_about_correct(inner, f"{node}.parts.{part}") if isinstance(inner, Mapping) else None


def _example(key: str) -> str:
    return "0.5" if key.endswith("correct_above") else "PART"


def _ahead(config: Config) -> None:
    if config.ahead and config.rollout.get("tensor_parallel_size") not in (None, 1, "1"):
        raise ConfigError(
            f"ahead={config.ahead}: workers that share an engine would wait in it for one another's learners; type "
            "ahead=0, or rollout.tensor_parallel_size=1"
        )


def _folder(config: Config) -> None:
    if not config.run_dir.strip():
        raise ConfigError("run_dir= names no folder; type run_dir=FOLDER")
    if config.run_dir.startswith("~"):  # a shell that leaves it (zsh), or quotes: a folder called ~ is hardly meant
        raise ConfigError(f"run_dir={config.run_dir}: ~ stays as it is here; type run_dir=$HOME/FOLDER")
    folder = Path(config.run_dir)
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:  # the name is too long
        raise ConfigError(
            f"run_dir={folder}: cannot be written ({error.strerror}); type run_dir=ANOTHER_FOLDER"
        ) from error
    if is_file:
        raise ConfigError(f"run_dir={folder} is a file; type run_dir=ANOTHER_FOLDER")


def _objective(config: Config) -> None:
    names = [config.objective] if isinstance(config.objective, str) else config.objective or []
    known = evaluation_metrics(config.eval.n)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            example = near[0] if near else known[0]
            raise ConfigError(
                f"objective={name}: no evaluation with eval.n={config.eval.n} has this metric; there are "
                f"{', '.join(known)}; type objective={example}"
            )
        if needs_correct(name) and (key := _silent_about_correct(config.reward, "reward")):
            raise ConfigError(
                f"objective={name}: this reward does not say which completions are correct; type {key}=0.5, or "
                "objective=reward"
            )
