"""credit=mmr: completions are picked one after the other, good and unlike those picked before (MMR-GRPO, arXiv
2601.09085)."""

import math
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.similarity.cosines import cosines
from dqo.metrics.ties import group_deviations
from dqo.records import Rewards, Rollouts
from dqo.references import References

SAME = 1 - 1e-6  # cosine from which on two embeddings are the same but for float32's rounding


class Mmr(GatedCredit):
    """c_i = m_i - r_i, with m_i the score at which i is picked by maximal marginal relevance, over the completions that
    pass the gate and are not empty; 0.0 for the others. At alpha = 1 reward + credit is the paper's score.

    The completion with the highest reward is picked first, at m = r. Then always the one with the highest
    m = λ r - (1 - λ) max(0, its largest cosine to those picked), as the paper's code has it; λ is
    ``relevance_weight``, or the sigmoid of the standard deviation of the rewards that take part (over n). Ties go to
    the completion that comes first in the group. Completions with the same embedding and reward get the mean of their
    credits (ours): their gradients add up to the same, and a group of copies gets equal credits.

    With equal rewards the group's first completion is picked first: it earns 0.0, the others 0.0 or less.
    """

    uses_embeddings = True

    def __init__(
        self,
        references: References,
        *,
        relevance_weight: Annotated[float | None, Field(ge=0, le=1, examples=[0.7])],
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        self.relevance_weight = relevance_weight

    @property
    def description(self) -> str:
        """For the model card."""
        return f"its score by maximal marginal relevance (MMR-GRPO), minus its reward{self.gating.description}"

    @property
    def needs_rewards(self) -> bool:
        """Whether credits depend on the values of the rewards."""
        return True

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective. Raises ConfigError for ``gate=correct``
        with a reward that does not say what is correct."""
        assert embeddings_PKD is not None
        earning_PK = self.earning_mask(rollouts, rewards)
        cosines_PKK = cosines(embeddings_PKD, earning_PK)
        total_PK = rewards.total_PK.double().masked_fill(~earning_PK, 0.0)
        credits_PK = self._scores(total_PK, cosines_PKK, earning_PK) - total_PK
        same_PKK = (cosines_PKK > SAME) & (total_PK[:, :, None] == total_PK[:, None, :])
        shared_PK = (same_PKK * credits_PK[:, None, :]).sum(-1) / same_PKK.sum(-1).clamp(min=1)
        return shared_PK.masked_fill(~earning_PK, 0.0).float()

    def _scores(
        self,
        total_PK: Float[Tensor, "prompts k"],
        cosines_PKK: Float[Tensor, "prompts k k"],
        earning_PK: Bool[Tensor, "prompts k"],
    ) -> Float[Tensor, "prompts k"]:
        """The score m of each completion at the time it is picked."""
        weights_P1, rows_P = self._weights(total_PK, earning_PK), torch.arange(len(total_PK))
        scores_PK, picked_PK, left_PK = total_PK, torch.zeros_like(total_PK), earning_PK.clone()
        closest_PK = torch.zeros_like(total_PK)
        for _ in range(total_PK.shape[1]):
            picks_P = scores_PK.masked_fill(~left_PK, -math.inf).argmax(1)
            found_P = left_PK[rows_P, picks_P]  # False: all have been picked
            picked_PK[rows_P, picks_P] = picked_PK[rows_P, picks_P].where(~found_P, scores_PK[rows_P, picks_P])
            left_PK[rows_P, picks_P] = False
            closest_PK = closest_PK.maximum(cosines_PKK[rows_P, picks_P])
            scores_PK = weights_P1 * total_PK - (1 - weights_P1) * closest_PK
        return picked_PK

    def _weights(
        self, total_PK: Float[Tensor, "prompts k"], earning_PK: Bool[Tensor, "prompts k"]
    ) -> Float[Tensor, "prompts 1"]:
        """λ of each group."""
        if self.relevance_weight is not None:
            return torch.full((len(total_PK), 1), self.relevance_weight, dtype=torch.float64)
        squares_P1 = group_deviations(total_PK, earning_PK).square().sum(1, keepdim=True)
        return (squares_P1 / earning_PK.sum(1, keepdim=True).clamp(min=1)).sqrt().sigmoid()
