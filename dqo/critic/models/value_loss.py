"""The loss of a critic's values, clipped as PPO's ratios are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

Clip = Annotated[float | None, Field(gt=0, examples=[0.2])]
NAMES = ("critic/vf_loss", "critic/vf_clipfrac")


@dataclass(frozen=True)
class ValueLoss:
    """½ max((v - R)², (clip(v, v_old ± c) - R)²) of each token, as TRL, verl and OpenRLHF have it."""

    clip: float | None  # c, in units of reward; None: no clipping

    def __call__(
        self,
        values_N: Float[Tensor, " sampled"],
        *,
        old_values_N: Float[Tensor, " sampled"],
        returns_N: Float[Tensor, " sampled"],
        weights_N: Float[Tensor, " sampled"],
    ) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """The weighted sum over tokens, and the means of the loss and of the tokens whose clipped loss is the larger
        one, as ``Loss.__call__`` returns metrics."""
        errors_N = (values_N - returns_N).square()
        clipped_N = errors_N
        if self.clip is not None:
            near_N = values_N.clamp(old_values_N - self.clip, old_values_N + self.clip)
            clipped_N = (near_N - returns_N).square()
        losses_N, count = 0.5 * torch.max(errors_N, clipped_N), torch.tensor(float(len(values_N)))
        means = {
            "critic/vf_loss": (losses_N.detach().sum(), count),
            "critic/vf_clipfrac": ((clipped_N > errors_N).float().sum(), count),
        }
        return (weights_N * losses_N).sum(), means


@dataclass(frozen=True)
class Rate:
    """The critic's learning rate of a step, where the policy's is ``rate``: the schedule is the same."""

    own: float | None  # maximum of the critic's; None: the policy's
    policy: float  # maximum of the policy's

    def __call__(self, rate: float) -> float:
        return rate if self.own is None else rate * (self.own / self.policy)
