"""Diversity of the completions of one prompt. Each function takes one group. For fewer than two completions a mean over
pairs is undefined (NaN); a volume and a count are still defined.
"""

import math
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.dpp import kernel_matrix, log_det

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text, case-folded: runs of letters, digits and underscores. Any other character that is not white
    space is a word of its own.

    Example: ``words("It's Paris!")`` gives ``["it", "'", "s", "paris", "!"]``. In a script without spaces a whole run
    of letters is one word.
    """
    return _WORD.findall(text.casefold())


def ngrams(texts: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All word n-grams of a group; none crosses from one text into the next."""
    return [tuple(tokens[i : i + n]) for tokens in map(words, texts) for i in range(len(tokens) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of different n-grams among all word n-grams of the group (Li et al. 2016, 1510.03055): 0 to 1.

    NaN for fewer than two texts (it would measure repetition inside one text), and if every text is shorter than n
    words. Falls with the number of texts: compare only groups of equal size.
    """
    grams = ngrams(texts, n)
    return len(set(grams)) / len(grams) if len(texts) > 1 and grams else math.nan


def cosine_distance(embeddings_KD: Float[Tensor, "k dim"]) -> float:
    """Mean of 1 - cos over all pairs of unit embeddings: 0 to 2, in practice at most 1. NaN for fewer than two."""
    k = len(embeddings_KD)
    if k < 2:
        return math.nan
    embeddings_KD = embeddings_KD.double()
    pairs = embeddings_KD.sum(0).square().sum() - embeddings_KD.square().sum()  # twice the sum of cos over i < j
    return 1.0 - float(pairs) / (k * (k - 1))


def logdet(embeddings_KD: Float[Tensor, "k dim"]) -> float:
    """log det(L + I) in nats, L the cosine kernel: log(1 + k) for k copies of one text, k log 2 for k orthogonal ones.

    0.0 for no completion. Grows with k: compare only at equal k. Source: the objective of arXiv 2509.04784.
    """
    if len(embeddings_KD) == 0:
        return 0.0
    return float(log_det(kernel_matrix(embeddings_KD.double(), kind="cosine")))


def vendi(embeddings_KD: Float[Tensor, "k dim"], order: float = 1.0) -> float:
    """Vendi score (Friedman & Dieng 2023, 2210.02410; of other orders: Pasarkar & Dieng 2024, 2310.12952): the
    effective number of different completions, 1 to k. 0.0 for no completion.

    The Hill number of this order, 0 to inf, of the eigenvalues λ of L / k: (Σ λ^q)^(1/(1-q)). The larger the order, the
    less rare completions count. Order 1 is exp of the entropy, 0 the rank of the embeddings, inf 1 / the largest λ.
    """
    k = len(embeddings_KD)
    if k == 0:
        return 0.0
    kernel_KK = kernel_matrix(embeddings_KD.double(), kind="cosine")
    eigenvalues_K = torch.linalg.eigvalsh(kernel_KK / k).clamp_min(0.0)  # rounding makes a zero -1e-17
    if order < 1:  # rounding makes a zero 1e-17, too, and 1e-17 ** 0 is 1
        eigenvalues_K = eigenvalues_K[eigenvalues_K > _smallest_eigenvalue(embeddings_KD) * eigenvalues_K[-1]]
    return float(hill_number(eigenvalues_K, order))


def hill_number(shares_PK: Float[Tensor, "*groups k"], order: float) -> Float[Tensor, "*groups"]:
    """The effective number of kinds, from their shares: (Σ λ^q)^(1/(1-q)); exp of the entropy for order 1, 1 / the
    largest share for inf."""
    if order == 1:
        return torch.special.entr(shares_PK).sum(-1).exp()
    if order == math.inf:
        return 1.0 / shares_PK.amax(-1)
    return (torch.logsumexp(order * shares_PK.log(), dim=-1) / (1 - order)).exp()


def _smallest_eigenvalue(embeddings_KD: Float[Tensor, "k dim"]) -> float:
    """Eigenvalues of the kernel up to this share of the largest one are rounding: of the embeddings in their own dtype
    (as in ``torch.linalg.matrix_rank``; the kernel squares them), or of the eigenvalues in float64."""
    k, dim = embeddings_KD.shape
    of_embeddings = max(k, dim) * torch.finfo(embeddings_KD.dtype).eps
    return max(of_embeddings**2, k * torch.finfo(torch.float64).eps)
