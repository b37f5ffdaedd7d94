"""advantage=maxrl: the reward over the group's mean reward (MaxRL, arXiv 2602.02710)."""

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.groups.reshaping import Reshaping
from dqo.contracts import refuse_negative
from dqo.metrics.ties import group_deviations
from dqo.records import Experience


class MaxRL(Reshaping):
    """A_i = (r_i - r̄) / r̄ + alpha * (c_i - the mean of the group's credits), r̄ the mean of the group's valid rewards;
    the reward's part is 0.0 where r̄ = 0.

    A prompt that is rarely solved weighs more: with 0/1 rewards a lone success among N gets N - 1. The paper estimates
    the gradient of log p, p the chance of success, from N samples. For 0/1 rewards and ``loss=dr_grpo`` the expected
    gradient is exactly that of Σ_{j=1}^{N-1} pass@j / j, which tends to that of log p for large N (ours).
    """

    def __init__(self, *, credit: CreditKeys):
        super().__init__(credit)

    def quality(self, experience: Experience) -> Float[Tensor, "prompts k"]:
        """As in ``Reshaping``. Raises StageError for a negative reward."""
        refuse_negative(
            "advantage", experience.rollouts, experience.rewards, experience.rewards.valid_PK,
            option="advantage=maxrl", remedy="advantage=joint",
        )  # fmt: skip
        rewards = experience.rewards
        deviations_PK = group_deviations(rewards.total_PK, rewards.valid_PK)
        totals_P1 = rewards.total_PK.double().masked_fill(~rewards.valid_PK, 0.0).sum(1, keepdim=True)
        means_P1 = totals_P1 / rewards.valid_PK.sum(1, keepdim=True).clamp(min=1)
        return torch.where(deviations_PK != 0, deviations_PK / means_P1, 0.0)
