"""``reward=length``: whether a completion is as long as is wanted."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from dqo.errors import ConfigError
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.of_text import one_part

Bound = Annotated[int | None, Field(ge=1, examples=[50])]


class Unit(StrEnum):
    """What is counted."""

    TOKENS = "tokens"  # sampled ones, the end token included
    WORDS = "words"  # runs of characters without white space
    CHARACTERS = "characters"


class Length:
    """1.0 for a completion of ``min`` to ``max`` units; n / ``min`` for a shorter one and ``max`` / n for a longer
    one."""

    def __init__(
        self,
        *,
        unit: Unit,
        min: Bound,
        max: Bound,
        correct_above: Annotated[float | None, Field(examples=["0.99"])],
        mask_truncated_completions: bool,
    ):
        """Raises ConfigError without a bound, or if ``min`` is above ``max``."""
        if min is None and max is None:
            raise ConfigError("reward.min=null and reward.max=null: any length is right; type reward.max=100")
        if min is not None and max is not None and min > max:
            raise ConfigError(f"reward.min={min}: is above reward.max={max}; type reward.min={max}")
        self._unit, self._min, self._max = unit, min, max
        self._settings: dict[str, Any] = {
            "correct_above": correct_above, "mask_truncated_completions": mask_truncated_completions
        }  # fmt: skip

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part, ``length``. Pure: judge threads may call this. Not a collective."""
        return one_part(rollouts, "length", lambda row: self._score(self._length(rollouts, row)), **self._settings)

    def _length(self, rollouts: Rollouts, row: int) -> int:
        if self._unit is Unit.TOKENS:
            return int(rollouts.sampled_BT[row].sum())
        text = rollouts.texts[row]
        return len(text.split()) if self._unit is Unit.WORDS else len(text)

    def _score(self, length: int) -> float:
        if self._min is not None and length < self._min:
            return length / self._min
        return self._max / length if self._max is not None and length > self._max else 1.0
