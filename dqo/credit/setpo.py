"""credit=setpo: what a completion adds to a set-level diversity of similarities (SetPO, arXiv 2602.01062)."""

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.similarity.cosines import cosines
from dqo.records import Rewards, Rollouts


class SetPO(GatedCredit):
    """c_i = D(all) - D(without i), in nats, over the n completions that pass the gate and are not empty; 0.0 for the
    others.

    D = mean_i g(mean_j s_ij), g(x) = -log(1 + x), s the cosine clamped to 0 … 1, with s_ii = 1. D is between -log 2
    (copies) and -log(1 + 1/n) (no two alike). A completion that passes alone earns 0.0: D of no completion is taken as
    -log 2 (ours). A copy of a common answer, or one in the middle of the others, lowers D and earns less than 0.

    The paper adds the credit after the advantage and subtracts no mean: ``advantage=separate`` with
    ``advantage.credit_baseline=none``.
    """

    uses_embeddings = True
    pairs_tie = True  # D(1, 2) - D(2) and D(1, 2) - D(1): D of one completion is always -log 2

    @property
    def description(self) -> str:
        """For the model card."""
        return f"what it adds to the SetPO diversity of its group's embeddings{self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective. Raises ConfigError for ``gate=correct``
        with a reward that does not say what is correct."""
        assert embeddings_PKD is not None
        earning_PK = self.earning_mask(rollouts, rewards)
        similar_PKK = cosines(embeddings_PKD, earning_PK).clamp(0, 1)
        counts_P1 = earning_PK.sum(1, keepdim=True)
        sums_PK = similar_PKK.sum(-1)
        whole_P1 = -(sums_PK / counts_P1.clamp(min=1)).log1p().sum(1, keepdim=True) / counts_P1.clamp(min=1)
        others_P1 = (counts_P1 - 1).clamp(min=1)
        terms_PKK = ((sums_PK[..., None] - similar_PKK) / others_P1[..., None]).log1p()  # [i, l]: of i, without l
        terms_PKK = terms_PKK.masked_fill(torch.eye(earning_PK.shape[1], dtype=torch.bool), 0.0)
        without_PK = -terms_PKK.sum(1) / others_P1
        return (whole_P1 - without_PK).masked_fill(~earning_PK | (counts_P1 < 2), 0.0).float()
