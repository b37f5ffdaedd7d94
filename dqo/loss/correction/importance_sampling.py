"""Importance-sampling correction for the mismatch between sampler and learner. An inference engine has other kernels,
another summation order and often another dtype, so its samples are off-policy even for the first update."""

from collections.abc import Mapping
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

Means = Mapping[
    str, tuple[Tensor, Tensor]
]  # {name: (sum, count)}; for a name that ends in /min or /max: (extreme, any)


class Mode(StrEnum):
    """How the mismatch is corrected (TRL's ``vllm_importance_sampling_mode``).

    The ratio is learner / sampler probability: of a token, or of a completion as the product over its tokens.
    """

    none = "none"  # metrics only
    token_truncate = "token_truncate"  # the loss is multiplied by the ratio, clamped to the bounds
    token_mask = "token_mask"  # the loss is multiplied by the ratio, or by 0 if it is outside the bounds
    sequence_truncate = "sequence_truncate"
    sequence_mask = "sequence_mask"


class Mismatch:
    """Importance weights of sampled tokens, truncated or masked (Ionides 2008; Liu et al. 2025, "When speed kills
    stability"), and metrics of the mismatch. Unbiased where all ratios are within the bounds."""

    names = (
        "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "sampling/kl",
        "sampling/importance_sampling_ratio/min", "sampling/importance_sampling_ratio/mean",
        "sampling/importance_sampling_ratio/max", "sampling/importance_sampling_ratio/clipped",
    )  # fmt: skip

    def __init__(self, mode: Mode, *, clip_min: float | None, clip_max: float | None):
        self.mode = mode
        self.low, self.high = clip_min or 0.0, torch.inf if clip_max is None else clip_max

    def __call__(
        self,
        *,
        logprobs_N: Float[Tensor, " sampled"],
        sampler_logprobs_N: Float[Tensor, " sampled"],
        rows_N: Int[Tensor, " sampled"],
    ) -> tuple[Float[Tensor, " sampled"], Means]:
        """(factor on each token's loss, metrics).

        ``logprobs_N``: the learner's log-probabilities in nats, for the weights that sampled, without gradient.
        ``rows_N``: the row of each token; completions must be complete.
        """
        differences_N = logprobs_N - sampler_logprobs_N
        if not len(differences_N):  # no sampled token: no metrics
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
    """(sum of the values, number of tokens) over the completion of each token."""
    _, rows_N, counts_R = rows_N.unique(return_inverse=True, return_counts=True)
    sums_R = values_N.new_zeros(len(counts_R)).index_add(0, rows_N, values_N)
    return sums_R[rows_N], counts_R[rows_N]
