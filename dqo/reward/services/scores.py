"""The score in a judge's answer."""

import re

from dqo.chat import value_in_a_line
from dqo.errors import ConfigError

_AROUND, _AFTER = r"[\s*_`#>\"'(){}\[\]:.=-]*", r"[\s*_`\"'(){}\[\].]*"


class Scale:
    """The scores from ``lowest`` to ``highest``, and how they are read. A reward is 0 at the lowest, 1 at the
    highest."""

    def __init__(self, lowest: float, highest: float):
        """Raises ConfigError unless ``lowest`` is below ``highest``."""
        if not lowest < highest:
            raise ConfigError(
                f"reward.scale=[{lowest:g},{highest:g}]: the lowest score, then the highest; type reward.scale=[1,10]"
            )
        self.lowest, self.highest = lowest, highest
        number = rf"(-?\d+(?:\.\d+)?)(?:\s*(?:/|out\s+of)\s*{re.escape(f'{highest:g}')})?{_AFTER}"
        before = r"(?:final\s+)?score(?:\s+is)?[\s*_`\"':=]*"
        self._labelled = re.compile(rf"{_AROUND}{before}{number}", re.IGNORECASE)
        self._bare = re.compile(rf"[\s*_`]*{number}")

    def read(self, answer: str) -> float | None:
        """The score that an answer gives in a line of its own, ``Score: N``; None: without one, with several, or with
        one that is not on the scale."""
        said = value_in_a_line(answer, labelled=self._labelled, bare=self._bare)
        score = None if said is None else float(said)
        return score if score is not None and self.lowest <= score <= self.highest else None

    def reward(self, score: float) -> float:
        """0 to 1."""
        return (score - self.lowest) / (self.highest - self.lowest)

    @property
    def again(self) -> str:
        """What a judge without a readable answer is told."""
        return (
            f"Reply with one line and nothing else, N being a number from {self.lowest:g} to {self.highest:g}:\n"
            "Score: N"
        )
