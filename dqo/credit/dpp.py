"""credit=dpp: what a completion adds to its group's volume in embedding space (DQO, arXiv 2509.04784)."""

import math
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.credit.gating.gate import Gate, check_gate, passing
from dqo.dpp import Kernel, KernelError, kernel_matrix, leave_one_out_credits
from dqo.errors import ConfigError, StageError
from dqo.records import Rewards, Rollouts


class Quality(StrEnum):
    """What lengthens a completion's vector in the kernel."""

    none = "none"
    reward = "reward"  # ψ = sqrt(exp(r / quality_temperature)) · φ


class Precision(StrEnum):
    """Of the kernel and its factorisation."""

    float32 = "float32"
    float64 = "float64"


class Dpp:
    """c_i = log det(L + I) - log det(L_-i + I) in nats, over the completions that pass the gate; 0.0 for the others.

    On unit-length embeddings, without quality and (for ``polynomial``) at offset 0, between log(1 + 1/k) and log 2; a
    completion that passes alone earns log 2. ``quality=reward`` is the paper's L_ψ without π_ref (ours): a completion's
    credit then rises with its reward, which the objective counts once more on its own.
    """

    uses_embeddings = True

    def __init__(
        self,
        *,
        kernel: Kernel,
        sigma: float,
        degree: int,
        offset: float,
        quality: Quality,
        quality_temperature: float,
        dtype: Precision,
        gate: Gate,
        threshold: float | None,
    ):
        if not (math.isfinite(quality_temperature) and quality_temperature > 0):
            raise ConfigError(
                f"credit.quality_temperature={quality_temperature}: a positive number is needed; "
                "type credit.quality_temperature=1.0"
            )
        check_gate(gate, threshold)
        self.kernel, self.sigma, self.degree, self.offset = kernel, sigma, degree, offset
        self.quality, self.quality_temperature = quality, quality_temperature
        self.dtype = getattr(torch, dtype)
        self.gate, self.threshold = gate, threshold
        try:
            self._kernel_matrix(torch.ones(1, 1), None)  # the kernel's ranges have their home there
        except ValueError as error:
            raise ConfigError(f"credit.{error}".replace("pass ", "type credit.")) from error

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Raises StageError for a group whose kernel is not positive definite in this dtype, or not finite."""
        assert embeddings_PKD is not None
        quality_PK = None
        if self.quality == Quality.reward:
            quality_PK = (rewards.total_PK.to(self.dtype) / (2 * self.quality_temperature)).exp()
        kernel_PKK = self._kernel_matrix(embeddings_PKD.to(self.dtype), quality_PK)
        try:
            credits_PK = leave_one_out_credits(kernel_PKK, passing(rewards, self.gate, self.threshold))
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
