"""log det(L + I), and the leave-one-out credit of each item.

Both functions take ``valid_PK``. Rows and columns of invalid items are set to zero: their credit is exactly 0.0 and
they do not change the credits of the others, whatever their values are. Both compute in float64 and return the input's
dtype (float32 for a narrower one): what remains is the rounding of the kernel's entries.
"""

import torch
from torch import Tensor

from dqo.dpp.checks import as_kernels, refuse, working_dtype

SMALL = 16  # on a CPU kernels of fewer items are eliminated together; from this K on LAPACK is faster (bench_credit.py)
CHUNK = 2**20  # kernel entries per elimination: about what fits a CPU's cache
CHUNK_LAPACK = 2**16  # kernel entries per call of LAPACK, the same
CHUNK_GPU = 2**24  # kernel entries per call on a GPU, to bound the memory: about three times 128 MiB
ACCURACY = 1e-3  # nats; rounding L's entries moves a credit by at most the dtype's epsilon times the largest one
ARITHMETIC = 16  # kernel and factorization by this many epsilons of float64, times the root of K; measured up to 512


def log_det(kernel_PKK: Tensor, valid_PK: Tensor | None = None) -> Tensor:
    """log det(L + I) in nats, (…), of kernels (…, K, K); differentiable. 0.0 for a set without valid items.

    Accurate to K * ACCURACY. Raises ValueError for a wrong shape or dtype, KernelError where L is not finite, not
    symmetric, not positive semi-definite, or too large for its dtype.
    """
    kernel_BKK, dtype = as_kernels(kernel_PKK, valid_PK), working_dtype("kernel", kernel_PKK)
    identity_KK = torch.eye(kernel_BKK.shape[-1], dtype=kernel_BKK.dtype, device=kernel_BKK.device)
    factor_BKK, failed_B = torch.linalg.cholesky_ex(kernel_BKK + identity_KK)
    pivots_BK = factor_BKK.diagonal(dim1=-2, dim2=-1).square()
    _check_accuracy(kernel_BKK, dtype, failed_B == 0)
    return pivots_BK.log().sum(-1).reshape(kernel_PKK.shape[:-2]).to(dtype)


@torch.no_grad()
def leave_one_out_credits(kernel_PKK: Tensor, valid_PK: Tensor | None = None, *, check: bool = True) -> Tensor:
    """The leave-one-out credit of each item in nats, (…, K), from kernels (…, K, K):

        c_i = log det(L + I) - log det(L_-i + I) = -log [(L + I)^-1]_ii

    (arXiv 2509.04784; the second form is ours.) One factorization gives all K credits. A credit is used like a reward,
    so no gradient flows through it. For a unit diagonal log(1 + 1/K) <= c_i <= log 2. Valid items of a set whose
    credits differ by less than rounding in the kernel moves them, as identical items' do, get one and the same.

    Accurate to ACCURACY. Raises ValueError for a wrong shape or dtype, KernelError where L is not finite, not
    symmetric, not positive semi-definite, or too large for its dtype. ``check=False``, for what ``kernel_matrix`` made,
    leaves out the costly ones of these checks: symmetric, positive semi-definite.
    """
    kernel_BKK, dtype = as_kernels(kernel_PKK, valid_PK, check=check), working_dtype("kernel", kernel_PKK)
    credits_KB = -_inverse_diagonals(kernel_BKK).log()
    _check_accuracy(kernel_BKK, dtype, credits_KB.isfinite().all(0))
    valid_KB = None if valid_PK is None else valid_PK.reshape(-1, len(credits_KB)).mT
    credits_KB = _merge_ties(credits_KB, valid_KB, _rounding(kernel_BKK, dtype))
    return credits_KB.mT.to(dtype).reshape(kernel_PKK.shape[:-1]).contiguous()


