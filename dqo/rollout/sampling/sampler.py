"""Samples tokens from logits with one uniform number per token, so that a row does not depend on other rows."""

import hashlib
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqo.rollout.sampling.settings import Sampling


class Sampler:
    """Applies repetition penalty, temperature, top_k, top_p and min_p with the order and meaning of transformers."""

    def __init__(self, sampling: Sampling):
        self.penalty, self._temperature = sampling.repetition_penalty, sampling.temperature
        self._top_p, self._top_k, self._min_p = sampling.top_p, sampling.top_k, sampling.min_p

    def __call__(
        self,
        logits_RV: Float[Tensor, "rows vocabulary"],
        uniforms_R: Float[Tensor, " rows"],
        seen_RV: Bool[Tensor, "rows vocabulary"] | None = None,
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """One token per row, and its log-probability in nats.

        ``uniforms_R`` are in (0, 1]; ``seen_RV`` marks the tokens of a row's prompt and completion, for the penalty.
        The log-probability is the one of the model's own distribution at the temperature, before penalty and filters,
        so that the learner can compute the same number. It is NaN where the logits are not finite. Temperature 0 picks
        the most likely token; its log-probability is the one at temperature 1.
        """
        logits_RV = logits_RV.float() / (self._temperature or 1)
        logprobs_RV = logits_RV.log_softmax(-1)
        scores_RV = logprobs_RV if seen_RV is None else self._penalized_logits(logits_RV, seen_RV).log_softmax(-1)
        tokens_R = self._pick(scores_RV, uniforms_R) if self._temperature else scores_RV.argmax(-1)
        return tokens_R, logprobs_RV.gather(1, tokens_R[:, None])[:, 0]

    def _pick(self, scores_RV: Tensor, uniforms_R: Tensor) -> Tensor:
        """Tokens by inverse transform sampling. The vocabulary is sorted only for top_p without top_k."""
        scores_RC, tokens_RC = scores_RV, None
        if self._top_k:
            scores_RC, tokens_RC = scores_RV.topk(min(self._top_k, scores_RV.shape[1]))
        elif self._top_p < 1:
            scores_RC, tokens_RC = scores_RV.sort(descending=True)
        if self._top_p < 1:
            shares_RC = scores_RC.softmax(-1)
            mass_above_RC = shares_RC.cumsum(-1) - shares_RC  # total probability of more likely tokens
            scores_RC = scores_RC.masked_fill(mass_above_RC >= self._top_p, -math.inf)
        if self._min_p:
            least_R1 = scores_RC.amax(-1, keepdim=True) + math.log(self._min_p)
            scores_RC = scores_RC.masked_fill(scores_RC < least_R1, -math.inf)
        cumulative_RC = scores_RC.exp().cumsum(-1)
        # the first candidate whose cumulative weight reaches uniform * sum; its weight is not 0, since uniforms are > 0
        chosen_R1 = torch.searchsorted(cumulative_RC, uniforms_R[:, None] * cumulative_RC[:, -1:])
        chosen_R1 = chosen_R1.clamp(max=scores_RC.shape[1] - 1)  # for NaN scores
        return (chosen_R1 if tokens_RC is None else tokens_RC.gather(1, chosen_R1))[:, 0]

    def _penalized_logits(self, logits_RV: Tensor, seen_RV: Tensor) -> Tensor:
        """Logits with the penalty on seen tokens: positive ones are divided by it, negative ones multiplied."""
        lowered_RV = torch.where(logits_RV > 0, logits_RV / self.penalty, logits_RV * self.penalty)
        return torch.where(seen_RV, lowered_RV, logits_RV)


def row_uniforms(seed: int, position: int, i: int, count: int) -> Float[Tensor, " count"]:
    """``count`` uniform numbers in (0, 1] to sample completion ``i`` of the prompt at ``position``. Resumed runs depend
    on these numbers: do not change them."""
    digest = hashlib.blake2b(f"{seed} {position} {i}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
    return 1 - torch.rand(count, generator=generator)
