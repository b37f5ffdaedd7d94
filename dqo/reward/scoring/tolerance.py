"""What happens when a reward fails on some completions (``on_error``), and how often it did."""

import logging
import math
import threading
from collections import Counter

from dqo.errors import ConfigError, StageError

logger = logging.getLogger(__name__)


class Tolerance:
    """``raise`` stops the run, ``mask`` makes the completions invalid, a number is their reward. Thread-safe."""

    def __init__(self, on_error: str):
        """Raises ConfigError for anything else."""
        self.raises, self.masks = on_error == "raise", on_error == "mask"
        self.fill = math.nan if self.raises or self.masks else _number(on_error)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def meet(self, error: StageError, *, counts: dict[str, int]) -> None:
        """Raise the error, or count it; the first of a kind is logged as well, so that the count can be understood."""
        if self.raises:
            raise error
        if first := self.count(counts):
            logger.warning("%s (tolerated by reward.on_error; from now on only counted: %s)", error, ", ".join(first))

    def count(self, counts: dict[str, int]) -> list[str]:
        """Add to the counters; returns those that were 0."""
        with self._lock:
            first = [name for name, count in counts.items() if count and not self._counts[name]]
            self._counts.update(counts)
        return first

    def counters(self) -> dict[str, int]:
        """Totals since the start."""
        with self._lock:
            return dict(self._counts)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"reward.on_error={text}: allowed are raise, mask and numbers; type reward.on_error=mask")
    return value


def check_seconds(key: str, seconds: float) -> None:
    """Raises ConfigError unless it is a time limit."""
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{key}={seconds}: seconds above 0 are needed; type {key}=30")
