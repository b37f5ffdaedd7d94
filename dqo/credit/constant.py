"""credit=constant: a bonus for passing the gate, whatever a completion says. The control of gated diversity credits."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Constant(GatedCredit):
    """c_i = ``size`` for each completion that passes the gate and is not empty, 0.0 for the others.

    ``size=None``: what ``dpp`` pays each of m completions that pass if all their embeddings have the cosine rho =
    ``cosine``: log((2 - rho)(2 - rho + m rho) / (2 - rho + (m - 1) rho)) nats, from log 2 for a lone one down to
    log(2 - rho). So it falls with m as ``dpp``'s credit does: a gated credit pays rare success more, and this control
    has that part of it and nothing else. Whatever ``dpp`` achieves beyond it is due to similarity.
    """

    uses_embeddings = False
    pairs_tie = True  # similarity is not looked at
    pays_for_passing = True

    def __init__(
        self,
        references: References,
        *,
        size: Annotated[float | None, Field(gt=0, examples=[0.5])],
        cosine: Annotated[float, Field(ge=0, le=1, examples=[0.5])],
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        self.size, self.cosine = size, cosine

    @property
    def description(self) -> str:
        """For the model card."""
        size = f"{self.size:g} each" if self.size is not None else f"as much as dpp pays at cosines of {self.cosine:g}"
        return f"passing the gate, whatever it says ({size}){self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits, float32. Pure; not a collective. Raises ConfigError for ``gate=correct`` with a reward that does not
        say what is correct."""
        earning_PK = self.earning_mask(rollouts, rewards)
        count_P1 = earning_PK.sum(1, keepdim=True).double()
        size_P1 = equal_cosine_credit(count_P1, self.cosine) if self.size is None else self.size
        return torch.where(earning_PK, size_P1, 0.0).float()


def equal_cosine_credit(count: Float[Tensor, "..."], cosine: float) -> Float[Tensor, "..."]:
    """-log [(L + I)^-1]_ii of a kernel of ``count`` completions with ones on its diagonal and ``cosine`` elsewhere."""
    rest = 2 - cosine
    return (rest * (rest + count * cosine) / (rest + (count - 1) * cosine)).log()
