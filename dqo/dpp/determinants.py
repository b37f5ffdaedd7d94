"""log det(L + I), and what each item adds to it.

Both take ``valid_PK``: the rows and columns of other items become zero, so that these are worth exactly 0.0 and change
nothing for the rest, whatever stands in them.
"""

import torch
from torch import Tensor

CHUNK = 2**21  # kernel entries eliminated at once: what fits a CPU's cache (scripts/bench_credit.py)
ACCURACY = 1e-3  # nats; rounding moves a credit by about the dtype's epsilon times the largest entry of L


class KernelError(ValueError):
    """The kernels of some sets cannot be factored in their dtype; ``prompts`` are their (flat) indices."""

    def __init__(self, reason: str, prompts: tuple[int, ...]):
        self.reason, self.prompts = reason, prompts
        super().__init__(f"kernel of prompt{'s' * (len(prompts) > 1)} {', '.join(map(str, prompts))} {reason}")


def log_det(kernel_PKK: Tensor, valid_PK: Tensor | None = None) -> Tensor:
    """log det(L + I) in nats, (…), of kernels (…, K, K); differentiable. 0.0 for a set without valid items.

    Raises KernelError where L is not finite, not positive definite, or too large for its dtype to be right to ACCURACY.
    """
    kernel_BKK = _prepared(kernel_PKK, valid_PK)
    identity_KK = torch.eye(kernel_BKK.shape[-1], dtype=kernel_BKK.dtype, device=kernel_BKK.device)
    factor_BKK, failed_B = torch.linalg.cholesky_ex(kernel_BKK + identity_KK)
    pivots_BK = factor_BKK.diagonal(dim1=-2, dim2=-1).square()
    volumes_B = pivots_BK.log().sum(-1)
    _check(kernel_BKK, (failed_B == 0) & volumes_B.isfinite())
    return volumes_B.reshape(kernel_PKK.shape[:-2])


@torch.no_grad()
def leave_one_out_credits(kernel_PKK: Tensor, valid_PK: Tensor | None = None) -> Tensor:
    """What each item adds to the others in nats, (…, K), of kernels (…, K, K):

        c_i = log det(L + I) - log det(L_-i + I) = -log [(L + I)^-1]_ii

    (arXiv 2509.04784; the second form is ours), all of them from one factorisation. A credit is a number to learn from,
    as a reward is, so no gradient flows through it. For a unit diagonal log(1 + 1/K) <= c_i <= log 2.

    Raises KernelError where L is not finite, not positive definite, or too large for its dtype to be right to ACCURACY.
    """
    kernel_BKK = _prepared(kernel_PKK, valid_PK)
    size = max(1, CHUNK // max(1, kernel_BKK.shape[-1] ** 2))
    inverses, pivots = zip(*(_eliminate(part_BKK) for part_BKK in kernel_BKK.split(size)), strict=True)
    credits_KB, pivots_KB = -torch.cat(inverses, dim=1).log(), torch.cat(pivots, dim=1)
    _check(kernel_BKK, ((pivots_KB > 0) & credits_KB.isfinite()).all(0))
    credits_PK = credits_KB.mT.reshape(kernel_PKK.shape[:-1]).contiguous()
    return credits_PK if valid_PK is None else credits_PK.masked_fill(~valid_PK, 0.0)


def _eliminate(kernel_BKK: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of (L + I)^-1 and the pivots of L + I, both (K, B).

    Cholesky without square roots, L + I = N D Nᵀ, by hand: batched LAPACK goes from one small matrix to the next, here
    each step is one pass over all of them. The columns that are done with hold what has grown of N^-1, and
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


def _prepared(kernel_PKK: Tensor, valid_PK: Tensor | None) -> Tensor:
    """(B, K, K) in float32 or float64, zero where an item is not valid."""
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


def _check(kernel_BKK: Tensor, factored_B: Tensor) -> None:
    entries_BK = kernel_BKK.diagonal(dim1=-2, dim2=-1)  # the largest of a kernel stand there
    good_B = factored_B & (entries_BK * torch.finfo(kernel_BKK.dtype).eps <= ACCURACY).all(-1)
    if good_B.all():  # the one wait for the device
        return
    dtype = str(kernel_BKK.dtype).removeprefix("torch.")
    infinite_B = ~kernel_BKK.isfinite().flatten(1).all(-1)
    bad_B = infinite_B if infinite_B.any() else ~good_B
    if infinite_B.any():
        reason = f"is not finite in {dtype}: embeddings of length 0 or with NaN, or too large a quality"
    else:
        way_out = "compute it in float64 (credit.dtype=float64)" if dtype == "float32" else "it may be no kernel"
        reason = f"is not positive definite in {dtype} (largest entry {entries_BK[bad_B].max():.3g}); {way_out}"
    raise KernelError(reason, tuple(bad_B.nonzero().flatten().tolist()))
