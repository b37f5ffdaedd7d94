"""A process that can be killed: code that may hang, crash, hoard or print runs there and not in the trainer.

This is the trainer's side; ``sandbox_worker`` is the process. When it is killed, what the code started goes too, on
Linux also in sessions of its own.

What it does not do: it is no security boundary (the code runs as the user, with the user's files and network); the
memory limit is of each process, not of their sum; daemons outlive it, and so does, after a SIGKILL of the trainer, what
moved into a session of its own.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

WORKER = Path(__file__).with_name("worker.py")
LINE = 1 << 16  # bytes of a printed line that are passed on at a time: lines may never end
LOOK = 1.0  # seconds between two looks at whether a silent worker is still there
# The parent-death signal follows the thread that forks, not the process: so one thread, which lives as long as the
# process, starts every worker.
SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="sandbox-spawner")


class Kind(StrEnum):
    """How a call failed."""

    EXCEPTION = "exception"  # the function raised; the worker lives on
    TIMEOUT = "timeout"  # the worker was killed
    EXIT = "exit"  # the worker ended: sys.exit, a crash, the kernel's out-of-memory killer


class SandboxError(RuntimeError):
    """A call failed. ``raised`` is the exception's type name where one was raised."""

    def __init__(self, kind: Kind, message: str, *, raised: str | None = None):
        self.kind, self.raised = kind, raised
        super().__init__(message)


class Sandbox:
    """One worker process, started when first needed and again after it was lost. Thread-safe: one call at a time.

    Functions are named ``package.module:function`` and take and return JSON values. The worker runs in the folder that
    the trainer was started in, which also stands first on its ``sys.path``; what it prints appears on our stderr.
    """

    def __init__(
        self,
        *,
        timeout: float,
        setup: tuple[str, Mapping[str, Any]] | None = None,
        start_timeout: float = 60.0,
        memory_limit: int | None = None,
    ):
        """``timeout`` bounds a call, ``start_timeout`` start and ``setup`` (a function and its arguments, called in
        every new worker), both in seconds; ``memory_limit`` is in bytes, of each of its processes."""
        self.restarts = 0  # workers lost to a timeout or an exit
        self._timeout, self._start_timeout = timeout, start_timeout
        self._setup, self._memory_limit = setup, memory_limit
        self._folder = Path.cwd()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def start(self) -> Any:
        """Start the worker; returns what ``setup`` returned. Raises SandboxError."""
        with self._lock:
            return self._start()

    def call(self, function: str, **arguments: Any) -> Any:
        """The function's value. Raises SandboxError; a TypeError if an argument is no JSON value."""
        request = _request(function, arguments)
        with self._lock:
            if self._worker is not None and self._worker.process.poll() is not None:  # died between two calls
                self._discard()
            if self._worker is None:
                self._start()
            return self._exchange(request, self._timeout)

    def close(self) -> None:
        """End the worker, also under a running call; a later call starts a new one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def _start(self) -> Any:
        self._worker = SPAWNER.submit(_Worker, self._folder, self._memory_limit).result()
        function, arguments = self._setup or ("builtins:bool", {})  # nothing, but the worker has to be up to do it
        return self._exchange(_request(function, arguments), self._start_timeout)

    def _exchange(self, request: bytes, timeout: float) -> Any:
        worker = self._worker
        if worker is None:  # by another thread, since it was started
            raise SandboxError(Kind.EXIT, "it was closed")
        try:
            reply = json.loads(worker.exchange(request, timeout))
        except BaseException:  # Ctrl-C included: the answer of a call that was given up must not meet the next one
            self._discard()
            raise
        if "raised" in reply:
            raise SandboxError(Kind.EXCEPTION, reply["message"], raised=reply["raised"])
        return reply["value"]

    def _discard(self) -> None:
        self.restarts += 1
        self.close()


class _Worker:
    """A running worker process; killed with all that it started by ``kill``, when forgotten, and at exit."""

    def __init__(self, folder: Path, memory_limit: int | None):
        # by path, so that it is this very file wherever the user stands; -P: its folder holds a math.py
        command = [sys.executable, "-u", "-P", str(WORKER), str(os.getpid()), str(memory_limit or 0)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=folder, start_new_session=True, **pipes)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._requests, self._replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self._printed: deque[str] = deque(maxlen=20)
        self._printer = threading.Thread(target=_forward, args=(self.process.stderr, self._printed), daemon=True)
        self._printer.start()
        self.kill = weakref.finalize(self, _kill, self.process, self._printer)

    def exchange(self, request: bytes, timeout: float) -> bytes:
        """Send a line, return the line that answers it."""
        deadline, unsent, reply = time.monotonic() + timeout, memoryview(request), bytearray()
        with selectors.PollSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            selector.register(self._requests, selectors.EVENT_WRITE)
            while not reply.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SandboxError(Kind.TIMEOUT, f"no answer within {timeout:g} seconds; it was stopped")
                ready = [key.fd for key, _ in selector.select(min(left, LOOK))]
                if not ready and self.process.poll() is not None:  # what it started holds its pipes open
                    raise SandboxError(Kind.EXIT, self._last_words())
                if self._requests in ready:
                    with contextlib.suppress(BrokenPipeError):  # the worker is gone: its closed stdout says so next
                        unsent = unsent[os.write(self._requests, unsent) :]
                    if not unsent or self.process.poll() is not None:
                        selector.unregister(self._requests)
                if self._replies in ready:
                    chunk = os.read(self._replies, 1 << 20)
                    if not chunk:
                        raise SandboxError(Kind.EXIT, self._last_words())
                    reply += chunk
        return bytes(reply)

    def _last_words(self) -> str:
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed its pipes without ending; it was stopped"
        self._printer.join(1.0)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            how += ", perhaps for want of memory"
        line = next((line.strip() for line in reversed(self._printed) if line.strip()), "")
        return f"its process {how}" + (f" (last line printed: {line})" if line else "")


def _kill(process: subprocess.Popen, printer: threading.Thread) -> None:
    process.send_signal(signal.SIGSTOP)  # so that it starts nothing more, if it runs
    for pid in _descendants(process.pid) if process.returncode is None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    printer.join(1.0)  # what it printed last; no longer, for something may still hold the pipe


def _descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that these started; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def _forward(stream: IO[bytes], printed: deque[str]) -> None:
    """Pass on what the worker prints, through sys.stderr so that a live display can make room for it."""
    while line := stream.readline(LINE):
        printed.append(line.decode(errors="replace"))
        with contextlib.suppress(OSError):  # our stderr is closed: read on all the same, or the worker waits for ever
            print(printed[-1], end="", file=sys.stderr)


def _request(function: str, arguments: Mapping[str, Any]) -> bytes:
    return json.dumps({"function": function, "arguments": dict(arguments)}).encode() + b"\n"
