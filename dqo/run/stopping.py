"""SIGTERM, SIGHUP and Ctrl-C: a run ends after its current step, with a checkpoint; a second signal ends it at once.

``timeout``, systemd and SLURM signal launcher and worker, and the launcher hands its signal on: the same signal within
``SAME_REQUEST`` is no second one.
"""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SWEEP_JOBS = "DQO_SWEEP_JOBS"  # environment variable of a sweep's jobs: the folder in which they are told to stop
STDOUT, STDERR = 1, 2
SAME_REQUEST = 1.0  # seconds
SIGNAL = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(("signal", ctypes.CDLL(None)))


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
        _ignore_for_a_moment(number)
        self.asked = True
        self.on_signal()
        if number == signal.SIGHUP:
            silence()
        if self._say is None:
            raise Stopped("stopped")
        self._say("stopping after this step; once more to stop at once")


def _ignore_for_a_moment(number: int) -> None:
    """Ignore the signal, then let it end the process. By libc, since only the main thread may set Python's handlers,
    and it may be in a collective that never returns."""
    SIGNAL(number, signal.SIG_IGN)
    timer = threading.Timer(SAME_REQUEST, SIGNAL, (number, signal.SIG_DFL))
    timer.daemon = True
    timer.start()


def silence() -> None:
    """Print to nowhere: the terminal is gone, and what is printed must not end the run."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.dup2(nowhere, STDERR)
