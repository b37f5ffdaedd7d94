"""advantage=pkpo: rewards transformed so that the policy gradient is that of the best of n (PKPO, arXiv 2505.15201)."""

from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.groups.reshaping import Reshaping
from dqo.advantage.groups.subsets import Subsets, TooFewWarning, by_group, members
from dqo.metrics.ties import TIE_TOLERANCE, group_deviations
from dqo.records import Experience


class Baseline(StrEnum):
    """What is subtracted from a transformed reward."""

    none = "none"  # nothing: PKPO's own baseline is inside
    leave_one_out = "leave_one_out"  # the mean of the group's other transformed rewards


class Pkpo(Reshaping):
    """A_i = mean, over the subsets S of n completions that contain i, of max r(S) - max r(S without i); + alpha * (c_i
    - the mean of the group's credits).

    The paper's s^(loo-1), its form of least variance, times N / n. The part subtracted does not depend on i, so with
    ``loss=dr_grpo`` the expected gradient of the reward's part, summed over the group, is exactly that of E[max of n
    rewards], times k / n. With 0/1 rewards and c correct of N it is C(N - c, n - 1) / C(N - 1, n - 1) for a correct
    completion, 0 for a wrong one and for a correct one that no subset needs. It is never negative;
    ``baseline=leave_one_out`` centres it, with a bias, since the others' parts depend on i.

    Groups with fewer than n valid completions get 0.0 for the reward's part.
    """

    def __init__(self, *, subsets: Subsets, baseline: Baseline, credit: CreditKeys):
        super().__init__(credit)
        self.n, self.baseline, self._warning = subsets.n, baseline, TooFewWarning()

    def _warn(self, experience: Experience) -> None:
        self._warning.check(experience.rewards.valid_PK, self.n)

    def quality(self, experience: Experience) -> Float[Tensor, "prompts k"]:
        """As in ``Reshaping``."""
        rewards, valid_PK = experience.rewards, experience.rewards.valid_PK

        def gains(p: int, valid_N: Int[Tensor, " valid"]) -> Float[Tensor, " valid"]:
            return _gains(rewards.total_PK[p, valid_N].double(), self.n)

        gains_PK = by_group(valid_PK, self.n, gains)
        if self.baseline == Baseline.none:
            return gains_PK
        counts_P1 = valid_PK.sum(1, keepdim=True)
        return group_deviations(gains_PK, valid_PK) * counts_P1 / (counts_P1 - 1).clamp(min=1)


def _gains(rewards_N: Float[Tensor, " valid"], n: int) -> Float[Tensor, " valid"]:
    """The mean of max r(S) - max r(S without i) over the subsets S that contain i. Rounding counts as 0."""
    chosen_Sn = members(len(rewards_N), n)
    highest_Sn, places_Sn = rewards_N[chosen_Sn].sort(dim=1, descending=True)
    gaps_S = highest_Sn[:, 0] - highest_Sn[:, 1]  # only the best one of a subset is missed, by the next one
    gaps_S = gaps_S.masked_fill(gaps_S <= TIE_TOLERANCE * highest_Sn.abs().amax(1), 0.0)
    best_S = chosen_Sn.gather(1, places_Sn[:, :1])[:, 0]
    sums_N = torch.zeros_like(rewards_N).index_add_(0, best_S, gaps_S)
    return sums_N / (len(chosen_Sn) * n / len(rewards_N))  # C(N, n) * n / N subsets contain i
