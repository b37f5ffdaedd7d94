"""credit=elliptic: how little the others of the group cover a completion's direction (Representation-Based Exploration,
arXiv 2510.11686)."""

from enum import StrEnum
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.similarity.cosines import group_means, unit_vectors
from dqo.dpp import leave_one_out_credits
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Features(StrEnum):
    """The vectors φ."""

    plain = "plain"  # embeddings, of length 1
    centred = "centred"  # minus the mean of the group's completions that take part; not scaled to length 1 again


class Bonus(StrEnum):
    """Which completions the covariance is summed over (``reward_type`` of the paper's code)."""

    leave_one_out = "leave_one_out"  # b_i = φ_iᵀ (λI + Σ_{j≠i} φ_j φ_jᵀ)^-1 φ_i, up to 1 / λ
    leverage = "leverage"  # φ_iᵀ (λI + Σ_j φ_j φ_jᵀ)^-1 φ_i = b_i / (1 + b_i), below 1


class Elliptic(GatedCredit):
    """The elliptic bonus of each completion among those that pass the gate and are not empty; 0.0 for the others.

    λ is ``ridge``. With L = φφᵀ / λ in place of the kernel, ``dpp`` pays log(1 + b_i): same order of completions, but
    b_i grows up to 1 / λ = 100, for a completion that passes alone or is orthogonal to all others. So weigh it by a
    small alpha: the paper's code has .01, with ``leverage`` and ``centred``. Copies alone earn 1 / (λ + k - 1) each, 0
    with ``centred``. The paper's φ are hidden states of the policy, projected at random; here they are the encoder's
    embeddings (ours).
    """

    uses_embeddings = True
    pairs_tie = True  # φ_1 and φ_2 have equal lengths, and so b_1 = b_2; what passes alone gets a constant

    def __init__(
        self,
        references: References,
        *,
        bonus: Bonus,
        features: Features,
        ridge: Annotated[float, Field(ge=1e-6, examples=[0.01])],
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        self.bonus, self.features, self.ridge = bonus, features, ridge

    @property
    def description(self) -> str:
        """For the model card."""
        kind = f"{self.bonus}, {self.features} features, ridge {self.ridge:g}"
        return f"the elliptic bonus of its embedding in its group ({kind}){self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective. Raises ConfigError for ``gate=correct``
        with a reward that does not say what is correct."""
        assert embeddings_PKD is not None
        earning_PK = self.earning_mask(rollouts, rewards)
        features_PKD = unit_vectors(embeddings_PKD, earning_PK)
        if self.features == Features.centred:
            features_PKD = features_PKD - group_means(features_PKD, earning_PK)  # the mask hides the others
        kernel_PKK = features_PKD @ features_PKD.mT / self.ridge
        logs_PK = leave_one_out_credits(kernel_PKK, earning_PK, check=False)  # log(1 + b_i)
        return (logs_PK.expm1() if self.bonus == Bonus.leave_one_out else -(-logs_PK).expm1()).float()
