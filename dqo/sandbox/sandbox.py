"""Runs code that may hang, crash, fill the memory or print in a worker process that can be killed.

This module is the trainer's side; ``child_process.py`` is the process. Killing the worker also kills the processes that
the code started; on Linux even processes in a session of their own.

Limits: this is no security boundary (the code has the user's files and network). The memory limit holds for each
process, not for their sum. Daemons survive; so do processes in a session of their own if the trainer gets a SIGKILL.
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

import psutil

WORKER = Path(__file__).with_name("child_process.py")
MAX_LINE = 1 << 16  # bytes of printed output that are forwarded at once: a line may be endless
POLL_INTERVAL = 1.0  # seconds between two checks that a silent worker is alive
# Linux sends the parent-death signal when the thread that forked ends, not when its process ends. So one thread that
# lives as long as the process starts every worker.
SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="sandbox-spawner")


class Kind(StrEnum):
    """How a call failed."""

    EXCEPTION = "exception"  # the function raised; the worker keeps running
    TIMEOUT = "timeout"  # the worker was killed
    EXIT = "exit"  # the worker exited: sys.exit, a crash, the kernel's out-of-memory killer


class SandboxError(RuntimeError):
    """A call failed. ``raised`` is the type name of the function's exception; None for a timeout or an exit."""

    def __init__(self, kind: Kind, message: str, *, raised: str | None = None):
        self.kind, self.raised = kind, raised
        super().__init__(message)


class Sandbox:
    """One worker process, started at the first call and again after a timeout or an exit. Thread-safe: calls from
    several threads run one after the other.

    Functions are named ``package.module:function`` and take and return JSON values. The worker runs in the trainer's
    working folder, which is also the first entry of its ``sys.path``; its output goes to the trainer's stderr.
    """

    def __init__(
        self,
        *,
        timeout: float,
        setup: tuple[str, Mapping[str, Any]] | None = None,
        start_timeout: float = 60.0,
        memory_limit: int | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        """``timeout``: seconds per call. ``setup``: a function and its arguments, called first in every new worker.
        ``start_timeout``: seconds for the start and ``setup``. ``memory_limit``: bytes for each process; None: none.
        ``environment``: variables that are set for the worker beside the trainer's own.
        """
        self.restarts = 0  # of the worker, after a timeout or an exit
        self._timeout, self._start_timeout = timeout, start_timeout
        self._setup, self._memory_limit = setup, memory_limit
        self._environment = None if environment is None else {**os.environ, **environment}
        self._folder = Path.cwd()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def start(self) -> Any:
        """Start the worker; returns the value of ``setup``. Raises SandboxError."""
        with self._lock:
            return self._start()

    def call(self, function: str, **arguments: Any) -> Any:
        """The function's value. Raises SandboxError if the call fails, TypeError if an argument is no JSON value."""
        request = _request(function, arguments)
        with self._lock:
            if self._worker is not None and self._worker.process.poll() is not None:  # it ended between two calls
                self._discard()
            if self._worker is None:
                self._start()
            return self._exchange(request, self._timeout)

    def close(self) -> None:
        """End the worker; a running call then raises SandboxError, and a later call starts a new worker."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()

    def _start(self) -> Any:
        self._worker = SPAWNER.submit(_Worker, self._folder, self._memory_limit, self._environment).result()
        function, arguments = self._setup or ("builtins:bool", {})  # does nothing, but waits until the worker runs
        return self._exchange(_request(function, arguments), self._start_timeout)

    def _exchange(self, request: bytes, timeout: float) -> Any:
        worker = self._worker
        if worker is None:  # another thread called close()
            raise SandboxError(Kind.EXIT, "its process was closed")
        try:
            reply = json.loads(worker.exchange(request, timeout))
        except BaseException:  # Ctrl-C too: a late reply must not answer the next call
            self._discard()
            raise
        if "raised" in reply:
            raise SandboxError(Kind.EXCEPTION, reply["message"], raised=reply["raised"])
        return reply["value"]

    def _discard(self) -> None:
        self.restarts += 1
        self.close()


class _Worker:
    """A running worker process. It is killed, with all processes it started, by ``kill``, when this object is garbage
    collected, and when the trainer exits."""

    def __init__(self, folder: Path, memory_limit: int | None, environment: Mapping[str, str] | None):
        # By path, so that it does not depend on the working folder; -P keeps the worker's folder out of sys.path.
        command = [sys.executable, "-u", "-P", str(WORKER), str(os.getpid()), str(memory_limit or 0)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self._requests, self._replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self._printed: deque[str] = deque(maxlen=20)
        self._printer = threading.Thread(target=_forward, args=(self.process.stderr, self._printed), daemon=True)
        self._printer.start()
        self.kill = weakref.finalize(self, _kill, self.process, self._printer)

    def exchange(self, request: bytes, timeout: float) -> bytes:
        """Send one line; returns the line that answers it. Raises SandboxError."""
        deadline, unsent, reply = time.monotonic() + timeout, memoryview(request), bytearray()
        with selectors.PollSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            selector.register(self._requests, selectors.EVENT_WRITE)
            while not reply.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SandboxError(Kind.TIMEOUT, f"no answer within {timeout:g} seconds; its process was killed")
                ready = [key.fd for key, _ in selector.select(min(left, POLL_INTERVAL))]
                if not ready and self.process.poll() is not None:  # its children hold the pipes open
                    raise SandboxError(Kind.EXIT, self._exit_message())
                if self._requests in ready:
                    with contextlib.suppress(BrokenPipeError):  # the worker ended; reading from its stdout will show it
                        unsent = unsent[os.write(self._requests, unsent) :]
                    if not unsent or self.process.poll() is not None:
                        selector.unregister(self._requests)
                if self._replies in ready:
                    chunk = os.read(self._replies, 1 << 20)
                    if not chunk:
                        raise SandboxError(Kind.EXIT, self._exit_message())
                    reply += chunk
        return bytes(reply)

    def _exit_message(self) -> str:
        try:
            code = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "its process closed its pipes but did not end; it was killed"
        self._printer.join(1.0)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            how += ", perhaps because memory ran out"
        line = next((line.strip() for line in reversed(self._printed) if line.strip()), "")
        return f"its process {how}" + (f" (last line printed: {line})" if line else "")


def _kill(process: subprocess.Popen, printer: threading.Thread) -> None:
    process.send_signal(signal.SIGSTOP)  # a running worker must not start more processes meanwhile
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True) if process.returncode is None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    printer.join(1.0)  # forwards the last output; at most 1 s, since a survivor may hold the pipe open


def _forward(stream: IO[bytes], printed: deque[str]) -> None:
    """Print the worker's output on ``sys.stderr``, which a live display may replace in order to make room for it."""
    while line := stream.readline(MAX_LINE):
        printed.append(line.decode(errors="replace"))
        with contextlib.suppress(OSError):  # our stderr is closed; keep reading, or the worker blocks
            print(printed[-1], end="", file=sys.stderr)


def _request(function: str, arguments: Mapping[str, Any]) -> bytes:
    return json.dumps({"function": function, "arguments": dict(arguments)}).encode() + b"\n"
