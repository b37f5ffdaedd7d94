"""Which completions take part in a group's credit: a credit for being different must not be earned by being wrong."""

import math
from enum import StrEnum

from jaxtyping import Bool
from torch import Tensor

from dqo.errors import ConfigError
from dqo.records import Rewards


class Gate(StrEnum):
    """Which of the valid completions take part."""

    none = "none"  # all
    correct = "correct"  # those the reward calls correct
    threshold = "threshold"  # those whose reward is the threshold or more


def check_gate(gate: Gate, threshold: float | None) -> None:
    """Raises ConfigError for a gate without its threshold, and for a threshold without its gate."""
    if gate == Gate.threshold and (threshold is None or not math.isfinite(threshold)):
        got = "null" if threshold is None else threshold
        raise ConfigError(f"credit.threshold={got}: credit.gate=threshold needs a number; type credit.threshold=0.5")
    if gate != Gate.threshold and threshold is not None:
        raise ConfigError(
            f"credit.threshold={threshold}: credit.gate={gate} has no use for it; type credit.gate=threshold, or "
            "credit.threshold=null"
        )


def passing(rewards: Rewards, gate: Gate, threshold: float | None) -> Bool[Tensor, "prompts k"]:
    """The completions that are valid and pass the gate; the others earn 0.0 and are no neighbours to anyone.

    Raises ConfigError where the gate asks what is correct and the reward has no such notion.
    """
    if gate == Gate.none:
        return rewards.valid_PK
    if gate == Gate.threshold:
        assert threshold is not None
        return rewards.valid_PK & (rewards.total_PK >= threshold)
    if rewards.correct_PK is None:
        raise ConfigError(
            "credit.gate=correct: this reward does not say which completions are correct; "
            "type credit.gate=threshold credit.threshold=0.5, or credit.gate=none"
        )
    return rewards.valid_PK & rewards.correct_PK
