"""Log lines that say how far a long piece of work is: one every few seconds, in a terminal as in a file."""

import io
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.asyncio import tqdm_asyncio as tqdm  # the class that huggingface_hub's signatures name

log = logging.getLogger("dqo")

INTERVAL = 5.0  # seconds between two lines


class LoggedBar(tqdm):
    """tqdm with log lines in place of a bar, for libraries that ask for tqdm's class as well. Work that takes less than
    ``INTERVAL`` logs nothing.

    Example: ``warm start: 120 of 800 steps, loss=1.23, about 40 s left``.
    """

    def __init__(self, *args, **kwargs):
        self._logged = time.monotonic()
        super().__init__(*args, **{**kwargs, "disable": False, "leave": False, "file": io.StringIO()})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm when it would draw the bar."""
        now = time.monotonic()
        if msg is None and self.n and now - self._logged >= INTERVAL:
            self._logged = now
            log.info(self._line())

    def _line(self) -> str:
        numbers = self.format_dict
        is_bytes = numbers["unit"] == "B"
        done, total = (
            tqdm.format_sizeof(number, "B") if is_bytes and number else number for number in (self.n, self.total)
        )
        parts = [f"{done} of {total}{'' if is_bytes else ' ' + self.unit}", *filter(None, [self.postfix])]
        if numbers["elapsed"] and self.n < (self.total or 0):
            parts.append(f"about {duration(numbers['elapsed'] * (self.total - self.n) / self.n)} left")
        return f"{self.desc.removesuffix(': ')}: {', '.join(parts)}"


@contextmanager
def elapsed(what: str) -> Iterator[None]:
    """Within the block a log line every ``INTERVAL`` seconds says how long the work has taken: for a call into a
    library that does not say how far it is. Example: ``reading the weights: 10 s so far``."""
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(INTERVAL):
            log.info("%s: %s so far", what, duration(time.monotonic() - began))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Example: ``duration(95)`` gives "1 min 35 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
