"""credit=none: nothing for diversity, and nothing is embedded. The baseline."""

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.records import Rewards, Rollouts


class NoCredit:
    """0.0 for everyone."""

    uses_embeddings = False

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        return torch.zeros_like(rewards.total_PK)
