"""A reward that is the weighted sum of other rewards."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from dqo.capabilities import Closing, Concurrent, Counting, HasMemory, Pausing, Reporting, Stateful
from dqo.errors import ConfigError, StageError
from dqo.records import Prompt, Rewards, Rollouts
from dqo.reward.scoring.totals import judged_mask, total
from dqo.row_checks import Explaining
from dqo.stages import Reward

Offer = TypeVar("Offer")  # one of ``dqo.capabilities``


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
                "reward=weighted has no parts; type +reward@reward.parts.short=length reward.parts.short.max=100 "
                "reward.reward_weights.short=1, or name some in a file of yours, as reward/check_and_python.yaml does"
            )
        for name, part in parts.items():
            if not isinstance(part, Reward):
                raise ConfigError(
                    f"reward.parts.{name}={part}: an option of the group reward is needed; type "
                    f"+reward@reward.parts.{name}={part if isinstance(part, str) else 'OPTION'}"
                )
            if getattr(part, "judges_nothing", False):
                raise ConfigError(f"reward.parts.{name}: reward=none judges nothing; leave the part {name} out")
        if set(reward_weights) != set(parts):
            typed = " ".join(f"reward.reward_weights.{name}={reward_weights.get(name, 1)}" for name in parts)
            more = [name for name in reward_weights if name not in parts]
            raise ConfigError(
                f"reward.reward_weights={reward_weights}: one number each for {names} is needed; type {typed}"
                + (f" and leave out {', '.join(more)}" if more else "")
            )
        if correct_from is not None and correct_from not in parts:
            raise ConfigError(
                f"reward.correct_from={correct_from}: one of {names} is needed, or null; type "
                f"reward.correct_from={next(iter(parts))}"
            )
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

    @property
    def calls_at_a_time(self) -> int:
        """As many as the part that allows most; parts that are not ``Concurrent`` take one at a time by a lock."""
        return max(part.calls_at_a_time if isinstance(part, Concurrent) else 1 for part in self._parts.values())

    def counters(self) -> dict[str, int | float]:
        """The counters of all parts, as ``part/counter``. Thread-safe; not a collective."""
        counts = {name: part.counters() for name, part in self._of(Counting)}
        return {f"{name}/{key}": count for name, inner in counts.items() for key, count in inner.items()}

    def metrics(self) -> dict[str, float]:
        """The numbers that parts report of themselves, as ``part/number``."""
        numbers = {name: part.metrics() for name, part in self._of(Reporting)}
        return {f"{name}/{key}": number for name, inner in numbers.items() for key, number in inner.items()}

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts that have one."""
        states = {name: part.state_dict() for name, part in self._of(Stateful)}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ConfigError if parts of the checkpoint have a state and those of this run have none, or the other way
        round."""
        own = dict(self._of(Stateful))
        if state.keys() != self.state_dict().keys():
            then, now = (", ".join(states) or "none" for states in (state, self.state_dict()))
            raise ConfigError(
                f"resume: parts with a state are {now}, in the checkpoint {then}; resume with the same reward.parts"
            )
        for name, inner in state.items():
            own[name].load_state_dict(inner)

    def explained(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        """The lines of all parts that explain how they read the data (``row_checks.Explaining``)."""
        return [line for _, part in self._of(Explaining) for line in part.explained(prompts)]

    def memory(self) -> dict[str, int]:
        """The memory of all parts, as ``part purpose``."""
        return {f"{name} {what}": size for name, part in self._of(HasMemory) for what, size in part.memory().items()}

    def pause(self) -> None:
        """Pause the parts that have a ``pause``."""
        for _, part in self._of(Pausing):
            part.pause()

    def close(self) -> None:
        """Close the parts that have a ``close``."""
        for _, part in self._of(Closing):
            part.close()

    def _of(self, capability: type[Offer]) -> list[tuple[str, Offer]]:
        return [(name, part) for name, part in self._parts.items() if isinstance(part, capability)]
