"""credit=distance: mean distance to the other completions of the group, the baseline of arXiv 2509.04784, figure 3."""

from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.similarity.cosines import pair_mask
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Metric(StrEnum):
    """Distance between unit vectors a and b."""

    euclidean = "euclidean"  # |a - b|, 0 to 2
    cosine = "cosine"  # 1 - a·b = |a - b|² / 2, 0 to 2


class Distance(GatedCredit):
    """c_i = mean distance of completion i to the other completions that pass the gate and are not empty, as ``metric``
    defines it; 0.0 where i does not pass or is empty, or no other completion counts.

    Its maximum is a few far corners: two clusters at the ends of an arc get more than an even spread along the arc.
    ``dpp`` with an rbf kernel prefers the even spread.
    """

    uses_embeddings = True
    pairs_tie = True  # d(1, 2) = d(2, 1)

    def __init__(self, references: References, *, metric: Metric, gating: Gating):
        super().__init__(references, gating=gating)
        self.metric = metric

    @property
    def description(self) -> str:
        """For the model card."""
        return f"the mean {self.metric} distance of its embedding to the others of its group{self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective. Raises ConfigError for ``gate=correct``
        with a reward that does not say what is correct."""
        assert embeddings_PKD is not None
        embeddings_PKD, exact = embeddings_PKD.double(), "donot_use_mm_for_euclid_dist"
        # torch's faster mode (a matrix product) gives duplicates a distance of 1e-4, and 1 - a·b one of 1e-7
        distances_PKK = torch.cdist(embeddings_PKD, embeddings_PKD, compute_mode=exact)
        if self.metric == Metric.cosine:
            distances_PKK = distances_PKK.square() / 2
        pairs_PKK = pair_mask(self.earning_mask(rollouts, rewards))
        others_PK = pairs_PKK.sum(-1).clamp(min=1)
        return (distances_PKK.masked_fill(~pairs_PKK, 0.0).sum(-1) / others_PK).float()
