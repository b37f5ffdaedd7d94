"""Questions about a stage that its class and its keys answer before it is built, such as whether it says which
completions are correct."""

from collections.abc import Mapping
from typing import Any

from dqo.config.schema import Config
from dqo.config.typed import arguments, nodes


def says(config: Config, group: str, what: str, *, of: str) -> bool:
    """Whether a group's class says ``what`` of its method."""
    from dqo import contracts  # imports torch

    return contracts.says(arguments(getattr(config, group), group)[0], what, of=of)


def needs_values(config: Config) -> bool:
    """Whether the advantage needs a critic's values. dqo's own advantages, critics and credits are told apart by their
    keys, here and in the next two functions, so that torch is imported for a user's own class alone."""
    if _is_ours(config.advantage):
        return "lam" in config.advantage
    return says(config, "advantage", "needs_values", of="__call__")


def has_critic(config: Config) -> bool:
    """Whether a critic is configured: dqo's own ``critic=none`` has no keys."""
    if _is_ours(config.critic):
        return len(config.critic) > 1
    return not says(config, "critic", "estimates_nothing", of="loss")


def pays_tokens(config: Config) -> bool:
    """Whether the credit pays single tokens: of dqo's own the one that has steps."""
    if _is_ours(config.credit):
        return "steps" in config.credit
    return hasattr(arguments(config.credit, "credit")[0], "assign_tokens")


def _is_ours(node: Mapping[str, Any]) -> bool:
    return str(node["_target_"]).startswith("dqo.")


def term_that_says(config: Config, what: str) -> str | None:
    """The key of the first loss term whose class says ``what``."""
    from dqo import contracts  # imports torch

    terms = nodes(config.loss.get("terms"), "loss.terms")
    return next((key for key, node in terms if contracts.says(arguments(node, key)[0], what, of="__call__")), None)


def silent_about_correct(reward: Mapping[str, Any], node: str) -> str | None:
    """The key that would make a reward say what is correct, where it is null."""
    if reward.get("form") == "dqo":  # of reward=remote: its service may say it
        return None
    for name in ("correct_above", "correct_from"):
        if name in reward and reward[name] is None:
            return f"{node}.{name}"
    part, parts = reward.get("correct_from"), reward.get("parts")
    inner = parts.get(part) if isinstance(parts, Mapping) and isinstance(part, str) else None
    return silent_about_correct(inner, f"{node}.parts.{part}") if isinstance(inner, Mapping) else None


def correct_example(key: str) -> str:
    """A value for a key that ``silent_about_correct`` found."""
    return "0.5" if key.endswith("correct_above") else "PART"
