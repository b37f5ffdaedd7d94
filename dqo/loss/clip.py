"""loss=clip: the clipped ratio of PPO (arXiv 1707.06347) as used by GRPO and its variants, with a KL to a reference."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field
from torch import Tensor

from dqo.capabilities import DROPPED
from dqo.loss.clipping.surrogate import Clipping, LossType
from dqo.loss.correction.importance_sampling import Means, Mismatch, Mode, row_sums
from dqo.loss.terms.bundle import Terms
from dqo.ranges import Beta, CompletionLength
from dqo.records import Estimates, Experience, LossInputs, Supervised, Targets


class Level(StrEnum):
    """The unit of which a ratio is computed (TRL's ``importance_sampling_level``)."""

    token = "token"
    sequence = "sequence"  # geometric mean over the completion's tokens (GSPO, arXiv 2507.18071)


class Clip:
    """Sum over tokens of weight * (-m * min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A) + beta * KL).

    ``loss_type=cispo`` and ``sapo`` hold ratios back in other ways (``Clipping``). ratio = policy / old policy; m = old
    policy / sampler, truncated or masked by ``importance_sampling_mode`` (see ``Mismatch``). KL = exp(d) - d - 1 with d
    = log reference - log policy (k3: unbiased and never negative). ``use_bias_correction_kl`` multiplies it by the
    ratio (arXiv 2512.02556), since the gradient of k3 alone is not the gradient of the KL, even where the ratio is 1.
    With it, at token level, it is that of each next token's KL, at prefixes as they were sampled; the KL of whole
    completions also changes with the prefixes, so it has this gradient for completions of one token alone. The term
    ``kl_sequence`` adds the rest. ``terms`` are added to the sum (``dqo.loss.terms``). Losses of micro-batches add up
    to the loss of the step, however the step is split. Names and meanings are TRL's, but for cispo's
    ``epsilon_high``.
    """

    def __init__(
        self,
        *,
        loss_type: LossType,
        importance_sampling_level: Level,
        epsilon: Annotated[float, Field(ge=0, lt=1, examples=[0.2])],
        epsilon_high: Annotated[float | None, Field(ge=0, examples=[0.28])],
        delta: Annotated[float | None, Field(gt=1, examples=["4.0"])],
        beta: Beta,
        use_bias_correction_kl: bool,
        max_completion_length: CompletionLength,
        importance_sampling_mode: Mode,
        importance_sampling_clip_max: Annotated[float | None, Field(ge=1, examples=["3.0"])],
        importance_sampling_clip_min: Annotated[float | None, Field(ge=0, le=1, examples=[0.3])],
        sapo_temperature_pos: Annotated[float, Field(gt=0, examples=[1.0])] = 1.0,
        sapo_temperature_neg: Annotated[float, Field(gt=0, examples=[1.05])] = 1.05,
        terms: dict[str, Any] | None = None,  # capabilities.LossTerm, built by the program
    ):
        """Raises ConfigError for a ``delta`` that ``Clipping`` refuses, and for terms that are none or that report one
        metric twice."""
        self.loss_type, self.importance_sampling_level = loss_type, importance_sampling_level
        self.clipping = Clipping(
            loss_type=loss_type, epsilon=epsilon, epsilon_high=epsilon if epsilon_high is None else epsilon_high,
            delta=delta, temperature_pos=sapo_temperature_pos, temperature_neg=sapo_temperature_neg,
        )  # fmt: skip
        self.beta, self.use_bias_correction_kl = beta, use_bias_correction_kl
        self.max_completion_length = max_completion_length
        self.mismatch = Mismatch(
            importance_sampling_mode, clip_min=importance_sampling_clip_min, clip_max=importance_sampling_clip_max
        )
        clipped = tuple(f"clip_ratio/{name}_mean" for name in self.clipping.metrics)
        own = (*(("kl",) if beta > 0 else ()), *clipped, *Mismatch.names)
        self.terms = Terms(terms or {}, own)
        self.names = (*own, *self.terms.names)  # of the metrics that a call returns

    @property
    def needs_reference(self) -> bool:
        """Whether there is a KL term (beta > 0), or another that needs the reference's log-probabilities."""
        return self.beta > 0 or self.terms.any_says("needs_reference")

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether a term needs log-probabilities and entropies from before the update."""
        return self.terms.any_says("needs_old_logprobs")

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether a term follows the gradient of the entropy."""
        return self.terms.any_says("needs_entropy_gradient")

    @property
    def only_advantages(self) -> bool:
        """Whether a row without an advantage adds nothing: there is no KL, and no other term that needs the row."""
        return self.beta == 0 and self.terms.only_advantages

    def token_weights(
        self, sampled_BT: Bool[Tensor, "batch tokens"], valid_B: Bool[Tensor, " batch"], *, rows: int, tokens: int
    ) -> Float[Tensor, "batch tokens"]:
        """Weight of each token (batch, tokens); 0.0 where nothing was sampled or the row is not valid.

        ``rows`` and ``tokens``: number of valid rows and of their sampled tokens in the whole step, over all ranks.
        ``grpo`` and ``sapo``: 1 / (rows * length), all completions have equal weight. ``dr_grpo``: 1 / (rows *
        max_completion_length), no length bias: where all rows are valid, the only form whose expected gradient is the
        policy gradient. ``dapo`` and ``cispo``: 1 / tokens, a bias that vanishes with many groups, since the number of
        tokens depends on what was sampled. ``bnpo``: also 1 / tokens here; TRL divides by the tokens of each micro-
        batch. Masked completions do not count in ``rows``; in TRL they do.
        """
        trained_BT = sampled_BT & valid_B[:, None]
        if self.loss_type in (LossType.grpo, LossType.sapo):
            return trained_BT / (max(rows, 1) * trained_BT.sum(1, keepdim=True).clamp(min=1))
        if self.loss_type == LossType.dr_grpo:
            return trained_BT / (max(rows, 1) * self.max_completion_length)
        return trained_BT / max(tokens, 1)

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Shaped[Tensor, "batch tokens"]]:
        """The terms' marks; tokens of the mark ``dropped`` are left out of the policy gradient. A collective.

        A completion's ratio contains all of its tokens, dropped ones too. With such a mark each token's loss therefore
        has the ratio's value and the gradient of its own log-probability (GSPO-token): the other tokens' gradients are
        what they are without the mark.
        """
        return self.terms.marks(experience, estimates, targets)

    def supervised(self, experience: Experience) -> Supervised | None:
        """The terms' completions to learn from; None without any. A collective."""
        return self.terms.supervised(experience)

    def state_dict(self) -> dict[str, Any]:
        """The terms' state; empty where no term has any."""
        return self.terms.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned. Raises ConfigError for the state of other terms."""
        self.terms.load_state_dict(state)

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Means]:
        """The loss of one micro-batch, and {name: (sum, count)} of the metrics in ``names``. Not a collective."""
        shares_N, ratios_N = self._ratios(inputs.logprobs_N - inputs.old_logprobs_N, inputs.rows_N)
        kl_N = None
        if self.beta > 0:
            assert inputs.ref_logprobs_N is not None
            kl_N = self._kl(inputs.ref_logprobs_N - inputs.logprobs_N, ratios_N)
        if DROPPED in inputs.marks and self.importance_sampling_level == Level.sequence:
            ratios_N = ratios_N.detach() * (inputs.logprobs_N - inputs.logprobs_N.detach()).exp()
        factors_N, means = self.mismatch(
            logprobs_N=inputs.old_logprobs_N, sampler_logprobs_N=inputs.sampler_logprobs_N, rows_N=inputs.rows_N
        )
        losses_N = -factors_N * self.clipping.surrogates(ratios_N, inputs)
        if DROPPED in inputs.marks:
            losses_N = losses_N.masked_fill(inputs.marks[DROPPED], 0.0)

        count = shares_N.sum()
        means = dict(means) | {
            f"clip_ratio/{name}_mean": ((hit_N * shares_N).sum(), count)
            for name, hit_N in self.clipping.clipped(ratios_N, inputs).items()
        }
        if kl_N is not None:
            losses_N = losses_N + self.beta * kl_N
            means["kl"] = (kl_N.detach().sum(), torch.ones_like(kl_N).sum())
        loss = (inputs.weights_N * losses_N).sum()
        for added, more in self.terms.each(inputs):
            loss, means = loss + added, means | dict(more)
        return loss, means

    def _kl(
        self, differences_N: Float[Tensor, " sampled"], ratios_N: Float[Tensor, " sampled"]
    ) -> Float[Tensor, " sampled"]:
        kl_N = differences_N.exp() - differences_N - 1
        return kl_N * ratios_N if self.use_bias_correction_kl else kl_N

    def _ratios(
        self, log_ratios_N: Float[Tensor, " sampled"], rows_N: Int[Tensor, " sampled"]
    ) -> tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]:
        """(weights in the clip metrics, ratios) of all tokens. Tokens have equal weights; at sequence level completions
        have."""
        if self.importance_sampling_level == Level.token:
            return torch.ones_like(log_ratios_N), log_ratios_N.exp()
        sums_N, counts_N = row_sums(log_ratios_N, rows_N)
        return 1 / counts_N, (sums_N / counts_N).exp()
