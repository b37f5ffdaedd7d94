"""The surrogate objective of a token: ratio times advantage, held back where the ratio has gone far enough."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.errors import ConfigError
from dqo.records import LossInputs


class LossType(StrEnum):
    """How tokens are weighted (``Clip.token_weights``), and how ratios are held back (``Clipping``); TRL's
    ``loss_type``."""

    dapo = "dapo"
    grpo = "grpo"
    dr_grpo = "dr_grpo"
    bnpo = "bnpo"
    cispo = "cispo"  # MiniMax-M1, arXiv 2506.13585
    sapo = "sapo"  # arXiv 2511.20347


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A); ``delta`` also caps the ratio where A < 0.

    ``cispo``: min(ratio, 1 + epsilon_high) * A * log π, the first factor without gradient: no token loses its gradient.
    TRL's epsilon_high of this loss is our 1 + epsilon_high. ``sapo``: 4 / τ * sigmoid(τ (ratio - 1)) * A, whose
    gradient fades where the ratio leaves 1, τ = ``temperature_pos`` for A > 0, else ``temperature_neg``.

    Raises ConfigError for a ``delta`` within the clipping range, or of a loss without it.
    """

    loss_type: LossType
    epsilon: float
    epsilon_high: float
    delta: float | None
    temperature_pos: float
    temperature_neg: float

    def __post_init__(self):
        if self.delta is None:
            return
        if self.loss_type in (LossType.cispo, LossType.sapo):
            raise ConfigError(
                f"loss.delta={self.delta}: loss.loss_type={self.loss_type} does not clip the ratio; type loss.delta="
                "null, or loss.loss_type=dapo"
            )
        if self.delta <= 1 + self.epsilon_high:
            raise ConfigError(
                f"loss.delta={self.delta}: more than 1 + epsilon_high = {1 + self.epsilon_high:g}; type loss.delta=4.0"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what ``clipped`` returns, after ``clip_ratio/``."""
        return {LossType.cispo: ("high",), LossType.sapo: ()}.get(self.loss_type, ("low", "high", "region"))

    def surrogates(self, ratios_N: Float[Tensor, " sampled"], inputs: LossInputs) -> Float[Tensor, " sampled"]:
        """The objective of each token, which is to be maximized."""
        advantages_N = inputs.advantages_N
        if self.loss_type == LossType.cispo:
            return ratios_N.detach().clamp(max=1 + self.epsilon_high) * advantages_N * inputs.logprobs_N
        if self.loss_type == LossType.sapo:
            temperatures_N = torch.where(advantages_N > 0, self.temperature_pos, self.temperature_neg)
            return torch.sigmoid(temperatures_N * (ratios_N - 1)) * 4 / temperatures_N * advantages_N
        clipped_N = ratios_N.clamp(1 - self.epsilon, 1 + self.epsilon_high)
        if self.delta is not None:
            ratios_N = ratios_N.clamp(max=self.delta)
        return torch.min(ratios_N * advantages_N, clipped_N * advantages_N)

    def clipped(
        self, ratios_N: Float[Tensor, " sampled"], inputs: LossInputs
    ) -> Mapping[str, Bool[Tensor, " sampled"]]:
        """True at the tokens whose ratio was clipped, by the names in ``metrics``. ``cispo`` caps ratios whatever the
        advantage's sign."""
        beyond_N = ratios_N > 1 + self.epsilon_high
        low_N = (ratios_N < 1 - self.epsilon) & (inputs.advantages_N < 0)
        high_N = beyond_N if self.loss_type == LossType.cispo else beyond_N & (inputs.advantages_N > 0)
        hits = {"low": low_N, "high": high_N, "region": low_N | high_N}
        return {name: hits[name] for name in self.metrics}
