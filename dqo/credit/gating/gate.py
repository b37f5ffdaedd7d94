"""Gates: which completions of a group can earn credit. Without a gate, wrong completions earn credit for diversity."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from dqo.errors import ConfigError
from dqo.records import Rewards


class Gate(StrEnum):
    """Which of the valid completions pass the gate."""

    none = "none"  # all
    correct = "correct"  # completions with ``correct_PK``
    threshold = "threshold"  # completions whose reward is at least the threshold


@dataclass(frozen=True, kw_only=True)
class Gating:
    """The keys of a credit's gate. Raises ConfigError for a gate without its threshold, and for a threshold without its
    gate."""

    gate: Gate
    threshold: Annotated[float | None, Field(examples=[0.5])]  # of the reward, for gate=threshold

    def __post_init__(self):
        if self.gate == Gate.threshold and self.threshold is None:
            raise ConfigError("credit.threshold=null: credit.gate=threshold needs a number; type credit.threshold=0.5")
        if self.gate != Gate.threshold and self.threshold is not None:
            raise ConfigError(
                f"credit.threshold={self.threshold}: credit.gate={self.gate} has no use for it; type "
                "credit.gate=threshold, or credit.threshold=null"
            )

    @property
    def description(self) -> str:
        """Which completions earn credit, as the end of a sentence; empty where all can."""
        if self.gate == Gate.threshold:
            return f", among completions with a reward of at least {self.threshold:g}"
        return ", among the correct completions" if self.gate == Gate.correct else ""

    @property
    def needs_rewards(self) -> bool:
        """Whether the values of the rewards decide who passes."""
        return self.gate != Gate.none

    def mask(self, rewards: Rewards) -> Bool[Tensor, "prompts k"]:
        """True where a completion is valid and passes the gate. The others get credit 0 and are left out of the kernel
        or the mean distance.

        Raises ConfigError for ``gate=correct`` with a reward that does not say what is correct (``correct_PK`` is
        None).
        """
        if self.gate == Gate.none:
            return rewards.valid_PK
        if self.gate == Gate.threshold:
            assert self.threshold is not None
            return rewards.valid_PK & (rewards.total_PK >= self.threshold)
        if rewards.correct_PK is None:
            raise ConfigError(
                "credit.gate=correct: this reward does not say which completions are correct; "
                "type credit.gate=threshold credit.threshold=0.5, or credit.gate=none"
            )
        return rewards.valid_PK & rewards.correct_PK
