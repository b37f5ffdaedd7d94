"""Real worker processes, with functions of a module written for the test."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dqo.sandbox.sandbox import Kind, Sandbox, SandboxError
from tests.helpers.processes import alive, gone

MODULE = """
import os, signal, subprocess, sys, time

def echo(**values): return values
def pid(): return os.getpid()
def modules(): return sorted(sys.modules)
def hang():
    while True: pass
def say_and_hang():
    print("in the call")
    hang()
def divide(by):
    return inner(by)
def inner(by):
    return 1 / by
def leave(code): sys.exit(code)
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def talk():
    print("from python")
    os.write(1, b"from C\\n")
    subprocess.run(["echo", "from a child"])
    return sys.stdin.read()
def complain():
    print("the reason", file=sys.stderr)
    os._exit(7)
def child():
    return subprocess.Popen(["sleep", "100"]).pid
def child_and_hang(path):
    open(path, "w").write(str(child()))
    hang()
def hog():
    return len(bytearray(1 << 30))
def unsayable(): return {1, 2}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "helpful.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sandbox(folder):
    sandbox = Sandbox(timeout=5.0)
    yield sandbox
    sandbox.close()


def test_values_of_any_size_and_alphabet_come_back(sandbox):
    values = {"text": "é\n\u2028\ud800", "big": "x" * 3_000_000, "numbers": [1.5, None, True, {"a": []}]}
    assert sandbox.call("helpful:echo", **values) == values


def test_starts_fast_and_imports_nothing_heavy(folder):
    sandbox = Sandbox(timeout=5.0)
    seconds, bare, modules = [], [], []
    for _ in range(3):
        start = time.perf_counter()
        sandbox.start()
        seconds.append(time.perf_counter() - start)
        modules = sandbox.call("helpful:modules")
        sandbox.close()
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], check=True)
        bare.append(time.perf_counter() - start)
    assert min(seconds) < 20 * min(bare)  # 3 on an idle machine
    assert not {"torch", "numpy", "jaxtyping", "transformers"} & set(modules)


def test_an_exception_names_its_last_frames_and_the_worker_keeps_running(sandbox):
    before = sandbox.call("helpful:pid")
    with pytest.raises(
        SandboxError, match=r"ZeroDivisionError: division by zero \(helpful.py:\d+ in divide: return inner"
    ) as caught:
        sandbox.call("helpful:divide", by=0)
    assert (caught.value.kind, caught.value.raised) == (Kind.EXCEPTION, "ZeroDivisionError")
    assert "in inner: return 1 / by" in str(caught.value) and "sandbox.py" not in str(caught.value)
    assert (sandbox.call("helpful:pid"), sandbox.restarts) == (before, 0)


def test_a_hanging_call_is_killed_with_its_children_and_the_next_call_works(folder):
    sandbox = Sandbox(timeout=1.0)
    before = sandbox.call("helpful:pid")
    with pytest.raises(SandboxError, match="no answer within 1 seconds") as caught:
        sandbox.call("helpful:child_and_hang", path=str(folder / "child"))
    assert caught.value.kind is Kind.TIMEOUT
    assert gone(before) and gone(int((folder / "child").read_text()))
    assert sandbox.call("helpful:pid") != before and sandbox.restarts == 1
    sandbox.close()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("leave", {"code": 3}, "ended with exit code 3"),
        ("crash", {}, "was killed by SIGSEGV"),
        ("complain", {}, "exit code 7 .last line printed: the reason"),
    ],
)
def test_an_exit_differs_from_a_timeout(sandbox, function, arguments, message):
    with pytest.raises(SandboxError, match=message) as caught:
        sandbox.call(f"helpful:{function}", **arguments)
    assert caught.value.kind is Kind.EXIT and sandbox.restarts == 1
    assert sandbox.call("helpful:echo", a=1) == {"a": 1}


