"""What the launcher does with a run folder, without a worker."""

import os
import signal
import subprocess
import sys

import pytest

from dqo.errors import ConfigError
from dqo.files.ownership import own
from dqo.run import launch
from dqo.run.exit_codes import FRESH_PROCESS, WRONG_INPUT
from dqo.run.stopping import SIGNALS


@pytest.fixture
def owned(tmp_path):
    """A run folder with a note of the user's in it, and who owns it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    ownership = own(tmp_path / "run")
    yield ownership
    ownership.release()


def launched(ownership, code: int, *, begin: bool) -> int:
    """A run that writes metrics.jsonl and ends with ``code``."""
    folder = ownership.folder

    def run() -> int:
        if begin:
            ownership.begin()
        (folder / "metrics.jsonl").write_text("{}\n")
        return code

    texts = {folder / "config.yaml": "steps: 2\n"}
    return launch._run_owned(ownership, texts, {*folder.iterdir()}, run)


def names(ownership) -> set[str]:
    return {path.name for path in ownership.folder.iterdir()}


def test_a_run_that_is_refused_before_it_begins_leaves_the_folder_as_it_was(owned):
    assert launched(owned, WRONG_INPUT, begin=False) == WRONG_INPUT
    assert names(owned) == {".lock", "notes.txt"}


def test_exit_code_2_after_the_run_has_begun_takes_nothing_away(owned):
    """A user's class that calls sys.exit(2), or argparse in it."""
    assert launched(owned, WRONG_INPUT, begin=True) == 1
    assert names(owned) == {".lock", "notes.txt", "config.yaml", "metrics.jsonl"}


def test_a_run_goes_on_in_fresh_processes_and_keeps_what_the_ones_before_have_written(owned):
    """Also where the last of them is refused before it begins."""
    codes = iter([FRESH_PROCESS, FRESH_PROCESS, WRONG_INPUT])

    def run() -> int:
        owned.sign()  # as each worker does
        (owned.folder / f"written {len(names(owned))}").touch()
        return next(codes)

    texts = {owned.folder / "config.yaml": "steps: 2\n"}
    assert launch._run_owned(owned, texts, {*owned.folder.iterdir()}, run) == WRONG_INPUT
    assert names(owned) == {".lock", "notes.txt", "config.yaml", "written 3", "written 4"}


def test_torchrun_has_to_start_fresh_processes_itself(owned, monkeypatch):
    """New processes would find the addresses of the ones before in torchrun's store, and wait for them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched(owned, FRESH_PROCESS, begin=True) == FRESH_PROCESS
    assert names(owned) >= {"config.yaml", "metrics.jsonl"}


def test_a_folder_that_vanishes_keeps_the_exit_code_of_its_run(owned):
    folder = owned.folder

    def run() -> int:
        folder.rename(folder.with_name("moved"))
        folder.write_text("a file in its place")
        return 1

    texts = {folder / "config.yaml": "steps: 2\n"}
    assert launch._run_owned(owned, texts, {*folder.iterdir()}, run) == 1


def test_a_refused_resume_gets_its_old_configuration_back(owned):
    config = owned.folder / "config.yaml"
    config.write_text("steps: 1\n")
    owned.begin()  # the run before
    owned.sign()
    launched(owned, WRONG_INPUT, begin=False)
    assert config.read_text() == "steps: 1\n" and names(owned) == {".lock", "notes.txt", "config.yaml"}


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path):
    (tmp_path / "policy").mkdir()
    with pytest.raises(ConfigError, match=r"holds a run already \(policy\); type resume=.* to go on, or another"):
        launch._refuse_to_write_over(tmp_path, ("config.yaml", "policy"), resumable=True)
    with pytest.raises(ConfigError, match=r"holds a run already \(policy\); type another run_dir=$"):
        launch._refuse_to_write_over(tmp_path, ("policy",), resumable=False)


CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(130))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def child():
    """A process that ends with 130 at SIGTERM."""
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def handlers():
    """The signals' handlers as a terminal sets them, and afterwards those of the test run."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_file_of_the_sweep_stops_a_worker_as_a_signal_does(child, tmp_path):
    """The only way to reach a job that another machine runs."""
    with launch._signals_forwarded([child], tmp_path / "stop") as signals:
        signals.send()
        assert child.poll() is None
        (tmp_path / "stop").touch()
        assert launch._exit_codes([child], signals.send) == ([130], 0)


def test_a_signal_goes_to_the_worker_and_to_who_listened_before(child, handlers):
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with launch._signals_forwarded([child], None) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # timeout signals its child and its group
        assert launch._exit_codes([child], signals.send) == ([130], 0)
    assert set(heard) == {signal.SIGTERM}


def test_ctrl_c_is_not_sent_twice(child, handlers, tmp_path):
    """The terminal has sent it to the worker, too; and the sweep's file follows."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    (tmp_path / "stop").touch()
    with launch._signals_forwarded([child], tmp_path / "stop") as signals:
        os.kill(os.getpid(), signal.SIGINT)
        signals.send()
    assert child.poll() is None
