"""How long the stages of a step take."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Clock:
    """Wall time of a step's stages. Time during which two threads are in the same stage counts once. Thread-safe."""

    def __init__(self):
        self._spans: dict[str, list[tuple[float, float]]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        with self._lock:
            self._spans.setdefault(stage, []).append((start, time.perf_counter()))

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        return {stage: _covered(spans) for stage, spans in self._spans.items()}

    @property
    def elapsed(self) -> float:
        """Seconds during which any stage was at work."""
        return _covered([span for spans in self._spans.values() for span in spans])


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of the spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
