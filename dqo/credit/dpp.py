"""credit=dpp: how much volume a completion adds to its group in embedding space (DQO, arXiv 2509.04784)."""

from enum import StrEnum
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.similarity.cosines import group_means
from dqo.dpp import Kernel, KernelError, kernel_matrix, leave_one_out_credits
from dqo.errors import StageError
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Embedding(StrEnum):
    """What the kernel compares."""

    plain = "plain"  # the embeddings, of length 1
    prompt_centred = "prompt_centred"  # minus the mean of the group's completions that pass the gate
    reference_centred = "reference_centred"  # minus the mean of the initial policy's completions of the prompt


class Quality(StrEnum):
    """What scales the length of a completion's vector in the kernel."""

    none = "none"
    reward = "reward"  # ψ = sqrt(exp(r / quality_temperature)) · φ


class Precision(StrEnum):
    """The dtype of the kernel and of its factorization."""

    float32 = "float32"
    float64 = "float64"


class Dpp(GatedCredit):
    """c_i = log det(L + I) - log det(L_-i + I) in nats, over the completions that pass the gate and are not empty; 0.0
    for the others.

    On unit-length embeddings, without quality and (for ``polynomial``) at offset 0, c_i is between log(1 + 1/k) and
    log 2; the only completion that passes earns log 2. ``quality=reward`` is the paper's L_ψ without π_ref (ours): a
    completion's credit then grows with its reward, which the objective also contains as a term of its own.

    Centred embeddings are not scaled to length 1 again, and ``cosine`` is then the inner product of what is left: a
    completion at the mean earns 0, one far from it up to log 5. So with ``prompt_centred`` a group of equal completions
    and a completion that passes alone earn 0, and only differences within the group pay.
    """

    uses_embeddings = True
    pairs_tie = True  # c_1 - c_2 = log(1 + L_11) - log(1 + L_22): lengths, and no similarity

    def __init__(
        self,
        references: References,
        *,
        embedding: Embedding,
        kernel: Kernel,
        sigma: Annotated[float, Field(gt=0, examples=[0.4])],
        degree: Annotated[int, Field(ge=1, examples=[2])],
        offset: Annotated[float, Field(ge=0)],
        quality: Quality,
        quality_temperature: Annotated[float, Field(gt=0, examples=["1.0"])],
        dtype: Precision,
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        if embedding == Embedding.reference_centred:
            references.need(gating.reference_samples, embedded=True)
        self.embedding = embedding
        self.kernel, self.sigma, self.degree, self.offset = kernel, sigma, degree, offset
        self.quality, self.quality_temperature = quality, quality_temperature
        self.dtype = getattr(torch, dtype)

    @property
    def description(self) -> str:
        """For the model card."""
        scaled = ", lengths scaled by the reward" if self.quality == Quality.reward else ""
        means = {Embedding.plain: "", Embedding.prompt_centred: " minus their mean"}
        centred = means.get(self.embedding, " minus the mean of the initial policy's")
        kernel = f"{self.kernel} kernel{scaled}{centred and f', embeddings{centred}'}"
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
        earning_PK = self.earning_mask(rollouts, rewards)
        centred_PKD = embeddings_PKD.double() - self._centres(rollouts, embeddings_PKD, earning_PK)
        kernel_PKK = self._kernel_matrix(centred_PKD.to(self.dtype), quality_PK)
        try:
            credits_PK = leave_one_out_credits(kernel_PKK, earning_PK, check=False)
        except KernelError as error:
            positions = [rollouts.prompts[p].position for p in error.prompts]
            raise StageError("credit", f"the kernel {error.reason}", positions=positions) from error
        return credits_PK.float()

    def _centres(
        self, rollouts: Rollouts, embeddings_PKD: Float[Tensor, "prompts k dim"], earning_PK: Bool[Tensor, "prompts k"]
    ) -> Float[Tensor, "#prompts 1 #dim"]:
        """What is subtracted from the embeddings of each group, float64; 0 for the mean of no completions."""
        if self.embedding == Embedding.plain:
            return torch.zeros(1, 1, 1, dtype=torch.float64)
        if self.embedding == Embedding.prompt_centred:
            return group_means(embeddings_PKD, earning_PK)
        samples = [self.references.of(prompt) for prompt in rollouts.prompts]
        count = self.gating.reference_samples
        embeddings = [each.embeddings_KD[:count] for each in samples if each.embeddings_KD is not None]
        assert len(embeddings) == len(samples), "the constructor asks for them"
        readable_PR = ~torch.cat([each.rollouts.empty_PK[:, :count] for each in samples])
        return group_means(torch.stack(embeddings), readable_PR)

    def _kernel_matrix(self, embeddings_PKD: Tensor, quality_PK: Tensor | None) -> Tensor:
        is_product = self.kernel == Kernel.cosine and self.embedding != Embedding.plain
        return kernel_matrix(
            embeddings_PKD,
            kind=Kernel.polynomial if is_product else self.kernel,
            sigma=self.sigma,
            degree=1 if is_product else self.degree,
            offset=0.0 if is_product else self.offset,
            quality_PK=quality_PK,
        )
