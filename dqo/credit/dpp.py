"""credit=dpp: how much volume a completion adds to its group in embedding space (DQO, arXiv 2509.04784)."""

from enum import StrEnum
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.gate import Gating
from dqo.dpp import Kernel, KernelError, kernel_matrix, leave_one_out_credits
from dqo.errors import StageError
from dqo.records import Rewards, Rollouts


class Quality(StrEnum):
    """What scales the length of a completion's vector in the kernel."""

    none = "none"
    reward = "reward"  # ψ = sqrt(exp(r / quality_temperature)) · φ


class Precision(StrEnum):
    """The dtype of the kernel and of its factorization."""

    float32 = "float32"
    float64 = "float64"


class Dpp:
    """c_i = log det(L + I) - log det(L_-i + I) in nats, over the completions that pass the gate and are not empty; 0.0
    for the others.

    On unit-length embeddings, without quality and (for ``polynomial``) at offset 0, c_i is between log(1 + 1/k) and
    log 2; the only completion that passes earns log 2. ``quality=reward`` is the paper's L_ψ without π_ref (ours): a
    completion's credit then grows with its reward, which the objective also contains as a term of its own.
    """

    uses_embeddings = True
    pairs_tie = True  # c_1 - c_2 = log(1 + L_11) - log(1 + L_22): lengths, which quality scales, and no similarity

    def __init__(
        self,
        *,
        kernel: Kernel,
        sigma: Annotated[float, Field(gt=0, examples=[0.4])],
        degree: Annotated[int, Field(ge=1, examples=[2])],
        offset: Annotated[float, Field(ge=0)],
        quality: Quality,
        quality_temperature: Annotated[float, Field(gt=0, examples=["1.0"])],
        dtype: Precision,
        gating: Gating,
    ):
        self.kernel, self.sigma, self.degree, self.offset = kernel, sigma, degree, offset
        self.quality, self.quality_temperature = quality, quality_temperature
        self.dtype, self.gating = getattr(torch, dtype), gating

    @property
    def description(self) -> str:
        """For the model card."""
        scaled = ", lengths scaled by the reward" if self.quality == Quality.reward else ""
        kernel = f"{self.kernel} kernel{scaled}"
        return f"what it adds to the log-determinant of its group's embeddings ({kernel}){self.gating.description}"

    @property
    def needs_rewards(self) -> bool:
        """Whether credits depend on the values of the rewards."""
        return self.quality != Quality.none or self.gating.needs_rewards

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective.

        Raises StageError for a group whose kernel is not finite or not positive definite in ``dtype``, ConfigError for
        ``gate=correct`` with a reward that does not say what is correct.
        """
        assert embeddings_PKD is not None
        quality_PK = None
        if self.quality == Quality.reward:
            quality_PK = (rewards.total_PK.to(self.dtype) / (2 * self.quality_temperature)).exp()
        kernel_PKK = self._kernel_matrix(embeddings_PKD.to(self.dtype), quality_PK)
        try:
            earning_PK = self.gating.mask(rewards) & ~rollouts.empty_PK
            credits_PK = leave_one_out_credits(kernel_PKK, earning_PK, check=False)
        except KernelError as error:
            positions = [rollouts.prompts[p].position for p in error.prompts]
            raise StageError("credit", f"the kernel {error.reason}", positions=positions) from error
        return credits_PK.float()

    def _kernel_matrix(self, embeddings_PKD: Tensor, quality_PK: Tensor | None) -> Tensor:
        return kernel_matrix(
            embeddings_PKD,
            kind=self.kernel,
            sigma=self.sigma,
            degree=self.degree,
            offset=self.offset,
            quality_PK=quality_PK,
        )
