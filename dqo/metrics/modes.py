"""Diversity and reliability of correct answers, where the task says which answers are the same: no encoder needed.

``keys`` are the answer keys of a prompt's correct completions; equal keys are the same answer (one mode).
"""

import math
from collections import Counter
from collections.abc import Sequence

from dqo.metrics.quality import distinct_correct_of


def pcmd(keys: Sequence[str]) -> float:
    """Pairwise correct-mode diversity, 1 - Σ n(n-1) / (K(K-1)): the share of pairs of correct answers that differ.

    0 to 1, higher is more diverse. K is the number of correct answers, n of those with one key. NaN for K < 2. Unbiased
    for the Gini-Simpson index of the correct answers' distribution, hence independent of how many are correct.
    Source: ModeBench (the package ``modebench``).
    """
    total = len(keys)
    if total < 2:
        return math.nan
    return 1 - sum(count * (count - 1) for count in Counter(keys).values()) / (total * (total - 1))


def effective_modes(mean_pcmd: float) -> float:
    """Effective number of modes 1 / (1 - PCMD): at least 1, higher is more diverse. NaN for NaN, and for 1.

    Takes the mean of PCMD over prompts: prompts whose few correct answers all differ would make the mean of this number
    infinite. Source: ModeBench.
    """
    return 1 / (1 - mean_pcmd) if mean_pcmd < 1 else math.nan


def rarefaction(keys: Sequence[str], r: int) -> float:
    """Expected number of distinct answers among r of the K correct ones, Σ [1 - C(K-n, r) / C(K, r)]: 1 to r, higher
    is more diverse. NaN for K < r. At r = 2 it is 1 + PCMD.

    ``distinct_correct_of`` draws from all samples instead, so it grows with the number of correct ones, too. Source:
    Hurlbert 1971; ModeBench.
    """
    return distinct_correct_of(r, samples=len(keys), keys=keys) if len(keys) >= r else math.nan


def cover_at(tau: float, *, samples: int, correct: int) -> float:
    """1.0 if at least the share ``tau`` of a prompt's samples is correct, else 0.0. NaN for no samples.

    Its mean over prompts is Cover@tau, the share of the prompts that the policy solves with this reliability, higher
    is better (Dragoi et al. 2025, 2510.08325). The share of correct samples stands for the unknown probability: near
    ``tau`` with few samples the estimate is biased.
    """
    return float(correct / samples >= tau) if samples else math.nan
