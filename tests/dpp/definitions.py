"""Definitions in float64, against which the library's closed forms are tested."""

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
