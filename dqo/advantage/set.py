"""advantage=set: a completion is worth what it adds to subsets of its group."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.groups.reshaping import Reshaping
from dqo.advantage.groups.subsets import Subsets, TooFewWarning, by_group, means_with_each, members, membership
from dqo.contracts import refuse_negative
from dqo.errors import ConfigError
from dqo.metrics.ties import group_deviations
from dqo.records import Experience
from dqo.stages import Task


class SetValue(StrEnum):
    """f(S), what a subset of n completions is worth."""

    max = "max"  # the largest reward: pass@n training
    mean_distinct = "mean_distinct"  # mean reward * number of modes / n (Poly-EPO, arXiv 2604.17654)
    minority = "minority"  # share of S that is correct and not of the most common correct mode of S


class Modes(StrEnum):
    """Of which completions ``mean_distinct`` counts the modes: the different ``Task.key``."""

    correct = "correct"
    all = "all"  # Poly-EPO


@dataclass(frozen=True, kw_only=True)
class ProperSubsets(Subsets):
    """Raises ConfigError for n = k, too: the only subset contains every completion."""

    def __post_init__(self):
        super().__post_init__()
        if self.n == self.k:
            raise ConfigError(
                f"advantage.n={self.n}: the only subset of k={self.k} completions contains all of them, so every "
                f"advantage is 0; type {self._smaller()}, or advantage=pkpo"
            )


class SetAdvantage(Reshaping):
    """A_i = mean of f(S) over the subsets S of n completions that contain i - mean of f(S) over all; + alpha * (c_i -
    the mean of the group's credits).

    All C(N, n) subsets of the N valid completions are tried. A_i is (1 - n / N) times the mean over the subsets with i
    minus the mean over those without i, which does not depend on i. So with ``loss=dr_grpo`` and without a division the
    expected gradient of the reward's part, summed over the group, is exactly that of E[f(S)] for n independent
    completions, times (k - n) / n (ours). ``divide_by_std`` divides by the standard deviation of f(S) over the subsets:
    with f = max and 0/1 rewards this is pass@k training (arXiv 2508.10751).

    Groups with n valid completions or fewer get 0.0 for the reward's part.
    """

    def __init__(
        self, task: Task, *, f: SetValue, modes: Modes, subsets: ProperSubsets, divide_by_std: bool, credit: CreditKeys
    ):
        super().__init__(credit)
        self.task, self.f, self.modes, self.n, self.divide_by_std = task, f, modes, subsets.n, divide_by_std
        self._warning = TooFewWarning()

    def _warn(self, experience: Experience) -> None:
        self._warning.check(experience.rewards.valid_PK, self.n + 1)

    def quality(self, experience: Experience) -> Float[Tensor, "prompts k"]:
        """As in ``Reshaping``. Raises StageError for ``mean_distinct`` and a negative reward, ConfigError for a reward
        that does not say what is correct if ``f`` counts correct modes."""
        valid_PK = experience.rewards.valid_PK
        if self.f == SetValue.mean_distinct:
            refuse_negative(
                "advantage", experience.rollouts, experience.rewards, valid_PK,
                option="advantage.f=mean_distinct", remedy="advantage.f=max",
            )  # fmt: skip
        counted_PK = self._counted(experience)

        def marginal(p: int, valid_N: Int[Tensor, " valid"]) -> Float[Tensor, " valid"]:
            values_S = self._values(experience, p, valid_N, counted_PK)
            means_N, std = means_with_each(values_S, len(valid_N), self.n), values_S.std(unbiased=False)
            return means_N / std if self.divide_by_std and std > 0 else means_N

        return group_deviations(by_group(valid_PK, self.n + 1, marginal), valid_PK)

    def _values(
        self, experience: Experience, p: int, valid_N: Int[Tensor, " valid"], counted_PK: Bool[Tensor, "prompts k"]
    ) -> Float[Tensor, " subsets"]:
        """f of every subset of n of a group's valid completions."""
        rewards_N, count, n = experience.rewards.total_PK[p, valid_N].double(), len(valid_N), self.n
        if self.f == SetValue.max:
            return rewards_N[members(count, n)].amax(1)
        modes_NM = self._modes(experience, p, valid_N, counted_PK[p])
        counts_SM = membership(count, n) @ modes_NM
        if self.f == SetValue.minority:
            return (counts_SM.sum(1) - counts_SM.amax(1)) / n
        return membership(count, n) @ rewards_N / n * (counts_SM > 0).sum(1) / n

    def _counted(self, experience: Experience) -> Bool[Tensor, "prompts k"]:
        """The completions whose modes are counted."""
        rewards = experience.rewards
        if self.f == SetValue.max:
            return torch.zeros_like(rewards.valid_PK)
        if self.f == SetValue.mean_distinct and self.modes == Modes.all:
            return rewards.valid_PK
        if rewards.correct_PK is None:
            raise ConfigError(
                f"advantage.f={self.f}: this reward does not say which completions are correct; type advantage.f=max, "
                "or make the reward say it (reward.correct_above=0.5 for reward=python)"
            )
        return rewards.correct_PK & rewards.valid_PK

    def _modes(
        self, experience: Experience, p: int, valid_N: Int[Tensor, " valid"], counted_K: Bool[Tensor, " k"]
    ) -> Float[Tensor, "valid modes"]:
        """1.0 where a completion counts and has a mode, float64; at least one column."""
        rollouts, found = experience.rollouts, dict[str, int]()
        modes_NM = torch.zeros(len(valid_N), max(1, len(valid_N)), dtype=torch.float64)
        for row, i in enumerate(valid_N.tolist()):
            if counted_K[i]:
                key = self.task.key(rollouts.prompts[p], rollouts.texts[p * rollouts.k + i])
                modes_NM[row, found.setdefault(key, len(found))] = 1.0
        return modes_NM
