"""Selection of diverse items of a set: the best by greed, or a random set of a given size."""

from collections.abc import Callable

import torch
from torch import Tensor

from dqo.dpp.checks import as_kernels, working_dtype


class RankError(ValueError):
    """A kernel has no set of this size with a volume. ``rank``: the size of the largest that has one."""

    def __init__(self, size: int, rank: int, k: int):
        self.rank = rank
        super().__init__(f"size={size} is above the rank of a kernel; add torch.eye({k}) to it to rank all items")


@torch.no_grad()
def greedy_map(kernel_PKK: Tensor, size: int) -> Tensor:
    """Indices (…, size) of the items that greedily maximize log det L_S, in the order in which they are picked.

    ``kernel_PKK`` is (…, K, K). Each step picks the item that is farthest from the span of the items picked before;
    O(K size²) per set (Chen, Zhang and Zhou 2018, arXiv 1709.05135, algorithm 1). On a CPU the first of equal items is
    picked.

    Raises ValueError if ``size`` is not within 0 … K, or above the rank of a kernel (RankError): no set of that size
    has a volume; and like ``log_det`` for what is no kernel.
    """
    kernel_PKK, eps = _checked(kernel_PKK, size)
    picks_PS, gains_PS = _picks(kernel_PKK, size, lambda s, gains_PK: gains_PK.argmax(-1, keepdim=True))
    least_P1 = kernel_PKK.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) * eps
    _refuse_rank((gains_PS > least_P1).long().cumprod(-1).sum(-1), size, kernel_PKK.shape[-1])
    return picks_PS


