"""Rewards in standard deviations from the mean of the run's rewards, so that alpha means the same for every reward."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dqo import distributed
from dqo.advantage.groups.credit_part import NormalizeCredit, ScaledCredit
from dqo.metrics.ties import TIE_TOLERANCE
from dqo.records import Experience


class NormalizeReward(StrEnum):
    """In what rewards are measured."""

    none = "none"
    running = "running"  # standard deviations from the mean, both of the run's valid rewards so far


class ScaledScores(ScaledCredit):
    """Base class of advantages with the keys ``normalize_reward`` and ``normalize_credit``. It has a state only with
    one of the two."""

    def __init__(self, normalize_reward: NormalizeReward, normalize_credit: NormalizeCredit):
        super().__init__(normalize_credit)
        self.normalize_reward = normalize_reward
        self._count, self._mean, self._squares = 0, 0.0, 0.0  # of the rewards so far; squared deviations from the mean

    def state_dict(self) -> dict[str, Any]:
        """Statistics of rewards and of credits so far, JSON-serializable; empty if neither is asked for."""
        is_kept = self.normalize_reward == NormalizeReward.running
        mine = {"reward_count": self._count, "reward_mean": self._mean, "reward_squares": self._squares}
        return {**super().state_dict(), **(mine if is_kept else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        super().load_state_dict(state)
        self._count, self._mean = state.get("reward_count", 0), state.get("reward_mean", 0.0)
        self._squares = state.get("reward_squares", 0.0)

    def scaled_rewards(self, experience: Experience) -> Float[Tensor, "prompts k"]:
        """Total rewards, float64; with ``running`` less the mean and over the standard deviation (n - 1) of the rewards
        of earlier steps; then counts this step's. The first step takes its own, and so does one before which no two
        rewards differed. Baselines of a group remove the mean anyway; a critic would first have to learn it, and where
        a reward model has its zero says nothing. A collective for ``running``."""
        total_PK = experience.rewards.total_PK.double()
        if self.normalize_reward == NormalizeReward.none:
            return total_PK
        mean, std = self._mean, self._std()
        values = total_PK[experience.rewards.valid_PK]
        total, count = distributed.all_reduce_sum([float(values.sum()), len(values)])
        if count:
            centre = total / count
            (squares,) = distributed.all_reduce_sum([float((values - centre).square().sum())])
            self._add(int(count), centre, squares)
        if not std:
            mean, std = self._mean, self._std()
        return (total_PK - mean) / (std or 1.0)

    def _add(self, count: int, mean: float, squares: float) -> None:
        """Joins the statistics of two samples (Chan et al.)."""
        together, difference = self._count + count, mean - self._mean
        self._squares += squares + difference**2 * self._count * count / together
        self._mean += difference * count / together
        self._count = together

    def _std(self) -> float:
        """0.0 for fewer than two rewards, and where they differ by rounding alone."""
        std = (self._squares / max(self._count - 1, 1)) ** 0.5
        return std if std > TIE_TOLERANCE * abs(self._mean) else 0.0
