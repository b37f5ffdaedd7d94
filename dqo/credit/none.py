"""credit=none: no credit for diversity, and no embeddings. The baseline."""

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.records import Rewards, Rollouts


class NoCredit:
    """c_i = 0.0 for every completion."""

    uses_embeddings = False
    pays_nothing = True

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Zeros (prompts, k)."""
        return torch.zeros_like(rewards.total_PK)
