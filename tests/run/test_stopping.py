import os
import signal
import subprocess
import sys

import pytest

from dqo.run.stopping import SIGNALS, Stopped, Stopping


@pytest.fixture
def stopping():
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}  # the tests may run under nohup
    stopping = Stopping()
    stopping.listen()
    yield stopping
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_during_a_step_it_is_noted_and_told(stopping, number):
    told = []
    with stopping.after_the_step(told.append):
        assert not stopping.asked
        os.kill(os.getpid(), number)
        assert stopping.asked
    assert told == ["stopping after this step; once more to stop at once"]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_elsewhere_it_stops_at_once_and_nothing_but_the_end_catches_it(stopping):
    with pytest.raises(Stopped):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # noqa: BLE001  what others may do between the signal and the end
            pytest.fail("caught on the way")


def test_a_signal_that_comes_several_times_at_once_is_one_and_a_later_one_ends_the_process():
    """timeout, systemd and SLURM signal launcher and worker, and the launcher hands its signal on."""
    code = """
import signal, sys
from dqo.run import stopping
stopping.SAME_REQUEST = 0.3
signal.signal(signal.SIGTERM, signal.SIG_DFL)
asked = stopping.Stopping()
asked.listen()
with asked.after_the_step(lambda text: print("asked", flush=True)):
    print("ready", flush=True)
    for line in sys.stdin:
        print("step", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    process.stdin.write("go on\n")
    assert process.stdout.readline() == "step\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    process.communicate()


def test_what_is_ignored_stays_ignored():
    """nohup, and a shell's jobs in the background."""
    code = """
import os, signal
from dqo.run.stopping import Stopping
signal.signal(signal.SIGHUP, signal.SIG_IGN)
Stopping().listen()
os.kill(os.getpid(), signal.SIGHUP)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_a_terminal_nobody_is_told_and_nothing_breaks():
    """The one who reads is gone: printing must not end the run that the signal let go on."""
    code = """
import os, signal
from dqo.run.stopping import Stopping
signal.signal(signal.SIGHUP, signal.SIG_DFL)
stopping = Stopping()
stopping.listen()
with stopping.after_the_step(lambda text: print(text, flush=True)):
    os.kill(os.getpid(), signal.SIGHUP)
    assert stopping.asked
    print("a step", flush=True)
"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0, done.stderr