def _inverse_diagonals(kernel_BKK: Tensor) -> Tensor:
    """The diagonal of (L + I)^-1, (K, B); NaN in it where L + I is not positive definite."""
    k = kernel_BKK.shape[-1]
    form, chunk = _cholesky, CHUNK_GPU
    if kernel_BKK.is_cpu:
        form, chunk = (_eliminate, CHUNK) if k < SMALL else (_cholesky, CHUNK_LAPACK)
    return torch.cat([form(part_BKK) for part_BKK in kernel_BKK.split(max(1, chunk // max(1, k**2)))], dim=1)


def _cholesky(kernel_BKK: Tensor) -> Tensor:
    """By batched Cholesky: L + I = N Nᵀ, and [(L + I)^-1]_jj = Σ_i (N^-1)_ij²."""
    identity_KK = torch.eye(kernel_BKK.shape[-1], dtype=kernel_BKK.dtype, device=kernel_BKK.device)
    factor_BKK, failed_B = torch.linalg.cholesky_ex(kernel_BKK + identity_KK)
    inverse_BKK = torch.linalg.solve_triangular(factor_BKK, identity_KK.expand_as(factor_BKK), upper=False)
    return inverse_BKK.square_().sum(-2).mT.masked_fill(failed_B > 0, torch.nan)


def _eliminate(kernel_BKK: Tensor) -> Tensor:
    """By Cholesky without square roots, L + I = N D Nᵀ, written out: batched LAPACK factors one small matrix after the
    other, here each step is one pass over all of them. Columns that are finished store the part of N^-1 computed so
    far, and [(L + I)^-1]_jj = Σ_i (N^-1)_ij² / D_i.
    """
    rows_KKB = kernel_BKK.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    rows_KKB.diagonal().add_(1)
    pivots_KB, inverse_KB = rows_KKB.new_zeros(rows_KKB.shape[1:]), rows_KKB.new_zeros(rows_KKB.shape[1:])
    for i, row_KB in enumerate(rows_KKB):
        pivots_KB[i] = row_KB[i]
        row_KB[i] = 1
        inverse_KB[: i + 1] += row_KB[: i + 1].square() / pivots_KB[i]
        below_KKB = rows_KKB[i + 1 :]
        factors_KB = below_KKB[:, i] / pivots_KB[i]
        below_KKB[:, i] = 0
        below_KKB.addcmul_(factors_KB[:, None], row_KB, value=-1)
    return inverse_KB.masked_fill_(pivots_KB <= 0, torch.nan)


def _merge_ties(credits_KB: Tensor, valid_KB: Tensor | None, rounding_B: Tensor) -> Tensor:
    """The credits, 0.0 where invalid; one number for a set whose valid ones differ by no more than ``rounding_B``."""
    if not len(credits_KB):
        return credits_KB
    high_KB = credits_KB if valid_KB is None else credits_KB.masked_fill(~valid_KB, -torch.inf)
    low_KB = credits_KB if valid_KB is None else credits_KB.masked_fill(~valid_KB, torch.inf)
    highest_B, lowest_B = high_KB.amax(0), low_KB.amin(0)
    merged_KB = torch.where(highest_B - lowest_B <= rounding_B, (highest_B + lowest_B) / 2, credits_KB)
    return merged_KB if valid_KB is None else merged_KB.masked_fill(~valid_KB, 0.0)


def _rounding(kernel_BKK: Tensor, dtype: torch.dtype) -> Tensor:
    """How far rounding moves a credit, in nats, (B,): of L's entries to ``dtype``, and in the arithmetic."""
    entries_BK = kernel_BKK.detach().diagonal(dim1=-2, dim2=-1)  # a kernel's largest entry is on its diagonal
    largest_B = entries_BK.amax(-1) if entries_BK.shape[-1] else entries_BK.new_zeros(len(entries_BK))
    eps = torch.finfo(dtype).eps + ARITHMETIC * entries_BK.shape[-1] ** 0.5 * torch.finfo(entries_BK.dtype).eps
    return eps * largest_B.clamp(min=1)


def _check_accuracy(kernel_BKK: Tensor, dtype: torch.dtype, factored_B: Tensor) -> None:
    wider, shorter = "compute it in float64 (credit.dtype=float64)", "make its vectors shorter (its qualities smaller)"
    advice = wider if dtype == torch.float32 else shorter
    reason = f"is not positive definite in {{dtype}} (largest entry {{largest}}); {advice}"
    refuse(kernel_BKK, factored_B & (_rounding(kernel_BKK, dtype) <= ACCURACY), reason, dtype)
