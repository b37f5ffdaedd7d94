"""``reward=overlong``: a punishment for completions near the length limit, to be summed with other rewards."""

from typing import Annotated

from pydantic import Field

from dqo.errors import ConfigError
from dqo.ranges import CompletionLength
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.of_text import one_part


class Overlong:
    """DAPO's soft overlong punishment (2503.14476): 0.0 up to ``max_completion_length - cache`` sampled tokens, then
    falling linearly to -1.0 at ``max_completion_length``."""

    def __init__(
        self,
        *,
        max_completion_length: CompletionLength,
        cache: Annotated[int | None, Field(ge=1, examples=["null"])],
        mask_truncated_completions: bool,
    ):
        """``cache``: None is a fifth of ``max_completion_length``, as in the paper. Raises ConfigError if it is larger
        than ``max_completion_length``."""
        if cache is not None and cache > max_completion_length:
            raise ConfigError(
                f"reward.cache={cache}: is above max_completion_length={max_completion_length}; type reward.cache=null"
            )
        self._cache = cache or max(1, max_completion_length // 5)
        self._free, self._mask_truncated = max_completion_length - self._cache, mask_truncated_completions

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part, ``overlong``: (P, k) from -1 to 0. Pure: judge threads may call this. Not a
        collective."""
        lengths_B = rollouts.sampled_BT.sum(1).tolist()
        return one_part(
            rollouts, "overlong", lambda row: min(0.0, (self._free - lengths_B[row]) / self._cache),
            correct_above=None, mask_truncated_completions=self._mask_truncated,
        )  # fmt: skip
