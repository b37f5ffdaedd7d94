"""Which completions of a group are good and different: a set of a quality-weighted determinantal point process."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.dpp import RankError, greedy_map, kernel_matrix, sample_k_dpp

Pick = Literal["map", "sample"]


def choose(
    texts: Sequence[str], rewards_K: Float[Tensor, " k"], embeddings_KD: Float[Tensor, "k dim"],
    candidates: Sequence[int], size: int, *, alpha: float, pick: Pick, seed: int,
) -> tuple[int, ...]:  # fmt: skip
    """Indices of ``size`` candidates in the order in which they are picked, or of fewer where fewer differ.

    The set S is picked by det L_S, L = diag(q) C diag(q): C holds the cosines, and q = exp(reward / 2 alpha), the
    paper's ψ without π_ref. ``map``: by greed; ``sample``: at random with probability proportional to det L_S. Of equal
    texts the first is a candidate.
    """
    first = {texts[i]: i for i in reversed(candidates)}
    different = sorted(first.values())
    if not different:
        return ()
    rewards_C = rewards_K.double()[different]
    quality_C = ((rewards_C - rewards_C.max()) / (2 * alpha)).exp()  # a common factor changes no choice
    kernel_CC = kernel_matrix(embeddings_KD.double()[different], quality_PK=quality_C)
    size = min(size, len(different))
    try:
        picked = _pick(kernel_CC, size, pick, seed)
    except RankError as error:
        picked = _pick(kernel_CC, error.rank, pick, seed)
    return tuple(different[i] for i in picked)


def _pick(kernel_CC: Float[Tensor, "c c"], size: int, pick: Pick, seed: int) -> list[int]:
    if pick == "map":
        return greedy_map(kernel_CC, size).tolist()
    return sample_k_dpp(kernel_CC, size, generator=torch.Generator().manual_seed(seed)).tolist()
