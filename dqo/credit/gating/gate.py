"""Gates: which completions of a group can earn credit. Without a gate, wrong completions earn credit for diversity."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.errors import ConfigError
from dqo.records import Rewards, Rollouts
from dqo.references import Reference, References


class Gate(StrEnum):
    """Which of the valid completions pass the gate."""

    none = "none"  # all
    correct = "correct"  # completions with ``correct_PK``
    threshold = "threshold"  # completions whose reward is at least the threshold
    reference = "reference"  # completions whose reward is at least what ``lowest_reward`` returns


@dataclass(frozen=True, kw_only=True)
class Gating:
    """The keys of a credit's gate. Raises ConfigError for a gate without its threshold, and for a threshold without its
    gate."""

    gate: Gate
    threshold: Annotated[float | None, Field(examples=[0.5])]  # of the reward, for gate=threshold
    # completions of each prompt that the initial policy samples, for whatever compares with them
    reference_samples: Annotated[int, Field(ge=1, examples=[5])] = 5
    reference_margin: Annotated[float, Field(ge=0, examples=[0.5])] = 0.5  # a of gate=reference

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
        if self.gate == Gate.reference:
            return ", among completions with a reward as good as the initial policy's"
        return ", among the correct completions" if self.gate == Gate.correct else ""

    @property
    def needs_rewards(self) -> bool:
        """Whether the values of the rewards decide who passes."""
        return self.gate != Gate.none

    def mask(self, rollouts: Rollouts, rewards: Rewards, references: References) -> Bool[Tensor, "prompts k"]:
        """True where a completion is valid and passes the gate. The others get credit 0 and are left out of the kernel
        or the mean distance.

        Raises ConfigError for ``gate=correct`` with a reward that does not say what is correct (``correct_PK`` is
        None), StageError for ``gate=reference`` and a prompt without reference completions.
        """
        if self.gate == Gate.none:
            return rewards.valid_PK
        if self.gate == Gate.correct:
            return rewards.valid_PK & self._correct(rewards)
        return rewards.valid_PK & (rewards.total_PK >= self._lowest_rewards(rollouts, references))

    def _correct(self, rewards: Rewards) -> Bool[Tensor, "prompts k"]:
        if rewards.correct_PK is None:
            raise ConfigError(
                "credit.gate=correct: this reward does not say which completions are correct; "
                "type credit.gate=threshold credit.threshold=0.5, or credit.gate=none"
            )
        return rewards.correct_PK

    def _lowest_rewards(self, rollouts: Rollouts, references: References) -> Float[Tensor, "#prompts 1"]:
        if self.threshold is not None:
            return torch.tensor([[self.threshold]])
        samples = [references.of(prompt) for prompt in rollouts.prompts]
        bars = [lowest_reward(each, self.reference_samples, self.reference_margin) for each in samples]
        return torch.tensor(bars)[:, None]


def lowest_reward(reference: Reference, samples: int, margin: float) -> float:
    """s_min + margin * (s_max - s_mean) of the valid rewards among the first ``samples`` completions of the initial
    policy: the smallest reward that passes ``gate=reference`` (MoDA, second-hand). Infinite, so that nothing passes,
    where none of them is valid."""
    rewards = reference.rewards
    totals = rewards.total_PK[0, :samples][rewards.valid_PK[0, :samples]].double()
    if not len(totals):
        return math.inf
    return float(totals.min() + margin * (totals.max() - totals.mean()))
