"""Functions that disturb their own process or other processes."""

import sys
from pathlib import Path

import pytest

from dqo.sandbox.sandbox import Kind, Sandbox, SandboxError
from tests.helpers.processes import gone

MODULE = """
import os, subprocess, sys, time

def echo(**values): return values
def rest(seconds): time.sleep(seconds)
def hang():
    while True: pass
def fork_and_return():
    if os.fork() == 0:
        time.sleep(0.2)
        return "of the fork"
    return "of the worker"
def fork_and_leave():
    if os.fork() == 0:
        time.sleep(100)
    os._exit(3)
def session_and_hang(path):
    child = subprocess.Popen(["sleep", "100"], start_new_session=True)
    open(path, "w").write(str(child.pid))
    hang()
def close_everything_standard():
    sys.stdin.close(), sys.stdout.close(), os.close(0), os.close(1)
def move():
    os.chdir("/")
    return os.getcwd()
def babble(megabytes):
    for _ in range(megabytes):
        sys.stderr.write("x" * 1_000_000)
def complain_at_length():
    raise ValueError("x" * 10_000_000)
def oom_score(): return int(open("/proc/self/oom_score_adj").read())
"""


@pytest.fixture
def sandbox(folder):
    sandbox = Sandbox(timeout=5.0)
    yield sandbox
    sandbox.close()


def test_the_kernel_kills_the_worker_before_the_trainer_when_memory_runs_out(sandbox):
    assert sandbox.call("my_module:oom_score") == 1000 > int(Path("/proc/self/oom_score_adj").read_text())


def test_a_fork_that_returns_does_not_answer_the_next_call(sandbox):
    assert sandbox.call("my_module:fork_and_return") == "of the worker"
    assert [sandbox.call("my_module:echo", i=i) for i in range(3)] == [{"i": i} for i in range(3)]
    assert sandbox.call("my_module:rest", seconds=0.4) is None  # until after the fork's answer
    assert sandbox.restarts == 0


def test_an_exit_is_noticed_while_a_child_holds_the_pipes(folder):
    sandbox = Sandbox(timeout=60.0)
    with pytest.raises(SandboxError, match="ended with exit code 3") as caught:
        sandbox.call("my_module:fork_and_leave")
    assert caught.value.kind is Kind.EXIT  # not TIMEOUT
    sandbox.close()


def test_a_child_in_its_own_session_is_killed_too(folder):
    sandbox = Sandbox(timeout=1.0)
    with pytest.raises(SandboxError, match="no answer within 1 seconds"):
        sandbox.call("my_module:session_and_hang", path=str(folder / "child"))
    assert gone(int((folder / "child").read_text()))
    sandbox.close()


def test_closing_stdin_and_stdout_or_changing_the_folder_does_no_harm(sandbox, folder):
    assert sandbox.call("my_module:close_everything_standard") is None
    assert sandbox.call("my_module:move") == "/" and Path.cwd() == folder
    assert sandbox.call("my_module:echo", a=1) == {"a": 1} and sandbox.restarts == 0


def test_an_endless_line_is_forwarded_in_pieces(sandbox, monkeypatch):
    class Shown:
        longest = total = 0

        def write(self, text):
            Shown.longest, Shown.total = max(Shown.longest, len(text)), Shown.total + len(text)

    monkeypatch.setattr(sys, "stderr", Shown())
    sandbox.call("my_module:babble", megabytes=3)
    sandbox.close()
    assert Shown.total == 3_000_000 and Shown.longest <= 1 << 16


def test_a_very_long_message_is_cut(sandbox):
    with pytest.raises(SandboxError) as caught:
        sandbox.call("my_module:complain_at_length")
    assert len(str(caught.value)) < 2000
