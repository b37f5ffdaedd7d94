"""A weighted sum of rewards."""

import math
from typing import Any

import torch

from dqo.errors import ConfigError, StageError
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.totals import counted, total
from dqo.stages import Reward


class WeightedSum:
    """Sums the totals of other rewards. A completion that one of them calls invalid is invalid.

    The parts are other options of the group, by packages of Hydra's defaults list: conf/reward/check_and_python.yaml.
    """

    def __init__(
        self,
        *,
        parts: dict[str, Any],  # stages.Reward, built by the program
        reward_weights: dict[str, float],
        correct_from: str | None,
        mask_truncated_completions: bool,
    ):
        """Raises ConfigError unless there are parts, each with a finite weight, and ``correct_from`` is one of them."""
        names = ", ".join(parts)
        if not parts:
            raise ConfigError(
                "reward=weighted has no parts; name some in a file of yours, as reward/check_and_python.yaml does"
            )
        for name, part in parts.items():
            if not isinstance(part, Reward):
                raise ConfigError(f"reward.parts.{name}={part}: an option of the group reward is needed")
        if set(reward_weights) != set(parts) or not all(map(math.isfinite, reward_weights.values())):
            raise ConfigError(f"reward.reward_weights={reward_weights}: one finite number each for {names} is needed")
        if correct_from is not None and correct_from not in parts:
            raise ConfigError(f"reward.correct_from={correct_from}: one of {names} is needed, or null")
        self._parts, self._weights, self._correct_from = parts, reward_weights, correct_from
        self._mask_truncated = mask_truncated_completions

    def score(self, rollouts: Rollouts) -> Rewards:
        """Parts by name, NaN where they are invalid; their own parts as ``name/part`` where they have several."""
        scored: dict[str, Rewards] = {name: part.score(rollouts) for name, part in self._parts.items()}
        valid_PK = counted(rollouts, mask_truncated_completions=self._mask_truncated)
        for rewards in scored.values():
            valid_PK = valid_PK & rewards.valid_PK
        totals = {name: torch.where(r.valid_PK, r.total_PK, math.nan) for name, r in scored.items()}
        total_PK, valid_PK = total(rollouts, totals, self._weights, valid_PK)
        inner = {f"{name}/{part}": x for name, r in scored.items() if len(r.parts) > 1 for part, x in r.parts.items()}
        correct_PK = None if self._correct_from is None else scored[self._correct_from].correct_PK
        if self._correct_from is not None and correct_PK is None:
            key = f"reward.parts.{self._correct_from}.correct_above"
            problem = f"the part {self._correct_from} does not say what is correct"
            raise StageError("reward", f"{problem}; type {key}=0.5 or reward.correct_from=null")
        return Rewards(
            total_PK=total_PK,
            parts=totals | inner,
            correct_PK=None if correct_PK is None else correct_PK & valid_PK,
            valid_PK=valid_PK,
        )

    def counters(self) -> dict[str, int]:
        """The parts' counters as ``part/counter``."""
        counts = {name: part.counters() for name, part in self._parts.items() if hasattr(part, "counters")}
        return {f"{name}/{key}": count for name, inner in counts.items() for key, count in inner.items()}

    def close(self) -> None:
        """Close the parts that have something to close."""
        for part in self._parts.values():
            if hasattr(part, "close"):
                part.close()
