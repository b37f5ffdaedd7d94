"""Definitions in float64, against which the library's closed forms are tested."""

from collections.abc import Sequence

import torch
from torch import Tensor


def unit_vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def eye(k: int) -> Tensor:
    return torch.eye(k, dtype=torch.float64)


def credits_by_deletion(kernel_PKK: Tensor) -> Tensor:
    """log det(L + I) - log det(L_-i + I), with row and column i deleted."""
    k = kernel_PKK.shape[-1]
    shifted_PKK = kernel_PKK.double() + eye(k)
    without_PK = torch.stack(
        [
            torch.logdet(shifted_PKK[..., keep, :][..., keep])
            for keep in ([j for j in range(k) if j != i] for i in range(k))
        ],
        dim=-1,
    )
    return torch.logdet(shifted_PKK)[..., None] - without_PK


def chi_square_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The probability of counts at least as far from the expected ``shares`` (their sum is 1)."""
    counts_C = torch.tensor(counts, dtype=torch.float64)
    expected_C = counts_C.sum() * torch.tensor(shares, dtype=torch.float64)
    statistic = ((counts_C - expected_C).square() / expected_C).sum()
    half_degrees = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(half_degrees, statistic / 2).item()
