"""loss=clip: the clipped ratio of PPO (arXiv 1707.06347) as GRPO and its relatives use it, with a KL to a reference."""

import math
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqo.errors import ConfigError
from dqo.loss.correction.importance_sampling import Means, Mismatch, Mode, row_sums


class LossType(StrEnum):
    """How much each token counts (TRL's ``loss_type``); see ``Clip.token_weights``."""

    dapo = "dapo"
    grpo = "grpo"
    dr_grpo = "dr_grpo"
    bnpo = "bnpo"


class Level(StrEnum):
    """What a ratio is taken of (TRL's ``importance_sampling_level``)."""

    token = "token"
    sequence = "sequence"  # the geometric mean over the completion's tokens (GSPO, arXiv 2507.18071)


class Clip:
    """Sum over tokens of weight * (-m * min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A) + beta * KL).

    ratio = policy / old policy, m = old policy / sampler as ``importance_sampling_mode`` has it (``Mismatch``). KL =
    exp(d) - d - 1 with d = log reference - log policy (k3: unbiased and never negative); with
    ``use_bias_correction_kl`` times the ratio (arXiv 2512.02556), since the gradient of k3 alone is not that of the KL,
    even where the ratio is 1. Everything is on the flat sampled tokens (N) of one micro-batch and adds up over
    micro-batches: how a step is cut into them changes nothing. Names and meanings are TRL's.
    """

    def __init__(
        self,
        *,
        loss_type: LossType,
        importance_sampling_level: Level,
        epsilon: float,
        epsilon_high: float | None,
        delta: float | None,
        beta: float,
        use_bias_correction_kl: bool,
        max_completion_length: int,
        importance_sampling_mode: Mode,
        importance_sampling_clip_max: float | None,
        importance_sampling_clip_min: float | None,
    ):
        _check(epsilon, epsilon_high, delta)
        self.loss_type, self.importance_sampling_level = loss_type, importance_sampling_level
        self.epsilon, self.epsilon_high, self.delta = epsilon, epsilon if epsilon_high is None else epsilon_high, delta
        self.beta, self.use_bias_correction_kl = beta, use_bias_correction_kl
        self.max_completion_length = max_completion_length
        self.mismatch = Mismatch(
            importance_sampling_mode, clip_min=importance_sampling_clip_min, clip_max=importance_sampling_clip_max
        )

    @property
    def needs_reference(self) -> bool:
        return self.beta > 0

    @property
    def names(self) -> tuple[str, ...]:
        """Of what ``__call__`` measures."""
        clipped = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
        return (*(("kl",) if self.needs_reference else ()), *clipped, *Mismatch.names)

    def token_weights(
        self, sampled_BT: Bool[Tensor, "batch tokens"], valid_B: Bool[Tensor, " batch"], *, rows: int, tokens: int
    ) -> Float[Tensor, "batch tokens"]:
        """What each token's objective is multiplied by; 0.0 where nothing was sampled or the row is not valid.

        ``rows`` and ``tokens`` count the valid rows and their sampled tokens in the whole step, over all processes.
        ``grpo``: every completion counts the same, 1 / (rows * its length). ``dr_grpo``: 1 / (rows *
        max_completion_length), no bias by length. ``dapo``: 1 / tokens. ``bnpo``: the same here, where TRL divides each
        of its micro-batches by that one's own tokens. Masked completions do not count in ``rows``; in TRL they do.
        """
        trained_BT = sampled_BT & valid_B[:, None]
        if self.loss_type == LossType.grpo:
            return trained_BT / (max(rows, 1) * trained_BT.sum(1, keepdim=True).clamp(min=1))
        if self.loss_type == LossType.dr_grpo:
            return trained_BT / (max(rows, 1) * self.max_completion_length)
        return trained_BT / max(tokens, 1)

    def __call__(
        self,
        *,
        logprobs_N: Float[Tensor, " sampled"],
        old_logprobs_N: Float[Tensor, " sampled"],
        sampler_logprobs_N: Float[Tensor, " sampled"],
        ref_logprobs_N: Float[Tensor, " sampled"] | None,
        advantages_N: Float[Tensor, " sampled"],
        weights_N: Float[Tensor, " sampled"],
        rows_N: Int[Tensor, " sampled"],
    ) -> tuple[Float[Tensor, ""], Means]:
        """The loss of one micro-batch and what its metrics are means of. Log-probabilities are in nats, ``rows_N`` says
        which tokens belong to one completion; a completion is never split over micro-batches."""
        shares_N, ratios_N = self._ratios(logprobs_N - old_logprobs_N, rows_N)
        kl_N = None if ref_logprobs_N is None else self._kl(ref_logprobs_N - logprobs_N, ratios_N)
        clipped_N = ratios_N.clamp(1 - self.epsilon, 1 + self.epsilon_high)
        if self.delta is not None:
            ratios_N = ratios_N.clamp(max=self.delta)
        factors_N, means = self.mismatch(
            logprobs_N=old_logprobs_N, sampler_logprobs_N=sampler_logprobs_N, rows_N=rows_N
        )
        losses_N = -factors_N * torch.min(ratios_N * advantages_N, clipped_N * advantages_N)

        low_N = (ratios_N < 1 - self.epsilon) & (advantages_N < 0)
        high_N = (ratios_N > 1 + self.epsilon_high) & (advantages_N > 0)
        count = shares_N.sum()
        means = dict(means) | {
            f"clip_ratio/{name}_mean": ((hit_N * shares_N).sum(), count)
            for name, hit_N in (("low", low_N), ("high", high_N), ("region", low_N | high_N))
        }
        if kl_N is not None:
            losses_N = losses_N + self.beta * kl_N
            means["kl"] = (kl_N.detach().sum(), torch.ones_like(kl_N).sum())
        return (weights_N * losses_N).sum(), means

    def _kl(
        self, differences_N: Float[Tensor, " sampled"], ratios_N: Float[Tensor, " sampled"]
    ) -> Float[Tensor, " sampled"]:
        kl_N = differences_N.exp() - differences_N - 1
        return kl_N * ratios_N if self.use_bias_correction_kl else kl_N

    def _ratios(
        self, log_ratios_N: Float[Tensor, " sampled"], rows_N: Int[Tensor, " sampled"]
    ) -> tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]:
        """How much each token counts in the clip metrics (all equally; at sequence level: all completions equally), and
        its ratio."""
        if self.importance_sampling_level == Level.token:
            return torch.ones_like(log_ratios_N), log_ratios_N.exp()
        sums_N, counts_N = row_sums(log_ratios_N, rows_N)
        return 1 / counts_N, (sums_N / counts_N).exp()


def _check(epsilon: float, epsilon_high: float | None, delta: float | None) -> None:
    if not 0 <= epsilon < 1:
        raise ConfigError(f"loss.epsilon={epsilon}: 0 to below 1 is allowed; type loss.epsilon=0.2")
    if epsilon_high is not None and not (math.isfinite(epsilon_high) and epsilon_high >= 0):
        raise ConfigError(f"loss.epsilon_high={epsilon_high}: 0 or more is allowed; type loss.epsilon_high=0.28")
    high = epsilon if epsilon_high is None else epsilon_high
    if delta is not None and not (math.isfinite(delta) and delta > 1 + high):
        raise ConfigError(f"loss.delta={delta}: more than 1 + epsilon_high = {1 + high:g}; type loss.delta=4.0")
