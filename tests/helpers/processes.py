"""Processes of a test: whether one still runs, and what it has written."""

import contextlib
import subprocess
import time
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether the process ends within ``seconds``."""
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def wait_for(path: Path, writer: subprocess.Popen, seconds: float = 600.0) -> None:
    """Until a process has written this path; an AssertionError at once if it ends before."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert writer.poll() is None, f"{path} was not written; exit code {writer.returncode}"
        assert time.monotonic() < deadline, path
        time.sleep(0.05)
