"""Unit vectors, cosines and pairs of the completions that take part in a credit."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize


def unit_vectors(
    embeddings_PKD: Float[Tensor, "prompts k dim"], earning_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, "prompts k dim"]:
    """The embeddings in float64, of length 1; 0 for completions that do not take part, even where they hold NaN."""
    return normalize(embeddings_PKD.detach().double().where(earning_PK[..., None], 0.0), dim=-1)


def cosines(
    embeddings_PKD: Float[Tensor, "prompts k dim"], earning_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, "prompts k k"]:
    """Cosines of all pairs, float64, exactly 1 of a completion with itself; 0 for completions that do not take part."""
    vectors_PKD = unit_vectors(embeddings_PKD, earning_PK)
    cosines_PKK = vectors_PKD @ vectors_PKD.mT
    cosines_PKK.diagonal(dim1=1, dim2=2).copy_(earning_PK)  # without rounding
    return cosines_PKK


def pair_mask(earning_PK: Bool[Tensor, "prompts k"]) -> Bool[Tensor, "prompts k k"]:
    """True where i and j take part and are not the same completion."""
    both_PKK = earning_PK[:, :, None] & earning_PK[:, None, :]
    return both_PKK & ~torch.eye(earning_PK.shape[1], dtype=torch.bool)


def group_means(
    vectors_PKD: Float[Tensor, "prompts k dim"], counted_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, "prompts 1 dim"]:
    """The mean of each group's counted vectors, float64; 0 where none counts."""
    sums_PD = vectors_PKD.double().masked_fill(~counted_PK[..., None], 0.0).sum(1)
    return (sums_PD / counted_PK.sum(1, keepdim=True).clamp(min=1))[:, None]
