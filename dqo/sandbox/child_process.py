"""The worker process of a sandbox. It reads one JSON line per call and answers with one JSON line.

It is run by its path, and imports nothing of dqo but the functions that it is told to call: no torch, no pickle.
"""

import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import traceback
from pathlib import Path

OURS, STDLIB = str(Path(__file__).parents[1]), str(Path(os.__file__).parent)  # dqo and Python
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LONGEST = 1000  # characters of an error message; the rest is cut


def main() -> None:
    """Answer requests until stdin ends.

    The two pipes move to other file descriptors. So user code, C code and subprocesses read an empty stdin, and print
    to stderr.
    """
    parent, memory_limit = map(int, sys.argv[1:])
    _die_with_parent(parent)
    _watch_for_hang_up(0)
    _limit_memory(memory_limit)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    importlib.import_module("dqo.sandbox")  # now, or a folder dqo of the user's would be imported
    sys.path[0] = str(Path.cwd())
    me = os.getpid()
    for line in requests:
        answer = _answer(line)
        if os.getpid() != me:  # a fork returned from the function: its answer would be taken for the next call's
            os._exit(0)
        replies.write(answer)
        replies.flush()


def _die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the parent dies, even during a call. Only on Linux; elsewhere the process
    ends with its stdin."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the line above
        sys.exit()


def _watch_for_hang_up(requests: int) -> None:
    """Start a process that kills the process group once the other end of ``requests`` is closed.

    The parent-death signal reaches this process alone, so after a SIGKILL of the trainer, processes that the functions
    started would survive.
    """
    if os.fork() == 0:
        if os.fork() == 0:  # a grandchild: a function that waits for all children must not wait for it
            os.dup2(requests, 0)
            os.closerange(1, 64)  # else the pipes would stay open after the worker's end
            hung_up = select.poll()
            hung_up.register(0, 0)
            hung_up.poll()
            os.killpg(0, signal.SIGKILL)
        os._exit(0)
    os.wait()


def _limit_memory(memory: int) -> None:
    """Limit writable memory to ``memory`` bytes; 0: no limit. Address space is not limited, since with a GPU hundreds
    of GB of it are reserved. If the machine runs out of memory, the kernel kills this process before the trainer.
    """
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(line: bytes) -> bytes:
    request = json.loads(line)
    try:
        value = pkgutil.resolve_name(request["function"])(**request["arguments"])
        return json.dumps({"value": value}).encode() + b"\n"
    except Exception as error:  # noqa: BLE001  the trainer raises it again, as SandboxError
        return json.dumps({"raised": type(error).__name__, "message": _description(error)}).encode() + b"\n"


def _description(error: Exception) -> str:
    """``ZeroDivisionError: division by zero (my_module.py:12 in score: return 1 / 0)``: the error and its last three
    frames outside of libraries; frames inside libraries only if there are no others."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<frozen ", OURS))]
    users = [f for f in frames if not f.filename.startswith(STDLIB) and "site-packages" not in f.filename]
    if isinstance(error, SyntaxError):  # its text says where
        users = frames = []
    where = " > ".join(f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in (users or frames)[-3:])
    text = " ".join(str(error)[:LONGEST].split())  # one line
    return f"{type(error).__name__}: {text}" + (f" ({where})" if where else "")


if __name__ == "__main__":
    main()
