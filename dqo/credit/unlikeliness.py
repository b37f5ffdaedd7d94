"""credit=unlikeliness: a reward counts for less the likelier its completion was in its group (2506.02355)."""

from enum import StrEnum
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.contracts import refuse_negative
from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Likelihood(StrEnum):
    """How likely the sampler found a completion."""

    sequence = "sequence"  # log-probability of the whole completion
    token_mean = "token_mean"  # the same over its number of sampled tokens


class Unlikeliness(GatedCredit):
    """c_i = -r_i ``penalty`` (m - rank_i) / m for the m completions that pass the gate and are not empty, 0.0 for the
    others. rank_i counts the completions of these m that are likelier than i; equal ones share the mean of their ranks.

    At alpha = 1 reward + credit is the paper's r_i (1 - penalty (m - rank_i) / m), with m = k. Embeddings are not used:
    a completion is new if the policy finds it unlikely, in its wording, too. With ``sequence`` long completions are
    the unlikely ones; ``token_mean`` is what the paper's code ranks by.
    """

    uses_embeddings = False

    def __init__(
        self,
        references: References,
        *,
        penalty: Annotated[float, Field(gt=0, le=1, examples=[0.25])],
        likelihood: Likelihood,
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        self.penalty, self.likelihood = penalty, likelihood

    @property
    def needs_rewards(self) -> bool:
        """Whether credits depend on the values of the rewards."""
        return True

    @property
    def description(self) -> str:
        """For the model card."""
        return f"being unlikely for the policy: the likeliest loses {self.penalty:.0%} of its reward" + (
            self.gating.description
        )

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits, float32. Pure; not a collective. Raises StageError for a negative reward, ConfigError for
        ``gate=correct`` with a reward that does not say what is correct."""
        earning_PK = self.earning_mask(rollouts, rewards)
        remedy = "credit.gate=threshold credit.threshold=0, or weights of the reward that keep it above 0"
        refuse_negative("credit", rollouts, rewards, earning_PK, option="credit=unlikeliness", remedy=remedy)
        count_P1 = earning_PK.sum(1, keepdim=True).clamp(min=1)
        ranks_PK = likelihood_ranks(self._likelihoods(rollouts, earning_PK), earning_PK)
        lost_PK = self.penalty * (count_P1 - ranks_PK) / count_P1
        return (-rewards.total_PK.double() * lost_PK).masked_fill(~earning_PK, 0.0).float()

    def _likelihoods(self, rollouts: Rollouts, earning_PK: Bool[Tensor, "prompts k"]) -> Float[Tensor, "prompts k"]:
        """float64. Engines give the same completion slightly different log-probabilities from batch to batch: equal
        token sequences of a group get the largest of theirs."""
        logprobs_B = rollouts.logprobs_BT.double().masked_fill(~rollouts.sampled_BT, 0.0).sum(1)
        if self.likelihood == Likelihood.token_mean:
            logprobs_B = logprobs_B / rollouts.sampled_BT.sum(1).clamp(min=1)
        tokens_BT = torch.where(rollouts.sampled_BT, rollouts.tokens_BT, -1)
        tokens_PKT = tokens_BT.view(*earning_PK.shape, -1)
        same_PKK = torch.stack([(group_KT[:, None] == group_KT[None]).all(-1) for group_KT in tokens_PKT])
        logprobs_P1K = logprobs_B.view(earning_PK.shape)[:, None, :]
        return logprobs_P1K.where(same_PKK & earning_PK[:, None, :], -torch.inf).amax(-1)


def likelihood_ranks(
    likelihoods_PK: Float[Tensor, "prompts k"], earning_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, "prompts k"]:
    """Rank among the earning completions, float64, 0 for the likeliest; equal ones share the mean of their ranks."""
    mine_PK1, theirs_P1K = likelihoods_PK[:, :, None], likelihoods_PK[:, None, :]
    above_PK = ((theirs_P1K > mine_PK1) & earning_PK[:, None, :]).sum(-1)
    level_PK = ((theirs_P1K == mine_PK1) & earning_PK[:, None, :]).sum(-1)
    return above_PK + (level_PK - 1) / 2
