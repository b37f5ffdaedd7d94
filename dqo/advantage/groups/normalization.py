"""Group statistics that the advantages share: deviations from the group mean over valid completions, optionally divided
by a standard deviation like in TRL.

Computed in float64: float32 cannot hold the square of a reward of 1e30, and adding a credit to a reward of 1e8 would
round the credit away.
"""

import logging
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo import distributed
from dqo.records import Rollouts, Targets

log = logging.getLogger("dqo")

EPSILON = 1e-4  # added to a standard deviation before dividing by it; TRL's value
TIE_TOLERANCE = 1e-6  # deviations up to this size are rounding noise
TINY_STD = 0.01  # division by a smaller standard deviation turns tiny differences into advantages of size 1


class ScaleRewards(StrEnum):
    """The divisor of deviations from the group mean (TRL's ``scale_rewards``)."""

    group = "group"  # the group's standard deviation (n - 1), plus 1e-4
    batch = "batch"  # the standard deviation over all groups of the step, plus 1e-4
    none = "none"  # no division (Dr. GRPO)


def group_deviations(
    values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, "prompts k"]:
    """Deviations from the mean of the group's valid values, float64.

    0.0 where invalid, for a group's only valid completion, and in a group whose values are equal up to rounding: Adam
    would turn rounding noise into full-size steps.
    """
    values_PK = values_PK.double().masked_fill(~valid_PK, 0.0)
    counts_P1 = valid_PK.sum(1, keepdim=True).clamp(min=1)
    deviations_PK = (values_PK - values_PK.sum(1, keepdim=True) / counts_P1).masked_fill(~valid_PK, 0.0)
    return deviations_PK.masked_fill(deviations_PK.abs().amax(1, keepdim=True) <= TIE_TOLERANCE, 0.0)


def normalized_deviations(
    values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"], scale: ScaleRewards
) -> Float[Tensor, "prompts k"]:
    """``group_deviations``, divided as ``scale`` says. A collective for ``scale=batch``."""
    deviations_PK = group_deviations(values_PK, valid_PK)
    if scale == ScaleRewards.none:
        return deviations_PK
    if scale == ScaleRewards.group:
        return deviations_PK / (group_stds(values_PK, valid_PK) + EPSILON)[:, None]
    return deviations_PK / (_step_std(values_PK, valid_PK) + EPSILON)


def _step_std(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> float:
    """Standard deviation (n - 1) of the valid values on all ranks. A collective."""
    values = torch.cat(distributed.all_gather(values_PK[valid_PK].double()))
    return float(group_stds(values[None], torch.ones(1, len(values), dtype=torch.bool))) if len(values) > 1 else 0.0


def group_stds(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> Float[Tensor, " prompts"]:
    """Standard deviation (n - 1) of each group's valid values; 0.0 for fewer than two."""
    squares_P = group_deviations(values_PK, valid_PK).square().sum(1)
    return (squares_P / (valid_PK.sum(1) - 1).clamp(min=1)).sqrt()


def has_differences(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> bool:
    """Whether the valid values of any group differ by more than rounding."""
    return bool((group_deviations(values_PK, valid_PK).abs() > TIE_TOLERANCE).any())


def token_targets(advantages_PK: Float[Tensor, "prompts k"], rollouts: Rollouts) -> Targets:
    """Targets that repeat each completion's advantage over its sampled tokens; 0.0 elsewhere."""
    return Targets(advantages_BT=torch.where(rollouts.sampled_BT, advantages_PK.float().reshape(-1, 1), 0.0))


class TinySpreadWarning:
    """Warns once per run that ``scale_rewards=group`` turns tiny differences into advantages of size 1."""

    def __init__(self):
        self.warned = False

    def check(self, values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> None:
        """``values_PK``: values that are to be divided by their group's standard deviation."""
        stds_P = group_stds(values_PK, valid_PK)
        tiny_P = (stds_P > TIE_TOLERANCE) & (stds_P < TINY_STD)
        if self.warned or not tiny_P.any():
            return
        self.warned = True
        log.warning(
            "%d of %d groups have a standard deviation below %g (smallest %.1g), credit included; "
            "advantage.scale_rewards=group turns such small differences into advantages of size 1; type "
            "advantage.scale_rewards=none or batch to keep them small (logged once)",
            int(tiny_P.sum()), len(tiny_P), TINY_STD, float(stds_P[tiny_P].min()),
        )  # fmt: skip
