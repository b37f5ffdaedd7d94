"""advantage=ucpo: the gain of correct completions moves towards the improbable ones (UCPO, arXiv 2605.00365)."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.groups.normalization import ScaleRewards, normalized
from dqo.advantage.groups.reshaping import Reshaping
from dqo.errors import ConfigError
from dqo.metrics.ties import group_deviations
from dqo.records import Experience


class Ucpo(Reshaping):
    """GRPO's advantages, partly moved from the probable to the improbable correct completions of a group. A correct one
    gets (1 - tau) * A_i + tau * w_i * Σ A_j over the n_c correct ones, w_i = (1/q_i) / Σ (1/q_j); + alpha * (c_i - the
    mean of the group's credits).

    q is the softmax, over the correct completions, of the mean log-probability of a completion's tokens, as it was
    sampled. The sum over the correct completions stays the same. With 0/1 rewards this is the paper's
    A⁺ n_c [(1 - tau) / n_c + tau w_i]. A lone correct completion, and wrong ones, keep GRPO's advantage. w is the
    softmax of the negated mean log-probabilities; the paper's code bounds q from below by 1e-6.
    """

    needs_correct = True

    def __init__(
        self, *, tau: Annotated[float, Field(ge=0, le=1, examples=[0.2])], divide_by_std: bool, credit: CreditKeys
    ):
        super().__init__(credit)
        self.tau, self.divide_by_std = tau, divide_by_std

    def quality(self, experience: Experience) -> Float[Tensor, "prompts k"]:
        """As in ``Reshaping``. Raises ConfigError for a reward that does not say what is correct."""
        rewards = experience.rewards
        if rewards.correct_PK is None:
            raise ConfigError(
                "advantage=ucpo: this reward does not say which completions are correct; type advantage=joint, or make "
                "the reward say it (reward.correct_above=0.5 for reward=python)"
            )
        deviations_PK = group_deviations(rewards.total_PK, rewards.valid_PK)
        scale = ScaleRewards.group if self.divide_by_std else ScaleRewards.none
        advantages_PK = normalized(deviations_PK, deviations_PK, rewards.valid_PK, scale)
        correct_PK = rewards.correct_PK & rewards.valid_PK
        shares_PK = _rarity(experience, correct_PK)
        totals_P1 = advantages_PK.masked_fill(~correct_PK, 0.0).sum(1, keepdim=True)
        moved_PK = (1 - self.tau) * advantages_PK + self.tau * shares_PK * totals_P1
        return torch.where(correct_PK, moved_PK, advantages_PK)


def _rarity(experience: Experience, correct_PK: Tensor) -> Float[Tensor, "prompts k"]:
    """(1/q_i) / Σ (1/q_j) over a group's correct completions, float64; 0.0 for the others."""
    means_PK = experience.rollouts.token_means(experience.rollouts.logprobs_BT.double())
    return (-means_PK).masked_fill(~correct_PK, -torch.inf).softmax(1).masked_fill(~correct_PK, 0.0)