def test_output_is_forwarded_and_stdin_is_empty(sandbox, capfd):
    assert sandbox.call("helpful:talk") == ""
    sandbox.close()
    shown, deadline = "", time.monotonic() + 5
    while shown.count("\n") < 3 and time.monotonic() < deadline:
        shown += capfd.readouterr().err
    assert shown == "from python\nfrom C\nfrom a child\n"


def test_a_memory_limit_is_an_exception(folder):
    sandbox = Sandbox(timeout=5.0, memory_limit=1 << 29)
    with pytest.raises(SandboxError, match="MemoryError") as caught:
        sandbox.call("helpful:hog")
    assert caught.value.kind is Kind.EXCEPTION
    sandbox.close()


def test_a_value_that_json_cannot_express_is_an_exception(sandbox):
    with pytest.raises(SandboxError, match="set is not JSON serializable"):
        sandbox.call("helpful:unsayable")
    with pytest.raises(TypeError):
        sandbox.call("helpful:echo", a={1})
    assert sandbox.restarts == 0


def test_a_worker_that_ended_between_two_calls_is_replaced(sandbox):
    before = sandbox.call("helpful:pid")
    os.kill(before, signal.SIGKILL)
    assert gone(before)
    assert sandbox.call("helpful:pid") != before and sandbox.restarts == 1


def test_setup_runs_in_every_worker(folder):
    (folder / "counting.py").write_text("count = 0\ndef add(n):\n    global count\n    count += n\n    return count\n")
    sandbox = Sandbox(timeout=1.0, setup=("counting:add", {"n": 10}))
    assert sandbox.start() == 10
    assert sandbox.call("counting:add", n=1) == 11
    with pytest.raises(SandboxError):
        sandbox.call("helpful:leave", code=0)
    assert sandbox.call("counting:add", n=1) == 11
    sandbox.close()


def test_threads_share_one_worker_and_get_their_own_answers(sandbox):
    together = threading.Barrier(2)

    def ask(name):
        together.wait()
        return [sandbox.call("helpful:echo", who=name, i=i) for i in range(300)]

    with ThreadPoolExecutor(2) as threads:
        answers = {name: threads.submit(ask, name) for name in "ab"}
    for name, answer in answers.items():
        assert answer.result() == [{"who": name, "i": i} for i in range(300)]
    assert sandbox.restarts == 0


def test_a_worker_outlives_the_thread_that_first_called(sandbox):
    pids = []
    thread = threading.Thread(target=lambda: pids.append(sandbox.call("helpful:pid")))
    thread.start()
    thread.join()
    assert not gone(pids[0], 0.2)  # Linux sends the parent-death signal when the forking thread ends
    assert sandbox.call("helpful:pid") == pids[0]


def test_close_and_garbage_collection_end_the_worker(folder):
    sandbox = Sandbox(timeout=5.0)
    first = sandbox.call("helpful:pid")
    sandbox.close()
    assert gone(first)
    second = sandbox.call("helpful:pid")
    del sandbox
    assert gone(second)


PARENT = """
import sys, threading
from dqo.sandbox.sandbox import Sandbox
sandbox = Sandbox(timeout=100.0)
print(sandbox.call("helpful:pid"), flush=True)
if sys.argv[1] == "hang":
    sandbox.call("helpful:say_and_hang")
"""


@pytest.mark.parametrize(("then", "code"), [("hang", -signal.SIGKILL), ("exit", 0)])
def test_the_worker_ends_with_its_parent(folder, then, code):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PARENT, then], env=environment, **pipes) as parent:
        assert parent.stdout and parent.stderr
        worker = int(parent.stdout.readline())
        if then == "hang":
            assert parent.stderr.readline() == "in the call\n"
            assert alive(worker)
            parent.kill()
        assert parent.wait(20) == code
    assert gone(worker)


def test_children_of_the_worker_end_when_the_trainer_is_killed(folder):
    code = """
from dqo.sandbox.sandbox import Sandbox
sandbox = Sandbox(timeout=100.0)
print(sandbox.call("helpful:child"), flush=True)
sandbox.call("helpful:hang")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    assert gone(child)
