"""SIGTERM, SIGHUP and Ctrl-C: a run ends after its current step, with a checkpoint; a second signal ends it at once."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STDOUT, STDERR = 1, 2


class Stopped(BaseException):
    """The run was asked to stop, and did. Not an Exception: nothing between the signal and the worker's end may catch
    it."""


class Stopping:
    """During a step (``after_the_step``) a signal only sets ``asked``; outside one it raises Stopped at once."""

    def __init__(self):
        self.asked = False
        self.on_signal: Callable[[], object] = lambda: None  # called at the first signal
        self._say: Callable[[str], None] | None = None

    def listen(self) -> None:
        """Handle the signals, except those that are ignored already."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a job in the background
                signal.signal(number, self._ask)

    @contextlib.contextmanager
    def after_the_step(self, say: Callable[[str], None]) -> Iterator[None]:
        """Within it a signal sets ``asked``, which the last observer of a step reads. ``say`` is told that the run will
        stop."""
        self._say = say
        try:
            yield
        finally:
            self._say = None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.asked = True
        self.on_signal()
        if number == signal.SIGHUP:  # the terminal is gone: what is printed must not end the run
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, STDOUT)
            os.dup2(nowhere, STDERR)
        if self._say is None:
            raise Stopped("stopped")
        self._say("stopping after this step; once more to stop at once")
