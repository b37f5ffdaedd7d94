"""Every subset of a group's completions, and the mean of a number over those that contain each completion."""

import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from dqo.errors import ConfigError

log = logging.getLogger("dqo")
MOST = 50_000  # subsets of one group


@dataclass(frozen=True, kw_only=True)
class Subsets:
    """The keys of an advantage that looks at subsets of the group. Raises ConfigError for a size above k, and for more
    than 50,000 subsets."""

    n: Annotated[int, Field(ge=2, examples=[4])]
    k: Annotated[int, Field(ge=1)]

    def __post_init__(self):
        if self.n > self.k:
            raise ConfigError(f"advantage.n={self.n}: a group has k={self.k} completions; type {self._smaller()}")
        count = math.comb(self.k, self.n)
        if count > MOST:
            raise ConfigError(
                f"advantage.n={self.n}: a group of k={self.k} has {count:,} subsets of this size; at most {MOST:,} are "
                f"allowed; type advantage.n={self._largest()}"
            )

    def _smaller(self) -> str:
        return f"advantage.n={max(2, self.k // 2)}, or k={2 * self.n}" if self.k > 2 else f"k={2 * self.n}"

    def _largest(self) -> int:
        return max(n for n in range(1, self.n) if math.comb(self.k, n) <= MOST)


@lru_cache(maxsize=32)
def members(count: int, n: int) -> Int[Tensor, "subsets n"]:
    """The positions in each subset of n out of ``count``."""
    return torch.tensor(list(itertools.combinations(range(count), n)))  # torch.combinations needs count^n bytes


@lru_cache(maxsize=32)
def membership(count: int, n: int) -> Float[Tensor, "subsets items"]:
    """1.0 where an item is in a subset, float64."""
    chosen = members(count, n)
    return torch.zeros(len(chosen), count, dtype=torch.float64).scatter_(1, chosen, 1.0)


def means_with_each(values_S: Float[Tensor, " subsets"], count: int, n: int) -> Float[Tensor, " items"]:
    """For each item the mean of the values of the subsets that contain it."""
    return membership(count, n).T @ values_S / math.comb(count - 1, n - 1)


Marginal = Callable[[int, Int[Tensor, " valid"]], Float[Tensor, " valid"]]


def by_group(valid_PK: Bool[Tensor, "prompts k"], least: int, marginal: Marginal) -> Float[Tensor, "prompts k"]:
    """``marginal(p, valid completions of group p)`` at their places, float64; 0.0 elsewhere, and in groups with fewer
    than ``least`` valid completions."""
    result_PK = torch.zeros(valid_PK.shape, dtype=torch.float64)
    for p in range(len(valid_PK)):
        valid_N = valid_PK[p].nonzero()[:, 0]
        if len(valid_N) >= least:
            result_PK[p, valid_N] = marginal(p, valid_N)
    return result_PK


class TooFewWarning:
    """Warns once per run that a group has too few valid completions for its rewards to teach anything."""

    def __init__(self):
        self.warned = False

    def check(self, valid_PK: Bool[Tensor, "prompts k"], least: int) -> None:
        """``least``: valid completions that a group needs."""
        few_P = valid_PK.sum(1) < least
        if self.warned or not few_P.any():
            return
        self.warned = True
        log.warning(
            "%d of %d groups have fewer than %d valid completions: their rewards teach nothing, their credits do; a "
            "smaller advantage.n, or reward.mask_truncated_completions=false, uses more groups (logged once)",
            int(few_P.sum()), len(few_P), least,
        )  # fmt: skip
