"""log det(L + I), and the leave-one-out credit of each item.

Both functions take ``valid_PK``. Rows and columns of invalid items are set to zero: their credit is exactly 0.0 and
they do not change the credits of the others, whatever their values are.
"""

import torch
from torch import Tensor

CHUNK = 2**21  # kernel entries per elimination, chosen to fit a CPU's cache (scripts/bench_credit.py)
ACCURACY = 1e-3  # nats; the rounding error of a credit is about the dtype's epsilon times the largest entry of L


class KernelError(ValueError):
    """Some kernels cannot be factored in their dtype. ``prompts``: indices of their sets, with flattened leading
    dimensions."""

    def __init__(self, reason: str, prompts: tuple[int, ...]):
        """``reason`` completes the sentence "kernel of prompts 1, 3 …"."""
        self.reason, self.prompts = reason, prompts
        super().__init__(f"kernel of prompt{'s' * (len(prompts) > 1)} {', '.join(map(str, prompts))} {reason}")


def log_det(kernel_PKK: Tensor, valid_PK: Tensor | None = None) -> Tensor:
    """log det(L + I) in nats, (…), of kernels (…, K, K); differentiable. 0.0 for a set without valid items.

    Raises KernelError where L is not finite, not positive definite, or too large for a result accurate to ACCURACY.
    """
    kernel_BKK = _masked_kernels(kernel_PKK, valid_PK)
    identity_KK = torch.eye(kernel_BKK.shape[-1], dtype=kernel_BKK.dtype, device=kernel_BKK.device)
    factor_BKK, failed_B = torch.linalg.cholesky_ex(kernel_BKK + identity_KK)
    pivots_BK = factor_BKK.diagonal(dim1=-2, dim2=-1).square()
    volumes_B = pivots_BK.log().sum(-1)
    _check_factored(kernel_BKK, (failed_B == 0) & volumes_B.isfinite())
    return volumes_B.reshape(kernel_PKK.shape[:-2])


@torch.no_grad()
def leave_one_out_credits(kernel_PKK: Tensor, valid_PK: Tensor | None = None) -> Tensor:
    """The leave-one-out credit of each item in nats, (…, K), from kernels (…, K, K):

        c_i = log det(L + I) - log det(L_-i + I) = -log [(L + I)^-1]_ii

    (arXiv 2509.04784; the second form is ours.) One factorization gives all K credits. A credit is used like a reward,
    so no gradient flows through it. For a unit diagonal log(1 + 1/K) <= c_i <= log 2.

    Raises KernelError where L is not finite, not positive definite, or too large for a result accurate to ACCURACY.
    """
    kernel_BKK = _masked_kernels(kernel_PKK, valid_PK)
    size = max(1, CHUNK // max(1, kernel_BKK.shape[-1] ** 2))
    inverses, pivots = zip(*(_eliminate(part_BKK) for part_BKK in kernel_BKK.split(size)), strict=True)
    credits_KB, pivots_KB = -torch.cat(inverses, dim=1).log(), torch.cat(pivots, dim=1)
    _check_factored(kernel_BKK, ((pivots_KB > 0) & credits_KB.isfinite()).all(0))
    credits_PK = credits_KB.mT.reshape(kernel_PKK.shape[:-1]).contiguous()
    return credits_PK if valid_PK is None else credits_PK.masked_fill(~valid_PK, 0.0)


def _eliminate(kernel_BKK: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of (L + I)^-1 and the pivots of L + I, both (K, B).

    Cholesky without square roots, L + I = N D Nᵀ, written out: batched LAPACK factors one small matrix after the other,
    here each step is one pass over all of them. Columns that are finished store the part of N^-1 computed so far, and
    [(L + I)^-1]_jj = Σ_i (N^-1)_ij² / D_i.
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
    return inverse_KB, pivots_KB


def _masked_kernels(kernel_PKK: Tensor, valid_PK: Tensor | None) -> Tensor:
    """Kernels (B, K, K) in float32 or float64, 0 in the rows and columns of invalid items."""
    *_, rows, columns = kernel_PKK.shape if kernel_PKK.ndim >= 2 else (-1, -2)
    if rows != columns:
        raise ValueError(f"kernel of shape {tuple(kernel_PKK.shape)}: (…, items, items) is needed")
    if valid_PK is not None:
        if valid_PK.shape != kernel_PKK.shape[:-1] or valid_PK.dtype != torch.bool:
            raise ValueError(
                f"valid is {valid_PK.dtype} of shape {tuple(valid_PK.shape)}: torch.bool of shape "
                f"{tuple(kernel_PKK.shape[:-1])} is needed"
            )
        kernel_PKK = kernel_PKK.masked_fill(~(valid_PK[..., :, None] & valid_PK[..., None, :]), 0.0)
    kernel_PKK = kernel_PKK.to(torch.promote_types(kernel_PKK.dtype, torch.float32))
    return kernel_PKK.reshape(kernel_PKK.shape[:-2].numel(), rows, columns)


def _check_factored(kernel_BKK: Tensor, factored_B: Tensor) -> None:
    entries_BK = kernel_BKK.diagonal(dim1=-2, dim2=-1)  # a kernel's largest entry is on its diagonal
    good_B = factored_B & (entries_BK * torch.finfo(kernel_BKK.dtype).eps <= ACCURACY).all(-1)
    if good_B.all():  # the only synchronization with the device
        return
    dtype = str(kernel_BKK.dtype).removeprefix("torch.")
    infinite_B = ~kernel_BKK.isfinite().flatten(1).all(-1)
    bad_B = infinite_B if infinite_B.any() else ~good_B
    if infinite_B.any():
        reason = f"is not finite in {dtype}: an embedding has length 0 or contains NaN, or a quality is too large"
    else:
        advice = "compute it in float64 (credit.dtype=float64)" if dtype == "float32" else "it may be no kernel"
        reason = f"is not positive definite in {dtype} (largest entry {entries_BK[bad_B].max():.3g}); {advice}"
    raise KernelError(reason, tuple(bad_B.nonzero().flatten().tolist()))
