"""The process of a ``sandbox``: one JSON line asks for one call, one JSON line answers. Run by path, and imports
nothing of ours but the functions it is asked for: no torch, no pickle."""

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

HERE, STDLIB = str(Path(__file__).parent), str(Path(os.__file__).parent)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LONGEST = 1000  # characters of an error that are passed on


def main() -> None:
    """Answer requests until stdin ends. The pipes move to private descriptors: user code reads nothing and prints to
    stderr, from C and from its own subprocesses too."""
    parent, memory_limit = map(int, sys.argv[1:])
    _die_with(parent)
    _die_together(0)
    _take_no_more_than(memory_limit)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parents[3]))
    importlib.import_module("dqo.reward")  # found from now on, whatever else is called dqo in the user's folder
    sys.path[0] = str(Path.cwd())
    me = os.getpid()
    for line in requests:
        answer = _answer(line)
        if os.getpid() != me:  # a fork that came back from the function: its answer would meet the next request
            os._exit(0)
        replies.write(answer)
        replies.flush()


def _die_with(parent: int) -> None:
    """Be killed with the parent, also in the middle of a call. Elsewhere than on Linux the end of stdin has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit()


def _die_together(requests: int) -> None:
    """Leave a process behind that kills the group once nobody can write requests any more. The parent-death signal
    reaches this process alone, and a SIGKILL of the trainer would leave what the functions have started."""
    if os.fork() == 0:
        if os.fork() == 0:  # no child of ours, whom a function might wait for
            os.dup2(requests, 0)
            os.closerange(1, 64)  # the other pipes have to end with this process
            hung_up = select.poll()
            hung_up.register(0, 0)
            hung_up.poll()
            os.killpg(0, signal.SIGKILL)
        os._exit(0)
    os.wait()


def _take_no_more_than(memory: int) -> None:
    """The limit is of memory that can be written (bytes; 0: none): address space is reserved by the hundred GB where
    there is a GPU. If the machine's memory ends first, the kernel takes this process and not the trainer."""
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


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
    text = " ".join(str(error)[:LONGEST].split())  # one line
    return f"{type(error).__name__}: {text}" + (f" ({where})" if where else "")


if __name__ == "__main__":
    main()
