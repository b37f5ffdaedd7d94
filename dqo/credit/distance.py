"""credit=distance: the mean distance to the other completions, the baseline of arXiv 2509.04784, figure 3."""

from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.credit.gating.gate import Gate, check_gate, passing
from dqo.records import Rewards, Rollouts


class Metric(StrEnum):
    """Between unit vectors a and b."""

    euclidean = "euclidean"  # |a - b|, 0 to 2
    cosine = "cosine"  # 1 - a·b, 0 to 2


class Distance:
    """c_i = the mean distance of i to the others that pass the gate; 0.0 where i does not pass, or passes alone.

    A few far corners maximise it: two clusters at the ends of an arc beat an even spread along it, which ``dpp`` with
    an rbf kernel prefers.
    """

    uses_embeddings = True

    def __init__(self, *, metric: Metric, gate: Gate, threshold: float | None):
        check_gate(gate, threshold)
        self.metric, self.gate, self.threshold = metric, gate, threshold

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        assert embeddings_PKD is not None
        embeddings_PKD = embeddings_PKD.float()
        if self.metric == Metric.cosine:
            distances_PKK = 1 - embeddings_PKD @ embeddings_PKD.mT
        else:  # the matrix product's short cut makes duplicates 1e-4 apart
            exact = "donot_use_mm_for_euclid_dist"
            distances_PKK = torch.cdist(embeddings_PKD, embeddings_PKD, compute_mode=exact)
        passes_PK = passing(rewards, self.gate, self.threshold)
        pairs_PKK = passes_PK[:, :, None] & passes_PK[:, None, :]
        pairs_PKK &= ~torch.eye(passes_PK.shape[1], dtype=torch.bool)
        others_PK = pairs_PKK.sum(-1).clamp(min=1)
        return distances_PKK.masked_fill(~pairs_PKK, 0.0).sum(-1) / others_PK
