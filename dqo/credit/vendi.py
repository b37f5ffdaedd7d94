"""credit=vendi: what a completion adds to the effective number of different completions (Vendi score, 2210.02410)."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.similarity.cosines import cosines
from dqo.metrics.diversity import hill_number
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Vendi(GatedCredit):
    """c_i = VS(all) - VS(without i), over the completions that pass the gate and are not empty; 0.0 for the others. The
    per-completion form is ours.

    VS is the Vendi score of ``order`` (``dqo.metrics.diversity.vendi``), 1 to k. c_i is at most 1: for a completion
    that is orthogonal to all others, or passes alone. Copies alone earn 0.0. A copy beside other answers makes the
    group less even: it earns less than 0.
    """

    uses_embeddings = True
    pairs_tie = True  # VS(1, 2) - VS(2) and VS(1, 2) - VS(1): VS of one completion is always 1

    def __init__(
        self,
        references: References,
        *,
        order: Annotated[float, Field(ge=1, allow_inf_nan=True, examples=["1.0"])],
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        self.order = order

    @property
    def description(self) -> str:
        """For the model card."""
        return f"what it adds to the Vendi score (order {self.order:g}) of its group{self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective. Raises ConfigError for ``gate=correct``
        with a reward that does not say what is correct."""
        assert embeddings_PKD is not None
        earning_PK = self.earning_mask(rollouts, rewards)
        cosines_PKK = cosines(embeddings_PKD, earning_PK)
        whole_P = self._scores(cosines_PKK, earning_PK)
        rows_K = torch.arange(earning_PK.shape[1])
        without = [self._scores(cosines_PKK, earning_PK & (rows_K != i)) for i in rows_K]
        return (whole_P[:, None] - torch.stack(without, dim=1)).masked_fill(~earning_PK, 0.0).float()

    def _scores(
        self, cosines_PKK: Float[Tensor, "prompts k k"], kept_PK: Bool[Tensor, "prompts k"]
    ) -> Float[Tensor, " prompts"]:
        """The Vendi scores of the completions that are kept; 0.0 where none is."""
        counts_P = kept_PK.sum(1)
        pairs_PKK = kept_PK[:, :, None] & kept_PK[:, None, :]
        kernels_PKK = cosines_PKK.masked_fill(~pairs_PKK, 0.0) / counts_P.clamp(min=1)[:, None, None]
        shares_PK = torch.linalg.eigvalsh(kernels_PKK).clamp(min=0.0)  # those left out add eigenvalues of 0
        return hill_number(shares_PK, self.order).where(counts_P > 0, 0.0)