@torch.no_grad()
def sample_k_dpp(kernel_PKK: Tensor, size: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Indices (…, size) of a random set S of each kernel (…, K, K), with probability det L_S / Σ det L_S' over the sets
    of this size: an exact sample of the k-DPP, in the order in which its items are drawn.

    Eigenvectors are chosen by elementary symmetric polynomials of the eigenvalues, then items one by one from the
    projection onto them (Kulesza and Taskar 2012, arXiv 1207.6083, algorithms 8 and 1); O(K³) per set. Random numbers
    come from ``generator``, on its device; None: torch's own.

    Raises what ``greedy_map`` raises.
    """
    kernel_PKK, eps = _checked(kernel_PKK, size)
    *leading, k = kernel_PKK.shape[:-1]
    values_PK, vectors_PKK = torch.linalg.eigh(kernel_PKK)
    values_PK = torch.where(values_PK > values_PK.clamp(min=0).sum(-1, keepdim=True) * eps, values_PK, 0.0)
    _refuse_rank((values_PK > 0).sum(-1), size, k)
    device = kernel_PKK.device if generator is None else generator.device
    uniforms_PN = 1 - torch.rand(*leading, k + size, dtype=torch.float64, device=device, generator=generator)
    uniforms_PN = uniforms_PN.to(kernel_PKK.device)  # in (0, 1]
    chosen_PK = _eigenvectors(values_PK.log(), size, uniforms_PN[..., :k])
    projection_PKK = (vectors_PKK * chosen_PK[..., None, :]) @ vectors_PKK.mT

    def draw(s: int, gains_PK: Tensor) -> Tensor:
        """By inverse transform: the first item at which the sum reaches uniform * total; its weight is not 0."""
        sums_PK = gains_PK.clamp(min=0).cumsum(-1)
        drawn_P1 = torch.searchsorted(sums_PK, uniforms_PN[..., k + s, None] * sums_PK[..., -1:])
        return drawn_P1.clamp(max=k - 1)

    return _picks(projection_PKK, size, draw)[0]


def _checked(kernel_PKK: Tensor, size: int) -> tuple[Tensor, float]:
    """The kernels in float64, and the epsilon of the dtype that they came in."""
    eps, shape = torch.finfo(working_dtype("kernel", kernel_PKK)).eps, kernel_PKK.shape
    kernel_PKK = as_kernels(kernel_PKK).reshape(shape)
    if not 0 <= size <= shape[-1]:
        raise ValueError(f"size={size}: 0 to {shape[-1]} can be picked of {shape[-1]} items")
    return kernel_PKK, eps


def _refuse_rank(rank_P: Tensor, size: int, k: int) -> None:
    if (rank_P < size).any():
        raise RankError(size, int(rank_P.min()), k)


def _picks(kernel_PKK: Tensor, size: int, pick: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Items picked one by one, (…, size), and their gains when they were picked. ``pick`` gets the number of items
    picked before and the gains (…, K): the squared distances to the span of those, -inf for the items themselves. It
    returns indices (…, 1)."""
    k = kernel_PKK.shape[-1]
    gains_PK = kernel_PKK.diagonal(dim1=-2, dim2=-1).clone()
    rows_PSK = kernel_PKK.new_zeros(*gains_PK.shape[:-1], size, k)  # of the picked items' Cholesky factor
    picks_PS = torch.empty(rows_PSK.shape[:-1], dtype=torch.long, device=kernel_PKK.device)
    gains_PS = kernel_PKK.new_zeros(rows_PSK.shape[:-1])
    for s in range(size):
        pick_P1 = pick(s, gains_PK)
        gain_P1 = gains_PK.gather(-1, pick_P1)
        picks_PS[..., s], gains_PS[..., s] = pick_P1[..., 0], gain_P1[..., 0]
        kernel_PK = kernel_PKK.take_along_dim(pick_P1[..., None], -2)[..., 0, :]
        known_PSK = rows_PSK[..., :s, :]
        known_PS1 = known_PSK.take_along_dim(pick_P1[..., None, :], -1)
        row_PK = (kernel_PK - (known_PS1 * known_PSK).sum(-2)) / gain_P1.sqrt()
        rows_PSK[..., s, :] = row_PK
        gains_PK = (gains_PK - row_PK.square()).scatter(-1, pick_P1, -torch.inf)
    return picks_PS, gains_PS


def _eigenvectors(logs_PK: Tensor, size: int, uniforms_PK: Tensor) -> Tensor:
    """A mask (…, K) of ``size`` eigenvalues, a set E with probability Π_E λ / e_size(λ)."""
    sums_PEN = log_elementary_sums(logs_PK, size)
    chosen_PK, left_P1 = torch.zeros_like(logs_PK, dtype=torch.bool), torch.full_like(logs_PK[..., :1], size).long()
    for n in reversed(range(logs_PK.shape[-1])):
        with_PE = logs_PK[..., n, None] + sums_PEN[..., n].roll(1, -1)  # of the sets with n, one smaller before it
        logs_P1 = (with_PE - sums_PEN[..., n + 1]).gather(-1, left_P1)
        is_chosen_P1 = (left_P1 > 0) & (uniforms_PK[..., n, None] <= logs_P1.exp())
        chosen_PK[..., n] = is_chosen_P1[..., 0]
        left_P1 = left_P1 - is_chosen_P1.long()
    return chosen_PK


def log_elementary_sums(logs_PK: Tensor, size: int) -> Tensor:
    """log e_l of the first n of K numbers λ ≥ 0, (…, l = 0 … size, n = 0 … K), from log λ; -inf where e_l is 0.

    e_l(n) = e_l(n-1) + λ_n e_{l-1}(n-1) (Kulesza and Taskar 2012, algorithm 7). All terms are positive, so nothing
    cancels; the logarithms neither over- nor underflow.
    """
    sums_PEN = logs_PK.new_full((*logs_PK.shape[:-1], size + 1, logs_PK.shape[-1] + 1), -torch.inf)
    sums_PEN[..., 0, :] = 0
    for n in range(logs_PK.shape[-1]):
        grown_PE = logs_PK[..., n, None] + sums_PEN[..., :-1, n]
        sums_PEN[..., 1:, n + 1] = torch.logaddexp(sums_PEN[..., 1:, n], grown_PE)
    return sums_PEN
