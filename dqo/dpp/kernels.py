"""Kernels: how similar two completions are."""

import math
from enum import StrEnum

import torch
from torch import Tensor


class Kernel(StrEnum):
    """Kinds of ``kernel_matrix``. On vectors of length 1 the diagonal is 1 (``polynomial``: if offset is 0)."""

    cosine = "cosine"  # the inner product of the directions
    rbf = "rbf"  # exp(-|a - b|² / (2 sigma²))
    polynomial = "polynomial"  # (a·b + offset) ** degree


def kernel_matrix(
    embeddings_PKD: Tensor,
    *,
    kind: Kernel | str = Kernel.cosine,
    sigma: float = 0.4,
    degree: int = 2,
    offset: float = 0.0,
    quality_PK: Tensor | None = None,
) -> Tensor:
    """The kernel L of each set, (…, K, K), from embeddings (…, K, D); positive semi-definite, differentiable.

    ``sigma`` (rbf) is in the unit of the embeddings; ``degree`` and ``offset`` belong to polynomial. With
    ``quality_PK`` (…, K) the result is L_ψ, ψ = quality · φ: L[i, j] times quality_i quality_j (arXiv 2509.04784;
    direction is meaning, length is quality). A vector of length 0 has no cosine: its row and column are NaN.

    Raises ValueError for an unknown kind, parameters that give no positive semi-definite kernel, and wrong shapes.
    """
    if embeddings_PKD.ndim < 2:
        raise ValueError(f"embeddings of shape {tuple(embeddings_PKD.shape)}: (…, items, width) is needed")
    embeddings_PKD = embeddings_PKD.to(torch.promote_types(embeddings_PKD.dtype, torch.float32))
    kernel_PKK = embeddings_PKD @ embeddings_PKD.mT
    squares_PK = kernel_PKK.diagonal(dim1=-2, dim2=-1)
    match kind:
        case Kernel.cosine:
            kernel_PKK = _weighted(kernel_PKK, squares_PK.rsqrt())
        case Kernel.rbf:
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(f"sigma={sigma}: a positive number is needed; pass sigma=0.4")
            distances_PKK = squares_PK[..., :, None] + squares_PK[..., None, :] - 2 * kernel_PKK
            kernel_PKK = (distances_PKK.clamp(min=0) / (-2 * sigma**2)).exp()  # rounding gives -1e-7 between duplicates
        case Kernel.polynomial:
            if degree < 1:
                raise ValueError(f"degree={degree}: a whole number of 1 or more is needed; pass degree=2")
            if not (math.isfinite(offset) and offset >= 0):
                raise ValueError(f"offset={offset}: 0 or more is needed; pass offset=0")
            kernel_PKK = (kernel_PKK + offset) ** degree
        case _:
            raise ValueError(f"kind={kind}: one of {', '.join(Kernel)} is needed; pass kind=cosine")
    if quality_PK is None:
        return kernel_PKK
    if quality_PK.shape != squares_PK.shape:
        raise ValueError(f"quality of shape {tuple(quality_PK.shape)} for items of shape {tuple(squares_PK.shape)}")
    return _weighted(kernel_PKK, quality_PK)


def _weighted(kernel_PKK: Tensor, weights_PK: Tensor) -> Tensor:
    return kernel_PKK * weights_PK[..., :, None] * weights_PK[..., None, :]
