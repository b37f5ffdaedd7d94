"""Selection of the most diverse items of a set."""

import torch
from torch import Tensor

from dqo.dpp.checks import as_kernels, working_dtype


@torch.no_grad()
def greedy_map(kernel_PKK: Tensor, size: int) -> Tensor:
    """Indices (…, size) of the items that greedily maximize log det L_S, in the order in which they are picked.

    ``kernel_PKK`` is (…, K, K). Each step picks the item that is farthest from the span of the items picked before;
    O(K size²) per set (Chen, Zhang and Zhou 2018, arXiv 1709.05135, algorithm 1). On a CPU the first of equal items is
    picked.

    Raises ValueError if ``size`` is not within 0 … K, or above the rank of a kernel: no set of that size
    has a volume; and like ``log_det`` for what is no kernel.
    """
    eps, shape = torch.finfo(working_dtype("kernel", kernel_PKK)).eps, kernel_PKK.shape
    kernel_PKK, k = as_kernels(kernel_PKK).reshape(shape), shape[-1]
    if not 0 <= size <= k:
        raise ValueError(f"size={size}: 0 to {k} can be picked of {k} items")
    gains_PK = kernel_PKK.diagonal(dim1=-2, dim2=-1).clone()  # squared distance to the span of the picked items
    least_P1 = gains_PK.sum(-1, keepdim=True) * eps
    rows_PSK = kernel_PKK.new_zeros(*gains_PK.shape[:-1], size, k)  # of the picked items' Cholesky factor
    picks_PS = torch.empty(rows_PSK.shape[:-1], dtype=torch.long, device=kernel_PKK.device)
    ranked_P1 = torch.ones_like(least_P1, dtype=torch.bool)
    for s in range(size):
        pick_P1 = gains_PK.argmax(-1, keepdim=True)
        picks_PS[..., s] = pick_P1[..., 0]
        gain_P1 = gains_PK.gather(-1, pick_P1)
        ranked_P1 &= gain_P1 > least_P1
        kernel_PK = kernel_PKK.take_along_dim(pick_P1[..., None], -2)[..., 0, :]
        known_PSK = rows_PSK[..., :s, :]
        known_PS1 = known_PSK.take_along_dim(pick_P1[..., None, :], -1)
        row_PK = (kernel_PK - (known_PS1 * known_PSK).sum(-2)) / gain_P1.sqrt()
        rows_PSK[..., s, :] = row_PK
        gains_PK = (gains_PK - row_PK.square()).scatter(-1, pick_P1, -torch.inf)
    if not ranked_P1.all():
        raise ValueError(f"size={size} is above the rank of a kernel; add torch.eye({k}) to it to rank all items")
    return picks_PS
