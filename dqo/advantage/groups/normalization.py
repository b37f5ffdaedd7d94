"""What the advantages share: means and deviations of a group's valid completions, and what TRL divides them by.

In float64: the square of a reward of 1e30 is beyond float32, and beside a reward of 1e8 a credit is below its rounding.
"""

import logging
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo import distributed
from dqo.records import Rollouts, Targets

log = logging.getLogger("dqo")

EPSILON = 1e-4  # TRL's, beside the standard deviation
NOTHING = 1e-6  # deviations of this size are rounding
TINY = 0.01  # a standard deviation that dividing blows up to advantages of size 1


class ScaleRewards(StrEnum):
    """What deviations from the group's mean are divided by (TRL's ``scale_rewards``)."""

    group = "group"  # the group's standard deviation (n - 1), plus 1e-4
    batch = "batch"  # the standard deviation of all groups of the step, plus 1e-4
    none = "none"  # nothing (Dr. GRPO)


def centred(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> Float[Tensor, "prompts k"]:
    """Minus the mean of the group's valid values, float64; 0.0 where invalid, and so for a completion that is valid
    alone and in a group that ties but for rounding: Adam would make steps of a usual size of that."""
    values_PK = values_PK.double().masked_fill(~valid_PK, 0.0)
    counts_P1 = valid_PK.sum(1, keepdim=True).clamp(min=1)
    deviations_PK = (values_PK - values_PK.sum(1, keepdim=True) / counts_P1).masked_fill(~valid_PK, 0.0)
    return deviations_PK.masked_fill(deviations_PK.abs().amax(1, keepdim=True) <= NOTHING, 0.0)


def normalised(
    values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"], scale: ScaleRewards
) -> Float[Tensor, "prompts k"]:
    """``centred``, divided as ``scale`` says."""
    deviations_PK = centred(values_PK, valid_PK)
    if scale == ScaleRewards.none:
        return deviations_PK
    if scale == ScaleRewards.group:
        return deviations_PK / (stds(values_PK, valid_PK) + EPSILON)[:, None]
    return deviations_PK / (_step_std(values_PK, valid_PK) + EPSILON)


def _step_std(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> float:
    """Standard deviation (n - 1) of the valid values of all processes. A collective."""
    values = torch.cat(distributed.all_gather(values_PK[valid_PK].double()))
    return float(stds(values[None], torch.ones(1, len(values), dtype=torch.bool))) if len(values) > 1 else 0.0


def stds(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> Float[Tensor, " prompts"]:
    """Standard deviation (n - 1) of each group's valid values; 0.0 for fewer than two."""
    squares_P = centred(values_PK, valid_PK).square().sum(1)
    return (squares_P / (valid_PK.sum(1) - 1).clamp(min=1)).sqrt()


def differ(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> bool:
    """Whether any group's valid values differ by more than rounding."""
    return bool((centred(values_PK, valid_PK).abs() > NOTHING).any())


def broadcast(advantages_PK: Float[Tensor, "prompts k"], rollouts: Rollouts) -> Targets:
    """Each completion's advantage on all of its sampled tokens; 0.0 elsewhere."""
    return Targets(advantages_BT=torch.where(rollouts.sampled_BT, advantages_PK.float().reshape(-1, 1), 0.0))


class TinySpread:
    """Warns, once, that ``scale_rewards=group`` makes advantages of size 1 out of next to nothing."""

    def __init__(self):
        self.warned = False

    def look(self, values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> None:
        """``values_PK`` are about to be divided by their group's standard deviation."""
        spreads_P = stds(values_PK, valid_PK)
        tiny_P = (spreads_P > NOTHING) & (spreads_P < TINY)
        if self.warned or not tiny_P.any():
            return
        self.warned = True
        log.warning(
            "%d of %d groups differ by a standard deviation below %g (smallest %.1g), credit included, and "
            "advantage.scale_rewards=group makes advantages of size 1 of that; type advantage.scale_rewards=none "
            "or batch to keep it small (said once)",
            int(tiny_P.sum()), len(tiny_P), TINY, float(spreads_P[tiny_P].min()),
        )  # fmt: skip
