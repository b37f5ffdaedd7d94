"""Where the sampler's probabilities are not the learner's: an inference engine has other kernels, another order of sums
and often another dtype, and what was sampled is then off-policy at the first update already."""

from collections.abc import Mapping
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqo.errors import ConfigError

Means = Mapping[str, tuple[Tensor, Tensor]]  # name → (sum, count); of a name in …/min or …/max (that, anything)


class Mode(StrEnum):
    """What is done about it (TRL's ``vllm_importance_sampling_mode``). The ratio is learner / sampler, of a token or,
    as a product, of a completion."""

    none = "none"  # it is measured only
    token_truncate = "token_truncate"  # the token's loss times its ratio, kept within the bounds
    token_mask = "token_mask"  # times its ratio, 0 outside of the bounds
    sequence_truncate = "sequence_truncate"
    sequence_mask = "sequence_mask"


class Mismatch:
    """Importance weights of tokens that another distribution than the learner's has drawn, truncated or masked (Ionides
    2008; Liu et al. 2025, "When speed kills stability"). Unbiased where no bound is met."""

    names = (
        "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "sampling/kl",
        "sampling/importance_sampling_ratio/min", "sampling/importance_sampling_ratio/mean",
        "sampling/importance_sampling_ratio/max", "sampling/importance_sampling_ratio/clipped",
    )  # fmt: skip

    def __init__(self, mode: Mode, *, clip_min: float | None, clip_max: float | None):
        """Raises ConfigError for bounds that leave no room for a ratio of 1."""
        for name, bound, good in (("min", clip_min, "0.3"), ("max", clip_max, "3.0")):
            if bound is not None and not (0 <= bound <= 1 if name == "min" else 1 <= bound < torch.inf):
                allowed = "0 to 1" if name == "min" else "1 or more"
                key = f"loss.importance_sampling_clip_{name}"
                raise ConfigError(f"{key}={bound}: {allowed} is allowed, or null; type {key}={good}")
        self.mode = mode
        self.low, self.high = clip_min or 0.0, torch.inf if clip_max is None else clip_max

    def __call__(
        self,
        *,
        logprobs_N: Float[Tensor, " sampled"],
        sampler_logprobs_N: Float[Tensor, " sampled"],
        rows_N: Int[Tensor, " sampled"],
    ) -> tuple[Float[Tensor, " sampled"], Means]:
        """What each token's objective is multiplied by, and what is to be reported. ``logprobs_N``: the learner's, of
        the weights that sampled, in nats and without gradient; completions are whole (``rows_N``)."""
        differences_N = logprobs_N - sampler_logprobs_N
        if not len(differences_N):  # nothing was sampled: nothing is measured
            return differences_N, {}
        shares_N, ratios_N = torch.ones_like(differences_N), differences_N.exp()
        if self.mode.startswith("sequence"):
            sums_N, counts_N = row_sums(differences_N, rows_N)
            shares_N, ratios_N = 1 / counts_N, sums_N.exp()
        outside_N = (ratios_N < self.low) | (ratios_N > self.high)
        if self.mode is Mode.none:
            factors_N = torch.ones_like(ratios_N)
        elif self.mode.endswith("truncate"):
            factors_N = ratios_N.clamp(self.low, self.high)
        else:
            factors_N = ratios_N.masked_fill(outside_N, 0.0)
        tokens, count = torch.ones_like(differences_N).sum(), shares_N.sum()
        return factors_N, {
            "sampling/sampling_logp_difference/mean": (differences_N.abs().sum(), tokens),
            "sampling/sampling_logp_difference/max": (differences_N.abs().max(), tokens),
            "sampling/kl": ((differences_N.expm1() - differences_N).sum(), tokens),
            "sampling/importance_sampling_ratio/min": (ratios_N.min(), count),
            "sampling/importance_sampling_ratio/mean": ((ratios_N * shares_N).sum(), count),
            "sampling/importance_sampling_ratio/max": (ratios_N.max(), count),
            "sampling/importance_sampling_ratio/clipped": ((outside_N * shares_N).sum(), count),
        }


def row_sums(
    values_N: Float[Tensor, " sampled"], rows_N: Int[Tensor, " sampled"]
) -> tuple[Float[Tensor, " sampled"], Int[Tensor, " sampled"]]:
    """Of each token's completion: the sum of its values, and its number of tokens."""
    _, rows_N, counts_R = rows_N.unique(return_inverse=True, return_counts=True)
    sums_R = values_N.new_zeros(len(counts_R)).index_add(0, rows_N, values_N)
    return sums_R[rows_N], counts_R[rows_N]
