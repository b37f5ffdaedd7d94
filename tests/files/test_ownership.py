import errno
import fcntl
import multiprocessing
import os
import shutil
import subprocess
import sys

import pytest

from dqo.errors import ConfigError, StageError
from dqo.files.ownership import Ownership, own


def test_a_second_owner_is_told_who_the_first_is(tmp_path):
    run = tmp_path / "runs" / "a"
    first = own(run)
    with pytest.raises(ConfigError, match=rf"run_dir={run} is in use by process {os.getpid()} on .* since 2.*; wait"):
        own(run)
    first.release()
    own(run).release()


def test_a_worker_keeps_it_after_its_launcher(tmp_path):
    """The lock is the open file's: it lasts as long as one of the two has it open."""
    launcher = own(tmp_path)
    sleeper = "import sys; print(flush=True); sys.stdin.read()"
    worker = subprocess.Popen(
        [sys.executable, "-c", sleeper], pass_fds=[launcher.descriptor], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout and worker.stdout.readline()
    launcher.release()
    with pytest.raises(ConfigError, match="is in use"):
        own(tmp_path)
    worker.communicate()
    own(tmp_path).release()


def test_nobody_else_inherits_it(tmp_path):
    owner = own(tmp_path)
    code = f"import os; os.fstat({owner.descriptor})"
    done = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True)
    assert "Bad file descriptor" in done.stderr
    owner.release()


def _own_and_hold(folder, results, done):
    try:
        owner = own(folder)
    except ConfigError:
        results.put(0)
    else:
        results.put(1)
        done.wait()
        owner.release()


def test_of_several_at_once_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    results, done = context.Queue(), context.Event()
    processes = [context.Process(target=_own_and_hold, args=(tmp_path / "run", results, done)) for _ in range(8)]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=30) for _ in processes) == [0] * 7 + [1]
    done.set()
    for process in processes:
        process.join()


def test_a_folder_that_its_last_owner_took_away_is_made_again(tmp_path, monkeypatch):
    """Between opening the lock and locking it: the one who waits must not own a file that has no name."""
    run, flock = tmp_path / "run", fcntl.flock

    def removed_first(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(run)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    own(run).check()


def test_a_folder_taken_away_or_replaced_is_noticed(tmp_path):
    run = tmp_path / "run"
    first = own(run)
    first.check()
    shutil.rmtree(run)
    with pytest.raises(StageError, match="was taken away while the run was writing to it"):
        first.check()
    second = own(run)
    with pytest.raises(StageError, match="was taken away"):
        first.check()
    second.check()


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run_dir=.*file/run: cannot be written \(Not a directory\); type run_dir="):
        own(tmp_path / "file" / "run")


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    assert isinstance(own(tmp_path), Ownership)
    assert "nothing keeps a second run out" in caplog.text
