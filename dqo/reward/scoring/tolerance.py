"""The policy ``on_error`` for completions that a reward fails on, and the counters of such failures."""

import logging
import math
import threading
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field

from dqo.errors import StageError

logger = logging.getLogger(__name__)

OnError = Annotated[Literal["raise", "mask"] | float, Field(examples=["mask"])]


class Tolerance:
    """The policy: ``raise`` stops the run, ``mask`` makes the completions invalid, a number becomes their reward.
    Thread-safe."""

    def __init__(self, on_error: OnError):
        self.raises, self.masks = on_error == "raise", on_error == "mask"
        self.fill = on_error if isinstance(on_error, float) else math.nan
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def raise_or_count(self, error: StageError, *, counts: dict[str, int]) -> None:
        """Raise ``error`` under ``on_error=raise``; otherwise add ``counts`` to the counters, and log the error if it
        is the first one of a counter."""
        if self.raises:
            raise error
        if first := self.count(counts):
            names = ", ".join(first)
            logger.warning("%s (tolerated by reward.on_error; later ones are only counted: %s)", error, names)

    def count(self, counts: dict[str, int]) -> list[str]:
        """Add ``counts``; returns the names of the counters that were 0 before."""
        with self._lock:
            first = [name for name, count in counts.items() if count and not self._counts[name]]
            self._counts.update(counts)
        return first

    def counters(self) -> dict[str, int]:
        """Totals since the start, by name."""
        with self._lock:
            return dict(self._counts)
