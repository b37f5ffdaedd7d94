"""A reward that is the weighted sum of other rewards."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from dqo.capabilities import Closing, Counting, Pausing
from dqo.errors import ConfigError, StageError
from dqo.records import Prompt, Rewards, Rollouts
from dqo.reward.scoring.totals import judged_mask, total
from dqo.row_checks import Explaining
from dqo.stages import Reward


class WeightedSum:
    """Weighted sum of the totals of other rewards. A completion that is invalid in one of them is invalid.

    The parts are other options of the group ``reward``; conf/reward/check_and_python.yaml shows how Hydra's defaults
    list names them.
    """

    def __init__(
        self,
        *,
        parts: dict[str, Any],  # stages.Reward, built by the program
        reward_weights: dict[str, float],
        correct_from: str | None,
        mask_truncated_completions: bool,
    ):
        """Raises ConfigError if there are no parts, a part has no weight, or ``correct_from`` is not a part."""
        names = ", ".join(parts)
        if not parts:
            raise ConfigError(
                "reward=weighted has no parts; name some in a file of yours, as reward/check_and_python.yaml does"
            )
        for name, part in parts.items():
            if not isinstance(part, Reward):
                raise ConfigError(f"reward.parts.{name}={part}: an option of the group reward is needed")
        if set(reward_weights) != set(parts):
            raise ConfigError(f"reward.reward_weights={reward_weights}: one number each for {names} is needed")
        if correct_from is not None and correct_from not in parts:
            raise ConfigError(f"reward.correct_from={correct_from}: one of {names} is needed, or null")
        self._parts, self.part_weights, self._correct_from = parts, reward_weights, correct_from
        self._mask_truncated = mask_truncated_completions

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with a part for each reward, (P, k), NaN where invalid; a reward with several parts of its own adds
        them as ``name/part``.

        Raises StageError if a part raises it, or if ``correct_from`` names a part that does not say what is correct.
        Judge threads call this concurrently; thread-safe if the parts are. Not a collective.
        """
        scored: dict[str, Rewards] = {name: part.score(rollouts) for name, part in self._parts.items()}
        valid_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        for rewards in scored.values():
            valid_PK = valid_PK & rewards.valid_PK
        totals = {name: torch.where(r.valid_PK, r.total_PK, math.nan) for name, r in scored.items()}
        total_PK, valid_PK = total(rollouts, totals, self.part_weights, valid_PK)
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
        """The counters of all parts, as ``part/counter``. Thread-safe; not a collective."""
        counts = {name: part.counters() for name, part in self._parts.items() if isinstance(part, Counting)}
        return {f"{name}/{key}": count for name, inner in counts.items() for key, count in inner.items()}

    def explained(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        """The lines of all parts that explain how they read the data (``row_checks.Explaining``)."""
        return [
            line for part in self._parts.values() if isinstance(part, Explaining) for line in part.explained(prompts)
        ]

    def pause(self) -> None:
        """Pause the parts that have a ``pause``."""
        for part in self._parts.values():
            if isinstance(part, Pausing):
                part.pause()

    def close(self) -> None:
        """Close the parts that have a ``close``."""
        for part in self._parts.values():
            if isinstance(part, Closing):
                part.close()
