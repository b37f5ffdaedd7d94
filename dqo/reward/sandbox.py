"""A process that can be killed: code that may hang, crash or print runs there and not in the trainer.

``main`` is the worker: one JSON line asks for one call, one JSON line answers, no pickle, no torch of ours (code that
needs torch imports it itself). ``Sandbox`` is the trainer's side.

What it does not do: it is no security boundary (the code runs as the user, with the user's files and network), and a
process that the code moves into a session of its own outlives it.
"""

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

HERE, STDLIB = str(Path(__file__).parent), str(Path(os.__file__).parent)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
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
        every new worker), both in seconds; ``memory_limit`` is the worker's address space in bytes."""
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
        assert self._worker is not None
        try:
            reply = json.loads(self._worker.exchange(request, timeout))
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
    """A running worker process; killed with its process group by ``kill``, when forgotten, and at exit."""

    def __init__(self, folder: Path, memory_limit: int | None):
        # by path, so that it is this very file wherever the user stands; -P: its folder holds a math.py
        command = [sys.executable, "-u", "-P", __file__, str(os.getpid()), str(memory_limit or 0)]
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
                ready = [key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))]
                if not ready:
                    raise SandboxError(Kind.TIMEOUT, f"no answer within {timeout:g} seconds; it was stopped")
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
        line = next((line.strip() for line in reversed(self._printed) if line.strip()), "")
        return f"its process {how}" + (f" (last line printed: {line})" if line else "")


def _kill(process: subprocess.Popen, printer: threading.Thread) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    printer.join(1.0)  # what it printed last; no longer, for a process that left the group may hold the pipe


def _forward(stream: IO[bytes], printed: deque[str]) -> None:
    """Pass on what the worker prints, through sys.stderr so that a live display can make room for it."""
    for line in stream:
        printed.append(line.decode(errors="replace"))
        print(printed[-1], end="", file=sys.stderr)


def _request(function: str, arguments: Mapping[str, Any]) -> bytes:
    return json.dumps({"function": function, "arguments": dict(arguments)}).encode() + b"\n"


def _answer(line: bytes) -> bytes:
    request = json.loads(line)
    try:
        value = pkgutil.resolve_name(request["function"])(**request["arguments"])
        return json.dumps({"value": value}).encode() + b"\n"
    except Exception as error:  # noqa: BLE001  whatever foreign code raises is raised again on the other side
        return json.dumps({"raised": type(error).__name__, "message": _described(error)}).encode() + b"\n"


def _described(error: Exception) -> str:
    """``ZeroDivisionError: division by zero (my_module.py:12 in score: return 1 / 0)``: with the last three frames
    outside of libraries, or inside where there are no others."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<frozen ", HERE))]
    users = [f for f in frames if not f.filename.startswith(STDLIB) and "site-packages" not in f.filename]
    where = " > ".join(f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in (users or frames)[-3:])
    text = " ".join(str(error).split())  # one line
    return f"{type(error).__name__}: {text}" + (f" ({where})" if where else "")


def _die_with(parent: int) -> None:
    """Be killed with the parent, also in the middle of a call. Elsewhere than on Linux the end of stdin has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit()


def main() -> None:
    """Answer requests until stdin ends. The pipes move to private descriptors: user code reads nothing and prints to
    stderr, from C and from its own subprocesses too."""
    parent, memory_limit = map(int, sys.argv[1:])
    _die_with(parent)
    if memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    importlib.import_module("dqo.reward")  # found from now on, whatever else is called dqo in the user's folder
    sys.path[0] = str(Path.cwd())
    for line in requests:
        replies.write(_answer(line))
        replies.flush()


if __name__ == "__main__":
    main()
