"""credit=nearest: distance to the most similar other completion of the group (MoDA, second-hand)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.similarity.cosines import pair_mask, unit_vectors
from dqo.records import Rewards, Rollouts


class Nearest(GatedCredit):
    """c_i = min over j of (1 - cos_ij) / 2, 0 to 1, over the other completions j that pass the gate and are not empty;
    0.0 where i does not pass or is empty, or no other completion counts.

    A completion with a copy in its group earns exactly 0.0, so a group in which every answer comes twice earns nothing.
    """

    uses_embeddings = True
    pairs_tie = True  # each of two is the nearest of the other

    @property
    def description(self) -> str:
        """For the model card."""
        nearest = "half the cosine distance of its embedding to the nearest other of its group"
        return f"{nearest}{self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective. Raises ConfigError for ``gate=correct``
        with a reward that does not say what is correct."""
        assert embeddings_PKD is not None
        earning_PK = self.earning_mask(rollouts, rewards)
        vectors_PKD = unit_vectors(embeddings_PKD, earning_PK)
        # (1 - a·b) / 2 = |a - b|² / 4, which is exactly 0 for copies
        distances_PKK = torch.cdist(vectors_PKD, vectors_PKD, compute_mode="donot_use_mm_for_euclid_dist").square() / 4
        pairs_PKK = pair_mask(earning_PK)
        nearest_PK = distances_PKK.masked_fill(~pairs_PKK, math.inf).amin(-1)
        return nearest_PK.where(pairs_PKK.any(-1), 0.0).float()
