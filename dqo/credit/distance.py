"""credit=distance: mean distance to the other completions of the group, the baseline of arXiv 2509.04784, figure 3."""

from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.credit.gating.gate import Gating
from dqo.records import Rewards, Rollouts


class Metric(StrEnum):
    """Distance between unit vectors a and b."""

    euclidean = "euclidean"  # |a - b|, 0 to 2
    cosine = "cosine"  # 1 - a·b, 0 to 2


class Distance:
    """c_i = mean distance of completion i to the other completions that pass the gate, as ``metric`` defines it; 0.0
    where i does not pass, or no other completion passes.

    Its maximum is a few far corners: two clusters at the ends of an arc get more than an even spread along the arc.
    ``dpp`` with an rbf kernel prefers the even spread.
    """

    uses_embeddings = True

    def __init__(self, *, metric: Metric, gating: Gating):
        self.metric, self.gating = metric, gating

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective. Raises ConfigError for ``gate=correct``
        with a reward that does not say what is correct."""
        assert embeddings_PKD is not None
        embeddings_PKD = embeddings_PKD.float()
        if self.metric == Metric.cosine:
            distances_PKK = 1 - embeddings_PKD @ embeddings_PKD.mT
        else:  # torch's faster mode (a matrix product) gives duplicates a distance of 1e-4
            exact = "donot_use_mm_for_euclid_dist"
            distances_PKK = torch.cdist(embeddings_PKD, embeddings_PKD, compute_mode=exact)
        passes_PK = self.gating.mask(rewards)
        pairs_PKK = passes_PK[:, :, None] & passes_PK[:, None, :]
        pairs_PKK &= ~torch.eye(passes_PK.shape[1], dtype=torch.bool)
        others_PK = pairs_PKK.sum(-1).clamp(min=1)
        return distances_PKK.masked_fill(~pairs_PKK, 0.0).sum(-1) / others_PK
