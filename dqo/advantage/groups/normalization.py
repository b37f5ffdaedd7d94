"""What the advantages share: division of deviations from the group's mean by a standard deviation as in TRL, and the
targets of the tokens."""

import logging
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo import distributed
from dqo.records import Rollouts, Targets

log = logging.getLogger("dqo")

EPSILON = 1e-4  # added to a standard deviation before dividing by it; TRL's value
TINY_STD = 0.01  # division by a smaller standard deviation turns tiny differences into advantages of size 1


class ScaleRewards(StrEnum):
    """The divisor of deviations from the group mean (TRL's ``scale_rewards``)."""

    group = "group"  # the group's standard deviation (n - 1), plus 1e-4
    batch = "batch"  # the standard deviation over all groups of the step, plus 1e-4
    none = "none"  # no division (Dr. GRPO)


def normalized(
    deviations_PK: Float[Tensor, "prompts k"],
    values_PK: Float[Tensor, "prompts k"],
    valid_PK: Bool[Tensor, "prompts k"],
    scale: ScaleRewards,
) -> Float[Tensor, "prompts k"]:
    """The values' deviations from their group's mean, divided as ``scale`` says. A collective for ``scale=batch``."""
    if scale == ScaleRewards.none:
        return deviations_PK
    if scale == ScaleRewards.group:
        return deviations_PK / (group_stds(deviations_PK, valid_PK) + EPSILON)[:, None]
    return deviations_PK / (step_std(values_PK, valid_PK) + EPSILON)


def step_std(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> float:
    """Standard deviation (n - 1) of the valid values on all ranks. A collective."""
    values = torch.cat(distributed.all_gather(values_PK[valid_PK].double()))
    return float(values.std()) if len(values) > 1 else 0.0


def group_stds(
    deviations_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, " prompts"]:
    """Standard deviation (n - 1) of each group's valid values, from their deviations; 0.0 for fewer than two."""
    return (deviations_PK.square().sum(1) / (valid_PK.sum(1) - 1).clamp(min=1)).sqrt()


def token_targets(advantages_PK: Float[Tensor, "prompts k"], rollouts: Rollouts) -> Targets:
    """Targets that repeat each completion's advantage over its sampled tokens; 0.0 elsewhere."""
    return Targets(advantages_BT=torch.where(rollouts.sampled_BT, advantages_PK.float().reshape(-1, 1), 0.0))


class TinySpreadWarning:
    """Warns once per run that division by a group's standard deviation turns tiny differences into large advantages.
    ``option``: what divides; ``instead``: what to type to keep them small."""

    def __init__(
        self, option: str = "advantage.scale_rewards=group", instead: str = "advantage.scale_rewards=none or batch"
    ):
        self.option, self.instead, self.warned = option, instead, False

    def check(self, deviations_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> None:
        """``deviations_PK``: deviations that are to be divided by their group's standard deviation."""
        stds_P = group_stds(deviations_PK, valid_PK)
        tiny_P = (stds_P > 0) & (stds_P < TINY_STD)
        if self.warned or not tiny_P.any():
            return
        self.warned = True
        log.warning(
            "%d of %d groups have a standard deviation below %g (smallest %.1g), credit included; "
            "%s turns such small differences into advantages of size 1; type %s to keep them small (logged once)",
            int(tiny_P.sum()), len(tiny_P), TINY_STD, float(stds_P[tiny_P].min()), self.option, self.instead,
        )  # fmt: skip
