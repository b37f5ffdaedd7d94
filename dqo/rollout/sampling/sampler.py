"""From logits to tokens: one uniform number a token, so that a row's result does not depend on the rows beside it."""

import hashlib
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqo.errors import ConfigError


class Sampler:
    """Repetition penalty, temperature, top_k, top_p and min_p, in transformers' order and meaning."""

    def __init__(self, *, temperature: float, top_p: float, top_k: int, min_p: float, repetition_penalty: float):
        if not 0 <= temperature < math.inf:
            raise ConfigError(f"temperature={temperature}: 0 (greedy) or more is needed; type temperature=1.0")
        if not 0 < top_p <= 1:
            raise ConfigError(f"rollout.top_p={top_p}: more than 0 and at most 1 is needed; type rollout.top_p=1.0")
        if top_k < 0:
            raise ConfigError(f"rollout.top_k={top_k}: 0 (all tokens) or more is needed; type rollout.top_k=0")
        if not 0 <= min_p < 1:
            raise ConfigError(f"rollout.min_p={min_p}: 0 (all tokens) to below 1 is needed; type rollout.min_p=0.0")
        if not 0 < repetition_penalty < math.inf:
            key = "rollout.repetition_penalty"
            raise ConfigError(f"{key}={repetition_penalty}: more than 0 is needed; type {key}=1.0")
        self.penalty = repetition_penalty
        self._greedy, self._temperature = temperature == 0, temperature or 1.0
        self._top_p, self._top_k, self._min_p = top_p, top_k, min_p

    def __call__(
        self,
        logits_RV: Float[Tensor, "rows vocabulary"],
        uniforms_R: Float[Tensor, " rows"],
        seen_RV: Bool[Tensor, "rows vocabulary"] | None = None,
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """A token for each row and its log-probability in nats.

        ``uniforms_R`` are in (0, 1]; ``seen_RV`` marks what is in a row's prompt and completion, for the penalty. The
        log-probability is of the model's own distribution at the temperature (at 1 for temperature 0), before penalty
        and filters: what a learner computes again. It is NaN where the logits are not finite.
        """
        logits_RV = logits_RV.float() / self._temperature
        logprobs_RV = logits_RV.log_softmax(-1)
        scores_RV = logprobs_RV if seen_RV is None else self._penalised(logits_RV, seen_RV).log_softmax(-1)
        tokens_R = scores_RV.argmax(-1) if self._greedy else self._pick(scores_RV, uniforms_R)
        return tokens_R, logprobs_RV.gather(1, tokens_R[:, None])[:, 0]

    def _pick(self, scores_RV: Tensor, uniforms_R: Tensor) -> Tensor:
        """By inverse cumulative distribution. The vocabulary is sorted only for top_p without top_k."""
        scores_RC, tokens_RC = scores_RV, None
        if self._top_k:
            scores_RC, tokens_RC = scores_RV.topk(min(self._top_k, scores_RV.shape[1]))
        elif self._top_p < 1:
            scores_RC, tokens_RC = scores_RV.sort(descending=True)
        if self._top_p < 1:
            shares_RC = scores_RC.softmax(-1)
            likelier_RC = shares_RC.cumsum(-1) - shares_RC
            scores_RC = scores_RC.masked_fill(likelier_RC >= self._top_p, -math.inf)
        if self._min_p:
            least_R1 = scores_RC.amax(-1, keepdim=True) + math.log(self._min_p)
            scores_RC = scores_RC.masked_fill(scores_RC < least_R1, -math.inf)
        cumulative_RC = scores_RC.exp().cumsum(-1)
        # the first candidate that reaches the uniform's share of the sum: never one of weight 0, as no uniform is 0
        chosen_R1 = torch.searchsorted(cumulative_RC, uniforms_R[:, None] * cumulative_RC[:, -1:])
        chosen_R1 = chosen_R1.clamp(max=scores_RC.shape[1] - 1)  # NaN
        return (chosen_R1 if tokens_RC is None else tokens_RC.gather(1, chosen_R1))[:, 0]

    def _penalised(self, logits_RV: Tensor, seen_RV: Tensor) -> Tensor:
        """Positive logits of what was seen over the penalty, negative ones times it."""
        lowered_RV = torch.where(logits_RV > 0, logits_RV / self.penalty, logits_RV * self.penalty)
        return torch.where(seen_RV, lowered_RV, logits_RV)


def row_uniforms(seed: int, position: int, i: int, count: int) -> Float[Tensor, " count"]:
    """The numbers in (0, 1] that completion ``i`` of the prompt at ``position`` is drawn with."""
    digest = hashlib.blake2b(f"{seed} {position} {i}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
    return 1 - torch.rand(count, generator=generator)
