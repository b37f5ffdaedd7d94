"""Kernels: how similar two completions are."""

import math
from enum import StrEnum

import torch
from torch import Tensor

from dqo.dpp.checks import working_dtype


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
    direction is meaning, length is quality). Computed in float64, returned in the inputs' dtype, float32 at least;
    whole numbers are taken as float32.

    A vector or a quality that is not finite, and a vector of length 0, which has no cosine, make their row and column
    NaN. No gradient flows through it: where ``log_det`` masks it, the others' gradients are as without it.

    Raises ValueError for an unknown kind, parameters that give no positive semi-definite kernel, wrong shapes, and
    complex numbers.
    """
    if embeddings_PKD.ndim < 2 or not embeddings_PKD.shape[-1]:
        raise ValueError(f"embeddings of shape {tuple(embeddings_PKD.shape)}: (…, items, width) is needed")
    if quality_PK is not None and quality_PK.shape != embeddings_PKD.shape[:-1]:
        shape = tuple(embeddings_PKD.shape[:-1])
        raise ValueError(f"quality of shape {tuple(quality_PK.shape)} for items of shape {shape}")
    dtype = working_dtype("embeddings", embeddings_PKD)
    if quality_PK is not None:
        dtype = torch.promote_types(dtype, working_dtype("quality", quality_PK))
    embeddings_PKD = embeddings_PKD.double()
    lengths_PK = embeddings_PKD.detach().norm(dim=-1)
    usable_PK = lengths_PK.isfinite() & ((lengths_PK > 0) | (kind != Kernel.cosine))
    if quality_PK is not None:
        usable_PK = usable_PK & quality_PK.isfinite()
    embeddings_PKD = embeddings_PKD.where(usable_PK[..., None], 1.0)  # without NaN the others' gradients stay finite
    kernel_PKK = _similarities(embeddings_PKD, kind, sigma=sigma, degree=degree, offset=offset)
    if quality_PK is not None:
        kernel_PKK = _weighted(kernel_PKK, quality_PK.double().where(usable_PK, 1.0))
    kernel_PKK = kernel_PKK.masked_fill(~(usable_PK[..., :, None] & usable_PK[..., None, :]), torch.nan)
    return kernel_PKK.to(dtype)


def _similarities(embeddings_PKD: Tensor, kind: Kernel | str, *, sigma: float, degree: int, offset: float) -> Tensor:
    match kind:
        case Kernel.cosine:
            kernel_PKK = embeddings_PKD @ embeddings_PKD.mT
            return _weighted(kernel_PKK, kernel_PKK.diagonal(dim1=-2, dim2=-1).rsqrt())
        case Kernel.rbf:
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(f"sigma={sigma}: a positive number is needed; pass sigma=0.4")
            # the Gram product would lose the distances of near neighbors, which a small sigma is about
            distances_PKK = torch.cdist(embeddings_PKD, embeddings_PKD, compute_mode="donot_use_mm_for_euclid_dist")
            return ((distances_PKK / sigma).square() / -2).exp()
        case Kernel.polynomial:
            if degree < 1 or degree != int(degree):
                raise ValueError(f"degree={degree}: a whole number of 1 or more is needed; pass degree=2")
            if not (math.isfinite(offset) and offset >= 0):
                raise ValueError(f"offset={offset}: 0 or more is needed; pass offset=0")
            return (embeddings_PKD @ embeddings_PKD.mT + offset) ** degree
        case _:
            raise ValueError(f"kind={kind}: one of {', '.join(Kernel)} is needed; pass kind=cosine")


def _weighted(kernel_PKK: Tensor, weights_PK: Tensor) -> Tensor:
    return kernel_PKK * weights_PK[..., :, None] * weights_PK[..., None, :]
