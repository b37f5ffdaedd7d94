"""What the functions of dqo.dpp take: real tensors, and kernels that are symmetric and positive semi-definite.

Tolerances are in units of the input's epsilon times its largest entry: a kernel that was computed in its own dtype
passes, whatever its scale.
"""

import torch
from torch import Tensor

SYMMETRY = 100  # epsilons by which L[i, j] and L[j, i] may differ
DEFINITENESS = 4  # epsilons per item by which an eigenvalue may be below 0
NOT_FINITE = "is not finite in {dtype}: an embedding has length 0 or contains NaN, or a quality is too large"


class KernelError(ValueError):
    """Some kernels are no kernels, or too large for their dtype. ``prompts``: indices of their sets, with flattened
    leading dimensions."""

    def __init__(self, reason: str, prompts: tuple[int, ...]):
        """``reason`` completes the sentence "kernel of prompts 1, 3 …"."""
        self.reason, self.prompts = reason, prompts
        super().__init__(f"kernel of prompt{'s' * (len(prompts) > 1)} {', '.join(map(str, prompts))} {reason}")


def working_dtype(name: str, *tensors: Tensor) -> torch.dtype:
    """The dtype of a result: float64 if a tensor is float64, else float32; whole numbers count as float32. Raises
    ValueError for complex numbers."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    if dtype.is_complex:
        raise ValueError(f"{name} is {dtype}: real numbers are needed; pass {name}.real")
    return dtype


def as_kernels(kernel_PKK: Tensor, valid_PK: Tensor | None = None, *, check: bool = True) -> Tensor:
    """Kernels (B, K, K) in float64, 0 in the rows and columns of invalid items; differentiable.

    Raises ValueError for a wrong shape or dtype. With ``check``, which costs a Cholesky factorization, also KernelError
    where L is not finite, not symmetric, or not positive semi-definite.
    """
    dtype = working_dtype("kernel", kernel_PKK)
    *_, rows, columns = kernel_PKK.shape if kernel_PKK.ndim >= 2 else (-1, -2)
    if rows != columns:
        raise ValueError(f"kernel of shape {tuple(kernel_PKK.shape)}: (…, items, items) is needed")
    given = kernel_PKK.dtype if kernel_PKK.is_floating_point() else dtype
    if valid_PK is not None:
        if valid_PK.shape != kernel_PKK.shape[:-1] or valid_PK.dtype != torch.bool:
            raise ValueError(
                f"valid is {valid_PK.dtype} of shape {tuple(valid_PK.shape)}: torch.bool of shape "
                f"{tuple(kernel_PKK.shape[:-1])} is needed"
            )
        kernel_PKK = kernel_PKK.masked_fill(~(valid_PK[..., :, None] & valid_PK[..., None, :]), 0)
    kernel_BKK = kernel_PKK.double().reshape(kernel_PKK.shape[:-2].numel(), rows, columns)
    if check and kernel_BKK.numel():
        _check(kernel_BKK.detach(), torch.finfo(given).eps, dtype)
    return kernel_BKK


def refuse(kernel_BKK: Tensor, good_B: Tensor, reason: str, dtype: torch.dtype) -> None:
    """Raises KernelError unless all kernels are good: those that are not finite first. ``{dtype}`` and ``{largest}`` in
    the reason are the kernels' dtype and the largest entry of the bad ones."""
    if good_B.all():  # the only synchronization with the device
        return
    finite_B = kernel_BKK.isfinite().flatten(1).all(1)
    if not finite_B.all():
        good_B, reason = finite_B, NOT_FINITE
    values = {"dtype": str(dtype).removeprefix("torch."), "largest": f"{float(kernel_BKK[~good_B].abs().max()):.3g}"}
    raise KernelError(reason.format(**values), tuple((~good_B).nonzero().flatten().tolist()))


def _check(kernel_BKK: Tensor, eps: float, dtype: torch.dtype) -> None:
    k = kernel_BKK.shape[-1]
    largest_B = kernel_BKK.abs().amax((-2, -1))
    symmetric_B = (kernel_BKK - kernel_BKK.mT).abs().amax((-2, -1)) <= SYMMETRY * eps * largest_B
    room_B = (DEFINITENESS * (k + 4) * eps * largest_B).clamp(min=torch.finfo(torch.float64).tiny)
    shifted_BKK = kernel_BKK + room_B[:, None, None] * torch.eye(k, dtype=torch.float64, device=kernel_BKK.device)
    factored_B = torch.linalg.cholesky_ex(shifted_BKK).info == 0
    if (symmetric_B & factored_B).all():
        return
    refuse(kernel_BKK, symmetric_B, "is not symmetric (largest entry {largest}); pass (L + L.mT) / 2", dtype)
    smallest = float(torch.linalg.eigvalsh(kernel_BKK).min())
    what = f"is not positive definite in {{dtype}} (an eigenvalue of L is {smallest:.3g}); it may be no kernel"
    refuse(kernel_BKK, factored_B, f"{what}; make it with dqo.dpp.kernel_matrix", dtype)
