"""Groups whose values are equal but for rounding. Everything is float64: float32 cannot hold the square of a reward of
1e30."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Values of a group that differ by no more than this times the size of the numbers are equal: four units in the last
# place of float32, in which rewards and credits come.
TIE_TOLERANCE = 4 * torch.finfo(torch.float32).eps


def group_deviations(
    values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"], *, size: float = 0.0
) -> Float[Tensor, "prompts k"]:
    """Deviations from the mean of the group's valid values, float64.

    Exactly 0.0 where invalid, for a group's only valid completion, and in a group whose values are equal but for
    rounding: Adam would turn rounding noise into full-size steps. ``size``: that of the numbers from which the values
    were computed, where it is larger than the values' own.
    """
    values_PK = values_PK.double().masked_fill(~valid_PK, 0.0)
    counts_P1 = valid_PK.sum(1, keepdim=True).clamp(min=1)
    deviations_PK = (values_PK - values_PK.sum(1, keepdim=True) / counts_P1).masked_fill(~valid_PK, 0.0)
    spreads_P1 = deviations_PK.amax(1, keepdim=True) - deviations_PK.amin(1, keepdim=True)
    sizes_P1 = values_PK.abs().amax(1, keepdim=True).clamp(min=size)
    return deviations_PK.masked_fill(spreads_P1 <= TIE_TOLERANCE * sizes_P1, 0.0)


def credit_deviations(
    credits_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, "prompts k"]:
    """``group_deviations`` of credits. They come from numbers of size 1, such as cosines, even where they are small."""
    return group_deviations(credits_PK, valid_PK, size=1.0)


def score_deviations(
    rewards_PK: Float[Tensor, "prompts k"],
    credits_PK: Float[Tensor, "prompts k"],
    valid_PK: Bool[Tensor, "prompts k"],
    alpha: float,
) -> Float[Tensor, "prompts k"]:
    """Deviations of r + alpha * c from the group's mean. Ties are judged before the sum: a reward of 1e8 would hide a
    credit, a large alpha would make rounding look like a difference."""
    return group_deviations(rewards_PK, valid_PK) + alpha * credit_deviations(credits_PK, valid_PK)
